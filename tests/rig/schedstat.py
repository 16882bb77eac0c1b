"""How long a process of this machine was kept waiting for a processor: what a guest calls a slow machine."""

import contextlib
from pathlib import Path


def waited(processes: Path, pid: str) -> dict[str, float]:
    """Of a process and its children in that /proc: seconds since each began for which it was ready to run and was not
    let (the second number of schedstat, Documentation/scheduler/sched-stats.rst). Without those that are gone."""
    found: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for task in (pid, *(processes / pid / "task" / pid / "children").read_text().split()):
            with contextlib.suppress(OSError):  # it ended just now
                found[task] = int((processes / task / "schedstat").read_text().split()[1]) / 1e9
    return found
