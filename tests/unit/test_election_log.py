"""The election's log: a sentence and its fields, and never a reason to wait or to end."""

import contextlib
import json
import os
import signal
import socket
import sys

import pytest

from lvsagent.election.log import LONGEST, Log

pytestmark = pytest.mark.unit


def test_a_line_is_a_sentence_and_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    Log("text")("state", router="lab", state="Active")
    Log("json")("state", router="lab")
    text, structured = capsys.readouterr().err.splitlines()
    assert text == "state router=lab state=Active"
    assert json.loads(structured)["message"] == "state"
    assert json.loads(structured)["router"] == "lab"


def test_a_log_that_nobody_reads_any_more_does_not_end_the_election(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = socket.socketpair()
    reader.close()
    with writer, writer.makefile("w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        Log()("state")
        Log()("state")
        with contextlib.suppress(OSError):
            stream.close()


def waited(*_signal: object) -> None:
    raise AssertionError("it waits for the reader, who never comes")


def test_a_log_whose_reader_hangs_costs_lines_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stderr, os.fdopen(reading, "rb", buffering=0) as reader:
        os.set_blocking(reading, False)
        monkeypatch.setattr(sys, "stderr", stderr)
        before = signal.signal(signal.SIGALRM, waited)
        signal.setitimer(signal.ITIMER_REAL, 5.0)
        try:
            log = Log()
            for number in range(20_000):
                log("a line", number=number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
        written = (reader.read(1 << 20) or b"").decode().splitlines()
        assert written == [f"a line number={number}" for number in range(len(written))]
        log("a long one", text="x" * 100_000)
        lost, long = (reader.read(1 << 20) or b"").decode().splitlines()
        assert lost == f"lines of the log were lost: nobody read it lines={20_000 - len(written)}"
        assert len(long) == LONGEST - 1


def test_what_others_can_provoke_is_said_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    for now in (0.0, 9.9, 10.0):
        log.seldom(now, "10.0.0.1", "an advert was dropped", at=now)
    log.seldom(0.0, "10.0.0.2", "an advert was dropped", at="other")
    assert [line.split("=")[1] for line in capsys.readouterr().err.splitlines()] == ["0.0", "10.0", "other"]
