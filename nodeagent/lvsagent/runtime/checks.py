"""The agent's end of ``lvs-checks``: starts it, says what is to be asked, hands over verdicts.

While the process is away the last verdicts stay in force: that nobody asks a backend says nothing about it.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from lvsagent.checks.lines import LineError, TargetsWriter, decode
from lvsagent.checks.messages import Statistics, Target, Targets, Verdict

RESTART_SECONDS = 0.1
LONGEST_RESTART_SECONDS = 10.0
SETTLED_SECONDS = 30.0
"""A process that ran so long is started again at once."""
FAREWELL_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""It says something every five (``Statistics``); one that hangs is killed and started again."""
LONGEST_LINE = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ChecksState:
    """What the agent knows of the process, for its metrics."""

    running: bool = False
    """The process is there. Without targets it need not be."""
    restarts: int = 0
    targets: int = 0
    """That are to be asked."""
    statistics: Statistics | None = None
    """As the process said last. They begin anew with each process."""


class Checks:
    """``run`` until cancelled, then ``stop``. The callback runs on the loop."""

    def __init__(self, *, verdict: Callable[[Verdict], None], allow_exec: bool, log_format: str) -> None:
        self.state = ChecksState()
        self._verdict = verdict
        self._arguments = ["--log-format", log_format, *(["--allow-exec"] if allow_exec else [])]
        self._targets: tuple[Target, ...] = ()
        self._names: frozenset[str] = frozenset()
        self._generation = 0
        self._changed = asyncio.Event()
        self._last: dict[str, Verdict] = {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._process.pid if self._process and self.state.running else None

    def want(self, targets: tuple[Target, ...]) -> None:
        """Ask these. Nothing happens when they are the same as before."""
        if targets == self._targets:
            return
        self._targets = targets
        self.state.targets = len(targets)
        self._generation += 1
        self._names = frozenset(target.name for target in targets)
        self._last = {name: verdict for name, verdict in self._last.items() if name in self._names}
        self._changed.set()

    async def run(self) -> None:
        """Start it when there is something to ask, and again when it dies."""
        pause = RESTART_SECONDS
        while True:
            while not self._targets:
                await self._changed.wait()
                self._changed.clear()
            begun = time.monotonic()
            await self._once()
            if time.monotonic() - begun > SETTLED_SECONDS:
                pause = RESTART_SECONDS
            self.state.restarts += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_RESTART_SECONDS)

    async def stop(self) -> None:
        """End it: its input ends. Killed when that is not enough."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin:
            process.stdin.close()
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _once(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "lvsagent.checks",
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            _log.error("the health checks cannot be started; the last verdicts stay", extra={"error": error})
            return
        self._process = process
        assert process.stdin
        assert process.stdout
        self.state.running = True
        sending = asyncio.create_task(self._send(process.stdin))
        stdin = process.stdin
        sending.add_done_callback(lambda _: stdin.close())  # without a wish it ends
        try:
            if not await self._listen(process.stdout):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            process.stdin.close()
            status = await process.wait()
        finally:
            self.state.running = False
            sending.cancel()
            (failure,) = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(failure, Exception):
                _log.error("the health checks could not be told what to ask", exc_info=failure)
        _log.error(
            "the health checks ended; the last verdicts stay until they are there again", extra={"status": status}
        )

    async def _send(self, pipe: asyncio.StreamWriter) -> None:
        """The wish now, and whenever it changes."""
        writer = TargetsWriter()
        with contextlib.suppress(OSError):  # it died; whoever waits for it says so
            while True:
                self._changed.clear()
                pipe.write(writer.encode(Targets(generation=self._generation, targets=self._targets)))
                await pipe.drain()
                await self._changed.wait()

    async def _listen(self, pipe: asyncio.StreamReader) -> bool:
        """False: it does not do what it should, and must go."""
        while True:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    line = await pipe.readline()
            except ValueError as error:
                _log.error("the health checks sent a line that never ends", extra={"error": error})
                return False
            except TimeoutError:
                _log.error("the health checks are silent", extra={"seconds": SILENT_SECONDS})
                return False
            if not line:
                return True
            try:
                said = decode(line)
            except LineError as error:
                _log.warning("the health checks said something unknown", extra={"error": error})
                continue
            if isinstance(said, Statistics):
                self.state.statistics = said
            else:
                self._hear(said)

    def _hear(self, verdict: Verdict) -> None:
        last = self._last.get(verdict.name)
        if verdict.name not in self._names or (last is not None and last.known and not verdict.known):
            return  # of a wish before this one, or of a process that has just begun
        self._last[verdict.name] = verdict
        self._verdict(verdict)
