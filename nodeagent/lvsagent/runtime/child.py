"""Standalone: the election as a child process that is there again at once when it dies."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESTART_SECONDS = 0.1
FAREWELL_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ElectionChild:
    """``run`` until cancelled, then ``stop``. One that an agent left behind when it was killed is kept."""

    run_dir: Path
    state_dir: Path
    keys_dir: Path
    log_format: str
    peer: Callable[[], int | None]
    """Pid of the election that answers at the socket, None when none does."""
    _process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Start it, and again."""
        # An election of an earlier agent is found within this time: never start a second one beside it.
        await asyncio.sleep(RESTART_SECONDS)
        while True:
            if self.peer() is None:
                await self._once()
            await asyncio.sleep(RESTART_SECONDS)

    async def stop(self) -> None:
        """An orderly release: SIGTERM to whoever answers, and wait for its end."""
        pid = self.peer() or (self._process.pid if self._process and self._process.returncode is None else None)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + FAREWELL_SECONDS
            while time.monotonic() < deadline and self._runs(pid):
                await asyncio.sleep(0.02)

    def _runs(self, pid: int) -> bool:
        if self._process and self._process.pid == pid:
            return self._process.returncode is None
        os.kill(pid, 0)
        return True

    async def _once(self) -> None:
        arguments = ["--run-dir", self.run_dir, "--state-dir", self.state_dir, "--log-format", self.log_format]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "lvsagent.election",
                *map(str, arguments),
                env={**os.environ, "LVS_KEYS_DIR": str(self.keys_dir)},
            )
        except OSError as error:
            _log.error("the election cannot be started", extra={"error": error})
            return
        self._process = process
        status = await process.wait()
        _log.warning("the election ended; starting it again", extra={"status": status})
