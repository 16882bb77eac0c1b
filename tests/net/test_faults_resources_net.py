"""What a node runs out of: rows 8-10 of docs/faults.md (10 has a unit half). They take all processors."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.faults import LOSSLESS as OFTEN
from tests.net.faults import Directors, hogs, pid_of, replaced, scaled

pytestmark = pytest.mark.net
NEEDS = ("machine",)

CGROUP = Path("/sys/fs/cgroup")
WITHOUT_NICE = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")
"""No SCHED_RR: as in a container without CAP_SYS_NICE."""


def test_fault_08_eight_hogs_move_nothing(directors: Directors) -> None:
    """The row asks for 60 s and p99.9 of 5 ms, which `make bench` measures; here 4 s."""
    seconds = scaled(4, 60)
    directors.stand(lambda: hogs(8, seconds + 5), seconds)
    assert directors.dr1.statistics().realtime


def test_fault_08_eight_hogs_move_nothing_without_realtime_either(directors: Directors) -> None:
    def prepare() -> None:
        for host in directors.hosts:
            replaced(host, *WITHOUT_NICE)

    seconds = scaled(3, 60)
    directors.stand(lambda: hogs(8, seconds + 5), seconds, prepare, **OFTEN)
    assert not directors.dr1.statistics().realtime
    assert directors.dr1.log.count("runs without real-time priority") >= 1


@contextlib.contextmanager
def quota(percent: int) -> Iterator[Path]:
    """A control group that gets so much of one processor."""
    (CGROUP / "cgroup.subtree_control").write_text("+cpu")
    group = CGROUP / f"faults{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.max").write_text(f"{percent * 1000} 100000")
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (CGROUP / "cgroup.procs").write_text(pid)
        group.rmdir()


def test_fault_09_a_quota_shared_with_a_busy_sibling_moves_nothing(directors: Directors) -> None:
    """20 % of a processor, and no CAP_SYS_NICE: one warning, ``realtime`` false. The row names no time; here 4 s."""
    log, seconds = 0, scaled(4, 60)

    def prepare() -> None:
        nonlocal log
        log = len(directors.dr1.log)
        replaced(directors.dr1, *WITHOUT_NICE)

    @contextlib.contextmanager
    def throttled() -> Iterator[None]:
        with quota(20) as group, hogs(1, seconds + 5) as busy:
            for pid in (pid_of(directors.dr1), *busy):
                (group / "cgroup.procs").write_text(str(pid))
            yield
            statistics = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
            assert int(statistics["nr_throttled"]) > 5 * seconds, "the group was out of time in most periods"

    directors.stand(throttled, seconds, prepare)
    assert not directors.dr1.statistics().realtime
    assert directors.dr1.log[log:].count("runs without real-time priority") == 1


def test_fault_10_a_million_objects_parsed_beside_it_are_another_process(directors: Directors) -> None:
    """The unit half shows that nothing of the parser can be in the election's process."""
    work = "import json; text = '[' + '{},' * 1_000_000 + '{}]'; assert len(json.loads(text)) > 1_000_000; print('ok')"
    log = directors.folder / "parser.log"

    @contextlib.contextmanager
    def parser() -> Iterator[None]:
        process = directors.run_aside("dr1", ["python3", "-c", work], log=log)
        yield
        process.wait(60)

    directors.stand(parser, 2.0)
    assert log.read_text().startswith("ok\n")
