"""What ends loops between nodes whose tables differ: which services, with which marks, and whose packets."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.adapters.loops import Guarded, ruleset
from lvsagent.core.diff import AddDestination, AddService, DeleteService, EditDestination
from lvsagent.core.guard import Thing
from lvsagent.core.loops import (
    DOUBT_MARKS,
    MARKS,
    LoopGuard,
    Standing,
    loop_guard,
    marked,
    ours,
    steps,
)
from lvsagent.core.senders import Neighbour, ways_of
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Mark, Persistent, Service, ServiceKey
from lvsagent.runtime.guard import Guard
from lvsapi.model import IPAddress, Node, Protocol
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

VIP, OWN = ip_address("10.0.0.200"), ip_address("10.0.0.21")
PEERS = frozenset({ip_address("10.0.0.22"), ip_address("10.0.0.23")})
M, D, T = ForwardMethod.MASQUERADE, ForwardMethod.DIRECT_ROUTE, ForwardMethod.TUNNEL


def at(last: int, method: ForwardMethod, weight: int = 1) -> Destination:
    return Destination(ip_address(f"10.244.0.{last}"), 8080, method, weight)


HERE, THERE = at(1, M), at(2, D)


def table(
    *destinations: Destination, port: int = 80, mark: int = 0, scheduler: str = "mh", flags: int = 0x18
) -> Service:
    key = ServiceKey(address=VIP, protocol=Protocol.TCP, port=port, mark=mark)
    return Service(key=key, scheduler=scheduler, flags=flags, destinations=destinations)


def guard(*tables: Service, peers: frozenset[IPAddress] = PEERS, standing: Collection[ServiceKey] = ()) -> LoopGuard:
    return loop_guard({one.key: one for one in tables}, {OWN}, peers, standing)


def test_a_service_beside_the_ordinary_one_holds_the_same_with_weight_0_for_what_is_elsewhere() -> None:
    own = Destination(OWN, 80, D, 3)
    wish = guard(table(HERE, THERE, own, at(3, T)))
    (service,) = wish.services.values()
    assert service.key.mark in MARKS
    assert (service.scheduler, service.flags) == ("mh", 0x18)
    assert service.destinations == (HERE, replace(THERE, weight=0), own, at(3, T, 0))
    mark = Mark(address=VIP, protocol=Protocol.TCP, first=80, last=80, value=service.key.mark)
    assert wish.marks == {mark}
    assert wish.peers == PEERS


@pytest.mark.parametrize(
    "service",
    [
        table(HERE),
        table(THERE),
        table(),
        table(HERE, THERE, scheduler="rr"),
        replace(table(HERE, THERE), persistent=Persistent(timeout=60, prefix_length=32)),
    ],
    ids=["all here", "none here", "empty", "another scheduler", "persistent"],
)
def test_nothing_is_guarded_that_cannot_loop_or_is_chosen_otherwise(service: Service) -> None:
    assert guard(service) == LoopGuard()


def test_alone_nothing_is_guarded() -> None:
    assert guard(table(HERE, THERE), peers=frozenset()) == LoopGuard()


def test_what_drains_here_is_taken_rather_than_sent_on() -> None:
    (service,) = guard(table(at(1, M, 0), THERE)).services.values()
    assert service.destinations == (HERE, replace(THERE, weight=0))
    (service,) = guard(table(at(1, M, 0), at(4, M), THERE)).services.values()
    assert service.destinations == (at(1, M, 0), at(4, M), replace(THERE, weight=0))


def test_without_mh_fallback_what_is_elsewhere_falls_back_all_the_same() -> None:
    (service,) = guard(table(HERE, THERE, flags=0x10)).services.values()
    assert service.flags == 0x18


def test_a_service_stays_unmarked_while_a_backend_is_here_so_that_its_connections_do_not_end() -> None:
    standing = guard(table(HERE, THERE)).services.keys()
    for now in (table(HERE), table(HERE, THERE, scheduler="rr")):
        wish = guard(now, standing=standing)
        assert wish.services.keys() == standing
        assert wish.marks == frozenset()
    assert guard(table(THERE), standing=standing) == LoopGuard()


def test_marks_are_found_again_by_another_agent_and_no_two_services_share_one() -> None:
    tables = [table(HERE, THERE, port=port) for port in range(1, 1001)]
    wish = guard(*tables)
    assert len(wish.services) == len({mark.value for mark in wish.marks}) == 1000
    assert guard(*reversed(tables)) == wish
    first = marked(tables[0].key, ())
    assert marked(tables[0].key, {(4, first.mark)}).mark == first.mark + 1


def test_steps_come_from_nothing_and_go_back_to_it_and_write_nothing_twice() -> None:
    wish = guard(table(HERE, THERE))
    kinds = [type(op) for op in steps(wish, {})]
    assert kinds[:4] == [AddService, AddDestination, AddDestination, EditDestination]
    assert steps(wish, wish.services) == ()
    assert [type(op) for op in steps(LoopGuard(), wish.services)] == [DeleteService]


def test_only_services_with_marks_of_our_range_are_ours() -> None:
    mine = table(mark=MARKS[7])
    assert ours([table(), table(mark=7), table(mark=DOUBT_MARKS[-1] + 1), mine]) == {mine.key: mine}


def test_senders_are_the_other_nodes_but_not_where_clients_come_from_too() -> None:
    gateway = ip_address("10.0.0.1")
    found = [
        Neighbour(address=ip_address("10.0.0.22"), mac=b"2"),
        Neighbour(address=ip_address("10.0.0.23"), mac=b"3"),
        Neighbour(address=ip_address("10.0.0.100"), mac=b"c"),
        Neighbour(address=gateway, mac=b"3"),
    ]
    assert ways_of(found, PEERS, {gateway}).senders == {b"2"}
    assert ways_of(found, PEERS, ()).senders == {b"2", b"3"}


def test_a_range_has_another_mark_in_place_of_its_own() -> None:
    wish = guard(table(HERE, THERE, mark=0x1000), table(HERE, THERE, port=81))
    assert {(mark.first, mark.instead) for mark in wish.marks} == {(80, 0x1000), (81, 0)}
    (mark,) = [mark for mark in wish.marks if mark.instead]
    whole = b"".join(message.body for message in ruleset(wish.marks, frozenset({b"\x02abcde"})))
    assert b"ranges4\0" in whole
    assert (0x1000).to_bytes(4, "little") in whole
    assert mark.value.to_bytes(4, "little") in whole


def test_the_rules_name_senders_and_services_of_both_families() -> None:
    marks = {Mark(address=VIP, protocol=Protocol.TCP, first=80, last=80, value=MARKS[1])}
    marks.add(Mark(address=ip_address("fd00::200"), protocol=Protocol.UDP, first=53, last=53, value=MARKS[2]))
    whole = b"".join(message.body for message in ruleset(frozenset(marks), frozenset({b"\x02abcde"})))
    assert b"\x02abcde" in whole
    assert VIP.packed + b"\x06\0\0\0\0\x50\0\0" in whole
    assert ip_address("fd00::200").packed + b"\x11\0\0\0\0\x35\0\0" in whole


def test_the_agent_guards_its_tables_once_and_counts_what_others_took(tmp_path: Path) -> None:
    nodes = [Node(name=f"node{k}", labels={}, addresses=(ip_address(f"192.168.139.10{k}"),)) for k in (1, 2)]
    pods = [endpoint(f"10.244.{k}.2", f"node{k}") for k in (1, 2)]
    known = snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(pods)], nodes=nodes)

    async def story() -> None:
        rig = Rig(tmp_path, known)
        rig.loop.guard = guarding = Guard(worker=rig.loop.worker, view=rig.loop.view)
        for _ in range(4):
            await rig.turn()
        assert [len(wish.marks) for wish in rig.kernel.guards] == [0, 1]  # peers are known after the first pass
        wish = rig.kernel.guards[-1]
        assert wish.peers == {ip_address("192.168.139.102")}
        (service,) = wish.services.values()
        assert [d.weight for d in service.destinations] == [1, 0]
        guarding.noticed(None, KernelState(services=wish.services), rig.loop.owned)
        assert Thing.LOOP_GUARD not in rig.loop.view.repairs
        guarding.noticed(None, KernelState(), rig.loop.owned)
        assert rig.loop.view.repairs[Thing.LOOP_GUARD] == 1
        await rig.turn()
        assert len(rig.kernel.guards) == 3
        await rig.worker.close()

    asyncio.run(story())


def test_two_who_look_at_the_same_time_do_not_both_make_what_is_missing() -> None:
    wish = guard(table(HERE, THERE))
    told: list[object] = []

    class Slow:
        async def guard_loops(self, wanted: LoopGuard, there: Standing) -> Guarded:
            told.append(there)
            await asyncio.sleep(0)
            return Guarded(changes=1, there=wanted.services)

    async def both() -> None:
        made = Guard(worker=Slow(), view=None)  # type: ignore[arg-type]
        await asyncio.gather(made._guard_loops(wish), made._guard_loops(wish))

    asyncio.run(both())
    assert told == [{}, wish.services]
