"""Who holds the VIP, looked at again and again on every node; what follows from it is pure."""

import itertools
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.demo.world import World


@dataclass(frozen=True, slots=True)
class Look:
    """At a node's kernel; monotonic seconds of this machine. What it said was true somewhen between."""

    begin: float
    end: float
    holds: bool
    """It has the address on an interface other than ``lo``."""


Looks = Mapping[str, Sequence[Look]]
"""Of each node, in order."""


class HolderWatch:
    """A context manager: looks at these nodes until it is left."""

    def __init__(self, world: World, vip: str, nodes: Iterable[str]) -> None:
        self._world = world
        self._vip = vip
        self.looks: dict[str, list[Look]] = {node: [] for node in nodes}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(node,)) for node in self.looks]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, node: str) -> None:
        while not self._over.wait(0.02):
            begin = time.monotonic()
            holds = self._world.holds(node, self._vip)
            self.looks[node].append(Look(begin, time.monotonic(), holds))


def first(looks: Looks, nodes: Iterable[str], since: float) -> float:
    """Seconds until one of these nodes was seen to hold; infinite when none was."""
    ends = [look.end for node in nodes for look in looks[node] if look.holds and look.begin >= since]
    return min(ends, default=float("inf")) - since


def holdings(looks: Sequence[Look]) -> list[tuple[float, float]]:
    """From when to when the node may have held at most: from look to look in which it did not."""
    found = []
    begun = looks[0].begin
    for one, following in itertools.pairwise([*looks, Look(looks[-1].end, looks[-1].end, False)]):
        if not one.holds:
            begun = one.begin
        elif not following.holds:
            found.append((begun, following.end))
    return found


def both(looks: Looks) -> float:
    """Longest time, in seconds, for which two nodes may have held at once."""
    pairs = itertools.combinations([holdings(one) for one in looks.values()], 2)
    overlaps = (min(a[1], b[1]) - max(a[0], b[0]) for one, other in pairs for a, b in itertools.product(one, other))
    return max(0.0, *overlaps, 0.0)


def blind(looks: Looks, until: float) -> float:
    """Longest time, in seconds, without a look at one of the nodes: what was shorter may have been overlooked."""
    marks = ([*(look.begin for look in one), until] for one in looks.values())
    return max(later - earlier for one in marks for earlier, later in itertools.pairwise(one))


def alone_from(looks: Looks) -> float:
    """When exactly one of the nodes began to hold for good: the end of the look after which nothing changed (monotonic
    seconds); infinite when there is not exactly one in the end."""
    if sum(one[-1].holds for one in looks.values()) != 1:
        return float("inf")
    changed = [one[0].end for one in looks.values()]
    for one in looks.values():
        changed += [after.end for before, after in itertools.pairwise(one) if before.holds != after.holds]
    return max(changed)
