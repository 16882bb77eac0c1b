"""The client under load: new connections at a fixed rate, and connections that are held and asked again and again."""

import asyncio
import contextlib
import itertools
import socket
import time
from dataclasses import dataclass, field

from .http import Answer, BadAnswer, Head, parse_answer, parse_head, request
from .report import Attempt, Held, Report

HEAD_LIMIT = 64 << 10
HELD_PATIENCE = 12.0
"""Seconds after which a held connection without an answer counts as lost: six retransmissions of TCP."""
LAST_PATIENCE = 3.0
"""Seconds that requests on their way get when the run ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to do to whom."""

    host: str
    port: int
    rate: float
    """New connections a second."""
    timeout: float
    """Seconds a new connection may take, answer included."""
    hold: int
    """Connections to hold."""
    period: float
    """Seconds between two requests on a held connection."""

    @property
    def target(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True)
class _Connection:
    """A held connection while it lives."""

    number: int
    opened: float
    server: str = ""
    client: str = ""
    local: str = ""
    answers: int = 0
    last_answer: float = 0.0
    slowest: float = 0.0
    failure: str = ""
    ended: float = 0.0

    def value(self) -> Held:
        return Held(**{name: getattr(self, name) for name in self.__slots__})


class Ports:
    """Ports of this client by the clock: none is used again for a quarter of an hour, in whichever run.

    Linux comes by the same port again after some three thousand connections to one service. What the nodes know of its
    former connection then delays the new one or leads it astray, which is another test's matter (docs/decisions/0005,
    0008; tests/net/test_leftovers_net.py).
    """

    def __init__(self, first: int, last: int, per_second: int) -> None:
        self._first, self._number = first, last - first + 1
        self._next = int(time.monotonic() * per_second)

    def bind(self, own: "socket.socket") -> None:
        """To the next one that nobody has."""
        for _ in range(self._number):
            self._next += 1
            with contextlib.suppress(OSError):
                own.bind(("", self._first + self._next % self._number))
                return


class WrongAnswer(Exception):
    """A whole answer that is not the one to this request."""


async def _read_head(reader: asyncio.StreamReader) -> Head:
    return parse_head(await reader.readuntil(b"\r\n\r\n"))


async def _read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    if head.length is not None:
        return await reader.readexactly(head.length)
    if not head.chunked:
        return await reader.read()
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, path: str, *, keep_alive: bool
) -> Answer:
    """One request and its whole answer. Raises WrongAnswer unless the answer is 200 and echoes the request."""
    writer.write(request(target, path, keep_alive=keep_alive))
    head = await _read_head(reader)
    answer = parse_answer(await _read_body(reader, head))
    if head.status != 200 or answer.request_line != f"GET {path} HTTP/1.1":
        raise WrongAnswer(f"asked for {path}, got {head.status} and {answer.request_line!r}")
    if keep_alive and head.closes:
        raise WrongAnswer("the server closes a connection that was to be kept")
    return answer


def _name(own: "socket.socket") -> str:
    """Its ``address:port``."""
    host, port, *_ = own.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _word(error: BaseException) -> str:
    """The name under which a failure is counted."""
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case ConnectionError() | asyncio.IncompleteReadError():
            return "reset"
        case OSError():
            return "unreachable"
        case _:
            return "wrong"


FAILURES = (OSError, EOFError, asyncio.LimitOverrunError, BadAnswer, WrongAnswer, ValueError)


@dataclass(slots=True)
class Load:
    """A run: ``run`` until its time is over or ``stop`` is set; ``report`` at any time."""

    wish: Wish
    started: float = field(default_factory=time.monotonic)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    new_ports: Ports = field(default_factory=lambda: Ports(1024, 49151, 50))
    held_ports: Ports = field(default_factory=lambda: Ports(49152, 65535, 15))
    attempts: list[Attempt] = field(default_factory=list)
    connections: list[_Connection] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Both kinds of load for so long. Requests on their way at the end get a moment more, then count as lost."""
        end = time.monotonic() + seconds
        holders = [asyncio.create_task(self._hold(number, end)) for number in range(self.wish.hold)]
        async with asyncio.TaskGroup() as attempts:
            await self._open_at_rate(end, attempts)
        self.stop.set()
        if holders:
            _, late = await asyncio.wait(holders, timeout=LAST_PATIENCE)
            for holder in late:
                holder.cancel()
            await asyncio.gather(*holders, return_exceptions=True)

    def report(self) -> Report:
        """What was seen so far."""
        return Report(
            target=self.wish.target,
            started=self.started,
            ended=time.monotonic(),
            attempts=tuple(self.attempts),
            held=tuple(connection.value() for connection in self.connections),
        )

    async def _open_at_rate(self, end: float, attempts: asyncio.TaskGroup) -> None:
        """Attempts on a fixed timetable: a slow or dead target does not slow it down."""
        begin = time.monotonic()
        for number in itertools.count():
            due = min(end, begin + number / self.wish.rate) if self.wish.rate > 0 else end
            if await self._pause(due - time.monotonic()) or due >= end:
                return
            attempts.create_task(self._attempt(number))

    def _socket(self, ports: Ports) -> "socket.socket":
        own = socket.socket(socket.AF_INET6 if ":" in self.wish.host else socket.AF_INET)
        own.setblocking(False)
        ports.bind(own)
        return own

    async def _attempt(self, number: int) -> None:
        start = time.monotonic()
        failure, server, client, local = "", "", "", ""
        writer: asyncio.StreamWriter | None = None
        own = self._socket(self.new_ports)
        try:
            async with asyncio.timeout(self.wish.timeout):
                try:
                    await asyncio.get_running_loop().sock_connect(own, (self.wish.host, self.wish.port))
                finally:  # also of one that is not answered: what the tables did with it can be looked up
                    local = _name(own)
                reader, writer = await asyncio.open_connection(sock=own, limit=HEAD_LIMIT)
                answer = await _ask(reader, writer, self.wish.target, f"/new?marker={number}", keep_alive=False)
                server, client = answer.server, answer.client
        except FAILURES as error:
            failure = _word(error)
        finally:
            if writer is not None:
                writer.transport.abort() if failure else writer.close()
            else:
                own.close()
        self.attempts.append(Attempt(start, time.monotonic() - start, failure, server, client, local))

    async def _hold(self, number: int, end: float) -> None:
        # The starts are spread over the period, so that the requests are too.
        if await self._pause(self.wish.period * number / self.wish.hold):
            return
        connection = _Connection(number, time.monotonic())
        self.connections.append(connection)
        writer: asyncio.StreamWriter | None = None
        own = self._socket(self.held_ports)
        try:
            async with asyncio.timeout(HELD_PATIENCE):
                await asyncio.get_running_loop().sock_connect(own, (self.wish.host, self.wish.port))
                connection.local = _name(own)
                reader, writer = await asyncio.open_connection(sock=own, limit=HEAD_LIMIT)
            for turn in itertools.count():
                asked = time.monotonic()
                path = f"/held/{number}?marker={number}.{turn}"
                async with asyncio.timeout(HELD_PATIENCE):
                    answer = await _ask(reader, writer, self.wish.target, path, keep_alive=True)
                _take(connection, answer, asked)
                wait = min(self.wish.period - (time.monotonic() - asked), end - time.monotonic())
                if await self._pause(wait) or time.monotonic() >= end:
                    break
        except asyncio.CancelledError:
            connection.failure, connection.ended = "unanswered at the end", time.monotonic()
        except FAILURES as error:
            connection.failure = f"wrong: {error}" if isinstance(error, WrongAnswer) else _word(error)
            connection.ended = time.monotonic()
        finally:
            if writer is not None:
                writer.transport.abort()
            else:
                own.close()

    async def _pause(self, seconds: float) -> bool:
        """Wait so long, or until the run is to stop. True when it is."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.stop.wait()
        return self.stop.is_set()


def _take(connection: _Connection, answer: Answer, asked: float) -> None:
    """Count an answer. Raises WrongAnswer when another server, or another connection, gave it."""
    now = time.monotonic()
    if not connection.answers:
        connection.server, connection.client = answer.server, answer.client
    elif (answer.server, answer.client) != (connection.server, connection.client):
        raise WrongAnswer(f"{connection.server} became {answer.server}, {connection.client} became {answer.client}")
    connection.answers += 1
    connection.last_answer = now
    connection.slowest = max(connection.slowest, now - asked)
