"""Where every node chooses for itself: which tables may be whole, when, and in what order they become so."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lvsagent import ipc
from lvsagent.adapters.loops import ruleset
from lvsagent.core.affinity import Connection
from lvsagent.core.diff import AddDestination
from lvsagent.core.loops import Senders, Standing, begun, guarded, loop_guard, widened
from lvsagent.core.plan import filled
from lvsagent.core.senders import PATIENCE, Neighbour, Ways, outside, unknown, unrecognised, ways_of
from lvsagent.core.strays import AGAIN, QUIET, departed, strays
from lvsagent.runtime.guard import Guard
from lvsagent.runtime.strays import Strays
from lvsapi.ipvs import ConnectionLimits, Forwarding, Persistence, Scheduler
from lvsapi.model import Node, Protocol, VirtualServer
from tests.gen import VIP as ADDRESS
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service
from tests.statistics import router_statistics
from tests.unit.test_agent_loop import Rig
from tests.unit.test_loops import HERE, OWN, PEERS, THERE, at, table
from tests.unit.test_plan import KEY, PODS, VIP, backend, facts, interface, only, planned, router, server

pytestmark = pytest.mark.unit
RR = Scheduler.RR
LIMITED = tuple(replace(pod, limits=ConnectionLimits(upper=9, lower=3)) for pod in PODS)
HOSTS = (backend("10.0.0.21", "n1", host=True), backend("10.0.0.22", "n2", host=True))


# -- what the plan says ----------------------------------------------------------------------------------------------


def test_a_node_holds_its_own_pods_and_may_hold_all_where_what_others_send_on_is_recognised() -> None:
    result = planned(server(scheduler=RR), router=router())
    assert [str(d.address) for d in only(result).destinations] == ["10.244.1.11"]
    assert [str(d.address) for d in result.whole[KEY].destinations] == ["10.244.1.11", "10.244.2.11"]
    assert only(filled(result, [KEY])).destinations == result.whole[KEY].destinations
    assert only(filled(result, [])) == only(result)


def test_so_with_ranges_of_ports() -> None:
    result = planned(server(scheduler=RR, port=1000, end_port=2000), router=router())
    (key,) = result.whole
    assert (key.mark, len(only(result).destinations), len(result.whole[key].destinations)) == (0x1000, 1, 2)


def test_the_active_node_holds_all_whatever_is_recognised_and_the_same() -> None:
    result = planned(server(scheduler=RR), router=router(), active=True)
    assert only(result) == result.whole[KEY] == planned(server(scheduler=RR), router=router()).whole[KEY]


@pytest.mark.parametrize(
    "found",
    [
        server(scheduler=RR, persistence=Persistence()),
        server(scheduler=RR, backends=LIMITED),
        server(scheduler=RR, local=True),
        server(scheduler=RR, backends=HOSTS, forwarding=Forwarding.TUNNEL),
    ],
    ids=["templates", "limits", "traffic policy Local", "a tunnel to a host"],
)
def test_what_cannot_be_divided_stays_with_the_active_node(found: VirtualServer) -> None:
    result = planned(found, router=router())
    assert result.whole == {}
    assert len(only(result).destinations) == 1
    assert len(only(planned(found, router=router(), active=True)).destinations) == 1 + (not found.local)


@pytest.mark.parametrize(
    "found",
    [
        server(scheduler=RR, backends=HOSTS, forwarding=Forwarding.MASQUERADE),
        server(scheduler=RR, backends=HOSTS, forwarding=Forwarding.MASQUERADE, persistence=Persistence()),
        server(scheduler=RR, forwarding=Forwarding.TUNNEL),
        server(),
    ],
    ids=["masquerade", "masquerade with templates", "tunnels to pods", "mh"],
)
def test_where_no_packet_comes_back_every_node_holds_all_at_once(found: VirtualServer) -> None:
    result = planned(found, router=router())
    assert (len(only(result).destinations), result.whole) == (2, {})


# -- the guard -------------------------------------------------------------------------------------------------------


def test_the_marked_service_of_another_scheduler_holds_what_is_here_and_every_packet_is_marked() -> None:
    one = table(HERE, THERE, at(4, HERE.method, 0), scheduler="rr", flags=0)
    wish = loop_guard({one.key: one}, {OWN}, PEERS, (), {one.key})
    (service,) = wish.services.values()
    assert (service.scheduler, service.flags) == ("rr", 0)
    assert service.destinations == (HERE, at(4, HERE.method, 0))
    assert (wish.marks, {mark.value for mark in wish.every}) == (frozenset(), {service.key.mark})
    hashed = table(HERE, THERE, scheduler="sh", flags=0)
    (service,) = loop_guard({hashed.key: hashed}, {OWN}, PEERS, (), {hashed.key}).services.values()
    assert service.flags == 0x8, "who is hashed to a backend that drains gets another"


def test_the_guard_of_those_who_choose_for_themselves_comes_first_and_nothing_goes_with_it() -> None:
    alone, other = table(HERE, THERE, scheduler="rr", port=81), table(HERE, THERE)
    wish = loop_guard({one.key: one for one in (alone, other)}, {OWN}, PEERS, (), {alone.key})
    first = begun(wish, {}, None)
    assert {key.port for key in first.services} == {81}
    assert ({mark.first for mark in first.every}, first.marks) == ({81}, frozenset())
    later = loop_guard({other.key: other}, {OWN}, PEERS, wish.services.keys())
    still = begun(later, wish.services, wish)
    assert (still.services, still.every, still.marks) == (wish.services, wish.every, wish.marks)


def test_a_table_may_be_whole_when_its_marked_service_stands_and_senders_are_known_or_nothing_is_here() -> None:
    one, none, alone = (
        table(*d, scheduler="rr", port=p) for p, d in ((81, (HERE, THERE)), (82, (THERE,)), (83, (HERE,)))
    )
    tables = {each.key: each for each in (one, none, alone)}
    wish = loop_guard(tables, {OWN}, PEERS, (), tables.keys())

    def found(there: Standing, senders: Senders = Senders.TOLD) -> set[int]:
        return {key.port for key in guarded(wish, there, tables.values(), {OWN}, senders)}

    assert found(wish.services) == {81, 82, 83}
    assert found({}) == found(wish.services, Senders.NOT_TOLD) == found(wish.services, Senders.SOON) == {82, 83}
    assert found({**wish.services, **tables}, Senders.SOON) == {81, 82, 83}, "another node comes: nothing shrinks"
    lonely = loop_guard(tables, {OWN}, frozenset(), (), tables.keys())
    assert {k.port for k in guarded(lonely, {}, tables.values(), {OWN}, Senders.TOLD)} == {82, 83}, (
        "nobody to recognise"
    )


def test_the_guard_stands_until_the_last_backend_of_others_is_gone() -> None:
    now, before = table(HERE, scheduler="rr"), table(HERE, THERE, at(5, HERE.method), scheduler="rr")
    assert widened({now.key: now}, {before.key: before}, {OWN})[now.key].destinations == (HERE, THERE)
    assert widened({now.key: now}, {}, {OWN}) == {now.key: now}
    empty = table(scheduler="rr")
    assert widened({now.key: empty}, {before.key: before}, {OWN})[now.key].destinations == before.destinations


def test_the_rules_mark_every_packet_of_such_services_before_they_look_whether_one_opens_a_connection() -> None:
    one = table(HERE, THERE, scheduler="rr")
    wish = loop_guard({one.key: one}, {OWN}, PEERS, (), {one.key})
    every = b"".join(m.body for m in ruleset(frozenset(), frozenset({b"\x02abcde"}), every=wish.every))
    assert b"every4\0" in every
    assert b"services4\0" not in every
    both = b"".join(m.body for m in ruleset(wish.every, frozenset({b"\x02abcde"}), every=wish.every))
    assert both.rindex(b"every6\0") < both.index(b"services4\0")


# -- who sends -------------------------------------------------------------------------------------------------------

NODE = facts(interface("eth0", "10.0.0.21/24"), interface("cni0", "10.244.1.1/24", index=3), default={4: "eth0"})
NEAR, FAR, GATEWAY = ip_address("10.0.0.22"), ip_address("192.0.2.2"), ip_address("10.0.0.1")


def test_a_node_in_no_network_of_this_one_a_gateway_and_pods_behind_a_tunnel_are_not_recognised() -> None:
    macs = [Neighbour(address=NEAR, mac=b"2"), Neighbour(address=GATEWAY, mac=b"1")]
    known = ways_of(macs, {NEAR, FAR}, {GATEWAY}, {2})
    assert unrecognised({"n2": [NEAR]}, known, NODE) == {}
    assert unrecognised({"n2": [NEAR], "n3": [FAR]}, known, NODE).keys() == {"n3"}
    assert unrecognised({"n2": [GATEWAY]}, ways_of(macs, {GATEWAY}, {GATEWAY}), NODE).keys() == {"n2"}
    assert unrecognised({"n2": [NEAR]}, replace(known, interfaces=frozenset({2, 3})), NODE) == {
        "": "backends of other nodes are reached over cni0"
    }
    tunnel = replace(interface("tunl0", "10.0.0.21/24", index=2), mac="00:00:00:00")
    assert unrecognised({"n2": [NEAR]}, known, facts(tunnel)).keys() == {"n2", ""}


def test_a_node_is_unknown_until_its_hardware_address_is() -> None:
    nodes = {"n2": [FAR, NEAR], "n3": [FAR]}
    assert unknown(nodes, Ways()) == {"n2", "n3"}
    assert unknown(nodes, Ways(macs={NEAR: b"2"})) == {"n3"}


# -- the agent -------------------------------------------------------------------------------------------------------

NODES = [Node(name=f"node{k}", labels={}, addresses=(ip_address(f"192.168.139.10{k}"),)) for k in (1, 2)]
SLICES = [endpoint_slice([endpoint(f"10.244.{k}.2", f"node{k}") for k in (1, 2)])]
KNOWN = snapshot(virtual_service(assigned=assignment(), scheduler="rr"), slices=SLICES, nodes=NODES)
PEER = Ways(macs={ip_address("192.168.139.102"): b"peer02"}, interfaces=frozenset({2}))


@pytest.fixture
def story(tmp_path: Path) -> Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]:
    def run(act: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            rig = Rig(tmp_path, KNOWN)
            rig.loop.guard = Guard(worker=rig.loop.worker, view=rig.loop.view)
            try:
                await act(rig)
            finally:
                await rig.worker.close()

        asyncio.run(whole())

    return run


Story = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]


def held(rig: Rig) -> list[str]:
    (service,) = rig.kernel.state.services.values()
    return [str(d.address) for d in service.destinations]


BOTH, ALONE = ["10.244.1.2", "10.244.2.2"], ["10.244.1.2"]


def test_the_guard_is_written_before_the_whole_table_and_then_the_node_may_be_active(story: Story) -> None:
    async def act(rig: Rig) -> None:
        rig.kernel.ways = PEER
        await rig.turn()
        assert held(rig) == BOTH
        assert (len(rig.kernel.guards[0].every), rig.kernel.guarded_at[0]) == (1, 0)
        assert rig.election.wishes[-1].routers[0].ready
        before = len(rig.kernel.applied), len(rig.kernel.guards)
        await rig.turn()
        assert (len(rig.kernel.applied), len(rig.kernel.guards)) == before

    story(act)


def test_a_node_whose_neighbour_has_not_told_its_address_waits_for_it_and_stands_aside_and_not_for_ever(
    story: Story,
) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        assert held(rig) == ALONE
        assert not rig.election.wishes[-1].routers[0].ready
        rig.kernel.ways = PEER
        rig.loop.heard(ipc.Liveness(unready=("node2",)))
        await rig.turn()
        assert held(rig) == BOTH
        assert rig.election.wishes[-1].routers[0].ready

    story(act)


def test_a_node_that_never_tells_its_address_is_off(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        assert held(rig) == ALONE
        await rig.turn(PATIENCE)
        assert held(rig) == BOTH

    story(act)


@pytest.mark.parametrize("how", ["no marks", "a tunnel"])
def test_where_what_others_send_on_is_not_recognised_the_node_holds_its_own_pods_and_may_be_active(
    story: Story, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(rig: Rig) -> None:
        rig.kernel.ways = PEER if how == "no marks" else replace(PEER, interfaces=frozenset({2, 9}))
        rig.kernel.guard_errors = ("no nf_tables",) if how == "no marks" else ()
        await rig.turn()
        assert held(rig) == ALONE
        assert rig.election.wishes[-1].routers[0].ready
        rig.kernel.guard_errors, rig.kernel.ways = (), PEER
        rig.loop.stirred()
        await rig.turn()
        assert held(rig) == BOTH
        rig.kernel.guard_errors = ("no nf_tables",)
        rig.loop.stirred()
        await rig.turn()
        assert held(rig) == ALONE, "it cannot be said any more who sends"
        assert AddDestination in {type(op) for op in rig.kernel.applied}

    story(act)


# -- connections that went on without this node ----------------------------------------------------------------------


def entry(
    client: int, pod: str, expires: int, state: str = "ESTABLISHED", protocol: Protocol = Protocol.TCP
) -> Connection:
    return Connection(protocol, VIP, 80, client, 40000, (ip_address(pod), 8080), state, expires)


def test_quiet_entries_that_lead_to_other_nodes_are_forgotten_where_the_address_is_not() -> None:
    mine, theirs = "10.244.1.11", "10.244.2.11"
    gone, busy, inside = entry(1, theirs, 900 - QUIET), entry(2, theirs, 901 - QUIET), entry(3, theirs, 100)
    ended = entry(1, theirs, 120, "FIN_WAIT")
    others = [entry(4, mine, 100), entry(5, theirs, 50, "SYN_RECV"), entry(6, theirs, 100, "UDP", Protocol.UDP)]
    found = departed([gone, busy, inside, ended, *others], {KEY}, (), {ip_address(mine)})
    assert found == [gone, busy, inside, ended]
    assert departed([gone], {KEY}, {VIP}, ()) == departed([gone], (), (), ()) == []
    over = strays(found, {1: 2, 2: 2, 3: 3}, outside([NEAR], NODE))
    assert over == [one._replace(state="FIN_WAIT", expires=1) for one in (gone, ended)]


def test_the_agent_looks_after_it_was_active_until_there_are_none(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [entry(1, "10.244.2.2", 100)._replace(address=ip_address(ADDRESS))]
    written: list[Connection] = []
    looks: list[int] = []

    def read() -> list[Connection]:
        looks.append(1)
        return left

    monkeypatch.setattr("lvsagent.adapters.connections.Listing", read)
    monkeypatch.setattr("lvsagent.adapters.connections.write", written.extend)

    async def act(rig: Rig) -> None:
        async def ways(addresses: Any) -> dict[Any, int]:
            return dict.fromkeys(addresses, 2)

        rig.kernel.ways = PEER
        await rig.turn()
        made = Strays(view=rig.loop.view, call=rig.worker.call, ways=ways, facts=lambda: rig.loop.facts)
        assert await made.turn(100.0) == 1, "whoever starts does not know what was before"
        assert [one.expires for one in written] == [1]
        assert [await made.turn(100.0 + AGAIN - 0.1), len(looks)] == [0, 1]
        left.clear()
        assert [await made.turn(100.0 + AGAIN), await made.turn(200.0)] == [0, 0]
        assert len(looks) == 2, "there are none"
        routers = rig.loop.view.claims.routers
        routers["web"] = router_statistics("web", transitions={"Active,Backup,higher_priority": 1})
        assert [await made.turn(300.0), await made.turn(301.0)] == [0, 0]
        assert len(looks) == 3, "it was Active"

    story(act)
