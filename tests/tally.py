"""What a run of tests came to, in numbers."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LAST = re.compile(r"\d+ passed, \d+ failed(, \d+ skipped)?$")
"""The last line of a run."""


@dataclass(frozen=True)
class Count:
    """What one tier came to."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def count(report: Path, status: int) -> Count:
    """From a JUnit report. A run that died without one, or with a bad status and no failure in it, is one failure."""
    total = Count()
    if report.exists():
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            total += Count(max(0, ran - failed - skipped), failed, skipped)
    empty = status == 5 and total == Count()
    if status != 0 and not empty and total.failed == 0:
        total += Count(failed=1)
    return total


def failures(report: Path) -> list[str]:
    """What failed, as pytest is told to run it."""
    return [name for name, bad in _outcomes(report) if bad]


def passes(report: Path) -> list[str]:
    """What did not fail, skipped tests among them."""
    return [name for name, bad in _outcomes(report) if not bad]


def _outcomes(report: Path) -> Iterator[tuple[str, bool]]:
    if not report.exists():
        return
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        yield f"{(case.get('classname') or '').replace('.', '/')}.py::{case.get('name')}", bad


def said_count(line: str, status: int) -> Count:
    """From the last line of a run. One that died without it is one failure."""
    numbers = (
        {word: int(number) for number, word in (part.split() for part in line.split(", "))} if LAST.match(line) else {}
    )
    found = Count(**numbers)
    return found if found.failed or status == 0 else found + Count(failed=1)
