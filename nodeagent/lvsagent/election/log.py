"""One line a change: a constant sentence and fields, as text or as JSON, to standard error."""

import contextlib
import json
import select
import sys
import time
from typing import Final, Literal

Format = Literal["text", "json"]
REPEAT_INTERVAL: Final = 10.0
"""Seconds; how often a thing that others can provoke is logged."""
LONGEST: Final = select.PIPE_BUF
"""Octets of a line: a pipe that can be written to takes so many without waiting."""
MOST_SUBJECTS: Final = 1024
"""Remembered at a time; some are chosen by others."""


class Log:
    """Writes lines. The sentence never contains data, so that lines can be counted by it. Never waits for a reader: a
    pipe that is full, because whoever reads it hangs, costs lines and no take-over."""

    def __init__(self, style: Format = "text") -> None:
        self._style = style
        self._last: dict[tuple[str, str], float] = {}
        self._lost = 0
        """Lines for which there was no room."""

    def __call__(self, sentence: str, **fields: object) -> None:
        """Log it."""
        if not _has_room():
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self("lines of the log were lost: nobody read it", lines=lost)
        if self._style == "json":
            line = json.dumps({"time": time.time(), "message": sentence, **fields}, default=str)
        else:
            line = " ".join((sentence, *(f"{name}={value}" for name, value in fields.items())))
        line = line.encode(errors="replace")[: LONGEST - 1].decode(errors="ignore")
        with contextlib.suppress(OSError, ValueError):  # whoever read it is gone; the election is not
            print(line, file=sys.stderr, flush=True)

    def seldom(self, now: float, subject: str, sentence: str, **fields: object) -> None:
        """Log it unless the same sentence about the same subject was logged within REPEAT_INTERVAL."""
        if self.due(now, subject, sentence):
            self(sentence, **fields)

    def due(self, now: float, subject: str, sentence: str) -> bool:
        """May the sentence about the subject be logged again? Then it counts as logged."""
        key = (subject, sentence)
        if now - self._last.get(key, -REPEAT_INTERVAL) < REPEAT_INTERVAL:
            return False
        if len(self._last) >= MOST_SUBJECTS:
            self._last.clear()
        self._last[key] = now
        return True


def _has_room() -> bool:
    """Standard error takes a line now, or says at once why not."""
    try:
        poll = select.poll()
        poll.register(sys.stderr.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file
        return True
