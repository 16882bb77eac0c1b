"""Requests to the API server: pages of a list, a watch, a status, an event. Cache and retry are the reflector's."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from lvsagent.adapters.kubeconfig import KubeConfig

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 40.0
"""The longest silence in an answer that is not a watch; an API server that takes 30 s is slow, not dead."""
FAREWELL_SECONDS: Final = 0.1
BREATH_SECONDS: Final = 0.03
"""At least so long between two reads of a watch: to read costs more than to decode, and events that come together are
decoded together. The first event after a quiet time is read at once, and so is what comes after as much as MUCH."""
MUCH: Final = 32 << 10
"""Bytes in one read: more is waiting."""
LONGEST_EVENT: Final = 16 << 20
"""Bytes. etcd refuses objects above 1.5 MB."""
FIELD_MANAGER: Final = "lvs-agent"


class ApiError(Exception):
    """A request failed. ``reason`` is the metric's label."""

    def __init__(self, reason: str, message: str, retry_after: float = 0.0) -> None:
        self.reason = reason
        """``gone``, ``http_<status>``, ``connection``, ``timeout``, ``protocol`` or ``credentials``."""
        self.retry_after = retry_after
        """Seconds that the server asked us to wait."""
        super().__init__(message)

    @property
    def everywhere(self) -> bool:
        """No other request would fare better now: the server cannot be reached, or does not want to hear us."""
        return self.reason in ("connection", "timeout", "credentials", "http_401", "http_429", "http_503")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a watch."""

    kind: str
    """ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""
    item: dict[str, Any]


@dataclass(slots=True)
class ApiClient:
    """One connection pool to one API server. Close it."""

    config: KubeConfig
    _session: aiohttp.ClientSession | None = None
    _fingerprint: tuple[bytes | None, ...] = ()
    _users: Counter[aiohttp.ClientSession] = field(default_factory=Counter)
    """Requests that are under way, by session."""
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def list_page(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """One page. Raises ApiError."""
        answer = await self._request("GET", path, query)
        listed = "items" in answer and isinstance(answer["items"], list | None)
        if not listed or not isinstance(answer.get("metadata"), dict):
            raise ApiError("protocol", f"{path}: the answer is no list")
        return answer

    async def watch(
        self, path: str, query: Mapping[str, str], seconds: int, opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Event, None]:
        """Events until the server ends the watch in order. ``opened``: called when it is open. Raises ApiError."""
        silence = seconds + 15.0
        timeout = aiohttp.ClientTimeout(total=silence + 60, sock_connect=CONNECT_SECONDS, sock_read=silence)
        asked = {**query, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        try:
            session, headers = self._prepared(path)
            async with (
                self._in_use(session),
                session.get(
                    self.config.server + path,
                    params=asked,
                    headers=headers,
                    timeout=timeout,
                    server_hostname=self.config.server_name,
                ) as response,
            ):
                await _raise_for(response, path)
                opened()
                rest, clock = b"", asyncio.get_running_loop().time
                read = clock() - BREATH_SECONDS
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield _event(line, path)
                    if len(rest) > LONGEST_EVENT:
                        raise ApiError("protocol", f"{path}: a watch event longer than {LONGEST_EVENT} bytes")
                    if len(chunk) < MUCH and (soon := read + BREATH_SECONDS - clock()) > 0:
                        await _wait_unread(response, soon)
                    read = clock()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _translated(error, path) from error
        except ValueError as error:
            raise ApiError("protocol", f"{path}: {error}") from error

    async def apply_status(self, path: str, body: Mapping[str, Any], manager: str = FIELD_MANAGER) -> dict[str, Any]:
        """Server-side apply with force. Raises ApiError."""
        return await self._request(
            "PATCH",
            path,
            {"fieldManager": manager, "force": "true"},
            body=json.dumps(body).encode(),
            content_type="application/apply-patch+yaml",
        )

    async def get(self, path: str) -> dict[str, Any]:
        """One object. Raises ApiError."""
        return await self._request("GET", path, {})

    async def create(self, path: str, body: Mapping[str, Any]) -> None:
        """Raises ApiError."""
        await self._request("POST", path, {}, body=json.dumps(body).encode(), content_type="application/json")

    async def close(self) -> None:
        """Hang up."""
        if self._session:
            await self._session.close()
            self._session = None
            # Connections with TLS, and those that were being made, end a moment after the session does.
            await asyncio.sleep(FAREWELL_SECONDS)
        await asyncio.gather(*self._closing)

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None, content_type: str = ""
    ) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=120, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
        try:
            session, headers = self._prepared(path)
            if content_type:
                headers["Content-Type"] = content_type
            async with (
                self._in_use(session),
                session.request(
                    method,
                    self.config.server + path,
                    params=query,
                    headers=headers,
                    data=body,
                    timeout=timeout,
                    server_hostname=self.config.server_name,
                ) as response,
            ):
                await _raise_for(response, path)
                answer = json.loads(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _translated(error, path) from error
        except ValueError as error:
            raise ApiError("protocol", f"{path}: the answer is not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ApiError("protocol", f"{path}: the answer is no object")
        return answer

    @asynccontextmanager
    async def _in_use(self, session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
        """A session that is not the present one any more is closed by its last request. aiohttp tells a response whose
        session is closed nothing: a watch would hear nothing more, and not end either."""
        self._users[session] += 1
        try:
            yield
        finally:
            self._users[session] -= 1
            if session is not self._session:
                self._close_unused(session)

    def _close_unused(self, session: aiohttp.ClientSession) -> None:
        if self._users[session]:
            return
        del self._users[session]
        task = asyncio.get_running_loop().create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _prepared(self, path: str) -> tuple[aiohttp.ClientSession, dict[str, str]]:
        """The session (a new one after certificates changed) and the headers with the token of now. Raises ApiError."""
        try:
            return self._session_of_now(), {"Accept": "application/json", **self.config.authorization()}
        except (OSError, ValueError) as error:
            raise ApiError("credentials", f"{path}: {error}") from error

    def _session_of_now(self) -> aiohttp.ClientSession:
        fingerprint = self.config.fingerprint()
        if self._session is None or fingerprint != self._fingerprint:
            old, self._session = self._session, None
            if old is not None:
                self._close_unused(old)
            tls = self.config.tls()
            connector = aiohttp.TCPConnector(
                ssl=tls if tls else True, limit=0, keepalive_timeout=30, socket_factory=_socket
            )
            self._session = aiohttp.ClientSession(connector=connector, headers={"User-Agent": "lvs-agent"})
            self._fingerprint = fingerprint
        return self._session


async def _wait_unread(response: aiohttp.ClientResponse, seconds: float) -> None:
    """Leave with the kernel what comes meanwhile. (A small ``read_bufsize`` would not do: with it aiohttp gives one
    chunk at a time, however many there are.)"""
    transport = response.connection.transport if response.connection else None
    if transport is None:
        return
    transport.pause_reading()
    try:
        await asyncio.sleep(seconds)
    finally:
        transport.resume_reading()


def _socket(address: Any) -> socket.socket:
    """A socket that notices within 20 s that the other end is gone without a word."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
    return made


def _event(line: bytes, path: str) -> Event:
    try:
        fields = json.loads(line)
        kind, item = fields["type"], fields["object"]
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError("protocol", f"{path}: a watch line that is no event: {line[:100]!r}") from error
    if not isinstance(item, dict) or not isinstance(kind, str):
        raise ApiError("protocol", f"{path}: a watch line that is no event: {line[:100]!r}")
    if kind == "ERROR":
        code = item.get("code")
        raise ApiError("gone" if code == 410 else f"http_{code}", f"{path}: watch ended: {item.get('message', '')}")
    return Event(kind, item)


async def _raise_for(response: aiohttp.ClientResponse, path: str) -> None:
    if response.status < 400:
        return
    text = (await response.content.read(2000)).decode(errors="replace")
    try:
        text = str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        pass
    try:
        wait = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        wait = 0.0
    reason = "gone" if response.status == 410 else f"http_{response.status}"
    raise ApiError(reason, f"{path}: {response.status}: {text[:500]}", wait)


def _translated(error: Exception, path: str) -> ApiError:
    match error:
        case TimeoutError():
            reason = "timeout"
        case _:
            reason = "connection"
    return ApiError(reason, f"{path}: {str(error) or type(error).__name__}")
