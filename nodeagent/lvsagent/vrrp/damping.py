"""How long a router that keeps failing may not take back what another one serves. Pure.

Not in RFC 9568, whose section 2.5 asks only to log flapping. A first failure costs nothing; from the second within
MEMORY on, the wait doubles. Only preemption waits: a virtual router that nobody serves is taken at once.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

MEMORY: Final = 600.0
"""Seconds for which a failure counts."""
FIRST: Final = 5.0
LONGEST: Final = 300.0
"""Seconds."""
REMEMBERED: Final = 16
"""Failures; more do not make the wait longer."""


@dataclass(slots=True)
class Damping:
    """The failures of one router: times on one monotonic clock, seconds."""

    failures: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def failed(self, now: float) -> None:
        """Its interface or its addresses went away, it was not running for long, or its process died."""
        self.failures.append(now)

    def wait(self, now: float) -> float:
        """Seconds until it may preempt, when it starts now."""
        recent = sum(now - failure < MEMORY for failure in self.failures)
        return 0.0 if recent < 2 else min(LONGEST, FIRST * 2.0 ** (recent - 2))
