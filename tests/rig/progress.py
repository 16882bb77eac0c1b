"""What a long step is doing, how far it is and how long it may still take: one line that a person can read."""

import math
import sys
import time
from typing import TextIO

EVERY_SECONDS = 15.0


def minutes(seconds: float) -> str:
    """``75.0`` becomes ``1:15``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def line(name: str, doing: str, done: int, total: int, elapsed: float) -> str:
    """One line; ``total`` 0 means that nobody knows. Never says 100 %: only the end does."""
    text = f"{name}: {doing}"
    if total > 0:
        share = min(done / total, 0.99)
        text += f" {done} of about {max(done, total)}, {share:.0%}"
        if share > 0.05:
            text += f", about {minutes(elapsed / share - elapsed)} left"
    return f"{text} ({minutes(elapsed)} so far)"


class Progress:
    """Says lines to standard error: at once when the activity changes, then every 15 s (every second on a terminal)."""

    def __init__(self, name: str, out: TextIO | None = None) -> None:
        self._name = name
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._started = self._step = time.monotonic()
        self._said = -math.inf
        self._doing = ""

    def say(self, text: str) -> None:
        """A line that stays."""
        print(f"{self._erase()}{self._name}: {text}", file=self._out, flush=True)

    def at(self, doing: str, done: int = 0, total: int = 0) -> None:
        """Where we are. Cheap enough to be called for every object compiled."""
        now = time.monotonic()
        if doing != self._doing:
            self._doing, self._step, self._said = doing, now, -math.inf
        if now - self._said < (1.0 if self._terminal else EVERY_SECONDS):
            return
        self._said = now
        text = line(self._name, doing, done, total, now - self._step)
        print(f"{self._erase()}{text}", end="" if self._terminal else "\n", file=self._out, flush=True)

    def done(self, what: str) -> None:
        """The last line, with the time of the whole."""
        self.say(f"{what} in {minutes(time.monotonic() - self._started)}")

    def _erase(self) -> str:
        return "\r\033[K" if self._terminal else ""
