"""Whatever the order in which the API fails, watches end and selectors change: what there is, is seen in the end."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.adapters import reflector as module
from lvsagent.adapters.kube import ApiClient, ApiError, Event
from lvsagent.adapters.reflector import Reflector, Resource
from lvsagent.core.cache import Cache
from tests.fakes.clock import run

pytestmark = pytest.mark.unit

Pause = int | float
Step = Callable[["Story"], object]


@dataclass
class Api:
    """Objects with a letter each for a label; a selector is the letters that it takes."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, Event]] = field(default_factory=list)
    version: int = 1
    refusing: int = 0
    """Requests that are still to fail."""
    ending: list[asyncio.Future[str]] = field(default_factory=list)
    """Of each watch: how it is to end; empty for a new event."""

    def put(self, name: str) -> None:
        self.version += 1
        self.objects[name] = {"metadata": {"name": name, "resourceVersion": str(self.version)}}
        self._tell("MODIFIED", name)

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            self.objects[name]["metadata"]["resourceVersion"] = str(self.version)
            self._tell("DELETED", name)
            del self.objects[name]

    def end(self, how: str) -> None:
        ending, self.ending = self.ending, []
        for future in ending:
            if not future.done():
                future.set_result(how)

    def _tell(self, kind: str, name: str) -> None:
        self.history.append((self.version, Event(kind, {"metadata": dict(self.objects[name]["metadata"])})))
        self.end("")

    async def _answer(self) -> None:
        await asyncio.sleep(0.01)
        if self.refusing:
            self.refusing -= 1
            raise ApiError("http_503", "refused")

    async def list_page(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        version, items = self.version, [dict(one) for name, one in self.objects.items() if takes(query, name)]
        await self._answer()
        return {"metadata": {"resourceVersion": str(version)}, "items": items}

    async def watch(
        self, path: str, query: Mapping[str, str], seconds: int, opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Event, None]:
        since = int(query["resourceVersion"])
        await self._answer()
        opened()
        while True:
            for version, event in list(self.history):
                if version > since and takes(query, event.item["metadata"]["name"]):
                    yield event
            since = max([since, *(version for version, _ in self.history)])
            self.ending.append(asyncio.get_running_loop().create_future())
            how = await self.ending[-1]
            if how == "ends":
                return
            if how:
                raise ApiError(how, "broken")


def takes(query: Mapping[str, str], name: str) -> bool:
    return name in query["labelSelector"]


class Story:
    """One reflector that nobody waits for."""

    def __init__(self) -> None:
        self.api = Api()
        resource: Resource[str] = Resource(name="things", path="/things", parse=lambda item: item["metadata"]["name"])
        client: ApiClient = self.api  # type: ignore[assignment]
        self.reflector: Reflector[str] = Reflector(client, resource, Cache(), lambda: None)
        self.reflector.select("-")

    @property
    def known(self) -> set[str]:
        return {key.name for key in self.reflector.cache.objects}

    async def tell(self, steps: list[tuple[Pause, Step]]) -> None:
        task = asyncio.ensure_future(self.reflector.run())
        try:
            for pause, step in steps:
                for _ in range(pause if isinstance(pause, int) else 0):
                    await asyncio.sleep(0)
                if isinstance(pause, float):
                    await asyncio.sleep(pause)
                step(self)
            await asyncio.sleep(100.0)
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def put(name: str) -> Step:
    return lambda story: story.api.put(name)


def select(letters: str) -> Step:
    return lambda story: story.reflector.select(letters)


def end(how: str) -> Step:
    return lambda story: story.api.end(how)


def refuse(times: int) -> Step:
    return lambda story: setattr(story.api, "refusing", times)


@pytest.fixture(autouse=True, scope="module")
def _no_watch_is_short() -> Iterator[None]:
    """No time passes in one: each would count as a failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHORT_WATCH", -1.0)
        yield


@pytest.mark.parametrize("how", ["connection", "ends"])
def test_what_is_selected_while_the_watch_is_broken_is_listed(how: str) -> None:
    """What was there before was never seen, for the watch went on from the version of the other selector."""
    story = Story()
    # Orderly, the reflector is between two watches for a few turns of the event loop.
    pause: Pause = 0.05 if how == "connection" else 2
    steps: list[tuple[Pause, Step]] = [(1.0, put("a")), (1.0, end(how)), (pause, select("a"))]
    run(story.tell(steps))
    assert story.reflector.covered == "a"
    assert story.known == {"a"}


def test_a_proxy_that_cuts_off_what_is_quiet_makes_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cut counted as one more failure in a row: in the end half a minute of each was spent waiting."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time(), time=int))
    story, waits = Story(), []
    plain = module.backoff

    def waited(failures: int, retry_after: float = 0.0) -> float:
        waits.append(plain(failures, retry_after))
        return waits[-1]

    monkeypatch.setattr(module, "backoff", waited)
    run(story.tell([(60.0, end("connection")) for _ in range(60)]))
    assert len(waits) == 60
    assert max(waits) <= 2 * module.FIRST_DELAY
    waits.clear()
    run(Story().tell([(60.0, refuse(8)), (0, end("gone"))]))
    assert max(waits) > 1.0, "while nothing works"


STEPS = st.one_of(
    st.sampled_from("abc").map(put),
    st.sampled_from("abc").map(lambda name: lambda story: story.api.delete(name)),
    st.sampled_from(["-", "a", "ab", "abc", "c"]).map(select),
    st.sampled_from(["connection", "ends", "gone"]).map(end),
    st.integers(1, 3).map(refuse),
)
PAUSES = st.one_of(st.integers(0, 6), st.sampled_from([0.005, 0.01, 0.1, 2.0]))
"""Turns of the event loop, or seconds."""


@given(st.lists(st.tuples(PAUSES, STEPS), max_size=12))
def test_in_any_order_of_events_everything_selected_is_seen_in_the_end(steps: list[tuple[Pause, Step]]) -> None:
    story = Story()
    run(story.tell(steps))
    selected = story.reflector.selector
    assert story.reflector.covered == selected
    assert {name for name in story.api.objects if name in selected} <= story.known
    assert story.reflector.health.connected
