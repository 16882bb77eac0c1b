"""Log lines for people (key=value) or for machines (JSON), on standard error."""

import json
import logging
import sys
from collections.abc import Collection
from typing import Any, Literal, TextIO

from lvsapi.model import Problem

Format = Literal["text", "json"]
MOST_LINES = 10
"""About problems of one kind at once."""

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as ``extra=``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class TextFormatter(logging.Formatter):
    """``2026-11-23T10:00:00.000Z INFO message key=value key="two words"``."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self.converter = _utc

    def formatMessage(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in fields_of(record).items())
        return super().formatMessage(record) + pairs


class JsonFormatter(TextFormatter):
    """One object a line: ``time``, ``level``, ``logger``, ``message``, and the extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def setup(form: Format, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send everything of level and above to the stream (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


class Throttle:
    """Says whether a repeated message may be logged again: once per ``every`` seconds and text."""

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._last: dict[str, float] = {}

    def allows(self, key: str, now: float) -> bool:
        """``now`` is monotonic seconds."""
        if now - self._last.get(key, -self._every) < self._every:
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[key] = now
        return True


def _utc(seconds: float | None) -> Any:
    import time

    return time.gmtime(seconds)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if text == "" or any(c in text for c in ' "=\n\t') else text


def name_problems(log: logging.Logger, problems: Collection[Problem]) -> None:
    """Log what is new, a screenful at most: one cause can touch every object."""
    for problem in sorted(problems, key=lambda problem: (problem.key, problem.message))[:MOST_LINES]:
        log.warning(
            "an object is not wholly served",
            extra={"object": problem.key, "reason": problem.reason, "error": problem.message},
        )
    if len(problems) > MOST_LINES:
        log.warning("more objects are not wholly served", extra={"number": len(problems) - MOST_LINES})
