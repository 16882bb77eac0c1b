"""What IPVS counted: sums over services that come and go, which only ever grow, and the octets they are read from."""

import asyncio
import struct
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from lvsagent.adapters.ipvswire import destination_reading, service_reading
from lvsagent.adapters.metrics import AgentCollector
from lvsagent.adapters.metrics_traffic import BackendsCollector
from lvsagent.adapters.netlink import attribute
from lvsagent.core.loops import MARKS
from lvsagent.core.state import ServiceKey
from lvsagent.core.traffic import Backend, Counters, Now, Reading, Traffic
from lvsagent.runtime.guard import Guard
from lvsagent.runtime.loop import POLL_SECONDS
from lvsapi.model import Protocol
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

VIP = ip_address("10.0.0.200")
PLACE = (VIP, Protocol.TCP, 80)
ORDINARY = ServiceKey(address=VIP, protocol=Protocol.TCP, port=80)
BESIDE = replace(ORDINARY, mark=MARKS[5])
UNNAMED = ServiceKey(address=ip_address("0.0.0.0"), protocol=None, port=0, mark=MARKS[5])
POD = (ip_address("10.244.1.2"), 8080)


def counted(number: int) -> Counters:
    return Counters(number, 10 * number, 0, 100 * number, 0)


def test_services_of_one_place_are_one_and_what_goes_takes_nothing_back() -> None:
    traffic, names = Traffic(), {BESIDE: BESIDE}
    both = {
        (ORDINARY, None): Reading(counted(5)),
        (UNNAMED, None): Reading(counted(2)),
        (ORDINARY, POD): Reading(counted(4), active=3, inactive=1),
        (UNNAMED, POD): Reading(counted(2), active=1, inactive=1),
    }
    traffic.update(both, names, {PLACE})
    assert traffic.services == {PLACE: Now(counted(7))}
    assert traffic.backends == {(PLACE, POD): Now(counted(6), 4, 2)}
    alone = {at: reading for at, reading in both.items() if at[0] == ORDINARY}
    traffic.update(alone, names, {PLACE})
    assert traffic.services == {PLACE: Now(counted(7))}
    assert traffic.backends == {(PLACE, POD): Now(counted(6), 3, 1)}
    traffic.update({**alone, (UNNAMED, None): Reading(counted(1))}, names, {PLACE})
    assert traffic.services[PLACE].counters == counted(8), "it was made anew"


def test_a_destination_that_was_put_back_begins_anew_and_one_that_is_gone_leaves_no_series() -> None:
    traffic = Traffic()
    for number in (9, 3, 4):
        traffic.update({(ORDINARY, POD): Reading(counted(number))}, {}, {PLACE})
    assert traffic.backends[PLACE, POD].counters == counted(9 + 3 + 1)
    traffic.update({(ORDINARY, None): Reading(counted(1))}, {}, {PLACE})
    assert traffic.backends == {}
    traffic.update({(ORDINARY, None): Reading(counted(1))}, {}, ())
    assert traffic.services == {}


def test_foreign_services_are_not_counted() -> None:
    traffic = Traffic()
    foreign = replace(ORDINARY, port=8443)
    traffic.update({(foreign, None): Reading(counted(5)), (foreign, POD): Reading(counted(5))}, {}, {PLACE})
    assert traffic == Traffic()


@given(st.lists(st.tuples(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 50))), max_size=12))
def test_a_sum_never_shrinks(story: list[tuple[int, int | None]]) -> None:
    traffic, last = Traffic(), Counters()
    for one, other in story:
        readings: dict[tuple[ServiceKey, Backend | None], Reading] = {(ORDINARY, None): Reading(counted(one))}
        if other is not None:
            readings[UNNAMED, None] = Reading(counted(other))
        traffic.update(readings, {BESIDE: BESIDE}, {PLACE})
        now = traffic.services[PLACE].counters
        assert min(a - b for a, b in zip(now, last, strict=True)) >= 0
        last = now


def wide(*values: int) -> bytes:
    return b"".join(attribute(kind, struct.pack("=Q", value)) for kind, value in enumerate(values, 1))


def test_statistics_are_read_in_both_widths_and_in_any_order() -> None:
    rates = (0, 0, 0, 0, 0)
    whole = {12: wide(1, 2, 3, 1 << 40, 5, *rates), 10: b"", 7: struct.pack("=I", 6), 8: struct.pack("=I", 7)}
    assert service_reading(whole) == Reading(Counters(1, 2, 3, 1 << 40, 5))
    assert destination_reading(whole) == Reading(Counters(1, 2, 3, 1 << 40, 5), 6, 7)
    mixed = [attribute(kind, struct.pack("=Q", kind * 11)) for kind in (5, 3, 1, 2, 4)]
    assert service_reading({12: b"".join(mixed)}).counters == Counters(11, 22, 33, 44, 55)
    narrow = attribute(1, struct.pack("=I", 9)) + attribute(4, struct.pack("=Q", 8))
    assert destination_reading({10: narrow}) == Reading(Counters(9, 0, 0, 8, 0))
    assert service_reading({}) == Reading(Counters())


def test_the_agent_shows_services_at_metrics_and_backends_at_a_path_of_their_own(tmp_path: Path) -> None:
    known = snapshot(
        virtual_service(assigned=assignment()), slices=[endpoint_slice([endpoint("10.244.1.2", node="node1")])]
    )

    async def story() -> None:
        rig = Rig(tmp_path, known)
        rig.loop.guard = Guard(worker=rig.loop.worker, view=rig.loop.view)
        await rig.turn()
        (server,) = rig.loop.view.resolved.servers
        key = ServiceKey(address=server.address, protocol=server.protocol, port=server.port)
        (backend,) = server.backends
        rig.kernel.readings = {
            (key, None): Reading(counted(5)),
            (key, (backend.address, backend.port)): Reading(counted(4), 3, 1),
        }
        await rig.turn(POLL_SECONDS)
        services, backends = CollectorRegistry(), CollectorRegistry()
        AgentCollector(rig.loop.view).register(services)
        backends.register(BackendsCollector(rig.loop.view))
        about = f'address="{server.address}"'
        tail = f'namespace="{server.owner.namespace}",port="{server.port}",protocol="TCP"'
        name = f'virtualservice="{server.owner.name}"'
        text = generate_latest(services).decode()
        assert f"lvs_virtualservice_connections_total{{{about},{tail},{name}}} 5.0" in text
        assert f"lvs_virtualservice_incoming_bytes_total{{{about},{tail},{name}}} 500.0" in text
        assert "lvs_backend_current_connections" not in text
        text = generate_latest(backends).decode()
        where = f'{about},backend="{backend.address}:{backend.port}",{tail}'
        assert f"lvs_backend_incoming_packets_total{{{where},{name}}} 40.0" in text
        assert f'lvs_backend_current_connections{{{where},state="active",{name}}} 3.0' in text
        rig.source.current = snapshot()
        await rig.turn(POLL_SECONDS)
        await rig.turn(POLL_SECONDS)
        assert "10.244.1.2" not in generate_latest(backends).decode()
        await rig.worker.close()

    asyncio.run(story())
