"""TLS of checks: whom they trust, what they send as the name, and what is said when a handshake fails."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Final, TypeVar

from lvsagent.checks.answer import port_of
from lvsagent.checks.messages import Target
from lvsagent.checks.stream import LONGEST_LINE, Stream, opened
from lvsapi.health import HealthCheck

RECORD: Final = 16384
T = TypeVar("T")


@lru_cache(maxsize=256)
def tls_context(verify: bool, ca_pem: str, protocol: str = "") -> ssl.SSLContext:
    """Certificates of the image, or those given and no others. ``protocol``: the one that is offered (ALPN), if any.
    Raises ssl.SSLError when the certificates are none."""
    if verify:
        context = ssl.create_default_context(cadata=ca_pem or None)
        # As strict as curl: Python 3.13 refuses certificates without key identifiers, which many backends have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if protocol:
        context.set_alpn_protocols([protocol])
    return context


def server_name(check: HealthCheck, target: Target) -> str:
    """What the certificate must bear: the host without its port. Addresses are not sent as SNI (RFC 6066)."""
    host, colon, port = check.host.rpartition(":")
    name = host if colon and port.isdecimal() else check.host
    return name.strip("[]") or str(target.address)


def refusal(error: Exception) -> str:
    """Why there is no TLS, for a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message or error}"
    if isinstance(error, ssl.SSLEOFError):
        return "TLS fails: the connection was closed"
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return f"TLS fails: {reason or error}"


class TlsStream(Stream):
    """A connected socket with TLS on it. What is read and held is never more than a record."""

    def __init__(self, endpoint: socket.socket, context: ssl.SSLContext, name: str) -> None:
        super().__init__(endpoint)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=name)

    async def handshake(self) -> None:
        """First of all. Raises ssl.SSLError."""
        await self._step(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """All of it."""
        await self._step(lambda: self._tls.write(data))

    async def read(self, most: int = LONGEST_LINE) -> bytes:
        """What is there, not more than so much. Empty: the backend closed."""
        try:
            return await self._step(lambda: self._tls.read(most))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def _step(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                if data := await super().read(RECORD):
                    self._arrived.write(data)
                else:
                    self._arrived.write_eof()
                await asyncio.sleep(0)  # a server that never stops shall not keep the loop
                continue
            await self._flush()
            return result

    async def _flush(self) -> None:
        if data := self._leaving.read():
            await super().send(data)


@asynccontextmanager
async def connected_by_tls(check: HealthCheck, target: Target, protocol: str) -> AsyncIterator[TlsStream]:
    """To the backend's port. Raises OSError, of which ssl.SSLError is one."""
    context = tls_context(check.verify_tls, check.ca_pem, protocol)
    async with opened(target, socket.SOCK_STREAM) as endpoint:
        await asyncio.get_running_loop().sock_connect(endpoint, (str(target.address), port_of(check, target)))
        stream = TlsStream(endpoint, context, server_name(check, target))
        await stream.handshake()
        yield stream
