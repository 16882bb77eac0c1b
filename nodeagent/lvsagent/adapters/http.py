"""/metrics, /healthz and /readyz over asyncio: three fixed answers need no web framework."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

REQUEST_SECONDS = 5.0
LONGEST_LINE = 8192
Answer = tuple[int, str, bytes]
"""Status, content type, body."""

_PHRASES = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error", 503: "Unavailable"}


class HttpServer:
    """Answers GET and HEAD on fixed paths, one request a connection."""

    def __init__(self, routes: Mapping[str, Callable[[], Answer]]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Returns the port (the one that the system chose, for 0). ``host`` empty: every address of both families, as
        a cluster may have one only. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=LONGEST_LINE, reuse_address=True)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError, TimeoutError):
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    method, target = await _request(reader)
                    status, kind, body = self._answer(method, target)
                    head = (
                        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {kind}\r\n"
                        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    )
                    writer.write(head.encode() + (b"" if method == "HEAD" else body))
                    await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    def _answer(self, method: str, target: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return 405, "text/plain", b"GET only\n"
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return 404, "text/plain", b"see /metrics, /metrics/backends, /healthz, /readyz\n"
        return route()


async def _request(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Method and target; the headers are read and forgotten. Raises ValueError, EOFError."""
    method, target, *_ = (await reader.readuntil(b"\n")).decode("latin-1").split()
    for _ in range(100):
        if not (await reader.readuntil(b"\n")).strip():
            return method, target
    raise ValueError("too many headers")
