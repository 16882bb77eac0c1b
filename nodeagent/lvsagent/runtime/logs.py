"""Log lines for people (key=value) or for machines (JSON), on standard error. Nobody ever waits for who reads them."""

import json
import logging
import os
import select
import sys
from collections.abc import Collection
from typing import Any, Final, Literal, TextIO

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


class Lines(logging.Handler):
    """To a stream whose reader may hang: then lines are lost, and counted. An agent that waited for the reader of its
    log would serve the endpoints of that moment until he reads again."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if there is room for it."""
        if self._lost and self._put(self._told()):
            self._lost = 0
        self._lost += not self._put(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing that would be said on standard error."""

    def _told(self) -> logging.LogRecord:
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "lines": self._lost}
        return logging.makeLogRecord({**about, "msg": "lines of the log were lost: nobody read it"})

    def _put(self, record: logging.LogRecord) -> bool:
        try:
            data = (self.format(record) + "\n").encode(errors="backslashreplace")
            number = _file_of(self._stream)
            for start in range(0, len(data), AT_ONCE):
                if number is None:
                    self._stream.write(data[start : start + AT_ONCE].decode(errors="replace"))
                elif _has_room(number):
                    os.write(number, data[start : start + AT_ONCE])
                else:
                    return False
            if number is None:
                self._stream.flush()
        except Exception:  # whoever read it is gone, or the line cannot be made: the others go on
            return False
        return True


AT_ONCE: Final = select.PIPE_BUF
"""Octets that a pipe takes without waiting when it can be written to."""


def _file_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # no file
        return None


def _has_room(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(0))


def setup(form: Format, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send everything of level and above to the stream (standard error)."""
    handler = Lines(stream or sys.stderr)
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
