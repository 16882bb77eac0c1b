"""Keeps the objects of one resource like the API server's: list, watch, and again, whatever happens.

An answer of the API never empties the cache (``core.cache``); errors only delay. The rules are those of client-go's
reflector, with three differences: 410 is taken both ways, a relist is compared with what was there, and a dead
connection is noticed by TCP itself (bookmarks are no heartbeat: a quiet resource gets none for minutes).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lvsagent.adapters.kube import ApiClient, ApiError
from lvsagent.core.brakes import GATHER_SECONDS, Held
from lvsagent.core.cache import Cache, Malformed
from lvsapi.model import ObjectKey

T = TypeVar("T")

PAGE = 500
FIRST_DELAY = 0.2
LONGEST_DELAY = 30.0
TRIES_BEFORE_RELIST = 5
MOST_NAMED = 5
"""Objects in one line of the log."""
SHORT_WATCH = 1.0
"""Seconds. A watch that ends sooner, in order, counts as a failure: a proxy that hangs up must not make us spin."""

SOON = 0.01
"""Seconds after something is due."""
LONG_WATCH = 10.0
"""Seconds. One that lasted so long is no failure after those before it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[T]):
    """What to list and how to read it."""

    name: str
    """Plural; the metrics' label."""
    path: str
    parse: Callable[[dict[str, Any]], T | Malformed]
    """Never raises."""


@dataclass(slots=True)
class Health:
    """What the metrics say about one reflector."""

    connected: bool = False
    last_list: float = 0.0
    """Unix time."""
    last_event: float = 0.0
    """Unix time of the last line of the watch, bookmarks included."""
    relists: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def backoff(failures: int, retry_after: float = 0.0, jitter: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait after so many failures in a row: full jitter over a doubling bound."""
    bound = min(LONGEST_DELAY, FIRST_DELAY * float(2 ** min(failures, 12)))
    return max(jitter(FIRST_DELAY, bound), min(retry_after, LONGEST_DELAY))


class Reflector(Generic[T]):
    """One resource. ``run`` until cancelled."""

    def __init__(
        self,
        client: ApiClient,
        resource: Resource[T],
        cache: Cache[T],
        changed: Callable[[], None],
        wanted: Callable[[T], bool] = lambda _: True,
        watch_seconds: tuple[int, int] = (240, 360),
    ) -> None:
        self.resource = resource
        self.cache = cache
        self.health = Health()
        self.covered: str | None = None
        """Label selector of the last complete list."""
        self.synced = False
        self._client = client
        self._changed = changed
        self._wanted = wanted
        self._watch_seconds = watch_seconds
        self._selector = ""
        self._asked_anew = asyncio.Event()
        self._open_since: float | None = None
        """Monotonic; None: there is no watch."""

    @property
    def selector(self) -> str:
        """The label selector in use, "" for all."""
        return self._selector

    def select(self, selector: str) -> None:
        """List and watch by another label selector. The cache stays until the new list is complete."""
        if selector != self._selector:
            self._selector = selector
            self._asked_anew.set()

    async def run(self) -> None:
        """List and watch for ever."""
        failures = 0
        while True:
            # ``_once`` begins with the selector of that moment: only what is asked after this line cuts it short.
            self._asked_anew.clear()
            work = asyncio.ensure_future(self._once())
            anew = asyncio.ensure_future(self._asked_anew.wait())
            try:
                await asyncio.wait({work, anew}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
                failures = 0
            except ApiError as error:
                failures = 1 if self._fared_well() else failures + 1
                self._failed(error, failures)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff(failures, error.retry_after)):
                        await self._asked_anew.wait()
            finally:
                for task in (work, anew):
                    task.cancel()
                await asyncio.gather(work, anew, return_exceptions=True)

    def _failed(self, error: ApiError, failures: int) -> None:
        """Count and log, and forget the version where it is of no use."""
        self.health.connected = False
        self.health.errors[error.reason] += 1
        if failures == 1 or failures % 20 == 0:
            _log.warning(
                "the API does not answer as it should; what is known stays in force",
                extra={"resource": self.resource.name, "reason": error.reason, "error": str(error), "tries": failures},
            )
        if error.reason == "gone" or failures % TRIES_BEFORE_RELIST == 0:
            self._version = ""

    _version = ""
    """What the cache has seen of the selector ``covered``; empty: nothing that a watch could go on from."""

    async def _once(self) -> None:
        """One watch; a list first, if there is no version to go on from or it belongs to another selector."""
        self._open_since = None
        if not self._version or self.covered != self._selector:
            await self._list()
        low, high = self._watch_seconds
        seconds = random.randint(low, high)
        started = time.monotonic()
        events = 0
        query = {**_query(self.covered or ""), "resourceVersion": self._version}
        stream = self._client.watch(self.resource.path, query, seconds, self._opened)
        async with contextlib.aclosing(stream):
            async for event in stream:
                events += 1
                self.health.last_event = time.time()
                if event.kind != "BOOKMARK" and self._take(event.kind, event.item):
                    self._changed()
                self._version = _version(event.item) or self._version
        if not events and time.monotonic() - started < SHORT_WATCH:
            raise ApiError("short_watch", f"{self.resource.path}: the watch ended at once")

    def _opened(self) -> None:
        self.health.connected = True
        self._open_since = time.monotonic()

    def _fared_well(self) -> bool:
        """Whether a watch failed that was open for some time: many a proxy cuts off what is quiet, again and again."""
        return self._open_since is not None and time.monotonic() - self._open_since >= LONG_WATCH

    def _take(self, kind: str, item: dict[str, Any]) -> bool:
        key = key_of(item)
        if kind != "DELETED":
            return self.cache.put(key, self.resource.parse(item))
        if self.cache.brake:
            # It goes when it is known how many others do; somebody has to look then.
            asyncio.get_running_loop().call_later(GATHER_SECONDS + SOON, self._changed)
        return self.cache.delete(key, time.monotonic())

    async def _list(self) -> None:
        """All pages, then replace. Raises ApiError; the cache is then as it was."""
        selector = self._selector
        listed: dict[ObjectKey, T | Malformed] = {}
        query: dict[str, str] = {**_query(selector), "limit": str(PAGE)}
        while True:
            page = await self._client.list_page(self.resource.path, query)
            for item in page["items"] or ():
                if isinstance(item, dict):
                    listed[key_of(item)] = self.resource.parse(item)
            query["continue"] = str(page["metadata"].get("continue") or "")
            if not query["continue"]:
                break
        version = _version(page)
        if not version:
            raise ApiError("protocol", f"{self.resource.path}: a list without a resourceVersion")
        self.health.relists += 1
        self.health.last_list = time.time()
        changed = self.cache.replace(listed, time.monotonic(), self._wanted)
        first = not self.synced or self.covered != selector
        self.synced, self.covered, self._version = True, selector, version
        if self.cache.held:
            _log.warning(
                "a list lost more than half of the objects at once: they are kept for 10 minutes, or while the API"
                " server is another than it was",
                extra={
                    "resource": self.resource.name,
                    "reason": Held.MISSING,
                    "number": len(self.cache.held),
                    "held": ",".join(map(str, sorted(self.cache.held)[:MOST_NAMED])),
                },
            )
        if changed or first:
            self._changed()


def _query(selector: str) -> Mapping[str, str]:
    return {"labelSelector": selector} if selector else {}


def key_of(item: Mapping[str, Any]) -> ObjectKey:
    """Namespace and name; empty where the object has none."""
    metadata = item.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return ObjectKey(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


def _version(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata")
    return str(metadata.get("resourceVersion") or "") if isinstance(metadata, dict) else ""
