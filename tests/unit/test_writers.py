"""What agents write to the API: an object that is refused keeps no other waiting."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from lvsagent.adapters import podgates, statuswriter
from lvsagent.adapters.kube import ApiClient, ApiError
from lvsagent.adapters.kubesource import Observed
from lvsagent.adapters.podgates import REFUSED_SECONDS, PodGates
from lvsagent.adapters.statuswriter import StatusWriter
from lvsagent.core.gates import Gate
from lvsagent.core.report import Report
from lvsapi import names
from lvsapi.model import ObjectKey
from tests.fakes.clock import run

pytestmark = pytest.mark.unit

NAMES = ("a", "b", "c")
KEYS = {name: ObjectKey("n", name) for name in NAMES}


class Api:
    """Refuses by name; counts what it took."""

    def __init__(self) -> None:
        self.refuse: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()

    def _judge(self, name: str) -> None:
        self.asked[name] += 1
        if reason := self.refuse.get(name):
            raise ApiError(reason, "refused", 7.0 if reason == "http_429" else 0.0)
        self.taken[name] += 1

    async def apply_status(self, path: str, body: Mapping[str, Any], manager: str = "") -> dict[str, Any]:
        self._judge(path.split("/")[-2])
        return {}

    async def get(self, path: str) -> dict[str, Any]:
        name = path.split("/")[-1]
        self._judge(f"get {name}")
        return {"metadata": {"uid": name}, "spec": {"readinessGates": [{"conditionType": names.PATH_GATE}]}}

    async def create(self, path: str, body: Mapping[str, Any]) -> None:
        self._judge("events")


Act = Callable[[Api, StatusWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    for module in (podgates, statuswriter):
        monkeypatch.setattr(module, "time", clock)


async def beside(task: Coroutine[Any, Any, None], act: Awaitable[None]) -> None:
    running = asyncio.ensure_future(task)
    try:
        await act
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def status(act: Act) -> None:
    async def story() -> None:
        api = Api()
        observed = {
            key: Observed(
                metadata={"name": key.name, "uid": "u", "generation": 1},
                conditions=[],
                active_node="node1",
                active_since="2026-01-01T00:00:00Z",
            )
            for key in KEYS.values()
        }
        client: ApiClient = api  # type: ignore[assignment]
        writer = StatusWriter(client, "node1", observed, lambda: "2026-01-01T00:00:00Z")
        writer.want({key: Report(active=True, ready=1, total=1) for key in KEYS.values()})
        await beside(writer.run(), act(api, writer))

    run(story())


def test_two_nodes_that_are_active_both_do_not_write_every_second_for_ever() -> None:
    """A firewall makes every director Active for every object: each of them would write all of them all the time."""

    async def act(api: Api, writer: StatusWriter) -> None:
        await asyncio.sleep(3.0)
        assert api.taken["a"] == 1
        writer.observed[KEYS["a"]].active_node = "node2"
        await asyncio.sleep(2.5)
        assert api.taken["a"] >= 2, "a hand-over is written at once"
        await asyncio.sleep(600.0)
        assert 8 <= api.taken["a"] <= 20
        writer.want({key: Report(active=True, ready=2, total=2) for key in KEYS.values()})
        before = api.taken["a"]
        await asyncio.sleep(3.5)
        assert api.taken["a"] > before, "news is written at once"
        assert api.taken["b"] == 2

    status(act)


def test_a_word_on_ready_that_somebody_else_wrote_is_put_right() -> None:
    async def act(api: Api, writer: StatusWriter) -> None:
        await asyncio.sleep(5.0)
        assert api.taken["a"] == 1
        ready = {"type": "Ready", "status": "True", "reason": "Ready"}
        writer.observed[KEYS["a"]].conditions[:] = [ready]
        await asyncio.sleep(5.0)
        assert api.taken["a"] == 1
        writer.observed[KEYS["a"]].conditions[:] = [{**ready, "status": "False", "reason": "NoActive"}]
        await asyncio.sleep(3.5)
        assert 2 <= api.taken["a"] <= 5, "once a second"
        assert api.taken["b"] == 1

    status(act)


@pytest.mark.parametrize("reason", ["http_400", "http_403", "http_500", "protocol"])
def test_a_status_that_is_refused_keeps_no_other_waiting_and_no_event(
    reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(api: Api, writer: StatusWriter) -> None:
        api.refuse = {"a": reason}
        writer.event(KEYS["b"], "Normal", "Active", "it is")
        await asyncio.sleep(5.0)
        assert (api.taken["b"], api.taken["c"], api.taken["events"]) == (1, 1, 1)
        await asyncio.sleep(595.0)
        assert 20 <= api.asked["a"] <= 80, "patiently"
        assert api.asked["b"] == 1
        del api.refuse["a"]
        await asyncio.sleep(31.0)
        assert api.taken["a"] >= 1

    with caplog.at_level(logging.WARNING):
        status(act)
    said = [record for record in caplog.records if record.getMessage().startswith("a status cannot be written")]
    assert {(str(vars(record)["object"]), vars(record)["reason"]) for record in said} == {("n/a", reason)}
    assert len(said) <= 11, "once a minute"


@pytest.mark.parametrize("reason", ["connection", "credentials", "http_429", "http_503"])
def test_a_server_that_hears_nobody_is_left_alone_and_no_event_is_lost(reason: str) -> None:
    async def act(api: Api, writer: StatusWriter) -> None:
        api.refuse = dict.fromkeys((*NAMES, "events"), reason)
        writer.event(KEYS["b"], "Normal", "Active", "it is")
        await asyncio.sleep(120.0)
        assert sum(api.asked.values()) <= 60
        api.refuse = {}
        await asyncio.sleep(40.0)
        assert min(api.taken[name] for name in (*NAMES, "events")) >= 1

    status(act)


def test_one_object_that_is_never_answered_keeps_the_others_waiting_only_once() -> None:
    async def act(api: Api, writer: StatusWriter) -> None:
        api.refuse = {"a": "timeout"}
        await asyncio.sleep(5.0)
        assert min(api.taken["b"], api.taken["c"]) >= 1

    status(act)


def gate(name: str) -> Gate:
    return Gate(pod=KEYS[name], uid=name, status=True, reason="PathProved", message="")


@pytest.mark.parametrize(("reason", "patience"), [("http_403", REFUSED_SECONDS), ("http_500", 30.0)])
@pytest.mark.parametrize("verb", ["", "get "])
def test_a_gate_that_is_refused_keeps_no_other_shut(verb: str, reason: str, patience: float) -> None:
    """One pod that agents may not write silenced all of them for five minutes."""

    async def story() -> None:
        api = Api()
        client: ApiClient = api  # type: ignore[assignment]
        writer = PodGates(client, lambda: "2026-01-01T00:00:00Z")
        api.refuse = {f"{verb}a": reason}
        writer.want(tuple(map(gate, NAMES)))

        async def act() -> None:
            await asyncio.sleep(3.0)
            assert (api.taken["b"], api.taken["c"]) == (1, 1)
            assert writer.settled
            del api.refuse[f"{verb}a"]
            await asyncio.sleep(patience + 2.0)
            assert api.taken["a"] == 1

        await beside(writer.run(), act())

    run(story())
