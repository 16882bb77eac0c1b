"""The agent's loop and the nodes that are suspected: weights at once, and when it says that it serves itself."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from lvsagent import ipc
from lvsagent.adapters.metrics import AgentCollector
from lvsagent.core.diff import EditDestination
from lvsagent.core.liveness import Suspects
from lvsagent.core.state import KernelState
from lvsagent.runtime import loop as loops
from lvsagent.runtime.loop import POLL_SECONDS
from lvsapi.model import Snapshot
from tests.gen import assignment, endpoint, endpoint_slice, node, snapshot, virtual_service
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

NODES = [node("node1", "192.168.139.101"), node("node2", "192.168.139.102")]


def served(*addresses: str) -> Snapshot:
    endpoints = [endpoint(f"10.244.{k}.2", node=f"node{k}") for k in (1, 2)]
    endpoints += [endpoint(address, node="node2") for address in addresses]
    return snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(endpoints)], nodes=NODES)


def weights(rig: Rig) -> list[int]:
    (service,) = rig.kernel.state.services.values()
    return [destination.weight for destination in service.destinations]


def test_a_silent_node_costs_one_operation_each_way(tmp_path: Path) -> None:
    async def act() -> None:
        rig = Rig(tmp_path, served())
        await rig.turn()
        before = len(rig.kernel.applied)
        rig.loop.heard(ipc.Liveness(silent=("node2",)))
        await rig.turn(0.0)
        assert weights(rig) == [1, 0]
        assert [type(op) for op in rig.kernel.applied[before:]] == [EditDestination]
        assert [backend.weight for backend in rig.loop.view.resolved.servers[0].backends] == [1, 1], (
            "status is as it was"
        )
        await rig.turn(POLL_SECONDS)
        rig.source.current = served("10.244.2.3")
        await rig.turn()
        assert weights(rig) == [1, 0, 0], "also those that come meanwhile"
        rig.loop.heard(ipc.Liveness(unready=("node2",)))
        await rig.turn(0.0)
        assert weights(rig) == [1, 0, 0]
        rig.loop.heard(ipc.Liveness())
        await rig.turn(0.0)
        assert weights(rig) == [1, 1, 1]
        assert len(rig.election.wishes) == 1, "nothing of it concerns the election"
        await rig.worker.close()

    asyncio.run(act())


def test_it_does_not_wait_for_other_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "DEBOUNCE_SECONDS", 3600.0)

    async def act() -> None:
        rig = Rig(tmp_path, served())
        await rig.turn()
        task = asyncio.create_task(rig.loop.run())
        await asyncio.sleep(0)
        rig.loop._event.clear()
        await asyncio.sleep(0)
        rig.loop.heard(ipc.Liveness(silent=("node2",)))
        async with asyncio.timeout(10.0):
            while weights(rig) != [1, 0]:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.worker.close()

    asyncio.run(act())


def test_news_that_keep_coming_are_looked_at_together_unless_one_is_urgent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "DEBOUNCE_SECONDS", 0.0)
    monkeypatch.setattr(loops, "SHARE", 1e-9)
    monkeypatch.setattr(loops, "LONGEST_REST", 3600.0)

    async def act() -> None:
        rig = Rig(tmp_path, served())
        task = asyncio.create_task(rig.loop.run())
        async with asyncio.timeout(10.0):
            while not rig.loop._rested:
                await asyncio.sleep(0.001)
        rig.source.current = served("10.244.2.3")
        for _ in range(20):
            rig.loop.wake()
            await asyncio.sleep(0.001)
        assert weights(rig) == [1, 1]
        rig.loop.heard(ipc.Liveness(silent=("node2",)))
        async with asyncio.timeout(10.0):
            while weights(rig) != [1, 0, 0]:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.worker.close()

    asyncio.run(act())


def test_the_node_serves_when_its_tables_are_complete_and_then_for_good(tmp_path: Path) -> None:
    async def act() -> None:
        rig = Rig(tmp_path, served())
        rig.source.synced = False  # a state from before the reboot
        await rig.turn()
        wish = rig.election.wishes[-1]
        assert (wish.node, wish.serving) == ("node1", False)
        assert [(peer.name, peer.addresses) for peer in wish.nodes] == [
            ("node1", ("192.168.139.101",)),
            ("node2", ("192.168.139.102",)),
        ]
        rig.source.synced = True
        await rig.turn()
        assert rig.election.wishes[-1].serving
        rig.kernel.refuse = EditDestination
        rig.loop.heard(ipc.Liveness(silent=("node2",)))
        await rig.turn()
        assert rig.election.wishes[-1].serving, "what fails later takes no node out"
        await rig.worker.close()

    asyncio.run(act())


def test_a_source_that_knows_everything_while_a_pass_runs_counts_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        rig = Rig(tmp_path, served())
        rig.source.synced = False
        read = rig.kernel.read

        def slow(wanted: object = None) -> KernelState:
            rig.source.synced = True
            return read()

        monkeypatch.setattr(rig.kernel, "read", slow)
        await rig.turn()
        assert [wish.serving for wish in rig.election.wishes] == [False]
        await rig.turn()
        assert [wish.serving for wish in rig.election.wishes] == [False, True]
        await rig.worker.close()

    asyncio.run(act())


def test_an_agent_that_finds_its_tables_serves_at_once_without_the_api(tmp_path: Path) -> None:
    async def act() -> None:
        first = Rig(tmp_path, served())
        await first.turn()
        second = Rig(tmp_path, served(), owned=first.files.load_owned())
        second.kernel.state = first.kernel.state
        second.source.synced = False
        await second.turn()
        assert [wish.serving for wish in second.election.wishes] == [True]
        for rig in (first, second):
            await rig.worker.close()

    asyncio.run(act())


def test_nobody_beats_while_nothing_is_served(tmp_path: Path) -> None:
    async def act() -> None:
        rig = Rig(tmp_path, Snapshot(nodes=tuple(NODES)))
        await rig.turn()
        assert [wish.nodes for wish in rig.election.wishes] == [()]
        rig.source.current = served()
        await rig.turn()
        assert [peer.name for peer in rig.election.wishes[-1].nodes] == ["node1", "node2"]
        await rig.worker.close()

    asyncio.run(act())


def test_the_metrics_tell_who_is_suspected_and_what_was_heard(tmp_path: Path) -> None:
    async def act() -> None:
        rig = Rig(tmp_path, served())
        await rig.turn()
        rig.loop.heard(ipc.Liveness(silent=("node2",)))
        rig.loop.heard(
            ipc.Statistics(
                started=0.0,
                generation=1,
                routers=(),
                dropped={},
                late_timers=0,
                lateness_max_ms=0.0,
                realtime=True,
                memory_locked=True,
                beats_sent=5,
                beats_received=4,
                beats_dropped={"source": 3},
                beat_errors=2,
                nodes_mute=("node2",),
            )
        )
        registry = CollectorRegistry(auto_describe=False)
        AgentCollector(rig.loop.view).register(registry)
        value = registry.get_sample_value
        assert value("lvs_node_suspected", {"peer": "node2"}) == 1
        assert value("lvs_node_suspected", {"peer": "node1"}) is None, "not of itself"
        assert value("lvs_node_mute", {"peer": "node2"}) == 1
        assert value("lvs_node_beats_sent_total") == 5
        assert value("lvs_node_beats_received_total") == 4
        assert value("lvs_node_beats_dropped_total", {"reason": "source"}) == 3
        assert value("lvs_node_beats_dropped_total", {"reason": "auth_hmac"}) == 0
        assert value("lvs_node_beat_errors_total") == 2
        await rig.worker.close()

    asyncio.run(act())


def test_a_node_is_known_by_its_addresses_too() -> None:
    peers = (ipc.PeerNode(name="node2", addresses=("192.168.139.102",)),)
    found = Suspects.of(ipc.Liveness(silent=("node2",)), peers, "node1")
    assert found.addresses.keys() == {str(ip_address("192.168.139.102"))}
