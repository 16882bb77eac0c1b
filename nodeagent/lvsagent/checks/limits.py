"""What the process may use: how many questions at a time, how many bytes of bodies, how much of the processors."""

import logging
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

MOST_OPEN: Final = 8192
"""Questions at a time, whatever the limit of files is: 8192 connections are about 30 MB of the kernel's memory."""
SPARE_FILES: Final = 128
"""For the rest of the process: pipes, log, a command's three."""
MOST_BODIES: Final = 64 << 20
"""Bytes of bodies held at a time, all questions together."""
NICE: Final = 2
"""A little behind the agent: where processors are short, late checks are late verdicts."""
OOM_SCORE: Final = 500
"""When memory ends, the kernel takes this process first: the agent starts it again and keeps the last verdicts."""

_log = logging.getLogger(__name__)


def most_open() -> int:
    """How many questions may be open. Raises the soft limit of files as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN + SPARE_FILES
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        soft = reachable
    most = MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, soft - SPARE_FILES))
    if most < MOST_OPEN:
        _log.info("the limit of open files bounds the questions at a time", extra={"questions": most, "files": soft})
    return most


def stand_back() -> None:
    """Never of the election's scheduler, behind the agent, first to go when memory ends."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


class Bytes:
    """What all bodies that are being read hold together."""

    def __init__(self, most: int = MOST_BODIES) -> None:
        self._left = most

    def take(self, count: int) -> bool:
        """May so many more be held? Then they must be given back."""
        if count > self._left:
            return False
        self._left -= count
        return True

    def give(self, count: int) -> None:
        """They are gone."""
        self._left += count


BODIES: Final = Bytes()
