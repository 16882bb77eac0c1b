"""Where the files of the net tier run: in namespaces of this kernel or in guests, each once."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import places, summary
from tests.rig import guest, namespaces, record
from tests.rig.errors import CommandFailed, RigError
from tests.rig.guest import StoodStill
from tests.tally import Count

pytestmark = pytest.mark.unit
NET = Path(__file__).resolve().parents[1] / "net"
FILES = sorted(path.stem for path in NET.glob("test_*.py"))
WITHOUT_IPVS = ("lan", "filters", "macvlan")
"""What a kernel may have."""
WITH_IPVS = (*WITHOUT_IPVS, "netem", "ipvs")
NEVER_HERE = {"test_faults_resources_net", "test_faults_guard_net"}


@pytest.fixture(autouse=True)
def record_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What these runs note is none of the run that they belong to."""
    monkeypatch.setenv(record.VARIABLE, str(tmp_path / "record"))


def test_files_that_run_apart_or_first_are_there() -> None:
    assert set(places.HUNGRY) | set(places.SECONDS) <= set(FILES)


def test_files_share_a_place_until_it_takes_long_and_the_longest_place_begins_first() -> None:
    long, middle = [Path(f"{name}.py") for name in ("test_lab", "test_path_agent_net")]
    short = [Path(f"test_{number}.py") for number in range(6)]
    assert places.places([*short, middle, long]) == [[long], [middle, *short[:2]], short[2:]]
    assert places.places([]) == []


def test_what_a_file_needs_of_a_kernel_is_read_and_a_file_that_does_not_say_needs_all_that_a_kernel_shares(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test_a.py"
    path.write_text('import os\nNEEDS = ("lan", "macvlan")\n')
    assert places.needs(path) == ("lan", "macvlan")
    path.write_text('"""NEEDS = ()"""\nOTHER = ("lan",)\ndef f():\n    NEEDS = ("lan",)\n')
    assert places.needs(path) == places.OF_MOST
    assert {*places.OF_MOST, "machine"} == set(namespaces.FEATURES)


def test_only_files_without_ip_vs_say_less_than_most_and_files_that_reach_beyond_the_network_say_machine() -> None:
    said = {path: places.needs(path) for path in sorted(NET.glob("test_*.py"))}
    less = {path: words for path, words in said.items() if words not in (places.OF_MOST, ("machine",))}
    assert len(less) >= 15
    for path, words in less.items():
        assert words, path.name
        assert set(words) <= set(namespaces.FEATURES), path.name
        text = path.read_text()
        assert "lan" in words or "Lan(" not in text, path.name
        assert ("netem" in words) == ('"netem"' in text.replace('"netem")', "")), path.name
        assert not re.search(r"ipvs|adapters\.kernel|runtime|tests\.lab", text), path.name
    for path, words in said.items():
        beyond = re.search(r"cgroup\.procs|cpu\.max|clock_settime|nf_conntrack_max\"$", path.read_text(), re.MULTILINE)
        assert (words == ("machine",)) == bool(beyond) == (path.stem in NEVER_HERE), path.name


class Ran:
    """What ran where, in order; ``kernel`` among it when that was built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, able: tuple[str, ...]) -> None:
        self.here: list[str] = []
        self.guest: list[str] = []
        self.names: list[str] = []
        self.built: list[int] = []
        monkeypatch.setattr(namespaces, "has", lambda word: word in able)
        monkeypatch.setattr("tests.rig.apt.install", lambda: None)
        monkeypatch.setattr(places, "compile_all", lambda: None)
        monkeypatch.setattr(places, "prepared", lambda: self.built.append(len(self.here + self.guest)))
        monkeypatch.setattr(places, "run_in_namespaces", self._place(self.here))
        monkeypatch.setattr(places, "run_in_guest", self._place(self.guest))

    def _place(self, ran: list[str]) -> Callable[[str, str, tuple[str, ...], list[str]], Count]:
        def run(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Count:
            self.names.append(name)
            ran.extend(Path(file.partition("::")[0]).stem for file in what)
            return Count(passed=len(what))

        return run


@pytest.mark.parametrize("able", [(), WITHOUT_IPVS, WITH_IPVS])
def test_a_file_runs_in_namespaces_of_this_kernel_where_that_has_what_the_file_needs_and_else_in_a_guest(
    able: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran(monkeypatch, able)
    assert places.run_net([]) == Count(passed=len(FILES))
    assert sorted(ran.here + ran.guest) == FILES, "each once"
    assert ran.built == [0], "before anything runs that minds how busy the machine is"
    assert len(set(ran.names)) == len(ran.names), "every report has a name of its own"
    assert ("test_election_net" in ran.here) == bool(able)
    assert (set(ran.guest) == NEVER_HERE) == ("test_ipvs_net" in ran.here) == (able == WITH_IPVS)
    both = [[file for file in those if file in places.HUNGRY] for those in (ran.here, ran.guest)]
    assert sorted(both[0] + both[1]) == sorted(places.HUNGRY)
    for those, hungry in zip((ran.here, ran.guest), both, strict=True):
        assert those[len(those) - len(hungry) :] == hungry, "when the others are done"


def test_no_kernel_is_built_where_no_file_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(monkeypatch, (*WITH_IPVS, "machine"))
    assert places.run_net([]) == Count(passed=len(FILES))
    assert (ran.guest, ran.built) == ([], [])


@pytest.mark.parametrize(
    ("able", "error", "expected"),
    [
        (WITH_IPVS, RigError("no Debian archive"), Count(passed=len(FILES) - len(NEVER_HERE), skipped=len(NEVER_HERE))),
        (WITHOUT_IPVS, RigError("no Debian archive"), Count(failed=1)),
        (WITH_IPVS, CommandFailed("make: status 2"), Count(failed=1)),
    ],
)
def test_a_machine_that_cannot_boot_guests_and_has_ip_vs_runs_all_but_a_few_files_and_says_which(
    able: tuple[str, ...],
    error: RigError,
    expected: Count,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unable() -> None:
        raise error

    ran = Ran(monkeypatch, able)
    monkeypatch.setattr(places, "prepared", unable)
    assert places.run_net([]) == expected
    assert ran.guest == []
    said = capsys.readouterr().out
    assert str(error) in said
    assert all(name in said for name in NEVER_HERE if expected.skipped)


def test_selected_tests_run_in_one_guest_and_with_ip_vs_here_where_they_would_all_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = Ran(monkeypatch, WITHOUT_IPVS)
    places.run_net(["-k", "word"])
    assert (ran.names, ran.here, ran.guest) == (["net-selected"], [], [])
    ran = Ran(monkeypatch, WITH_IPVS)
    places.run_net(["-k", "word"])
    assert ran.names == ["net-selected-here", "net-selected"]
    assert sorted(ran.here + ran.guest) == FILES
    assert set(ran.guest) == NEVER_HERE


def test_what_failed_is_tried_again_where_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(monkeypatch, WITHOUT_IPVS)
    tests = [f"tests/net/{name}.py::test_x[a::b]" for name in ("test_ipvs_net", "test_election_net")]
    assert places.run_again(tests, []) == Count(passed=2)
    assert (ran.here, ran.guest) == (["test_election_net"], ["test_ipvs_net"])
    assert all(name.startswith("net-again") for name in ran.names)
    assert len(set(ran.names)) == 2
    ran = Ran(monkeypatch, WITH_IPVS)
    assert places.run_again(tests, []) == Count(passed=2)
    assert ran.names == ["net-again-here"]


@pytest.mark.parametrize("stops", [1, 2])
def test_a_kernel_that_stopped_is_given_a_second_life_and_no_third(
    stops: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "REPORTS", tmp_path)
    lives: list[int] = []

    def run(command: list[str], output: Any) -> int:
        lives.append(1)
        if len(lives) <= stops:
            raise StoodStill("the guest's kernel stopped")
        (tmp_path / "net-a.xml").write_text('<testsuites><testsuite tests="3" failures="0"/></testsuites>')
        return 0

    found = places.run_apart(run, "net", "net-a", ("tests/net/test_a.py",), [])
    assert len(lives) == 2
    assert found == (Count(passed=3) if stops == 1 else Count(failed=1))
    assert "the guest's kernel stopped\n--- once more" in capsys.readouterr().out
    again = [note.name for note in summary.notes(tmp_path / "record") if note.what == "again"]
    assert again == ["net-a: its kernel stopped"] * (2 - stops)


@pytest.mark.parametrize("beats", [True, False])
def test_a_kernel_without_a_sign_of_life_has_stopped(beats: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "STILL_SECONDS", 1.0)
    beat = "last=${@: -1}; for i in 1 2 3 4 5 6 7 8; do echo >&${last#*fd:}; sleep 0.25; done" if beats else "sleep 30"
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as out:
        said = guest._boot(["bash", "-c", beat, "kernel"], log, (out, out), 20.0)
    assert said == "" if beats else said is not None and re.match(r"sleep S \d+ ticks, ", said), said
