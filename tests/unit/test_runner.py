"""The last line of a test run counts what happened, and never hides a run that died."""

import runpy
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unit
RUNNER: dict[str, Any] = runpy.run_path(str(Path(__file__).resolve().parents[1] / "run.py"))
count, Count = RUNNER["count"], RUNNER["Count"]


def report(folder: Path, **numbers: int) -> Path:
    path = folder / "report.xml"
    attributes = " ".join(f'{name}="{value}"' for name, value in numbers.items())
    path.write_text(f"<testsuites><testsuite {attributes}/></testsuites>")
    return path


def test_errors_count_as_failures_and_skipped_tests_as_neither(tmp_path: Path) -> None:
    found = count(report(tmp_path, tests=10, failures=1, errors=2, skipped=3), 1)
    assert found == Count(passed=4, failed=3, skipped=3)


def test_a_run_that_died_without_a_report_is_a_failure(tmp_path: Path) -> None:
    assert count(tmp_path / "none.xml", 139) == Count(failed=1)


def test_a_bad_status_after_passing_tests_is_a_failure(tmp_path: Path) -> None:
    assert count(report(tmp_path, tests=2), 3) == Count(passed=2, failed=1)


def test_an_empty_tier_is_nothing(tmp_path: Path) -> None:
    assert count(report(tmp_path, tests=0), 5) == Count()


def test_the_last_line_names_skipped_tests_only_when_there_are_some() -> None:
    assert str(Count(passed=3)) == "3 passed, 0 failed"
    assert str(Count(passed=3, skipped=1)) == "3 passed, 0 failed, 1 skipped"
