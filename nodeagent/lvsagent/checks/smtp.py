"""SMTP: greeting 220, HELO 250, and QUIT, so that the server logs no lost connection (RFC 5321)."""

import asyncio
import socket
from contextlib import suppress
from typing import Final

from lvsagent.checks.answer import WELL, Answer, failed
from lvsagent.checks.messages import Target
from lvsagent.checks.stream import Garbled, Stream, connected, short
from lvsapi.health import HealthCheck

MOST_LINES: Final = 100
FAREWELL_SECONDS: Final = 0.5


async def check(check: HealthCheck, target: Target) -> Answer:
    """Both replies are as they should be. Their text does not matter."""
    async with connected(check, target) as stream:
        try:
            code = await _reply(stream)
            if code != 220:
                return failed(check, target, f"greeting {code}, expected 220")
            await stream.send(f"HELO {check.name or socket.gethostname()}\r\n".encode())
            code = await _reply(stream)
        except Garbled as error:
            return failed(check, target, str(error))
        with suppress(OSError, Garbled, TimeoutError):  # the question is answered
            await stream.send(b"QUIT\r\n")
            async with asyncio.timeout(min(FAREWELL_SECONDS, check.timeout_ms / 4000)):
                await _reply(stream)
        return WELL if code == 250 else failed(check, target, f"HELO is answered by {code}, expected 250")


async def _reply(stream: Stream) -> int:
    """The code of a reply of one or more lines: ``220-first``, ``220 last``."""
    for _ in range(MOST_LINES):
        line = await stream.line()
        if not line:
            raise Garbled("the connection was closed without a reply")
        code, separator = line[:3], line[3:4]
        if not code.isdigit() or separator not in (b" ", b"-", b""):
            raise Garbled(f"says {short(line)!r}, expected a reply of SMTP")
        if separator != b"-":
            return int(code)
    raise Garbled(f"a reply of more than {MOST_LINES} lines")
