"""Exec: a command of the administrator, in standalone mode only. The timeout ends it and what it started."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final

from lvsagent.checks.answer import WELL, Answer, failed, port_of
from lvsagent.checks.errors import OURS, spoken
from lvsagent.checks.messages import Target
from lvsagent.checks.stream import short
from lvsapi.health import HealthCheck

KEPT: Final = ("PATH", "LANG", "TZ", "HOME")
"""Of our own environment."""
LONGEST_OUTPUT: Final = 4096
"""Bytes that are kept; what comes after is read and dropped."""
CHUNK: Final = 65536
AT_ONCE: Final = 16


async def check(check: HealthCheck, target: Target) -> Answer:
    """It ends with status 0. The first line that it says is the reason otherwise."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {
        "LVS_ADDRESS": str(target.address),
        "LVS_PORT": str(port_of(check, target)),
        "LVS_PROTOCOL": str(target.protocol),
    }
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(ours, False)
    output = _Output(ours)
    try:
        process = await _start(check, theirs, environment)
    except BaseException:
        output.close()
        raise
    finally:
        os.close(theirs)
    try:
        status = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it left behind
        output.close()
        await process.wait()
    if status == 0:
        return WELL
    first = short(output.kept.strip().partition(b"\n")[0], 120)
    ending = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return failed(check, target, f"{check.command[0]} {ending}" + (f": {first}" if first else ""))


async def refuse(check: HealthCheck, target: Target) -> Answer:
    """Commands are not run."""
    return failed(check, target, "commands are run in standalone mode only (lvs-checks --allow-exec)")


async def _start(check: HealthCheck, output: int, environment: dict[str, str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *check.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        if error.errno in OURS:
            raise
        raise OSError(f"{check.command[0]} cannot be run: {spoken(error.errno or 0)}") from error


class _Output:
    """Reads a pipe to its end, or until it is closed, and keeps the beginning."""

    def __init__(self, pipe: int) -> None:
        self.kept = b""
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe, self._read)

    def close(self) -> None:
        """After a last look."""
        self._read()
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            chunk = os.read(self._pipe, CHUNK)
            self.kept += chunk[: LONGEST_OUTPUT - len(self.kept)]
            if not chunk:
                self._loop.remove_reader(self._pipe)
