"""What the rig builds is built once, whole, and found again."""

import io
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.rig import cache, progress

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LVS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_one(folder: Path, _: progress.Progress) -> None:
    (folder / "thing").write_text("1")


def test_the_key_changes_with_a_files_content_and_not_with_its_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("same")
    two.write_text("same")
    assert cache.key("1.0", one) == cache.key("1.0", two)
    two.write_text("other")
    assert cache.key("1.0", one) != cache.key("1.0", two)


def test_the_key_tells_where_one_input_ends_and_the_next_begins() -> None:
    assert cache.key("ab", "c") != cache.key("a", "bc")


def test_a_thing_is_built_once_and_found_afterwards() -> None:
    def never(folder: Path, _: progress.Progress) -> None:
        raise AssertionError("built twice")

    place = cache.built("thing", "abc", write_one)
    assert cache.built("thing", "abc", never) == place
    assert (place / "thing").read_text() == "1"


def test_a_build_that_fails_leaves_nothing(cache_folder: Path) -> None:
    def fail(folder: Path, _: progress.Progress) -> None:
        (folder / "half").write_text("")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.built("thing", "abc", fail)
    assert [path.name for path in cache_folder.iterdir()] == ["locks"]


def test_the_remains_of_a_killed_build_are_swept_by_the_next(cache_folder: Path) -> None:
    remains = cache_folder / ".thing-building-x"
    remains.mkdir(parents=True)
    cache.built("thing", "abc", write_one)
    assert not remains.exists()


def test_two_at_the_same_time_build_once(capsys: pytest.CaptureFixture[str]) -> None:
    begun, count = threading.Event(), []

    def slow(folder: Path, _: progress.Progress) -> None:
        count.append(1)
        begun.set()
        time.sleep(0.2)

    first = threading.Thread(target=cache.built, args=("thing", "abc", slow))
    first.start()
    assert begun.wait(5)
    cache.built("thing", "abc", slow)
    first.join()
    assert count == [1]
    assert "waiting" in capsys.readouterr().err


def test_only_the_youngest_are_kept(cache_folder: Path) -> None:
    for number in range(4):
        place = cache.built("image", str(number), write_one, keep=2)
        assert place.is_dir()
        time.sleep(0.02)
    assert sorted(path.name for path in cache_folder.glob("image-*")) == ["image-2", "image-3"]


def test_a_line_says_how_far_it_is_and_how_long_it_takes() -> None:
    text = progress.line("kernel", "compiling, object", 500, 1000, 120.0)
    assert text == "kernel: compiling, object 500 of about 1000, 50%, about 2:00 left (2:00 so far)"


def test_more_than_expected_is_never_a_hundred_percent() -> None:
    assert "99%" in progress.line("kernel", "compiling", 1200, 1000, 60.0)


def test_the_same_activity_is_not_said_again_at_once() -> None:
    out = io.StringIO()
    meter = progress.Progress("kernel", out)
    for count in range(100):
        meter.at("compiling", count, 100)
    assert out.getvalue().count("\n") == 1


def test_each_new_activity_is_said_at_once_also_on_a_machine_that_has_just_booted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.rig.progress.time", SimpleNamespace(monotonic=lambda: 3.0))
    out = io.StringIO()
    meter = progress.Progress("kind", out)
    meter.at("creating")
    meter.at("waiting")
    assert out.getvalue() == "kind: creating (0:00 so far)\nkind: waiting (0:00 so far)\n"
