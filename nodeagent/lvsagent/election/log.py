"""One line a change: a constant sentence and fields, as text or as JSON, to standard error."""

import contextlib
import json
import sys
import time
from typing import Final, Literal

Format = Literal["text", "json"]
REPEAT_INTERVAL: Final = 10.0
"""Seconds; how often a thing that others can provoke is logged."""
MOST_SUBJECTS: Final = 1024
"""Remembered at a time; some are chosen by others."""


class Log:
    """Writes lines. The sentence never contains data, so that lines can be counted by it."""

    def __init__(self, style: Format = "text") -> None:
        self._style = style
        self._last: dict[tuple[str, str], float] = {}

    def __call__(self, sentence: str, **fields: object) -> None:
        """Log it."""
        if self._style == "json":
            line = json.dumps({"time": time.time(), "message": sentence, **fields}, default=str)
        else:
            line = " ".join((sentence, *(f"{name}={value}" for name, value in fields.items())))
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
