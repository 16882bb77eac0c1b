"""A load run in another process (and another host), seen from here."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.rig.patience import patient

from .report import Report

TESTS = Path(__file__).resolve().parent.parent


def command(
    target: str, *, rate: float, hold: int, duration: float, timeout: float = 0.5, period: float = 1.0
) -> list[str]:
    """The command line for the client host. It needs ``environment()``, and pipes at standard input and output."""
    return [
        sys.executable,
        *("-m", "load", "--events", "--target", target),
        *("--rate", str(rate), "--timeout", str(timeout), "--duration", str(duration)),
        *("--hold", str(hold), "--period", str(period)),
    ]


def environment() -> dict[str, str]:
    """What the command line needs in its environment."""
    return {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"}


class LoadFailed(AssertionError):
    """The load tool ended without a report."""


class LoadRun:
    """A running load. Leaving the context ends it."""

    def __init__(self, start: Callable[[Sequence[str]], "subprocess.Popen[bytes]"], argv: Sequence[str]) -> None:
        self._process = start(argv)
        self._lock = threading.Condition()
        self._progress: Mapping[str, Any] = {"held": 0, "alive": 0, "new": 0, "held_by": {}, "alive_by": {}}
        self._report: Report | None = None
        self._over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def progress(self) -> Mapping[str, Any]:
        """The last progress line (see ``load.__main__.progress``)."""
        with self._lock:
            return self._progress

    def wait_until(self, told: Callable[[Mapping[str, Any]], bool], seconds: float) -> bool:
        """Until a progress line is as told, or the time is over, or the run is."""
        with self._lock:
            self._lock.wait_for(lambda: self._over or told(self._progress), patient(seconds))
            return told(self._progress)

    def report(self, seconds: float = 10.0) -> Report:
        """The report so far of a run that goes on. Raises LoadFailed when there is none in time."""
        with self._lock:
            self._report = None
            assert self._process.stdin is not None
            self._process.stdin.write(b"report\n")
            self._process.stdin.flush()
            self._lock.wait_for(lambda: self._over or self._report is not None, patient(seconds))
            found, self._report = self._report, None
        if found is None:
            raise LoadFailed("the load tool gave no report")
        return found

    def stop(self, seconds: float = 15.0) -> Report:
        """End the run and take its report. Raises LoadFailed when there is none."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        return self.wait(seconds)

    def wait(self, seconds: float) -> Report:
        """The report of a run that ends by itself. Raises LoadFailed when there is none in time."""
        self._reader.join(patient(seconds))
        if self._report is None:
            self.close()
            raise LoadFailed(f"the load tool gave no report (exit status {self._process.poll()})")
        self.close()
        return self._report

    def close(self) -> None:
        """End the process. May be called twice."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(2.0)
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith(b"{"):
                continue
            told = json.loads(line)
            with self._lock:
                if told["kind"] == "report":
                    self._report = Report.from_json(told["report"])
                else:
                    self._progress = told
                self._lock.notify_all()
        with self._lock:
            self._over = True
            self._lock.notify_all()
