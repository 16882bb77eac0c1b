"""HTTP and HTTPS by aiohttp: a connection each time, no cookies, no redirects followed, no more read than needed."""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Final

import aiohttp
import regex
from yarl import URL

from lvsagent.checks.answer import WELL, Answer, endpoint, failed
from lvsagent.checks.limits import BODIES
from lvsagent.checks.messages import Target
from lvsagent.checks.tls import server_name, tls_context
from lvsapi.health import MAX_BODY, CheckType, HealthCheck

CHUNK: Final = 1 << 16
USER_AGENT: Final = "lvs-checks"
SEARCH_SECONDS: Final = 0.5

_searchers: Final = ThreadPoolExecutor(2, "search")


async def check(check: HealthCheck, target: Target) -> Answer:
    """Status, then the body where something is asked of it."""
    tls = check.type is CheckType.HTTPS
    url = URL(f"{'https' if tls else 'http'}://{endpoint(check, target)}{check.path}", encoded=True)
    headers = {"Host": check.host} if check.host else {}
    try:
        context: ssl.SSLContext | bool = tls_context(check.verify_tls, check.ca_pem) if tls else True
        async with _session() as session:
            response = await session.request(
                check.method,
                url,
                headers=headers,
                ssl=context,
                server_hostname=server_name(check, target) if tls else None,
                allow_redirects=False,
            )
            try:
                return await _judge(check, target, response)
            finally:
                response.close()  # what was not read shall not be waited for
    except aiohttp.ClientConnectorCertificateError as error:
        return failed(check, target, f"the certificate is not accepted: {_certificate(error.certificate_error)}")
    except aiohttp.ClientConnectorSSLError as error:
        return failed(check, target, f"TLS fails: {error.strerror or error}")
    except aiohttp.ClientConnectorError as error:
        raise error.os_error from error
    except aiohttp.ServerDisconnectedError:
        return failed(check, target, "the connection was closed without an answer")
    except aiohttp.ClientResponseError as error:
        return failed(check, target, f"the answer is not HTTP: {_short(error.message)}")
    except aiohttp.ClientPayloadError:
        return failed(check, target, "the connection was closed within the body")
    except ssl.SSLError as error:
        return failed(check, target, f"TLS fails: {error.reason or error}")


async def _judge(check: HealthCheck, target: Target, response: aiohttp.ClientResponse) -> Answer:
    if not any(low <= response.status <= high for low, high in check.statuses):
        expected = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in check.statuses)
        return failed(check, target, f"status {response.status}, expected {expected}")
    if check.body_sha256:
        return await _digest(check, target, response)
    if check.body_regex:
        return await _search(check, target, response)
    return WELL


async def _digest(check: HealthCheck, target: Target, response: aiohttp.ClientResponse) -> Answer:
    found, size = hashlib.sha256(), 0
    while chunk := await response.content.read(CHUNK):
        size += len(chunk)
        if size > MAX_BODY:
            return failed(check, target, f"the body is longer than {MAX_BODY} bytes, of which a digest is taken")
        found.update(chunk)
    if found.hexdigest() != check.body_sha256.lower():
        return failed(check, target, f"the body's SHA-256 is {found.hexdigest()}, expected {check.body_sha256.lower()}")
    return WELL


async def _search(check: HealthCheck, target: Target, response: aiohttp.ClientResponse) -> Answer:
    body = bytearray()
    full = True
    try:
        while len(body) < MAX_BODY and (chunk := await response.content.read(min(CHUNK, MAX_BODY - len(body)))):
            if not BODIES.take(len(chunk)):
                full = False
                break
            body += chunk
        # Some expressions take for ever on some bodies: beside the loop, and not longer than so.
        if await asyncio.get_running_loop().run_in_executor(_searchers, _matches, check.body_regex, bytes(body)):
            return WELL
    except TimeoutError:
        return failed(
            check, target, f"{check.body_regex!r} takes more than {SEARCH_SECONDS} s on the body: simplify it"
        )
    finally:
        BODIES.give(len(body))
    where = f"in the first {len(body)} bytes of the body" if not full or len(body) == MAX_BODY else "in the body"
    return failed(check, target, f"{check.body_regex!r} is not found {where}")


def _matches(text: str, body: bytes) -> bool:
    """Raises TimeoutError."""
    return pattern(text).search(body, timeout=SEARCH_SECONDS, concurrent=True) is not None


@lru_cache(maxsize=256)
def pattern(text: str) -> regex.Pattern[bytes]:
    """Of bytes, as bodies are."""
    return regex.compile(text.encode())


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    """Of one question, so that nothing of an answer (cookies, connections) is left to the next."""
    sockets: list[socket.socket] = []

    def factory(about: aiohttp.AddrInfoType) -> socket.socket:
        opened = socket.socket(about[0], about[1] | socket.SOCK_NONBLOCK, about[2])
        sockets.append(opened)
        return opened

    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, use_dns_cache=False, socket_factory=factory),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
        ) as session:
            yield session
    finally:
        for opened in sockets:
            with suppress(OSError):  # closed already, unless TLS waits (30 s) for the backend's good-bye
                opened.shutdown(socket.SHUT_RDWR)


def _certificate(error: Exception) -> str:
    return str(getattr(error, "verify_message", "") or error)


def _short(text: str) -> str:
    return " ".join(text.split())[:120]
