"""Lines to a pipe whose reader may be slow: never waits, and holds one line a target at most."""

import asyncio
import os
from collections.abc import Iterable
from typing import Final

from lvsagent.checks.lines import encode
from lvsagent.checks.messages import Statistics, Verdict

BATCH: Final = 1 << 16
"""Bytes made at a time."""


class Outlet:
    """``closed`` is set when nobody reads any more."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = asyncio.Event()
        self._fd = fd
        self._loop = loop
        self._waiting: dict[str, Verdict | Statistics] = {}
        self._buffer = b""
        self._watched = False
        os.set_blocking(fd, False)

    def say(self, *said: Verdict | Statistics) -> None:
        """A newer verdict of the same target takes the place of one that could not be written yet."""
        for each in said:
            self._waiting["" if isinstance(each, Statistics) else each.name] = each
        if not self._watched:
            self._flush()

    def only(self, names: Iterable[str]) -> None:
        """Verdicts of others need not be said any more."""
        keep = {*names, ""}
        self._waiting = {name: each for name, each in self._waiting.items() if name in keep}

    def _flush(self) -> None:
        try:
            while self._fill():
                self._buffer = self._buffer[os.write(self._fd, self._buffer) :]
        except BlockingIOError:
            if not self._watched:
                self._loop.add_writer(self._fd, self._flush)
                self._watched = True
            return
        except OSError:
            self._waiting.clear()
            self._buffer = b""
            self.closed.set()
        if self._watched:
            self._loop.remove_writer(self._fd)
            self._watched = False

    def _fill(self) -> bool:
        if not self._buffer:
            lines = []
            size = 0
            while self._waiting and size < BATCH:
                line = encode(self._waiting.pop(next(iter(self._waiting))))
                lines.append(line)
                size += len(line)
            self._buffer = b"".join(lines)
        return bool(self._buffer)
