"""The last line of a test run counts what happened, and never hides a run that died."""

import runpy
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import summary
from tests.rig import record
from tests.rig.errors import RigError
from tests.tally import Count, count, failures, said_count

pytestmark = pytest.mark.unit
RUNNER: dict[str, Any] = runpy.run_path(str(Path(__file__).resolve().parents[1] / "run.py"))


@pytest.fixture(autouse=True)
def record_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What these runs note is none of the run that they belong to."""
    monkeypatch.setenv(record.VARIABLE, str(tmp_path / "record"))


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


def test_what_failed_is_named_as_it_is_run_again_and_what_passed_is_not(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.net.test_a" name="test_good"/>'
        '<testcase classname="tests.net.test_a" name="test_bad[a b]"><failure/></testcase>'
        '<testcase classname="tests.net.test_b" name="test_no_fixture"><error/></testcase>'
        "</testsuite></testsuites>"
    )
    assert failures(path) == ["tests/net/test_a.py::test_bad[a b]", "tests/net/test_b.py::test_no_fixture"]
    assert failures(tmp_path / "none.xml") == []


@pytest.mark.parametrize(("bad", "second", "expected"), [(1, 1, "3 passed, 0 failed"), (1, 0, "2 passed, 1 failed"),
                                                         (2, 1, "2 passed, 1 failed")])  # fmt: skip
def test_only_what_passes_the_second_time_is_credited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, second: int, expected: str
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Any:
        asked.append(what)
        failed = range(second, bad) if what else range(bad)
        cases = "".join(
            f'<testcase classname="tests.e2e.test_a" name="t{n}">{"<failure/>" * (n in failed)}</testcase>'
            for n in range(bad)
        )
        (tmp_path / f"{name}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
        return Count(passed=second, failed=bad - second) if what else Count(passed=3 - bad, failed=bad)

    monkeypatch.setitem(RUNNER["run_tier"].__globals__, "run_here", run)
    monkeypatch.setitem(RUNNER["run_tier"].__globals__, "REPORTS", tmp_path)
    assert str(RUNNER["run_tier"]("e2e", [], lambda: asked.append(("alone",)))) == expected
    names = [f"tests/e2e/test_a.py::t{n}" for n in range(bad)]
    assert asked == [(), ("alone",), tuple(names)]
    found = summary.notes(tmp_path / "record")
    assert [(note.name, note.more["passed"]) for note in found if note.what == "again"] == [
        (name, place < second) for place, name in enumerate(names)
    ]
    assert [note.more["count"] for note in found if note.what == "tier"] == [expected]


def test_a_tier_that_died_or_fails_all_over_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = RUNNER["MOST_AGAIN"] + 1
    asked: list[tuple[str, ...]] = []

    def run(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Any:
        asked.append(what)
        return Count(passed=len(what), failed=0 if what else most)

    def die(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Any:
        asked.append(what)
        return Count(failed=1)

    monkeypatch.setitem(RUNNER["run_tier"].__globals__, "run_here", die)
    monkeypatch.setitem(RUNNER["run_tier"].__globals__, "REPORTS", tmp_path)
    assert RUNNER["run_tier"]("e2e", []).failed == 1
    assert asked == [()], "no test is named, so there is none to repeat"
    many = tmp_path / "many"
    many.mkdir()
    cases = "".join(f'<testcase classname="tests.e2e.test_a" name="t{n}"><failure/></testcase>' for n in range(most))

    def fail(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Any:
        (many / f"{name}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
        return run(tier, name, what, extra)

    monkeypatch.setitem(RUNNER["run_tier"].__globals__, "REPORTS", many)
    monkeypatch.setitem(RUNNER["run_tier"].__globals__, "run_here", fail)
    assert RUNNER["run_tier"]("e2e", []).failed == most
    assert asked == [(), ()]


@pytest.mark.parametrize(("found", "status"), [(Count(passed=2), 0), (Count(passed=2, failed=1), 1), (Count(), 1)])
def test_the_exit_status_is_good_only_when_something_ran_and_nothing_failed(
    found: Any, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RUNNER["main"].__globals__, "run_tier", lambda tier, extra: found)
    monkeypatch.setitem(RUNNER["main"].__globals__, "REPORTS", tmp_path)
    monkeypatch.setitem(RUNNER["main"].__globals__, "RECORD", tmp_path / "record")
    monkeypatch.chdir(tmp_path)
    for part in (False, True):
        monkeypatch.setenv(record.VARIABLE, str(tmp_path / "another"))
        if not part:
            monkeypatch.delenv(record.VARIABLE)
        assert RUNNER["main"](["e2e"]) == status
        said = capsys.readouterr().out.splitlines()
        assert said[-1] == str(found)
        assert ("=== this run" in said) == (not part), "told once, by the run that has all others in it"


def test_the_last_line_of_a_tier_that_ran_beside_others_is_counted_and_a_missing_one_is_a_failure() -> None:
    assert said_count("7 passed, 0 failed", 0) == Count(passed=7)
    assert said_count("7 passed, 2 failed, 1 skipped", 1) == Count(passed=7, failed=2, skipped=1)
    assert said_count("7 passed, 0 failed", 1) == Count(passed=7, failed=1)
    assert said_count("Killed", 137) == Count(failed=1)


def stub(monkeypatch: pytest.MonkeyPatch, executable: str) -> dict[str, Any]:
    """The runner, whose tiers in processes of their own are that program."""
    scope: dict[str, Any] = RUNNER["run_beside"].__globals__
    monkeypatch.setitem(scope, "environment_of", lambda tier: {})
    monkeypatch.setitem(scope, "compile_all", lambda: None)
    monkeypatch.setitem(scope, "sys", SimpleNamespace(executable=executable))
    return scope


@pytest.mark.parametrize(("program", "failed"), [("true", 0), ("false", 2)])
def test_the_quick_tiers_run_in_what_the_cluster_leaves_and_each_counts(
    program: str, failed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = stub(monkeypatch, program)
    monkeypatch.setitem(scope, "run_tier", lambda tier, extra, alone: Count(passed=5))
    assert RUNNER["run_beside"]("e2e", ["unit", "sim"], []) == Count(passed=5, failed=failed)
    with RUNNER["running_together"](["unit", "sim"], []) as wait:
        assert wait() == Count(failed=failed)
        assert wait() == Count(), "once"


def test_the_second_try_of_the_cluster_waits_for_what_runs_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tier"
    program.write_text("#!/bin/sh\nsleep 0.2; echo ended >>" + str(tmp_path / "ended") + "\n")
    program.chmod(0o755)
    scope = stub(monkeypatch, str(program))

    def tier(name: str, extra: list[str], alone: Any) -> Count:
        assert not (tmp_path / "ended").exists()
        alone()
        assert (tmp_path / "ended").read_text() == "ended\n" * 2
        return Count(passed=1)

    monkeypatch.setitem(scope, "run_tier", tier)
    assert RUNNER["run_beside"]("e2e", ["unit", "sim"], []) == Count(passed=1)


def test_what_runs_beside_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tier"
    program.write_text(f"#!/bin/sh\nsleep 60 &\necho $! >{tmp_path}/pid; wait\n")
    program.chmod(0o755)
    scope = stub(monkeypatch, str(program))

    def interrupted(name: str, extra: list[str], alone: Any) -> Count:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setitem(scope, "run_tier", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RUNNER["run_beside"]("e2e", ["unit"], [])
    stat, end = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat"), time.monotonic() + 10.0
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":  # what is killed dies when it runs
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nothing_begins_when_the_cluster_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tier: str) -> dict[str, str]:
        raise RigError("the kernel cannot be built")

    monkeypatch.setitem(stub(monkeypatch, "true"), "environment_of", broken)
    assert RUNNER["run_beside"]("e2e", ["unit"], []) == Count(failed=1)
