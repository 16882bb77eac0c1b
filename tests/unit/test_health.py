"""From verdicts to weights: failures, returns, shares, quorum, the sorry server, restarts."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from lvsagent.checks.messages import Target, Verdict
from lvsagent.core.backends import conditions, line_of, quorum_line
from lvsagent.core.health import Watch
from lvsagent.core.plan import plan
from lvsagent.core.state import Destination, ForwardMethod, Interface, NodeFacts, Refusal, Service, ServiceKey
from lvsapi.health import CheckType, Health, HealthCheck, OnFailure, WhenEmpty
from lvsapi.ipvs import Forwarding
from lvsapi.model import ObjectKey, Protocol, RealServer, Resolved
from lvsapi.resolve import resolve
from lvsapi.status import Reason
from tests.gen import VIP, assignment, endpoint, endpoint_slice, snapshot, virtual_service

pytestmark = pytest.mark.unit

TCP = HealthCheck(type=CheckType.TCP)
AGENT = HealthCheck(type=CheckType.AGENT)
ADDRESS = ip_address(VIP)
FIRST, SECOND, THIRD = (f"192.168.139.{n}" for n in (201, 202, 203))
SORRY = "192.168.139.210"
KEY = ServiceKey(ADDRESS, Protocol.TCP, 80)


def facts(node: str = "node1", *addresses: str) -> NodeFacts:
    card = Interface(
        name="eth0", index=2, mac="", up=True, addresses=tuple(map(ip_interface, addresses or ("192.168.139.101/24",)))
    )
    return NodeFacts(node=node, interfaces=(card,), default_interface={4: "eth0"})


HERE = facts()


def asking(*servers: str | RealServer, checks: Iterable[HealthCheck] = (TCP,), **more: Any) -> Resolved:
    """Real servers that are asked. more: fields of Health, and scheduler and sorry_server."""
    spec = {name: more.pop(name) for name in ("scheduler", "sorry_server", "addresses", "ports") if name in more}
    health = Health(checks=tuple(checks), **more)
    return resolve(snapshot(virtual_service(real_servers=servers, assigned=assignment(), health=health, **spec)))


class Rig:
    """One node's watch."""

    def __init__(self, resolved: Resolved, node: NodeFacts = HERE, *, active: bool = True, have: Any = None) -> None:
        self.watch = Watch()
        self.node = node
        self.active = {ADDRESS} if active else set()
        self.now = 100.0
        self.have: dict[ServiceKey, Service] = have or {}
        self.want(resolved)

    def want(self, resolved: Resolved) -> tuple[Target, ...]:
        self.resolved = resolved
        self.targets = self.watch.wish(resolved, self.node, self.have)
        return self.targets

    def hear(self, backend: str, up: bool, **more: Any) -> Any:
        names = [target.name for target in self.targets if f" {backend}:" in target.name]
        assert names, f"{backend} is not asked"
        found = [self.watch.heard(Verdict(generation=1, name=name, up=up, **more), self.now) for name in names]
        return found[0]

    def weights(self) -> dict[str, int]:
        found = self.watch.over(self.resolved, self.node, self.active, self.now)
        return {str(backend.address): backend.weight for backend in found.servers[0].backends}


def test_an_object_that_asks_nothing_stays_as_it_is() -> None:
    resolved = resolve(snapshot(virtual_service(real_servers=[FIRST], assigned=assignment())))
    rig = Rig(resolved)
    assert rig.targets == ()
    assert rig.watch.over(resolved, HERE, set(), 1.0).servers[0] is resolved.servers[0]


def test_a_target_says_what_is_asked_and_how_it_is_reached() -> None:
    (target,) = Rig(asking(FIRST)).targets
    assert target == Target(
        name=f"default/web {VIP}:80 {FIRST}:80/TCP",
        address=ip_address(FIRST),
        port=80,
        protocol=Protocol.TCP,
        checks=(TCP,),
        up=False,
        virtual_address=ADDRESS,
        virtual_port=80,
        forwarding=Forwarding.DIRECT_ROUTING,
    )


def pods(**more: Any) -> Resolved:
    here, there = endpoint("10.244.1.2", "node1"), endpoint("10.244.2.2", "node2")
    health = Health(checks=(TCP,), pods=True)
    item = virtual_service(assigned=assignment(), health=health, **more)
    return resolve(snapshot(item, slices=[endpoint_slice([here, there])]))


def test_a_pod_is_asked_as_its_own_node_and_others_reach_it() -> None:
    here, there = Rig(pods()).targets
    assert (here.forwarding, here.through, here.director) == (Forwarding.MASQUERADE, "node1", True)
    assert (there.forwarding, there.through) == (Forwarding.DIRECT_ROUTING, "node2")


def test_a_backend_that_drains_is_not_asked() -> None:
    rig = Rig(asking(FIRST, RealServer(address=ip_address(SECOND), weight=0)))
    assert [str(target.address) for target in rig.targets] == [FIRST]
    assert rig.weights() == {FIRST: 0, SECOND: 0}


def test_a_new_backend_waits_for_its_first_answer_and_gets_its_weight_then() -> None:
    rig = Rig(asking(RealServer(address=ip_address(FIRST), weight=5)))
    assert rig.weights() == {FIRST: 0}
    change = rig.hear(FIRST, True)
    assert rig.weights() == {FIRST: 5}
    assert line_of(change) == f"Enabling service {FIRST}:80 of VS {VIP}:80"


def test_a_backend_may_be_taken_for_up_at_first() -> None:
    rig = Rig(asking(FIRST, initially_up=True))
    assert (rig.targets[0].up, rig.weights()) == (True, {FIRST: 1})


def test_what_is_taken_for_something_is_no_answer() -> None:
    rig = Rig(asking(FIRST))
    assert rig.hear(FIRST, True, known=False) is None
    assert rig.weights() == {FIRST: 0}


def test_a_failure_takes_the_weight_and_an_answer_gives_it_back() -> None:
    rig = Rig(asking(FIRST, SECOND, initially_up=True))
    change = rig.hear(FIRST, False, reason="TCP 192.168.139.201:80: refused")
    assert line_of(change) == f"Disabling service {FIRST}:80 of VS {VIP}:80"
    assert (change.reason, rig.weights()) == ("TCP 192.168.139.201:80: refused", {FIRST: 0, SECOND: 1})
    assert rig.hear(FIRST, False, reason="again") is None
    rig.hear(FIRST, True)
    assert rig.weights() == {FIRST: 1, SECOND: 1}


def test_a_failure_may_take_the_backend_out_of_the_table() -> None:
    rig = Rig(asking(FIRST, SECOND, initially_up=True, on_failure=OnFailure.REMOVE))
    assert line_of(rig.hear(FIRST, False)) == f"Removing service {FIRST}:80 from VS {VIP}:80"
    assert rig.weights() == {SECOND: 1}
    assert line_of(rig.hear(FIRST, True)) == f"Adding service {FIRST}:80 to VS {VIP}:80"
    assert rig.weights() == {FIRST: 1, SECOND: 1}


def test_while_nothing_is_taken_out_of_tables_a_failure_takes_the_weight_all_the_same() -> None:
    """An agent that starts while the API is away removes nothing, not even a destination."""
    rig = Rig(asking(FIRST, SECOND, initially_up=True, on_failure=OnFailure.REMOVE))
    rig.hear(FIRST, False)
    found = rig.watch.over(rig.resolved, HERE, rig.active, rig.now, prune=False)
    assert [backend.weight for backend in found.servers[0].backends] == [0, 1]
    assert rig.weights() == {SECOND: 1}


def test_a_wish_that_changes_keeps_what_is_known() -> None:
    rig = Rig(asking(FIRST, SECOND))
    rig.hear(FIRST, True)
    rig.hear(SECOND, False)
    rig.want(asking(FIRST, SECOND, THIRD, quorum=2))
    assert rig.weights() == {FIRST: 1, SECOND: 0, THIRD: 0}
    assert {str(t.address): t.up for t in rig.targets} == {FIRST: True, SECOND: False, THIRD: False}


def test_one_that_never_came_up_is_said_once_and_why() -> None:
    rig = Rig(asking(FIRST, SECOND))
    name = next(target.name for target in rig.targets if str(target.address) == FIRST)
    change = rig.watch.heard(Verdict(generation=1, name=name, up=False, reason="mute"), 1.0)
    assert change is not None
    assert (change.up, change.reason) == (False, "mute")
    assert rig.watch.heard(Verdict(generation=2, name=name, up=False, reason="mute"), 2.0) is None


def test_a_verdict_about_what_is_gone_is_none() -> None:
    rig = Rig(asking(FIRST, SECOND))
    names = [target.name for target in rig.targets]
    rig.want(asking(SECOND))
    assert rig.watch.heard(Verdict(generation=1, name=names[0], up=True), 1.0) is None


def test_an_agent_that_restarts_keeps_what_the_kernel_has_until_the_first_answer() -> None:
    there = Service(
        key=KEY,
        scheduler="mh",
        flags=0,
        destinations=tuple(
            Destination(ip_address(address), 80, ForwardMethod.DIRECT_ROUTE, weight)
            for address, weight in ((FIRST, 1), (SECOND, 0))
        ),
    )
    rig = Rig(asking(FIRST, SECOND, THIRD), have={KEY: there})
    assert rig.weights() == {FIRST: 1, SECOND: 0, THIRD: 0}
    rig.hear(SECOND, True)
    assert rig.weights() == {FIRST: 1, SECOND: 1, THIRD: 0}


def test_slow_start_grows_from_a_tenth_to_the_whole_once_a_second() -> None:
    rig = Rig(asking(FIRST, SECOND, scheduler="wrr", slow_start_seconds=10, initially_up=True))
    for backend in (FIRST, SECOND):
        rig.hear(backend, True)
    assert rig.weights() == {FIRST: 100, SECOND: 100}
    rig.hear(FIRST, False)
    assert rig.weights() == {FIRST: 0, SECOND: 100}
    rig.hear(FIRST, True)
    grown = []
    for _ in range(12):
        grown.append(rig.weights()[FIRST])
        rig.now += 1.0
    assert grown == [10, 19, 28, 37, 46, 55, 64, 73, 82, 91, 100, 100]
    assert rig.watch.waits_until(rig.now) is None


def test_within_a_second_of_slow_start_nothing_is_computed_anew() -> None:
    rig = Rig(asking(FIRST, scheduler="wrr", slow_start_seconds=10, initially_up=True))
    for up in (True, False, True):
        rig.hear(FIRST, up)
    first = rig.watch.over(rig.resolved, HERE, rig.active, 100.1)
    assert rig.watch.waits_until(100.1) == 101.1
    assert rig.watch.over(rig.resolved, HERE, rig.active, 100.9) is first
    assert rig.watch.over(rig.resolved, HERE, rig.active, 101.1) is not first


def test_the_first_answer_after_a_start_is_no_return() -> None:
    rig = Rig(asking(FIRST, scheduler="wrr", slow_start_seconds=10))
    rig.hear(FIRST, True)
    assert rig.weights() == {FIRST: 100}


@pytest.mark.parametrize(("percent", "weight"), [(100, 200), (50, 100), (1, 2), (0, 0), (256, 512)])
def test_a_backend_says_its_own_share(percent: int, weight: int) -> None:
    rig = Rig(asking(RealServer(address=ip_address(FIRST), weight=2), checks=[AGENT], scheduler="wlc"))
    rig.hear(FIRST, True, percent=percent)
    assert rig.weights() == {FIRST: weight}


def quorum(rig: Rig) -> list[bool]:
    """What became of the quorum."""
    rig.weights()
    return [change.up for change in rig.watch.changes()]


def test_quorum_has_hysteresis_as_keepalived() -> None:
    servers = [RealServer(address=ip_address(a), weight=w) for a, w in ((FIRST, 4), (SECOND, 2), (THIRD, 1))]
    rig = Rig(asking(*servers, quorum=4, hysteresis=2, initially_up=True))
    assert quorum(rig) == []
    rig.hear(FIRST, False)
    assert quorum(rig) == []  # 3 is not below 4 - 2
    rig.hear(SECOND, False)
    assert quorum(rig) == [False]  # 1
    rig.hear(SECOND, True)
    assert quorum(rig) == []  # 3
    rig.hear(FIRST, True)
    assert quorum(rig) == [True]  # 7, not below 4 + 2


def test_without_a_sorry_server_those_who_live_go_on_below_the_quorum() -> None:
    rig = Rig(asking(FIRST, SECOND, quorum=2, initially_up=True))
    rig.weights()
    rig.hear(FIRST, False)
    assert rig.weights() == {FIRST: 0, SECOND: 1}
    (change,) = rig.watch.changes()
    assert quorum_line(change) == f"Lost quorum 2 of VS {VIP}:80 with living weight 1"


def sorry(**more: Any) -> Resolved:
    server = RealServer(address=ip_address(SORRY))
    return asking(FIRST, SECOND, sorry_server=server, when_empty=WhenEmpty.SORRY, initially_up=True, **more)


def test_the_sorry_server_takes_over_below_the_quorum_and_leaves_again() -> None:
    rig = Rig(sorry(quorum=2))
    assert rig.weights() == {FIRST: 1, SECOND: 1}
    rig.hear(FIRST, False)
    assert rig.weights() == {FIRST: 0, SECOND: 0, SORRY: 1}
    assert quorum_line(*rig.watch.changes()).endswith(f"; sorry server {SORRY}:80")
    rig.hear(FIRST, True)
    assert rig.weights() == {FIRST: 1, SECOND: 1}


def test_the_sorry_server_needs_no_checks() -> None:
    item = virtual_service(
        assigned=assignment(),
        sorry_server=RealServer(address=ip_address(SORRY)),
        health=Health(when_empty=WhenEmpty.SORRY),
    )
    for endpoints, weights in (([], {SORRY: 1}), ([endpoint("10.244.2.2", "node2")], {"10.244.2.2": 1})):
        resolved = resolve(snapshot(item, slices=[endpoint_slice(endpoints)]))
        assert Rig(resolved).weights() == weights


def test_a_sorry_server_that_is_a_backend_too_is_there_once() -> None:
    server = RealServer(address=ip_address(FIRST))
    rig = Rig(asking(FIRST, SECOND, sorry_server=server, when_empty=WhenEmpty.SORRY))
    assert rig.weights() == {FIRST: 1, SECOND: 0}


def test_a_node_that_is_not_active_delivers_to_its_own_backends_whatever_it_thinks_of_them() -> None:
    """Else a packet that the Active sent here would be sent on, and back."""
    rig = Rig(pods(), active=False)
    for backend in ("10.244.1.2", "10.244.2.2"):
        rig.hear(backend, False)
    assert rig.weights() == {"10.244.1.2": 1, "10.244.2.2": 0}
    rig.active = {ADDRESS}
    assert rig.weights() == {"10.244.1.2": 0, "10.244.2.2": 0}


def test_a_director_that_is_a_real_server_delivers_to_itself_too() -> None:
    node = facts("node1", f"{FIRST}/24")
    rig = Rig(asking(FIRST, SECOND, on_failure=OnFailure.REMOVE, sorry_server=RealServer(address=ip_address(SORRY))),
              node, active=False)  # fmt: skip
    for backend in (FIRST, SECOND):
        rig.hear(backend, False)
    assert rig.weights() == {FIRST: 1}


def planned(resolved: Resolved) -> frozenset[Refusal]:
    return plan(resolved, HERE, frozenset()).state.refusals


def test_new_clients_are_refused_while_nobody_is_left_and_only_then() -> None:
    rig = Rig(asking(FIRST, initially_up=True))
    over = rig.watch.over(rig.resolved, HERE, rig.active, 1.0)
    assert planned(over) == frozenset()
    rig.hear(FIRST, False)
    over = rig.watch.over(rig.resolved, HERE, rig.active, 1.0)
    assert planned(over) == {Refusal(address=ADDRESS, protocol=Protocol.TCP, first=80, last=80)}


def test_udp_is_refused_by_ipvs_itself_and_dropped_by_us() -> None:
    udp = [replace(asking(FIRST).servers[0], protocol=Protocol.UDP)]
    assert planned(Resolved(servers=tuple(udp), routers=(), problems=())) == frozenset()  # it has weight
    nobody = replace(udp[0], backends=())
    assert planned(Resolved(servers=(nobody,), routers=(), problems=())) == frozenset()
    drops = replace(nobody, health=Health(when_empty=WhenEmpty.DROP))
    (refusal,) = planned(Resolved(servers=(drops,), routers=(), problems=()))
    assert (refusal.protocol, refusal.drop) == (Protocol.UDP, True)


def test_every_port_is_refused_by_protocol() -> None:
    nobody = replace(asking(FIRST).servers[0], backends=(), protocol=None, port=0, end_port=65535)
    assert {(r.protocol, r.first, r.last) for r in planned(Resolved(servers=(nobody,), routers=(), problems=()))} == {
        (Protocol.TCP, 0, 65535)
    }
    drops = replace(nobody, health=Health(when_empty=WhenEmpty.DROP))
    assert len(planned(Resolved(servers=(drops,), routers=(), problems=()))) == 3


WEB = ObjectKey("default", "web")


def test_the_condition_names_the_offenders_with_their_reasons() -> None:
    rig = Rig(asking(FIRST, SECOND))
    rig.weights()
    assert conditions(rig.resolved, rig.watch) == {
        WEB: (None, Reason.NOT_ANSWERED, "2 of 2 backends have not answered yet")
    }
    rig.hear(FIRST, True)
    rig.hear(SECOND, False, reason="TCP: refused")
    rig.weights()
    assert conditions(rig.resolved, rig.watch)[WEB] == (
        False,
        Reason.BACKENDS_DOWN,
        f"1 of 2 backends fail: {SECOND}:80: TCP: refused",
    )
    rig.hear(FIRST, False, reason="TCP: timeout")
    rig.weights()
    status, reason, message = conditions(rig.resolved, rig.watch)[WEB]
    assert (status, reason) == (False, Reason.QUORUM_LOST)
    assert f"{VIP}:80" in message
    assert "TCP: timeout" in message
    for backend in (FIRST, SECOND):
        rig.hear(backend, True)
    rig.weights()
    assert conditions(rig.resolved, rig.watch)[WEB] == (True, Reason.AS_EXPECTED, "All 2 backends answer")


def test_a_condition_names_eight_and_counts_the_rest() -> None:
    rig = Rig(asking(*(f"192.168.139.{n}" for n in range(201, 213)), initially_up=True))
    for n in range(201, 212):
        rig.hear(f"192.168.139.{n}", False, reason="down")
    rig.weights()
    assert conditions(rig.resolved, rig.watch)[WEB][2].endswith("; and 3 more")


def test_objects_that_ask_nothing_have_no_condition() -> None:
    assert conditions(resolve(snapshot(virtual_service(assigned=assignment()))), Watch()) == {}


def test_ipv6_is_written_in_brackets() -> None:
    rig = Rig(asking("fd00::7", addresses=["fd00::1"]))
    assert rig.targets[0].name == "default/web [fd00::1]:80 [fd00::7]:80/TCP"
