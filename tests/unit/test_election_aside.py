"""What the election's thread does not wait for: other threads, and a disk that hangs."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election import aside
from lvsagent.election.wish import Keeper, WishStore

pytestmark = pytest.mark.unit

WISH = ipc.Configure(generation=7, routers=(), node="dr1")
PROMISE = """
import os, threading
from lvsagent.election import aside
from lvsagent.election.__main__ import _request_realtime
granted = _request_realtime(print)
done = threading.Event()
aside.do(lambda: (print(os.sched_getscheduler(0) == os.SCHED_RR), done.set()))
done.wait(10)
print(granted)
"""


@pytest.fixture
def patient_interpreter() -> Iterator[None]:
    """A thread keeps the interpreter until it waits for something."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(30.0)
    yield
    sys.setswitchinterval(before)


def test_the_elections_thread_does_not_wait_until_the_other_one_runs(patient_interpreter: None) -> None:
    """On a busy node that took up to 286 ms."""
    done, order = threading.Event(), list[str]()

    def work() -> None:
        order.append("work")
        done.set()

    aside.do(work)
    order.append("on")
    assert done.wait(10)
    assert order == ["on", "work"]


def test_a_thread_that_has_the_interpreter_waits_for_no_processor_either() -> None:
    """Where real-time priority is granted; elsewhere neither has it."""
    said = subprocess.run([sys.executable, "-c", PROMISE], capture_output=True, text=True, check=True).stdout
    inherited, granted = said.splitlines()[-2:]
    assert inherited == granted


# --- a disk that hangs ---------------------------------------------------------------------------------------------


class Disk:
    """A state folder whose file is written when ``thaw`` is called: whoever opens a FIFO waits for its reader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state"
        self.folder.mkdir()
        self.pipe = self.folder / "election.tmp"
        os.mkfifo(self.pipe)
        self.log: list[str] = []
        (folder / "boot_id").write_text("one\n")
        self.store = WishStore(self.folder, self._line, folder / "boot_id")
        self.keeper = Keeper(self.store)

    def _line(self, sentence: str, **_fields: object) -> None:
        self.log.append(sentence)

    def begin(self, wish: ipc.Configure) -> None:
        """Until the disk was asked to write it."""
        self.keeper.save(wish)
        end = time.monotonic() + 10
        while self.keeper._next is not None:
            assert time.monotonic() < end
            time.sleep(0.001)

    def thaw(self) -> str:
        return self.pipe.read_text()

    def kept(self) -> ipc.Configure | None:
        self.keeper.wait(10)
        return self.store.load()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_fault_13_a_disk_that_hangs_holds_up_nobody_and_keeps_the_last_wish(disk: Disk) -> None:
    saving = threading.Thread(target=disk.begin, args=(WISH,), daemon=True)
    saving.start()
    saving.join(5)
    held_up = saving.is_alive()
    if not held_up:
        disk.keeper.save(replace(WISH, node="dr2"))
        disk.keeper.save(replace(WISH, node="dr3"))
        disk.keeper.wait(0.05)
    assert '"dr1"' in disk.thaw()
    assert not held_up
    assert disk.kept() == replace(WISH, node="dr3", generation=-1)
    assert sorted(each.name for each in disk.folder.iterdir()) == ["election.json"]


def test_a_wish_that_comes_back_while_another_one_is_on_its_way_is_what_is_kept(disk: Disk) -> None:
    disk.begin(WISH)
    disk.keeper.save(replace(WISH, node="dr2"))
    disk.keeper.save(WISH)
    disk.thaw()
    assert disk.kept() == replace(WISH, generation=-1)


def test_what_could_not_be_written_aside_is_tried_again_with_the_next_wish(disk: Disk) -> None:
    disk.pipe.unlink()
    disk.pipe.mkdir()
    disk.keeper.save(WISH)
    disk.keeper.wait(10)
    disk.keeper.save(WISH)
    assert disk.kept() is None
    disk.pipe.rmdir()
    disk.keeper.save(WISH)
    assert disk.kept() == replace(WISH, generation=-1)
    assert len(disk.log) == 1
