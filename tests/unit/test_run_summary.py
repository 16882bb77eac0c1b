"""The record of a run of the tests: how long, what was built, and what needed a second try."""

import time
from pathlib import Path

import pytest

from tests.rig import cache, record
from tests.rig.progress import Progress
from tests.summary import Note, notes, remember, together, told

pytestmark = pytest.mark.unit


def note(what: str, name: str, start: float, end: float, **more: object) -> Note:
    return Note(what=what, name=name, start=start, end=end, more=more)


STORY = [
    note("ran", "unit", 2, 40),
    note("tier", "unit", 0, 41, processors=36.4, count="7 passed, 0 failed"),
    note("built", "image", 0, 30),
    note("built", "disk", 30, 50),
    note("built", "pause", 50, 50.5),
    note("ran", "net-a", 60, 90),
    note("ran", "net-b", 60, 100),
    note("again", "tests/net/test_a.py::t", 90, 95, passed=True),
    note("tier", "net", 55, 100, processors=80.0, count="3 passed, 0 failed, 1 skipped"),
]


def test_the_record_tells_tiers_second_tries_and_what_was_built_and_counts_no_second_twice() -> None:
    assert told(STORY, 101.4) == [
        "  unit      7 passed, 0 failed                          41 s, 36 s of processors",
        "  net       3 passed, 0 failed, 1 skipped               45 s, 80 s of processors",
        "  needed a second try: 1 (tests/net/test_a.py::t)",
        "  built in 50 s (image 30 s, disk 20 s), ran in 78 s, both counted where at the same time; 101 s in all",
    ]


def test_a_run_without_building_and_second_tries_says_so() -> None:
    assert told(STORY[:2], 41)[1:] == ["  needed a second try: 0", "  built in 0 s, ran in 38 s; 41 s in all"]


def test_what_goes_on_within_another_adds_nothing() -> None:
    assert together([note("built", "a", 0, 10), note("built", "b", 2, 3), note("built", "c", 9, 12)]) == 12
    assert together([]) == 0


def test_second_tries_are_remembered_over_runs(tmp_path: Path) -> None:
    place = tmp_path / "again.txt"
    remember(STORY[:2], place)
    assert not place.exists()
    remember(STORY, place)
    remember([note("again", "tests/e2e/test_b.py::t", 0, 1, passed=False)], place)
    lines = [line.split(" ", 2)[2] for line in place.read_text().splitlines()]
    assert lines == ["tests/net/test_a.py::t passed", "tests/e2e/test_b.py::t failed again"]


def test_what_is_built_is_noted_once_and_nothing_where_nobody_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "record"
    monkeypatch.setenv("LVS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(record.VARIABLE, raising=False)

    def build(folder: Path, progress: Progress) -> None: ...

    cache.built("thing", "1", build)
    assert notes(place) == []
    monkeypatch.setenv(record.VARIABLE, str(place))
    begin = time.monotonic()
    for identity in ("1", "2", "2"):
        cache.built("thing", identity, build)
    (found,) = notes(place)
    assert (found.what, found.name, found.more) == ("built", "thing", {})
    assert begin <= found.start <= found.end <= time.monotonic()
