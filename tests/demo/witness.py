"""How much of the time a machine stands still, so that a bound of seconds can be the real one: what a busy machine adds
to it is measured in the same run.

Processes that only sleep, on this machine and on each node: when one runs late, so does everybody there. And how long
each node's own processor had to wait for one of this machine's, which a sleeper, who is let in first, hardly sees.
"""

import contextlib
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tests.load.outage import Stall, Stalls, worst
from tests.rig.cluster import Cluster
from tests.rig.errors import RigError

# Prints the wall clock before and after a sleep that took 50 ms, not 20, until the file of that name is there or its
# time is over. No process is started in the loop: on a node 1 % of a processor.
SLEEP = """
exec 9<> <(:); end=$((SECONDS + $1)); before=${EPOCHREALTIME/[.,]/}
while [ $SECONDS -lt $end ] && [ ! -e "$2" ]; do
  read -rt 0.02 -u 9
  now=${EPOCHREALTIME/[.,]/}
  if [ $((now - before)) -gt 50000 ]; then echo "$before $now"; fi
  before=$now
done
"""
PERIOD = 0.02
LOOK = 0.1
"""Seconds between two looks at what the nodes' processors waited for."""
HERE = "this machine"
NUMBERS = itertools.count()


class Witness:
    """A context manager. ``stalls`` is complete after it."""

    def __init__(self, cluster: Cluster, nodes: Sequence[str], seconds: float) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._seconds = int(seconds) + 1
        self._over = f"/run/lvs-witness-{os.getpid()}-{next(NUMBERS)}"
        self._threads: dict[str, threading.Thread] = {}
        self._stalls: dict[str, tuple[Stall, ...]] = {}
        self._waits: dict[str, list[Stall]] = {}
        self._ended = threading.Event()
        self._looker = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["bash", "-c", SLEEP, "sleep", str(self._seconds), self._over],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._looker.start()
        for node in self._nodes:
            # Of a node that dies no end is heard: nobody waits for that.
            self._threads[node] = threading.Thread(target=self._watch, args=(node,), daemon=True)
            self._threads[node].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._looker.join()
        self._process.terminate()
        self._stalls[HERE] = stalls(self._process.communicate()[0], 0.0)
        with ThreadPoolExecutor(len(self._nodes)) as pool:
            living = [node for node, told in zip(self._nodes, pool.map(self._end, self._nodes), strict=True) if told]
        for node in living:
            self._threads[node].join()

    @property
    def stalls(self) -> Stalls:
        """Of this machine, of the nodes that ran all the time, and of the processors of all."""
        return {**self._stalls, **{f"{node}'s processor": tuple(waits) for node, waits in self._waits.items()}}

    def stood(self, since: float, until: float, nodes: Sequence[str]) -> float:
        """Seconds of the window for which this machine, or one of these nodes, stood still at worst."""
        ours = (HERE, *nodes, *(f"{node}'s processor" for node in nodes))
        return worst({place: found for place, found in self.stalls.items() if place in ours}, since, until)[0]

    def _look(self) -> None:
        before = {node: self._cluster.waited(node) for node in self._cluster.nodes}
        at = time.monotonic()
        while not self._ended.wait(LOOK):
            began, at = at, time.monotonic()
            for node in self._cluster.nodes:
                now = self._cluster.waited(node)
                self._waits.setdefault(node, []).append(waiting(before[node], now, began, at))
                before[node] = now

    def _end(self, node: str) -> bool:
        """The node has been told."""
        try:
            self._cluster.on_node(node, ["touch", self._over])
        except (RigError, OSError):
            return False
        return True

    def _watch(self, node: str) -> None:
        with contextlib.suppress(RigError, OSError):  # a node that dies says nothing more
            ahead = clock_offset(self._cluster, node)
            command = ["bash", "-c", f'{SLEEP}\nrm -f "$2"', "sleep", str(self._seconds), self._over]
            text = self._cluster.on_node(node, command, timeout=self._seconds + 20.0)
            self._stalls[node] = stalls(text, ahead)


def waiting(before: Mapping[str, float], now: Mapping[str, float], began: float, at: float) -> Stall:
    """What a node's processor waited for between two looks (seconds by process, ``Cluster.waited``), put at the end of
    the time between. Its processes are never ready at the same time: it is one processor."""
    wait = sum(seconds - before.get(task, 0.0) for task, seconds in now.items())
    return Stall(max(began, at - wait), at)


def stalls(text: str, ahead: float) -> tuple[Stall, ...]:
    """What ``SLEEP`` printed by a clock that is so many seconds ahead of this machine's, by its CLOCK_MONOTONIC."""
    shift = time.monotonic() - time.time() - ahead
    pairs = (line.split() for line in text.splitlines())
    return tuple(Stall(int(a) / 1e6 + PERIOD + shift, int(b) / 1e6 + shift) for a, b in pairs)


def clock_offset(cluster: Cluster, node: str) -> float:
    """Seconds by which the node's wall clock is ahead of ours; the best of five looks."""
    looks = []
    for _ in range(5):
        begin = time.time()
        theirs = float(cluster.on_node(node, ["bash", "-c", "echo $EPOCHREALTIME"]))
        end = time.time()
        looks.append((end - begin, theirs - (begin + end) / 2))
    return min(looks)[1]
