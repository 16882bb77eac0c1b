"""The reflector against an API server that misbehaves on purpose. Nothing it says empties the cache."""

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lvsagent.adapters import reflector as module
from lvsagent.adapters.kube import BREATH_SECONDS, ApiClient
from lvsagent.adapters.kubeconfig import KubeConfig
from lvsagent.adapters.reflector import Reflector, Resource, backoff
from lvsagent.core.cache import Cache, Malformed
from lvsapi.model import ObjectKey, Problem
from tests.fakes.api import FakeApi, fake_api, status

pytestmark = pytest.mark.contract

PATH = "/api/v1/things"


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(module, "LONGEST_DELAY", 0.05)


def item(name: str, value: str = "one", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "labels": labels}, "spec": value}


def parse(raw: dict[str, Any]) -> str | Malformed:
    if raw["spec"] == "bad":
        key = ObjectKey("n", raw["metadata"]["name"])
        return Malformed(Problem(key=key, condition="Accepted", reason="Invalid", message="spec: bad"))
    return str(raw["spec"])


class Rig:
    """One reflector on one fake."""

    def __init__(self, api: FakeApi, config: KubeConfig | None = None) -> None:
        self.api = api
        self.client = ApiClient(config or KubeConfig(server=api.url))
        self.changes = 0
        resource = Resource(name="things", path=PATH, parse=parse)
        self.reflector: Reflector[str] = Reflector(self.client, resource, Cache(), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def names(self) -> set[str]:
        return {key.name for key in self.reflector.cache.objects}

    async def until(self, holds: Callable[[], bool], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, (self.names, self.reflector.health, self.api.requests)
            await asyncio.sleep(0.005)

    async def watching(self) -> None:
        await self.until(lambda: bool(self.api.watchers.get(PATH)))


@asynccontextmanager
async def started(config: KubeConfig | None = None, *names: str) -> AsyncIterator[Rig]:
    async with fake_api() as api:
        for name in names or ("a", "b", "c"):
            api.put(PATH, item(name))
        async with follow(Rig(api, config and replace(config, server=api.url))) as rig:
            await rig.until(lambda: rig.reflector.synced)
            await rig.watching()
            yield rig


@asynccontextmanager
async def follow(rig: Rig) -> AsyncIterator[Rig]:
    task = asyncio.create_task(rig.reflector.run())
    try:
        yield rig
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.client.close()


def story(act: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with started() as rig:
            await act(rig)

    asyncio.run(run())


def test_events_are_followed() -> None:
    async def act(rig: Rig) -> None:
        rig.api.put(PATH, item("d"))
        await rig.until(lambda: rig.names == {"a", "b", "c", "d"})
        rig.api.delete(PATH, "a")
        await rig.until(lambda: rig.names == {"b", "c", "d"})
        rig.api.put(PATH, item("b", "two"))
        await rig.until(lambda: rig.reflector.cache.objects[ObjectKey("n", "b")] == "two")
        assert rig.reflector.health.connected
        assert not rig.reflector.health.errors

    story(act)


def test_an_unchanged_object_wakes_nobody() -> None:
    async def act(rig: Rig) -> None:
        before = rig.changes
        rig.api.put(PATH, item("a"))
        rig.api.put(PATH, item("d"))
        await rig.until(lambda: "d" in rig.names)
        assert rig.changes == before + 1

    story(act)


def test_a_410_in_the_stream_lists_anew_and_removes_what_went_meanwhile() -> None:
    async def act(rig: Rig) -> None:
        rig.api.lose(PATH, "b")
        rig.api.gone(PATH)
        await rig.until(lambda: rig.names == {"a", "c"})
        assert rig.reflector.health.relists == 2
        assert rig.reflector.health.errors["gone"] == 1

    story(act)


def test_a_410_as_status_of_a_watch_lists_anew() -> None:
    async def act(rig: Rig) -> None:
        once = [status(410)]
        rig.api.fault = lambda _, watch: once.pop() if watch and once else None
        rig.api.end(PATH)
        await rig.until(lambda: rig.reflector.health.relists == 2 and rig.reflector.health.connected)
        assert rig.names == {"a", "b", "c"}

    story(act)


def test_a_410_between_two_pages_starts_the_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)

    async def act(rig: Rig) -> None:
        rig.api.put(PATH, item("d"))
        rig.api.put(PATH, item("e"))
        await rig.until(lambda: len(rig.names) == 5)
        rig.api.page_fault = "4"
        rig.api.lose(PATH, "a")
        rig.api.put(PATH, item("f"))
        rig.api.gone(PATH)
        await rig.until(lambda: rig.names == {"b", "c", "d", "e", "f"})
        assert rig.reflector.health.errors["gone"] == 2

    story(act)


def test_a_clean_end_goes_on_from_the_newest_version_without_a_list() -> None:
    async def act(rig: Rig) -> None:
        rig.api.bookmark(PATH)
        await rig.until(lambda: rig.reflector.health.last_event > 0)
        version = str(rig.api.version)
        rig.api.end(PATH)
        await rig.until(lambda: rig.api.requests[f"watch {PATH}"] == 2)
        assert rig.api.queries[-1]["resourceVersion"] == version
        assert rig.api.queries[-1]["allowWatchBookmarks"] == "true"
        assert 240 <= int(rig.api.queries[-1]["timeoutSeconds"]) <= 360
        assert rig.api.requests[f"list {PATH}"] == 1

    story(act)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 500, 503, 504])
def test_an_answer_of_the_api_never_empties_the_cache(code: int) -> None:
    async def act(rig: Rig) -> None:
        rig.api.fault = lambda _, __: status(code)
        rig.api.end(PATH)
        rig.api.gone(PATH)
        await rig.until(lambda: rig.reflector.health.errors[f"http_{code}"] >= 3)
        assert rig.names == {"a", "b", "c"}
        assert not rig.reflector.health.connected
        rig.api.fault = None
        rig.api.put(PATH, item("d"))
        await rig.until(lambda: "d" in rig.names and rig.reflector.health.connected)

    story(act)


def test_an_empty_list_is_not_believed_but_a_watched_deletion_is() -> None:
    async def act(rig: Rig) -> None:
        rig.api.lose(PATH, "a", "b", "c")
        rig.api.gone(PATH)
        await rig.until(lambda: rig.reflector.health.relists == 2)
        assert rig.names == {"a", "b", "c"}
        assert len(rig.reflector.cache.held) == 3
        await rig.watching()
        rig.api.put(PATH, item("a"))
        rig.api.delete(PATH, "a")
        await rig.until(lambda: rig.names == {"b", "c"})

    story(act)


def test_garbage_is_an_error_and_no_more() -> None:
    async def act(rig: Rig) -> None:
        rig.api.fault = lambda _, watch: web.Response(body=b"}{ no json\n")
        rig.api.end(PATH)
        await rig.until(lambda: rig.reflector.health.errors["protocol"] >= 6)
        assert rig.names == {"a", "b", "c"}
        rig.api.fault = None
        await rig.until(lambda: rig.reflector.health.connected)

    story(act)


def test_an_object_that_stops_parsing_stays_as_it_was_and_is_named() -> None:
    async def act(rig: Rig) -> None:
        rig.api.put(PATH, item("a", "bad"))
        await rig.until(lambda: bool(rig.reflector.cache.problems))
        assert rig.reflector.cache.objects[ObjectKey("n", "a")] == "one"
        rig.api.gone(PATH)
        await rig.until(lambda: rig.reflector.health.relists == 2)
        assert rig.names == {"a", "b", "c"}
        rig.api.put(PATH, item("a", "good"))
        await rig.until(lambda: not rig.reflector.cache.problems)

    story(act)


def test_another_selector_lists_anew_at_once_and_keeps_the_cache_meanwhile() -> None:
    async def act(rig: Rig) -> None:
        rig.reflector.select("app in (x,y)")
        assert rig.names == {"a", "b", "c"}
        await rig.until(lambda: rig.reflector.covered == "app in (x,y)")
        await rig.until(lambda: rig.api.requests[f"watch {PATH}"] == 2)
        assert [query.get("labelSelector") for query in rig.api.queries[-2:]] == ["app in (x,y)"] * 2

    story(act)


@pytest.mark.parametrize("silent", ["list", "watch"])
def test_a_silent_server_is_left_and_the_cache_stays(silent: str) -> None:
    async def act(rig: Rig) -> None:
        rig.api.hang = True
        if silent == "list":
            rig.api.gone(PATH)
        else:
            rig.api.error(PATH, 500)
        await rig.until(lambda: rig.api.requests[f"{silent} {PATH}"] == 2)
        assert rig.names == {"a", "b", "c"}
        assert not rig.reflector.health.connected
        rig.api.hang = False
        rig.reflector.select("anything")
        await rig.until(lambda: rig.reflector.health.connected)

    story(act)


def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def run() -> None:
        async with fake_api() as api:
            api.put(PATH, item("a"))

            def fault(request: web.Request, watch: bool) -> web.Response | None:
                return None if request.headers["Authorization"] == "Bearer new" else status(401)

            api.fault = fault
            async with follow(Rig(api, KubeConfig(server=api.url, token_file=token))) as rig:
                await rig.until(lambda: rig.reflector.health.errors["http_401"] >= 2)
                token.write_text("new\n")
                await rig.until(lambda: rig.names == {"a"})

    asyncio.run(run())


@pytest.mark.parametrize("broken", [b"\xff\xfe", b"two\nlines", None], ids=["no text", "no header", "gone"])
@pytest.mark.parametrize("during", ["list", "watch"])
def test_a_token_that_cannot_be_used_is_an_error_and_no_more(tmp_path: Path, broken: bytes | None, during: str) -> None:
    token = tmp_path / "token"
    token.write_text("good")

    async def run() -> None:
        async with started(KubeConfig(server="", token_file=token)) as rig:
            if broken is None:
                token.unlink()
            else:
                token.write_bytes(broken)
            if during == "list":
                rig.api.gone(PATH)
            else:
                rig.api.error(PATH, 500)
            reason = "protocol" if broken == b"two\nlines" else "credentials"
            await rig.until(lambda: rig.reflector.health.errors[reason] >= 2)
            assert rig.names == {"a", "b", "c"}
            token.write_text("good")
            await rig.until(lambda: rig.reflector.health.connected)

    asyncio.run(run())


def test_a_refused_connection_costs_next_to_nothing_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.2)
    monkeypatch.setattr(module, "LONGEST_DELAY", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def run() -> None:
        rig = Rig(FakeApi(url=f"http://127.0.0.1:{port}"))
        async with follow(rig):
            before = time.process_time()
            await asyncio.sleep(2.0)
            assert time.process_time() - before < 0.4, "CPU seconds in 2 s of refused connections"
            assert 3 <= rig.reflector.health.errors["connection"] <= 11
            async with fake_api(port) as api:
                api.put(PATH, item("a"))
                await rig.until(lambda: rig.names == {"a"})

    asyncio.run(run())


def test_a_watch_that_ends_at_once_again_and_again_does_not_spin() -> None:
    async def act(rig: Rig) -> None:
        rig.api.fault = lambda _, watch: web.Response(body=b"") if watch else None
        rig.api.end(PATH)
        await rig.until(lambda: rig.reflector.health.errors["short_watch"] >= 3)
        assert rig.names == {"a", "b", "c"}

    story(act)


def test_delays_double_up_to_a_bound_and_respect_the_servers_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.2)
    monkeypatch.setattr(module, "LONGEST_DELAY", 30.0)
    highest = [backoff(failures, jitter=lambda low, high: high) for failures in (1, 2, 5, 20)]
    assert highest == [0.4, 0.8, 6.4, 30.0]
    assert backoff(20, jitter=lambda low, high: low) == 0.2
    assert backoff(1, retry_after=5.0) == 5.0
    assert backoff(1, retry_after=500.0) == 30.0


def test_events_that_come_fast_are_read_together_and_the_first_one_at_once() -> None:
    async def act(rig: Rig) -> None:
        clock = asyncio.get_running_loop().time
        taken: list[float] = []
        rig.reflector._changed = lambda: taken.append(clock())
        delays = []
        for number in range(5):  # the best of some: the machine may be busy
            await asyncio.sleep(2 * BREATH_SECONDS)
            put = clock()
            rig.api.put(PATH, item(f"first-{number}"))
            await rig.until(lambda last=f"first-{number}": last in rig.names)  # type: ignore[misc]
            delays.append(taken[-1] - put)
        assert min(delays) < BREATH_SECONDS / 2
        taken.clear()
        begun = clock()
        for number in range(100):
            rig.api.put(PATH, item(f"fast-{number}"))
            await asyncio.sleep(0.004)
        await rig.until(lambda: "fast-99" in rig.names, 10 * BREATH_SECONDS)  # none is kept for a later read
        reads = sum(after - before > 0.002 for before, after in itertools.pairwise(taken))
        assert len(taken) == 100
        assert reads <= (clock() - begun) / BREATH_SECONDS + 2

    story(act)
