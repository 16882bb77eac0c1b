"""A small API server on the loopback that does what it is told: refuse, hang, lie, go back in time.

Only list and watch, of any resource. ``tests/contract/test_reflector_real.py`` asks the same of a real kube-apiserver.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Item = dict[str, Any]


@dataclass
class FakeApi:
    """Objects by path; faults by path in the order in which they happen, then all is well."""

    url: str = ""
    objects: dict[str, dict[str, Item]] = field(default_factory=dict)
    version: int = 100
    requests: Counter[str] = field(default_factory=Counter)
    """``list PATH`` and ``watch PATH``."""
    queries: list[dict[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    """Authorization headers, in order."""
    fault: Callable[[web.Request, bool], web.StreamResponse | None] | None = None
    """Called first with (request, is a watch); an answer of it is final."""
    hang: bool = False
    """Take connections and say nothing."""
    page_fault: str = ""
    """Answer 410 to this continue token, once."""
    history: list[tuple[int, str, Item]] = field(default_factory=list)
    """What a watch from an older version is told first."""
    watchers: dict[str, list[asyncio.Queue[Item | None]]] = field(default_factory=dict)

    def put(self, path: str, item: Item) -> None:
        """Create or update, and tell the watchers."""
        key = _key(item)
        kind = "MODIFIED" if key in self.objects.setdefault(path, {}) else "ADDED"
        self._stamp(item)
        self.objects[path][key] = item
        self._tell(path, {"type": kind, "object": item})

    def delete(self, path: str, name: str) -> None:
        """Delete, and tell the watchers."""
        item = self.objects[path].pop(name)
        self._stamp(item)
        self._tell(path, {"type": "DELETED", "object": item})

    def lose(self, path: str, *names: str) -> None:
        """Objects vanish without an event, as after a restore of etcd."""
        for name in names:
            del self.objects[path][name]

    def gone(self, path: str) -> None:
        """End the watches with 410 in the stream."""
        self._tell(path, {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})

    def error(self, path: str, code: int) -> None:
        """End the watches with another error in the stream."""
        self._tell(path, {"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "etcd is away"}})

    def bookmark(self, path: str) -> None:
        """A bookmark at the present version."""
        self.version += 1
        self._tell(path, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}})

    def end(self, path: str) -> None:
        """End the watches in order."""
        for queue in self.watchers.get(path, []):
            queue.put_nowait(None)

    def _stamp(self, item: Item) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)

    def _tell(self, path: str, event: Item) -> None:
        if event["type"] not in ("ERROR", "BOOKMARK"):
            self.history.append((self.version, path, event))
        for queue in self.watchers.get(path, []):
            queue.put_nowait(event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every request."""
        watch = "watch" in request.query
        self.requests[f"{'watch' if watch else 'list'} {request.path}"] += 1
        self.queries.append(dict(request.query))
        self.tokens.append(request.headers.get("Authorization", ""))
        if self.hang:
            await asyncio.sleep(3600)
        if self.fault and (answer := self.fault(request, watch)) is not None:
            return answer
        return await self._watch(request) if watch else self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        items = [self.objects.get(request.path, {})[key] for key in sorted(self.objects.get(request.path, {}))]
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit", "500"))
        if self.page_fault and request.query.get("continue") == self.page_fault:
            self.page_fault = ""
            return status(410)
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"kind": "List", "metadata": metadata, "items": items[start : start + limit] or None})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[Item | None] = asyncio.Queue()
        since = int(request.query["resourceVersion"])
        for version, path, event in self.history:
            if path == request.path and version > since:
                queue.put_nowait(event)
        self.watchers.setdefault(request.path, []).append(queue)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            while (told := await queue.get()) is not None:
                await response.write(json.dumps(told).encode() + b"\n")
                if told["type"] == "ERROR":
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.watchers[request.path].remove(queue)
        return response


def status(code: int, **headers: str) -> web.Response:
    """A metav1.Status."""
    body = {"kind": "Status", "code": code, "message": f"fault {code}"}
    return web.json_response(body, status=code, headers=headers)


def _key(item: Item) -> str:
    return str(item["metadata"]["name"])


@asynccontextmanager
async def fake_api(port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[FakeApi]:
    """Serves until the block ends."""
    api = FakeApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    server = site._server
    assert isinstance(server, asyncio.Server)
    api.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield api
    finally:
        with contextlib.suppress(Exception):
            await runner.cleanup()
