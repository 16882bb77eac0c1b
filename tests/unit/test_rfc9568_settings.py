"""What the RFC asks of a router's settings: priorities, intervals, addresses. What breaks it is refused by name."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from lvsagent import ipc
from lvsagent.core.routers import router_of
from lvsagent.core.state import Interface, NodeFacts
from lvsagent.core.sysctl import REAL_SERVER, check
from lvsagent.election.router import by_name, parameters
from lvsagent.vrrp.events import Cause, Received, Startup, State, Tick
from lvsagent.vrrp.machine import VirtualRouter
from lvsagent.vrrp.packet import Advertisement
from lvsapi.assign import assign
from lvsapi.errors import SpecError
from lvsapi.parse import parse_class
from lvsapi.resolve import resolve
from tests.fakes.vrrp import HIGHER, VIP, active, became, received
from tests.gen import assignment, nodes, raw_class, service_class, snapshot, virtual_service

pytestmark = pytest.mark.unit

ROUTER = ipc.RouterConfig(
    name="lab",
    virtual_router_id=51,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.200/32",),
    priority=100,
)


def refusal(**changes: object) -> str | None:
    return by_name((replace(ROUTER, **changes),))["lab"][1]  # type: ignore[arg-type]


@pytest.mark.clause("C7", "held")
def test_255_is_what_an_owner_says_and_nobody_else() -> None:
    owner = VirtualRouter(parameters(replace(ROUTER, priority=255), HIGHER))
    assert [each.priority for each in owner.handle(Startup(), 0.0) if hasattr(each, "priority")] == [255]
    assert service_class().directors == ()


@pytest.mark.clause("C7", "C8", "breach")
@pytest.mark.parametrize("priority", [0, 255, 256])
def test_a_class_that_asks_for_255_or_0_is_refused_because_no_director_is_the_owner(priority: int) -> None:
    with pytest.raises(SpecError, match=r"priority.*1-254"):
        parse_class(raw_class(directors={"nodes": [{"name": "dr1", "priority": priority}]}))


@pytest.mark.clause("C7", "C8", "held")
@pytest.mark.parametrize(("own", "weight", "said"), [(250, 100, 254), (10, -100, 1), (100, 5, 105)])
def test_no_weight_makes_a_director_an_owner_or_silent(own: int, weight: int, said: int) -> None:
    address = ip_interface("192.168.139.101/24")
    card = Interface(name="eth0", index=2, mac="02:00:00:00:00:01", up=True, addresses=(address,))
    world = snapshot(virtual_service(assigned=assignment(200, {"node1": own})), classes=[service_class()])
    (router,) = resolve(world).routers
    weighted = replace(router, weights={"node1": weight})
    config, _ = router_of(weighted, NodeFacts(node="node1", interfaces=(card,)), set())
    assert config is not None
    assert config.priority == said


@pytest.mark.clause("C13", "held")
def test_the_addresses_of_an_ipv6_router_begin_with_a_link_local_one() -> None:
    for addresses in (("fd00::1/128",), ("fd00::1/128", "fe80::1/128")):
        listed = parameters(replace(ROUTER, family=6, addresses=addresses), bytes(16)).addresses
        assert ip_address(listed[0]).is_link_local
        assert ip_address("fd00::1").packed in listed


@pytest.mark.clause("C14", "breach")
def test_an_address_of_the_other_family_is_refused() -> None:
    assert refusal(addresses=("fd00::1/128",)) == "addresses: 'fd00::1/128' is no IPv4 address"
    assert refusal(family=6) == "addresses: '10.0.0.200/32' is no IPv6 address"


@pytest.mark.clause("C16", "held")
def test_the_longest_and_the_shortest_interval_of_an_advert_can_be_asked_for() -> None:
    for milliseconds, seconds in ((10, 0.01), (40950, 40.95)):
        assert refusal(advertisement_interval_ms=milliseconds) is None
        found = parameters(replace(ROUTER, advertisement_interval_ms=milliseconds), HIGHER)
        assert found.interval == pytest.approx(seconds)


@pytest.mark.clause("C16", "breach")
@pytest.mark.parametrize("milliseconds", [0, 4, 9, 40951, 41000])
def test_an_interval_that_no_advert_can_say_is_refused(milliseconds: int) -> None:
    assert refusal(advertisement_interval_ms=milliseconds) == (
        f"advertisement_interval_ms {milliseconds}: must be 10-40950"
    )


@pytest.mark.clause("C59", "held")
def test_directors_get_distinct_priorities_none_of_them_255() -> None:
    (found,) = assign(snapshot(virtual_service(), nodes=nodes(20))).assignments.values()
    priorities = [director.priority for director in found.directors]
    assert len(set(priorities)) == 20
    assert max(priorities) < 255


@pytest.mark.clause("C59", "breach")
def test_equal_priorities_are_noticed_by_their_cause() -> None:
    assert active().handle(received(100, source=HIGHER), 0.5)[-1] == became(
        State.ACTIVE, State.BACKUP, Cause.HIGHER_ADDRESS
    )


@pytest.mark.clause("C19", "breach")
@pytest.mark.parametrize("value", ["0", None, "8"])
def test_a_node_that_would_answer_arp_for_addresses_on_lo_is_named(value: str | None) -> None:
    key = "net/ipv4/conf/all/arp_ignore"
    (problem,) = check({**REAL_SERVER, key: value}, REAL_SERVER)
    assert (problem.key, problem.fatal) == (key, True)


@pytest.mark.clause("V5", "held")
def test_an_active_of_version_2_discards_a_losing_advert_without_a_word() -> None:
    assert not _adverts(2)


@pytest.mark.clause("V5", "breach")
def test_an_answer_to_a_losing_advert_is_seen_and_is_what_version_3_asks_for() -> None:
    assert _adverts(3)


def _adverts(version: int) -> list[object]:
    losing = Advertisement(version=version, virtual_router_id=51, priority=99, interval=100, addresses=(VIP,),
                           source=HIGHER)  # fmt: skip
    outputs = active(version=version).handle(Received(losing), 0.5)
    return [each for each in outputs if hasattr(each, "priority")]


@pytest.mark.clause("C60", "breach")
def test_a_router_that_is_late_again_and_again_says_so_and_waits_ever_longer() -> None:
    machine = active()
    causes = []
    now = 0.0
    for _ in range(3):
        now += 100.0
        causes.append(machine.handle(Tick(), now)[-1])
        waits = machine.damping.wait(now)
        machine.handle(Tick(), now + 4.0)
        now += 4.0
    assert causes == [became(State.ACTIVE, State.BACKUP, Cause.LATE_TIMER)] * 3
    assert waits > 5
