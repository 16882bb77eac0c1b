"""The agent's log, and that of its checks: never a reason to wait."""

import io
import json
import logging
import os
import signal
from collections.abc import Iterator

import pytest

from lvsagent.runtime import logs

pytestmark = pytest.mark.unit
MANY = 20_000


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Waited(BaseException):
    """For the reader, who never comes. Nothing that a handler takes for its own."""


def waited(*_signal: object) -> None:
    raise Waited


def test_a_log_whose_reader_hangs_costs_lines_and_no_time() -> None:
    """A container runtime that hangs, a journal on a full disk: the agent stood still with its next line."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stderr, os.fdopen(reading, "rb", buffering=0) as reader:
        os.set_blocking(reading, False)
        before = signal.signal(signal.SIGALRM, waited)
        signal.setitimer(signal.ITIMER_REAL, 20.0)
        try:
            logs.setup("json", stream=stderr)
            log = logging.getLogger("lvsagent.test")
            for number in range(MANY):
                log.info("a line", extra={"number": number})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
        written = [json.loads(line)["number"] for line in (reader.read(1 << 20) or b"").splitlines()]
        assert written == list(range(len(written)))
        log.info("a long one", extra={"text": "x" * 20_000})
        lost, long = map(json.loads, (reader.read(1 << 20) or b"").splitlines())
        assert (lost["message"], lost["lines"]) == ("lines of the log were lost: nobody read it", MANY - len(written))
        assert len(long["text"]) == 20_000


def test_a_log_that_nobody_reads_any_more_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stderr:
        logs.setup("text", stream=stderr)
        logging.getLogger("lvsagent.test").error("a line")
        logging.getLogger("lvsagent.test").error("too few for it: %s %s", "one")
    assert capfd.readouterr().err == ""


def test_a_stream_that_is_no_file_gets_its_lines() -> None:
    stream = io.StringIO()
    logs.setup("text", stream=stream)
    logging.getLogger("lvsagent.test").warning("a line", extra={"number": 1, "text": "two words"})
    assert stream.getvalue().endswith('Z WARNING a line number=1 text="two words"\n')
