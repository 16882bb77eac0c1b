"""Two services that fall upon the same firewall mark: whoever has one keeps it while others come and go."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.core.loops import Standing, loop_guard, marked, marks_given
from lvsagent.core.state import Destination, ForwardMethod, Service, ServiceKey
from lvsagent.runtime.guard import Guard
from lvsapi.model import Node, Protocol
from tests.gen import VIP, assignment, endpoint, endpoint_slice, snapshot, virtual_service
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

ADDRESS = ip_address(VIP)
OWN, PEERS = ip_address("192.168.139.101"), frozenset({ip_address("192.168.139.102")})


def key(port: int, mark: int = 0) -> ServiceKey:
    return ServiceKey(ADDRESS, Protocol.TCP, port, mark)


def two() -> tuple[int, int]:
    """Ports whose services fall upon one mark, in the order in which they are looked at."""
    seen: dict[int, int] = {}
    for port in range(1, 65536):
        mark = marked(key(port), ()).mark
        if mark in seen:
            return min((seen[mark], port), key=str), max((seen[mark], port), key=str)
        seen[mark] = port
    raise AssertionError("there are none")


FIRST, SECOND = two()


def tables(*ports: int) -> dict[ServiceKey, Service]:
    """Each with pods of its own, one here and one elsewhere."""
    return {
        key(port): Service(
            key=key(port),
            scheduler="rr",
            flags=0,
            destinations=(
                Destination(ip_address("10.244.1.2"), port, ForwardMethod.MASQUERADE, 1),
                Destination(ip_address("10.244.2.2"), port, ForwardMethod.DIRECT_ROUTE, 1),
            ),
        )
        for port in ports
    }


def wish(*ports: int, before: Iterable[ServiceKey] | None, there: Standing) -> Standing:
    wanted = tables(*ports)
    given = marks_given(wanted, before, there)
    return loop_guard(wanted, {OWN}, PEERS, there.keys(), wanted, given).services


def marks(services: Mapping[ServiceKey, Service]) -> dict[int, int]:
    return {one.port: one.mark for one in services}


def as_the_kernel_says(services: Standing) -> Standing:
    """It knows no addresses of marked services."""
    bare = {one: ServiceKey(ip_address("0.0.0.0"), None, 0, one.mark) for one in services}
    return {bare[one]: replace(service, key=bare[one]) for one, service in services.items()}


def test_the_first_who_is_there_keeps_its_mark_when_the_other_comes_and_when_it_goes() -> None:
    alone = wish(SECOND, before=None, there={})
    natural = marks(alone)[SECOND]
    both = wish(FIRST, SECOND, before=alone, there=alone)
    assert marks(both) == {SECOND: natural, FIRST: natural + 1}
    assert marks(wish(FIRST, before=both, there=both)) == {FIRST: natural + 1}
    assert marks(wish(SECOND, before=both, there=both)) == {SECOND: natural}


@pytest.mark.parametrize("ports", [(FIRST, SECOND), (FIRST,), (SECOND,)])
def test_an_agent_that_starts_anew_finds_them_by_their_destinations(ports: tuple[int, ...]) -> None:
    both = wish(FIRST, SECOND, before=wish(SECOND, before=None, there={}), there={})
    found = marks(wish(*ports, before=None, there=as_the_kernel_says(both)))
    assert found == {port: marks(both)[port] for port in ports}


def test_without_anything_there_each_has_the_first_that_is_free() -> None:
    found = marks(wish(FIRST, SECOND, before=None, there={}))
    assert found == {FIRST: marked(key(FIRST), ()).mark, SECOND: marked(key(FIRST), ()).mark + 1}


def test_the_guard_leaves_services_alone_when_an_object_comes_that_falls_upon_the_same_mark(tmp_path: Path) -> None:
    """It went to the newcomer, and all connections that other nodes had sent here ended."""
    nodes = [Node(name=f"node{k}", labels={}, addresses=(ip_address(f"192.168.139.10{k}"),)) for k in (1, 2)]
    slices = [
        endpoint_slice(
            [endpoint(f"10.244.{k}.2", f"node{k}") for k in (1, 2)],
            service=name,
            ports=[("http", port, "TCP")],
        )
        for name, port in (("one", FIRST), ("two", SECOND))
    ]
    items = [
        virtual_service(name, ports=[port], service=None, real_servers=(), assigned=assignment(), scheduler="rr")
        for name, port in (("one", FIRST), ("two", SECOND))
    ]
    items = [replace(item, service=item.key.name) for item in items]
    services = [replace(snapshot().services[0], key=item.key) for item in items]
    services = [
        replace(found, ports=(replace(found.ports[0], port=port),))
        for found, port in zip(services, (FIRST, SECOND), strict=True)
    ]
    known = replace(snapshot(slices=slices, nodes=nodes), services=tuple(services))

    async def story() -> None:
        rig = Rig(tmp_path, replace(known, virtual_services=(items[1],)))
        rig.loop.guard = Guard(worker=rig.loop.worker, view=rig.loop.view)
        for _ in range(4):
            await rig.turn()
        (before,) = rig.kernel.guards[-1].services
        assert before.port == SECOND
        rig.source.current = replace(known, virtual_services=tuple(items))
        for _ in range(4):
            await rig.turn()
        after = rig.kernel.guards[-1].services
        assert {one.port for one in after} == {FIRST, SECOND}
        assert next(one.mark for one in after if one.port == SECOND) == before.mark
        await rig.worker.close()

    asyncio.run(story())
