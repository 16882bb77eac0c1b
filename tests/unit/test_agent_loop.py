"""One pass of the agent after another, on a kernel in memory and with time as an argument."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lvsagent import ipc
from lvsagent.adapters.statefile import StateFiles
from lvsagent.core.diff import AddDestination, AddLoopback, AddService, DeleteLoopback, DeleteService, Owned
from lvsagent.core.state import KernelState
from lvsagent.runtime.loop import POLL_SECONDS, Loop
from lvsagent.runtime.view import View
from lvsagent.runtime.worker import Worker
from lvsapi.model import ObjectKey, Problem, Snapshot
from tests.fakes.kernel import FakeKernel
from tests.gen import VIP, assignment, endpoint_slice, node, nodes, snapshot, virtual_service

pytestmark = pytest.mark.unit

ADDRESS = ip_address(VIP)
SERVED = snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(["10.244.1.2", "10.244.2.2"])])


@dataclass
class FakeSource:
    current: Snapshot | None = None
    synced: bool = True
    problems: tuple[Problem, ...] = ()

    def snapshot(self) -> Snapshot | None:
        return self.current

    def expire(self) -> None:
        pass


@dataclass
class FakeElection:
    wishes: list[ipc.Configure] = field(default_factory=list)

    def configure(self, wish: ipc.Configure) -> None:
        self.wishes.append(wish)


class Rig:
    def __init__(self, folder: Path, current: Snapshot | None = SERVED, owned: Owned | None = None) -> None:
        self.kernel = FakeKernel()
        self.files = StateFiles(folder)
        self.source = FakeSource(current)
        self.election = FakeElection()
        self.now = 100.0
        self.worker = Worker(lambda: self.kernel, self.files)
        self.loop = Loop(
            source=self.source,
            worker=self.worker,
            view=View(node="node1", version="test"),
            election=self.election,
            standalone=False,
            owned=owned or Owned(),
        )

    async def turn(self, seconds: float = 0.1) -> None:
        self.now += seconds
        await self.loop.turn(self.now)

    def become_active(self) -> None:
        (router,) = self.election.wishes[-1].routers
        active = ipc.RouterStatistics(
            router=router.name,
            state="Active",
            virtual_router_id=router.virtual_router_id,
            family=router.family,
            interface=router.interface,
            priority=router.priority,
            active_address="",
            addresses_held=router.addresses,
            transitions={},
            adverts_sent=0,
            adverts_received=0,
            announcements_sent=0,
            address_errors=0,
        )
        self.loop.heard(
            ipc.Statistics(
                started=0.0,
                generation=1,
                routers=(active,),
                dropped={},
                late_timers=0,
                lateness_max_ms=0.0,
                realtime=True,
                memory_locked=True,
            )
        )

    def confirm(self) -> None:
        self.loop.heard(ipc.Configured(generation=self.election.wishes[-1].generation))


@pytest.fixture
def story(tmp_path: Path) -> Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]:
    def run(act: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            rig = Rig(tmp_path)
            try:
                await act(rig)
            finally:
                await rig.worker.close()

        asyncio.run(whole())

    return run


Story = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]


def test_tables_come_first_then_the_election_is_told(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        assert ADDRESS in rig.kernel.state.loopback
        (wish,) = rig.election.wishes
        assert [router.ready for router in wish.routers] == [True]
        assert rig.files.load_owned().loopback == {ADDRESS}
        assert rig.loop.view.ready()

    story(act)


def test_an_unchanged_pass_writes_and_says_nothing(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        before = len(rig.kernel.applied)
        await rig.turn()
        await rig.turn(POLL_SECONDS)
        assert len(rig.kernel.applied) == before
        assert len(rig.election.wishes) == 1

    story(act)


def test_nothing_is_said_or_written_before_anything_is_known(story: Story) -> None:
    async def act(rig: Rig) -> None:
        rig.source.current = None
        await rig.turn()
        assert rig.kernel.applied == []
        assert rig.election.wishes == []
        assert not rig.loop.view.ready()

    story(act)


def test_a_removed_object_leaves_the_election_first_and_the_kernel_then(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        rig.confirm()
        rig.source.current = Snapshot()
        await rig.turn()
        assert rig.election.wishes[-1].routers == ()
        assert ADDRESS in rig.kernel.state.loopback
        rig.confirm()
        await rig.turn()
        assert rig.kernel.state.loopback == set()
        assert rig.kernel.state.services == {}
        assert [type(op) for op in rig.kernel.applied[-2:]] == [DeleteLoopback, DeleteService]
        assert rig.files.load_owned() == Owned()

    story(act)


def test_a_dead_election_delays_a_removal_only_so_long(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        rig.source.current = Snapshot()
        await rig.turn()
        await rig.turn(2.5)
        assert ADDRESS in rig.kernel.state.loopback
        await rig.turn(0.6)
        assert rig.kernel.state.loopback == set()

    story(act)


def test_before_the_first_sync_nothing_is_removed(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        rig.confirm()
        rig.source.synced = False
        rig.source.current = Snapshot()
        await rig.turn()
        rig.confirm()
        await rig.turn(10.0)
        assert ADDRESS in rig.kernel.state.loopback
        rig.source.synced = True
        await rig.turn()
        assert rig.kernel.state.loopback == set()

    story(act)


def test_what_the_kernel_refuses_is_not_offered_and_is_tried_again(story: Story) -> None:
    async def act(rig: Rig) -> None:
        rig.kernel.refuse = AddDestination
        await rig.turn()
        (wish,) = rig.election.wishes
        assert [router.ready for router in wish.routers] == [False]
        assert {problem.reason for problem in rig.loop.view.problems} == {"ProgrammingFailed"}
        assert rig.loop.view.errors["add_destination", "invalid"] == 2
        assert not rig.loop.view.ready()
        rig.kernel.refuse = None
        await rig.turn(2.0)
        assert [router.ready for router in rig.election.wishes[-1].routers] == [True]
        assert rig.loop.view.problems == ()

    story(act)


CHANGED = snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(["10.244.3.3"])])


def test_a_failed_edit_of_a_served_address_withdraws_nothing(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        rig.become_active()
        rig.kernel.refuse = AddDestination
        rig.source.current = CHANGED
        await rig.turn()
        assert len(rig.election.wishes) == 1
        assert ADDRESS in rig.kernel.state.loopback

    story(act)


def test_a_new_object_that_the_kernel_refuses_withdraws_nothing_that_shares_its_address(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        rig.confirm()
        rig.kernel.refuse = AddService
        web = virtual_service(assigned=assignment())
        tls = virtual_service("tls", ports=[443], assigned=assignment(), created="2026-02-01T00:00:00Z")
        rig.source.current = snapshot(web, tls, slices=[endpoint_slice(["10.244.1.2", "10.244.2.2"])])
        await rig.turn()
        assert {problem.key.name for problem in rig.loop.view.problems} == {"tls"}
        assert [router.ready for router in rig.election.wishes[-1].routers] == [True]
        whole = rig.kernel.state
        rig.kernel.state = KernelState(sysctls=whole.sysctls, loopback=whole.loopback)
        await rig.turn(POLL_SECONDS)
        assert [router.ready for router in rig.election.wishes[-1].routers] == [False], "what did serve is gone"

    story(act)


def test_a_virtual_address_in_a_node_object_is_no_way_to_that_node(story: Story) -> None:
    async def act(rig: Rig) -> None:
        active = node("node2", VIP, "192.168.139.102")
        served = snapshot(virtual_service(assigned=assignment()), nodes=[*nodes(1), active])
        rig.source.current = served
        await rig.turn()
        peers = {peer.name: peer.addresses for peer in rig.election.wishes[-1].nodes}
        assert peers == {"node1": ("192.168.139.101",), "node2": ("192.168.139.102",)}

    story(act)


def test_a_flushed_table_is_restored_at_the_next_poll_and_nobody_is_told(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        whole = rig.kernel.state
        rig.kernel.state = KernelState(sysctls=whole.sysctls)
        await rig.turn(POLL_SECONDS)
        assert rig.kernel.state == whole
        assert len(rig.election.wishes) == 1

    story(act)


def test_a_kernel_without_ipvs_is_named_and_looked_at_again(story: Story) -> None:
    async def act(rig: Rig) -> None:
        prepared: list[bool] = []
        rig.loop.prepare = lambda: prepared.append(True)
        rig.kernel.broken = OSError(2, "IPVS not in this kernel: load ip_vs")
        await rig.turn()
        await rig.turn(POLL_SECONDS)
        (problem,) = rig.loop.view.problems
        assert (problem.key, problem.reason) == (ObjectKey("default", "web"), "KernelUnsupported")
        assert "load ip_vs" in problem.message
        assert rig.election.wishes == []
        assert prepared == []
        rig.kernel.broken = None
        await rig.turn(POLL_SECONDS)
        assert prepared == [True]
        assert rig.loop.view.ready()
        assert ADDRESS in rig.kernel.state.loopback

    story(act)


def test_a_full_disk_stops_nothing(story: Story, tmp_path: Path) -> None:
    async def act(rig: Rig) -> None:
        rig.files.folder = tmp_path / "file"
        rig.files.folder.write_text("in the way")
        await rig.turn()
        assert ADDRESS in rig.kernel.state.loopback
        assert rig.loop.view.state_errors >= 1

    story(act)


def test_an_agent_that_comes_back_adopts(tmp_path: Path) -> None:
    async def act() -> None:
        first = Rig(tmp_path)
        await first.turn()
        second = Rig(tmp_path, owned=first.files.load_owned())
        second.kernel.state = first.kernel.state
        await second.turn()
        assert second.kernel.applied == []
        assert [router.ready for router in second.election.wishes[-1].routers] == [True]
        for rig in (first, second):
            await rig.worker.close()

    asyncio.run(act())


def test_a_silent_election_is_forgotten_after_a_while(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        monkeypatch.setattr("lvsagent.runtime.loop.time.monotonic", lambda: rig.now)
        rig.loop.connection(True)
        rig.loop.view.claims.routers = {}
        rig.loop.connection(False)
        rig.loop.view.claims.heard(
            ipc.StateChanged(router="x", previous="Backup", state="Active", cause="startup", active_address="")
        )
        await rig.turn(1.0)
        assert rig.loop._lost is not None
        await rig.turn(3.0)
        assert rig.loop._lost is None

    story(act)


def test_a_service_that_goes_takes_no_address_with_it_and_one_that_never_was_brings_none(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        rig.confirm()
        item = virtual_service(assigned=assignment())
        late = virtual_service("late", addresses=["192.168.139.124"], service="none", assigned=assignment())
        rig.source.current = snapshot(item, late, services=[], slices=[])
        await rig.turn()
        assert rig.kernel.state.loopback == {ADDRESS}
        assert [service.destinations for service in rig.kernel.state.services.values()] == [()]
        assert [router.addresses for router in rig.election.wishes[-1].routers] == [(f"{VIP}/32",)]
        assert {(problem.key.name, problem.reason) for problem in rig.loop.view.problems} == {("late", "NotResolved")}
        rig.kernel.state = KernelState(sysctls=rig.kernel.state.sysctls)
        await rig.turn(POLL_SECONDS)
        assert rig.kernel.state.loopback == {ADDRESS}, "somebody else's flush takes nothing away for good"

    story(act)


def test_the_loop_survives_a_fault_of_its_own(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(rig: Rig) -> None:
        turns = 0
        original = rig.source.snapshot

        def faulty() -> Snapshot | None:
            nonlocal turns
            turns += 1
            if turns == 1:
                raise RuntimeError("a bug")
            return original()

        monkeypatch.setattr(rig.source, "snapshot", faulty)
        monkeypatch.setattr("lvsagent.runtime.loop.RETRY_SECONDS", 0.01)
        task = asyncio.create_task(rig.loop.run())
        while not rig.election.wishes:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert rig.loop.view.errors["pass", "internal"] == 1
        assert AddLoopback(ADDRESS) in rig.kernel.applied

    story(act)
