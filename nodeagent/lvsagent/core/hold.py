"""How long a node that comes back stands aside, to hear first which connections its table would misplace. Pure.

Its tables are complete at once, and with preemption it would take the addresses at once. What was opened while it was
away, and while the others had weight 0 for its backends, has other places there: the nodes that know tell it within a
fraction of a second (``runtime.affinity``). It stands aside for that long, and never for longer than ``LONGEST``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

LONGEST: Final = 1.0
"""Seconds."""


@dataclass(slots=True)
class Hold:
    """Asked by the loop whenever it would offer addresses, told by the exchange who has said everything."""

    until: float | None = None
    """Monotonic seconds; None: not begun, or over."""
    done: bool = False
    _waits_for: set[str] = field(default_factory=set)

    def holds(self, now: float, others: Iterable[str], taking_part: bool) -> bool:
        """Whether to stand aside. ``others``: nodes that may have something to tell. ``taking_part``: the election runs
        routers of this node already (it did not come back, only its agent did). Begins with the first call."""
        if self.done:
            return False
        if self.until is None:
            self.until, self._waits_for = now + LONGEST, set(others)
            self.done = taking_part or not self._waits_for
        self.done = self.done or now >= self.until
        if self.done:
            self.until = None
        return not self.done

    def told(self, node: str) -> bool:
        """A node has said everything. True when nobody is left to wait for, which happens once."""
        if self.done or self.until is None or node not in self._waits_for:
            return False
        self._waits_for.discard(node)
        if not self._waits_for:
            self.done, self.until = True, None
        return self.done
