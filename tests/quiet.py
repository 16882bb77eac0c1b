"""Is the machine quiet, so that a time says something? Asked of the machine itself, from wherever a test runs.

A guest sees no load average but its own. So the anchor is work that takes a fifth of a millisecond, again and again: of
a processor that others want too it takes longer in the mean than at its best.
"""

import time

WORK = 20_000
WINDOW_SECONDS = 0.1
QUIET = 1.15
"""The anchor of a quiet machine, at most."""


def stretch(windows: int = 1) -> float:
    """How much longer the work takes now than it must, in the worst of so many windows. 1.0: nobody else wants any."""
    means, best = [], float("inf")
    for _ in range(windows):
        took = []
        end = time.monotonic() + WINDOW_SECONDS
        while time.monotonic() < end:
            begin = time.monotonic()
            sum(range(WORK))
            took.append(time.monotonic() - begin)
        means.append(sum(took) / len(took))
        best = min(best, *took)
    return max(means) / best
