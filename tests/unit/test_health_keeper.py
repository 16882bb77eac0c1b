"""The agent's pass with health checks: what is asked, programmed, logged, told and measured."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lvsagent import ipc
from lvsagent.adapters.metrics import AgentCollector
from lvsagent.checks.messages import Target, Verdict
from lvsagent.core import backends
from lvsagent.core.diff import AddRefusal, DeleteRefusal
from lvsagent.core.report import reports
from lvsagent.runtime.health import Keeper
from lvsapi.health import CheckType, Health, HealthCheck
from lvsapi.model import ObjectKey
from lvsapi.status import agent_status
from tests.gen import assignment, raw_virtual_service, snapshot, virtual_service
from tests.statistics import router_statistics
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

FIRST, SECOND = "192.168.139.201", "192.168.139.202"
WEB = ObjectKey("default", "web")
ROUTER = "default/200/v4"
HEALTH = Health(checks=(HealthCheck(type=CheckType.TCP),), initially_up=True)
ASKED = snapshot(virtual_service(real_servers=[FIRST, SECOND], assigned=assignment(), health=HEALTH))


class Asks:
    """Takes note of what it is to ask."""

    def __init__(self) -> None:
        self.wishes: list[tuple[Target, ...]] = []

    def want(self, targets: tuple[Target, ...]) -> None:
        self.wishes.append(targets)


class Story:
    """A loop with a keeper."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, ASKED)
        self.events: list[tuple[str, str]] = []
        self.asks = Asks()
        self.woken = self.hurried = 0
        self.keeper = Keeper(
            view=self.rig.loop.view,
            wake=self._wake,
            hurry=self._hurry,
            event=lambda key, kind, reason, text: self.events.append((reason, text)),
            asks=self.asks,
        )
        self.rig.loop.health = self.keeper

    def _wake(self) -> None:
        self.woken += 1

    def _hurry(self) -> None:
        self.hurried += 1

    def hear(self, backend: str, up: bool, reason: str = "") -> None:
        (name,) = (target.name for target in self.asks.wishes[-1] if f" {backend}:" in target.name)
        self.keeper.heard(Verdict(generation=1, name=name, up=up, reason=reason))

    def become_active(self) -> None:
        held = router_statistics(ROUTER)
        self.rig.loop.view.claims.routers = {ROUTER: held}

    @property
    def weights(self) -> dict[str, int]:
        (service,) = self.rig.kernel.state.services.values()
        return {str(destination.address): destination.weight for destination in service.destinations}


def told(tmp_path: Path, act: Callable[[Story], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        story = Story(tmp_path)
        try:
            await act(story)
        finally:
            await story.rig.worker.close()

    asyncio.run(whole())


def test_a_verdict_wakes_the_loop_and_its_pass_programs_the_weight(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(story: Story) -> None:
        await story.rig.turn()
        assert [str(target.address) for target in story.asks.wishes[-1]] == [FIRST, SECOND]
        assert story.weights == {FIRST: 1, SECOND: 1}
        story.hear(FIRST, False, "TCP: refused")
        story.hear(FIRST, False, "TCP: refused")
        assert (story.woken, story.hurried) == (0, 1), "what fails does not wait"
        await story.rig.turn()
        assert story.weights == {FIRST: 0, SECOND: 1}
        assert story.events == [], "a node that is not Active posts nothing"

    with caplog.at_level(logging.INFO):
        told(tmp_path, act)
    (line,) = [record for record in caplog.records if "service" in record.message and FIRST in record.message]
    assert line.message == f"Disabling service {FIRST}:80 of VS 192.168.139.123:80"
    assert (line.levelno, line.__dict__["reason"]) == (logging.WARNING, "TCP: refused")


def test_the_active_node_posts_events_and_refuses_when_nobody_is_left(tmp_path: Path) -> None:
    async def act(story: Story) -> None:
        story.become_active()
        await story.rig.turn()
        for backend in (FIRST, SECOND):
            story.hear(backend, False, "TCP: refused")
        await story.rig.turn()
        assert [reason for reason, _ in story.events] == ["BackendDown", "BackendDown", "QuorumLost"]
        assert "TCP: refused" in story.events[0][1]
        assert any(isinstance(op, AddRefusal) for op in story.rig.kernel.applied)
        story.hear(FIRST, True)
        assert story.woken == 1
        await story.rig.turn()
        assert [reason for reason, _ in story.events[3:]] == ["BackendUp", "QuorumReached"]
        assert any(isinstance(op, DeleteRefusal) for op in story.rig.kernel.applied)
        assert story.rig.kernel.state.refusals == set()

    told(tmp_path, act)


def test_metrics_and_status_say_which_backends_live(tmp_path: Path) -> None:
    async def act(story: Story) -> None:
        story.become_active()
        await story.rig.turn()
        story.hear(FIRST, False, "TCP: refused")
        await story.rig.turn()
        view = story.rig.loop.view
        registry = CollectorRegistry()
        AgentCollector(view).register(registry)
        text = generate_latest(registry).decode()
        head = 'lvs_backend_up{address="192.168.139.123",backend="%s:80"'
        assert [line[-3:] for line in text.splitlines() if line.startswith(head % FIRST)] == ["0.0"]
        assert head % SECOND not in text, "it has not answered yet"
        assert [line[-3:] for line in text.splitlines() if line.startswith("lvs_quorum{")] == ["1.0"]
        health = backends.conditions(view.resolved, view.watch)
        found = reports(
            view.resolved, view.claims.active, (), "node1", {}, serving=view.effective, health=health
        )[WEB]  # fmt: skip
        assert (found.ready, found.total) == (1, 2)
        assert found.health is not None
        status: Any = agent_status(
            raw_virtual_service(), node="node1", since="", ready=0, total=2, problems=(), now="", health=found.health
        )["status"]
        by_type = {each["type"]: each for each in status["conditions"]}
        assert by_type["BackendsHealthy"]["reason"] == "BackendsDown"
        assert f"{FIRST}:80: TCP: refused" in by_type["BackendsHealthy"]["message"]
        assert "TCP: refused" in by_type["Ready"]["message"]

    told(tmp_path, act)


def test_without_checkers_everything_stays_as_it_is_taken_for(tmp_path: Path) -> None:
    async def act(story: Story) -> None:
        story.keeper.asks = None
        await story.rig.turn()
        assert story.weights == {FIRST: 1, SECOND: 1}
        assert story.keeper.waits_until(1.0) is None

    told(tmp_path, act)


def test_a_node_that_reaches_no_backend_stands_by_while_another_says_that_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(story: Story) -> None:
        await story.rig.turn()
        bits = story.rig.election.wishes[-1].healthy
        assert bits
        story.rig.loop.heard(ipc.Liveness(healthy={"node2": bits}))
        for backend in (FIRST, SECOND):
            story.hear(backend, False)
        await story.rig.turn()
        assert story.rig.election.wishes[-1].healthy == 0
        patience = story.keeper.waits_until(story.rig.now)
        assert patience == pytest.approx(story.rig.now + 7.0)
        await story.rig.turn(6.9)
        assert not story.rig.election.wishes[-1].routers[0].standby
        await story.rig.turn(0.2)
        assert story.rig.election.wishes[-1].routers[0].standby
        story.hear(FIRST, True)
        await story.rig.turn()
        assert (story.rig.election.wishes[-1].healthy, story.rig.election.wishes[-1].routers[0].standby) == (bits, True)
        await story.rig.turn(18.0)
        assert not story.rig.election.wishes[-1].routers[0].standby

    with caplog.at_level(logging.INFO):
        told(tmp_path, act)
    said = [record.message for record in caplog.records if "stands by" in record.message]
    assert len(said) == 2


def test_a_node_that_starts_takes_no_address_before_the_first_answer_or_the_time_of_one(tmp_path: Path) -> None:
    async def act(story: Story) -> None:
        cautious = replace(HEALTH, initially_up=False)
        story.rig.source.current = snapshot(
            virtual_service(real_servers=[FIRST, SECOND], assigned=assignment(), health=cautious)
        )
        await story.rig.turn()
        assert not story.rig.election.wishes[-1].routers[0].ready
        assert story.keeper.waits_until(story.rig.now) == pytest.approx(story.rig.now + 7.0)
        story.hear(FIRST, False)
        await story.rig.turn()
        assert not story.rig.election.wishes[-1].routers[0].ready
        if answered:
            story.hear(SECOND, True)
            await story.rig.turn()
        else:
            await story.rig.turn(7.0)
        assert story.rig.election.wishes[-1].routers[0].ready
        story.hear(SECOND, False)
        await story.rig.turn()
        assert story.rig.election.wishes[-1].routers[0].ready, "what is served stays"

    for answered in (True, False):
        told(tmp_path / str(answered), act)
