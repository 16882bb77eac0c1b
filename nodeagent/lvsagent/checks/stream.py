"""TCP with few words: connected sockets and bounded lines, without the buffers of asyncio's streams."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from lvsagent.checks.answer import port_of
from lvsagent.checks.messages import Target
from lvsapi.health import HealthCheck

LONGEST_LINE: Final = 4096
"""Bytes. RFC 5321 allows 512; some servers say more."""


class Garbled(Exception):
    """The backend said something that is not of the protocol. The text says what."""


class Stream:
    """A connected socket."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    async def send(self, data: bytes) -> None:
        """All of it."""
        await self._loop.sock_sendall(self._socket, data)

    async def read(self, most: int = LONGEST_LINE) -> bytes:
        """What is there, not more than so much. Empty: the backend closed."""
        return await self._loop.sock_recv(self._socket, most)

    async def line(self, most: int = LONGEST_LINE) -> bytes:
        """Without its end. What came before the backend closed counts as a line; empty: nothing did."""
        data = self._rest
        while b"\n" not in data:
            if len(data) >= most:
                raise Garbled(f"says more than {most} bytes without an end of line")
            more = await self.read(most - len(data))
            if not more:
                break
            data += more
        line, _, self._rest = data.partition(b"\n")
        return line.rstrip(b"\r")


@asynccontextmanager
async def connected(check: HealthCheck, target: Target) -> AsyncIterator[Stream]:
    """To the backend's port. Raises OSError."""
    async with opened(target, socket.SOCK_STREAM) as endpoint:
        await asyncio.get_running_loop().sock_connect(endpoint, (str(target.address), port_of(check, target)))
        yield Stream(endpoint)


@asynccontextmanager
async def opened(target: Target, kind: int, protocol: int = 0) -> AsyncIterator[socket.socket]:
    """A non-blocking socket of the backend's family."""
    with socket.socket(family(target), kind | socket.SOCK_NONBLOCK, protocol) as endpoint:
        yield endpoint


def family(target: Target) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if target.address.version == 6 else socket.AF_INET


def short(data: bytes, most: int = 80) -> str:
    """For a sentence: printable, bounded."""
    return " ".join(data[:most].decode("ascii", "backslashreplace").split())
