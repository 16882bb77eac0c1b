"""The table without a fresh suspicion: for which services, for how long, and what is left of it then."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.adapters.loops import busy, ruleset
from lvsagent.core.doubt import BENEFIT, NO_DOUBT, Doubt, Doubts, benefit
from lvsagent.core.liveness import Overlay, Suspects
from lvsagent.core.loops import DOUBT_MARKS, MARKS, Standing
from lvsagent.core.plan import plan
from lvsagent.core.state import Mark, NodeFacts, Persistent, Service, ServiceKey
from lvsagent.ipc import Liveness, PeerNode
from lvsagent.runtime import guard as guards
from lvsagent.runtime.guard import Guard
from lvsapi.model import Protocol, Resolved
from lvsapi.resolve import resolve
from tests.fakes.kernel import FakeKernel
from tests.gen import assignment, endpoint, endpoint_slice, node, snapshot, virtual_service
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

NAMES = ("node1", "node2", "node3")
PEERS = tuple(PeerNode(name=name, addresses=(f"192.168.139.10{k}",)) for k, name in enumerate(NAMES, 1))
SERVED = snapshot(
    virtual_service(assigned=assignment()),
    slices=[endpoint_slice([endpoint(f"10.244.{k}.2", node=name) for k, name in enumerate(NAMES, 1)])],
    nodes=[node(name, f"192.168.139.10{k}") for k, name in enumerate(NAMES, 1)],
)
FACTS = FakeKernel().facts()


def suspects(*silent: str) -> Suspects:
    return Suspects.of(Liveness(silent=silent), PEERS, "node1")


def tables_of(resolved: Resolved, facts: NodeFacts = FACTS) -> Standing:
    return plan(resolved, facts, frozenset()).state.services


def doubt_of(doubts: Doubts, now: float, *silent: str, resolved: Resolved | None = None, directs: bool = True) -> Doubt:
    meant = resolve(SERVED) if resolved is None else resolved
    who = suspects(*silent)
    return doubts.of(tables_of(Overlay().over(meant, who)), meant, who, now, directs)


def weights(service: Service) -> list[int]:
    return [destination.weight for destination in service.destinations]


def only(services: Standing) -> Service:
    (service,) = services.values()
    return service


def held(doubt: Doubt, *silent: str, there: Standing | None = None, idle: Collection[ServiceKey] = ()) -> Standing:
    tables = tables_of(Overlay().over(resolve(SERVED), suspects(*silent)))
    return benefit(doubt, tables, there or {}, idle)[0]


def test_a_fresh_suspicion_leaves_the_whole_table_beside_the_one_with_weight_0() -> None:
    doubts = Doubts()
    doubt = doubt_of(doubts, 100.0, "node2")
    assert weights(only(tables_of(Overlay().over(resolve(SERVED), suspects("node2"))))) == [1, 0, 1]
    assert weights(only(doubt.whole)) == [1, 1, 1]
    assert doubt.gone == frozenset()
    assert doubts.until == 100.0 + BENEFIT


def test_a_suspicion_that_lasts_is_believed_and_another_one_has_its_own_time() -> None:
    doubts = Doubts()
    doubt_of(doubts, 100.0, "node2")
    doubt = doubt_of(doubts, 101.0, "node2", "node3")
    assert weights(only(doubt.whole)) == [1, 1, 1]
    assert doubts.until == 100.0 + BENEFIT
    doubt = doubt_of(doubts, 100.0 + BENEFIT, "node2", "node3")
    assert weights(only(doubt.whole)) == [1, 0, 1]
    assert doubt.gone == {ip_address("10.244.2.2")}
    assert doubts.until == 101.0 + BENEFIT
    doubt = doubt_of(doubts, 101.0 + BENEFIT, "node2", "node3")
    assert doubt == Doubt(gone=frozenset({ip_address("10.244.2.2"), ip_address("10.244.3.2")}))
    assert doubts.until is None
    assert doubt_of(doubts, 110.0) == NO_DOUBT
    assert weights(only(doubt_of(doubts, 111.0, "node2").whole)) == [1, 1, 1], "it spoke meanwhile"


def test_a_backend_that_drains_gets_no_weight_back() -> None:
    meant = resolve(SERVED)
    (server,) = meant.servers
    draining = replace(server.backends[1], weight=0)
    drained = replace(meant, servers=(replace(server, backends=(server.backends[0], draining, server.backends[2])),))
    assert doubt_of(Doubts(), 0.0, "node2", resolved=drained) == NO_DOUBT
    assert weights(only(doubt_of(Doubts(), 0.0, "node3", resolved=drained).whole)) == [1, 0, 1]


def test_only_a_director_meets_connections_that_it_does_not_know() -> None:
    assert doubt_of(Doubts(), 0.0, "node2", directs=False) == NO_DOUBT


@pytest.mark.parametrize(
    "change",
    [{"scheduler": "rr"}, {"persistent": Persistent(timeout=60, prefix_length=32)}],
    ids=["another scheduler", "persistent"],
)
def test_only_tables_that_are_alike_everywhere_are_held(change: dict[str, object]) -> None:
    meant, who = resolve(SERVED), suspects("node2")
    tables = {k: replace(s, **change) for k, s in tables_of(Overlay().over(meant, who)).items()}  # type: ignore[arg-type]
    assert Doubts().of(tables, meant, who, 0.0, True) == NO_DOUBT


def test_udp_has_no_middle_of_a_connection_that_could_be_seen() -> None:
    meant, who = resolve(SERVED), suspects("node2")
    meant = replace(meant, servers=tuple(replace(s, protocol=Protocol.UDP) for s in meant.servers))
    assert Doubts().of(tables_of(Overlay().over(meant, who)), meant, who, 0.0, True) == NO_DOUBT


def test_the_service_beside_has_a_mark_of_its_own_and_the_same_order() -> None:
    doubt = doubt_of(Doubts(), 0.0, "node2")
    tables = tables_of(Overlay().over(resolve(SERVED), suspects("node2")))
    services, marks = benefit(doubt, tables, {}, ())
    service = only(services)
    assert service.key.mark in DOUBT_MARKS
    assert not set(DOUBT_MARKS) & set(MARKS)
    assert service.destinations == only(doubt.whole).destinations
    assert marks == {
        Mark(
            address=service.key.address,
            protocol=Protocol.TCP,
            first=service.key.port,
            last=service.key.port,
            value=service.key.mark,
        )
    }


def test_who_was_given_connections_keeps_them_without_a_mark_and_who_is_dead_loses_them() -> None:
    there = held(doubt_of(Doubts(), 0.0, "node2"), "node2")
    tables = tables_of(Overlay().over(resolve(SERVED), suspects("node2")))
    lasting = Doubt(gone=frozenset({ip_address("10.244.2.2")}))
    services, marks = benefit(lasting, tables, there, ())
    assert marks == frozenset()
    assert [str(d.address) for d in only(services).destinations] == ["10.244.1.2", "10.244.3.2"]
    assert weights(only(services)) == [1, 1]
    assert only(held(NO_DOUBT, there=there)) == only(there), "it speaks again: nothing is written"
    assert held(NO_DOUBT, there=there, idle=there.keys()) == {}
    assert held(NO_DOUBT) == {}


def test_a_second_suspicion_does_not_bring_back_who_is_gone_for_long() -> None:
    doubts = Doubts()
    doubt_of(doubts, 0.0, "node2")
    doubt = doubt_of(doubts, BENEFIT, "node2", "node3")
    found = held(doubt, "node2", "node3")
    assert [(str(d.address), d.weight) for d in only(found).destinations] == [("10.244.1.2", 1), ("10.244.3.2", 1)]


def test_rules_for_packets_in_the_middle_stand_by_themselves() -> None:
    mark = Mark(address=ip_address("fd00::200"), protocol=Protocol.TCP, first=80, last=80, value=DOUBT_MARKS[3])
    alone = b"".join(message.body for message in ruleset(frozenset(), frozenset(), frozenset({mark})))
    assert b"doubt\0" in alone
    assert b"input\0" not in alone
    assert b"output\0" in alone
    assert ip_address("fd00::200").packed + b"\x06\0\0\0\0\x50\0\0" in alone


def test_which_marked_services_have_connections() -> None:
    text = (
        "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
        "FWM  4C570001 mh mh-fallback\n  -> 0AF4020B:1F90      Masq    1      0          2\n"
        "FWM  4C570002 mh\n  -> 0AF4020B:1F90      Masq    1      0          0\n"
        "FWM  4C570003 mh\n  -> 0AF4020B:1F90      Masq    1      0          0\n"
        "  -> [fd00:0000:0000:0000:0000:0000:0000:0002]:1F90      Route   0      7          0\n"
        "TCP  0A0000C8:0050 mh\n  -> 0AF4030B:1F90      Route   1      7          0\n"
    )
    assert busy(text) == {0x4C570001, 0x4C570003}


def told(rig: Rig) -> list[tuple[int, int]]:
    """What the kernel was told: (how many operations it had done by then, doubted services)."""
    return [(done, len(wish.doubted)) for done, wish in zip(rig.kernel.guarded_at, rig.kernel.guards, strict=True)]


@pytest.mark.parametrize(("at_once", "first"), [(100, True), (0, False)], ids=["a few tables", "very many"])
def test_the_whole_table_stands_before_the_weights_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, first: bool
) -> None:
    monkeypatch.setattr(guards, "AT_ONCE", at_once)

    async def story() -> None:
        rig = Rig(tmp_path, SERVED)
        rig.loop.guard = Guard(worker=rig.loop.worker, view=rig.loop.view)
        for _ in range(3):
            await rig.turn()
        before = len(rig.kernel.applied)
        rig.loop.heard(ipc.Liveness(silent=("node2",)))
        await rig.turn(0.0)
        done, doubted = next(one for one in told(rig) if one[1])
        assert doubted == 1
        assert (done == before) == first
        assert len(rig.kernel.applied) > before
        await rig.turn(BENEFIT + 1.0)
        assert told(rig)[-1][1] == 0
        await rig.worker.close()

    asyncio.run(story())


def test_a_service_that_has_become_idle_goes_at_the_next_pass(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path, SERVED)
        rig.loop.guard = guarding = Guard(worker=rig.loop.worker, view=rig.loop.view)
        for _ in range(3):
            await rig.turn()
        rig.loop.heard(ipc.Liveness(silent=("node2",)))
        await rig.turn(0.0)
        rig.loop.heard(ipc.Liveness())
        await rig.turn(0.0)
        await rig.turn(1.0)
        (kept,) = {key for key in rig.kernel.guards[-1].services if key.mark in DOUBT_MARKS}
        assert rig.kernel.guards[-1].doubted == frozenset()
        rig.kernel.idle = frozenset({kept})
        assert guarding._loops is not None
        await guarding._guard_loops(guarding._loops)
        await rig.turn(1.0)
        assert kept not in rig.kernel.guards[-1].services
        await rig.worker.close()

    asyncio.run(story())
