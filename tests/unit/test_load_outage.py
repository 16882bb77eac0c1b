"""A crash as the cluster's tests judge it: what fails too late is red, unless the machine was seen standing still."""

from pathlib import Path

import pytest

from tests.demo.witness import stalls, waiting
from tests.load.outage import Outage, Stall, Stalls, of_the_client, standstill, worst
from tests.load.report import Attempt, Held, Report
from tests.rig.schedstat import waited

pytestmark = pytest.mark.unit

CRASH = 100.0
QUIET: Stalls = {"this machine": (), "node2": ()}


def attempt(after: float, failure: str = "", latency: float = 0.0) -> Attempt:
    """One that began so long after the crash."""
    return Attempt(CRASH + after, latency or (2.5 if failure == "timeout" else 0.01), failure, "", "", "192.0.2.1:4711")


def outage(*failed: Attempt, places: Stalls = QUIET) -> Outage:
    """50 a second from two seconds before the crash until ten after it, in whose place these failed."""
    starts = {round(one.start, 2) for one in failed}
    well = [attempt(number / 50) for number in range(-100, 500) if round(CRASH + number / 50, 2) not in starts]
    return Outage(Report("t", 0.0, CRASH + 10.0, (*well, *failed), ()), CRASH, CRASH + 10.0, places)


def moment() -> list[Attempt]:
    """What a good crash costs."""
    return [attempt(number / 50, "timeout") for number in range(15)]


def test_failures_of_the_first_half_second_are_not_late() -> None:
    found = outage(*moment())
    assert found.late == ()
    assert found.last == pytest.approx(0.28)
    assert found.failed.count == 15
    assert found.answered_in_time


@pytest.mark.parametrize("after", [0.52, 3.0, 7.2])
def test_one_single_connection_that_fails_later_is_late_and_is_told(after: float) -> None:
    found = outage(*moment(), attempt(after, "timeout"))
    assert [late.after for late in found.late] == [pytest.approx(after)]
    assert found.last == pytest.approx(after)
    assert f"1 too late, the first 192.0.2.1:4711 began after {after:.2f} s: timeout after 2.50 s" in str(found)


def test_time_in_which_the_machine_stood_still_does_not_count() -> None:
    late = attempt(0.9, "reset")
    assert outage(late).late
    assert outage(late, places={"node2": (Stall(CRASH + 0.1, CRASH + 0.4),)}).late
    assert not outage(late, places={"node2": (Stall(CRASH + 0.1, CRASH + 0.55),)}).late
    assert outage(late, places={"node2": (Stall(CRASH + 0.95, CRASH + 3.0),)}).late, "it stood still afterwards"


def test_a_connection_that_had_less_than_half_of_its_time_proves_nothing() -> None:
    late = attempt(5.0, "timeout")
    stood = {"node2": (Stall(CRASH + 5.1, CRASH + 5.9), Stall(CRASH + 6.5, CRASH + 7.0))}
    assert not outage(late, places=stood).late
    assert outage(late, places={"node2": stood["node2"][:1]}).late


def test_a_reset_is_an_answer_and_only_a_machine_that_hardly_ran_explains_it() -> None:
    late = attempt(7.0, "reset")
    assert outage(late, places={"node2": (Stall(CRASH + 4.2, CRASH + 7.0),)}).late
    assert not outage(late, places={"node2": (Stall(CRASH + 3.8, CRASH + 7.0),)}).late


def test_an_answer_that_took_more_than_a_second_is_a_failure_which_a_moment_of_standstill_explains() -> None:
    found = outage(attempt(5.0, latency=1.02))
    assert [late.attempt.failure for late in found.late] == ["answered late"]
    assert found.failed.count == 1
    assert found.strays == pytest.approx(1 / found.failed.of)
    assert outage(attempt(5.0, latency=1.02), places={"node2": (Stall(CRASH + 5.1, CRASH + 5.3),)}).late
    assert not outage(attempt(5.0, latency=1.02), places={"node2": (Stall(CRASH + 5.1, CRASH + 5.5),)}).late
    assert not outage(attempt(5.0, latency=0.98)).failed.count


def test_an_address_that_nobody_answered_for_was_asked_for_before() -> None:
    late = attempt(5.0, "unreachable")
    assert outage(late).late
    assert outage(late, places={"node2": (Stall(CRASH + 4.0, CRASH + 5.0),)}).late
    assert not outage(late, places={"node2": (Stall(CRASH + 2.5, CRASH + 4.5),)}).late


def test_what_is_still_on_its_way_at_the_end_is_not_judged() -> None:
    assert not outage(attempt(7.6, "timeout")).late


def held(failure: str, after: float) -> Held:
    return Held(0, "a", "192.0.2.1:1", "192.0.2.1:1", 0.0, 3, CRASH + after - 12.0, 0.1, failure, CRASH + after)


@pytest.mark.parametrize(
    ("stood", "lost"),
    [
        ((0.0, 0.0), ["timeout", "reset"]),
        ((0.0, 4.0), ["timeout", "reset"]),
        ((0.0, 6.0), ["reset"]),
        ((6.0, 10.0), ["timeout"]),
        ((2.0, 10.0), []),
    ],
)
def test_a_held_connection_is_lost_unless_the_machine_stood_still(stood: tuple[float, float], lost: list[str]) -> None:
    all_of_them = (held("timeout", 9.5), held("reset", 9.5), held("reset", -0.5), held("", 0.0))
    report = Report("t", 0.0, CRASH + 10.0, (), all_of_them)
    places = {"node2": (Stall(CRASH + stood[0], CRASH + stood[1]),)}
    assert [one.failure for one in Outage(report, CRASH, CRASH + 10.0, places).lost] == lost


def test_the_gap_is_judged_in_time_in_which_the_machine_ran() -> None:
    silent = [attempt(number / 50, "timeout") for number in range(60)]
    assert not outage(*silent).answered_in_time
    assert outage(*silent, places={"client": (Stall(CRASH + 0.2, CRASH + 0.5),)}).answered_in_time
    assert outage(*silent[:40]).answered_in_time


def test_the_worst_place_counts_and_only_within_the_window() -> None:
    places = {"a": (Stall(1.0, 2.0), Stall(3.0, 3.25)), "b": (Stall(0.0, 1.5),)}
    assert standstill(places["a"], 1.5, 3.125) == pytest.approx(0.625)
    assert worst(places, 1.0, 4.0) == (1.25, "a")
    assert worst(places, 0.0, 1.5) == (1.5, "b")
    assert worst({}, 0.0, 9.0) == (0.0, "")


def test_a_client_that_does_not_keep_to_its_timetable_stood_still() -> None:
    late = [attempt(0.0), attempt(0.02), attempt(0.54), attempt(0.545), attempt(0.58)]
    (stall,) = of_the_client(reversed(late), 50.0)
    assert [stall.begin, stall.end] == pytest.approx([CRASH + 0.04, CRASH + 0.54])


def test_what_a_nodes_processor_waited_for_is_that_of_all_its_processes(tmp_path: Path) -> None:
    for pid, nanoseconds in (("7", 1_500_000_000), ("8", 250_000_000), ("9", 99)):
        (tmp_path / pid / "task" / pid).mkdir(parents=True)
        (tmp_path / pid / "schedstat").write_text(f"123 {nanoseconds} 4\n")
    (tmp_path / "7" / "task" / "7" / "children").write_text("8 10 ")  # 10 is gone
    assert waited(tmp_path, "7") == {"7": 1.5, "8": 0.25}
    assert waited(tmp_path, "11") == {}


def test_what_a_processor_waited_for_between_two_looks_is_put_at_the_end_of_the_time_between() -> None:
    before = {"7": 1.5, "8": 0.25, "9": 70.0}
    stall = waiting(before, {"7": 1.53, "8": 0.25, "11": 0.01}, 5.0, 5.1)
    assert [stall.begin, stall.end] == pytest.approx([5.06, 5.1])
    assert waiting(before, {"7": 9.0}, 5.0, 5.1) == Stall(5.0, 5.1)
    assert waiting(before, {}, 5.0, 5.1) == Stall(5.1, 5.1)


def test_a_place_that_sleeps_too_long_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    monkeypatch.setattr("time.monotonic", lambda: 10.0)
    (stall,) = stalls("1000500000 1000900000\n", 0.25)
    assert [stall.begin, stall.end] == pytest.approx([10.27, 10.65])
