"""``make lab``: the lab that this project began with, without Kubernetes. Exit status 0: every claim was true.

Three times: both directors run lvs-agent; keepalived is dr2; keepalived is dr1. Then each lb_algo with each lb_kind,
and each health check.
They run at the same time, each on a LAN of its own, and are told one after another.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.claims import Claims
from tests.lab.checks import HTTP_PORT, TLS_PORT, ChecksStory, certificate
from tests.lab.kinds import PORTS, KindsStory
from tests.lab.mixed import MixedStory
from tests.lab.place import DIRECTORS, Place
from tests.lab.story import Story
from tests.quiet import QUIET, stretch

ALONE, KINDS, CHECKS = "none", "kinds", "checks"
STORIES: dict[str, Callable[[Path], int]] = {}
"""By name: tells it in that folder, and returns the exit status."""
LIMIT_SECONDS = 240.0
WITHIN_SECONDS = 60.0
"""On a quiet machine of two processors."""
WINDOWS = 5
"""Of the anchor: half a second."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder of logs, and say where it is")
    told = "only this one, and others after it; dr1, dr2: who runs keepalived"
    parser.add_argument("--story", choices=tuple(STORIES), action="append", help=told)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lvs-lab-"))
    try:
        return max(STORIES[name](folder / name) for name in options.story) if options.story else all_at_once(folder)
    finally:
        if options.keep:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def all_at_once(folder: Path) -> int:
    """Every story in a process of its own; what they say in their order. The worst exit status."""
    begin, before = time.monotonic(), stretch(WINDOWS)
    with contextlib.ExitStack() as stack:
        # The two short ones need no third place at the same time.
        rows = [*((name,) for name in STORIES if name not in (KINDS, CHECKS)), (KINDS, CHECKS)]
        running = [(stack.enter_context(_started(row, folder / f"{row[0]}.out")), folder / f"{row[0]}.out")
                   for row in rows]  # fmt: skip
        status = max([_follow(process, said, begin + LIMIT_SECONDS) for process, said in running])
    return max(status, judge(time.monotonic() - begin, max(before, stretch(WINDOWS)), Claims()))


def judge(seconds: float, busy: float, claims: Claims) -> int:
    """The exit status of the last claim, which a machine that others use too cannot disprove. ``busy``: the anchor of
    ``tests.quiet``, before and after."""
    figure = f"{seconds:.0f} s"
    if busy <= QUIET:
        claims.heading("All of it")
        return 0 if claims.check(f"within {WITHIN_SECONDS:.0f} s", seconds <= WITHIN_SECONDS, figure) else 1
    claims.say(
        "", f"All of it took {figure}. Not judged: others use this machine (work takes {busy:.1f} times its time)."
    )
    return 0


@contextlib.contextmanager
def _started(row: tuple[str, ...], said: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with said.open("wb") as output:
        command = [sys.executable, "-m", "tests.lab", *(word for name in row for word in ("--story", name))]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # it takes its LAN down
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        process.wait()


def _follow(process: "subprocess.Popen[bytes]", said: Path, deadline: float) -> int:
    """Print what it says until it ends; its exit status, 1 when it was not done in time."""
    with said.open("rb") as lines:
        while True:
            ended = process.poll() is not None
            if text := lines.read():
                sys.stdout.write(text.decode(errors="replace"))
                sys.stdout.flush()
            if ended:
                return process.wait()
            if time.monotonic() > deadline:
                print(f"  not done within {LIMIT_SECONDS:.0f} s")
                return 1
            time.sleep(0.1)


def _elections(keepalived: str) -> Callable[[Path], int]:
    def tell(folder: Path) -> int:
        with Place(folder, keepalived=keepalived) as place:
            return (MixedStory if keepalived else Story)(place, Claims()).tell()

    return tell


def _kinds(folder: Path) -> int:
    with Place(folder, ports=PORTS.values()) as place:
        return KindsStory(place, Claims()).tell()


def _checks(folder: Path) -> int:
    tls = ("--tls-port", str(TLS_PORT), "--certificate", str(certificate(folder)))
    with Place(folder, ports=[HTTP_PORT], tls=tls) as place:
        return ChecksStory(place, Claims()).tell()


STORIES |= {ALONE: _elections(""), **{name: _elections(name) for name in reversed(DIRECTORS)}}
STORIES |= {KINDS: _kinds, CHECKS: _checks}


if __name__ == "__main__":
    sys.exit(main())
