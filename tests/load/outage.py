"""What a crash did to new connections, and how much of that the machine is to blame for. Pure.

Times are those of ``report``.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .client import HELD_PATIENCE
from .report import Attempt, Failures, Gap, Held, Report, failures, longest_gap, within

AIM = 0.5
"""Seconds after a crash after which no new connection may fail."""
GAP = 1.0
"""Seconds within which a new connection must be answered again."""
LIMIT = 1.0
"""Seconds within which a new connection is to be answered; an answer that comes later is a failure, too."""
TIMEOUT = 2.5
"""Seconds that the client waits all the same. A SYN that was lost is sent again after one second: such a connection is
answered late, one that was sent to a dead node is not."""
PATIENCE = TIMEOUT + 0.1
"""Seconds before the end of what is looked at in which an attempt need not have ended."""
NOISE = 0.03
"""Seconds by which the client may be late with a new connection before that counts."""
STRAY = 0.01
"""Of the new connections that may fail without an excuse while a node returns."""
LOST = 0.3
"""Seconds of standstill that explain an answer which came, but late: a packet waited, or was lost and sent again."""
HALF = 0.5
"""Of its time: a connection that was never answered while the machine stood still for so much of it proves nothing."""
BELIEVED = 6.0
"""Seconds in half of which a place that stands still is taken for dead: by the other nodes after 2.3 s, whereupon
connections to its pods are reset (docs/decisions/0010), by its own kubelet, whose probe of a pod fails three times."""
ASKED = 3.0
"""Seconds for which a kernel asks for the hardware address of a neighbour before it says that it is unreachable."""
LATE = "answered late"


@dataclass(frozen=True, slots=True)
class Stall:
    """What wanted to run then did not."""

    begin: float
    end: float


Stalls = Mapping[str, Sequence[Stall]]
"""By place: this machine, a node, the client."""


def standstill(stalls: Iterable[Stall], since: float, until: float) -> float:
    """Seconds of the window in which what wanted to run did not."""
    return sum(max(0.0, min(until, stall.end) - max(since, stall.begin)) for stall in stalls)


def worst(places: Stalls, since: float, until: float) -> tuple[float, str]:
    """The longest standstill of a place in the window, and the place: a connection needs all of them."""
    return max(((standstill(stalls, since, until), place) for place, stalls in places.items()), default=(0.0, ""))


def of_the_client(attempts: Iterable[Attempt], rate: float) -> tuple[Stall, ...]:
    """When the client, which keeps to a timetable, did not begin a connection that was due."""
    pairs = itertools.pairwise(sorted(attempt.start for attempt in attempts))
    return tuple(Stall(one + 1 / rate, following) for one, following in pairs if following - one > 1 / rate + NOISE)


@dataclass(frozen=True, slots=True)
class Late:
    """A new connection that failed when none should any more."""

    attempt: Attempt
    after: float
    """Seconds after the crash, or what else it was."""
    stood: float
    """Of these the machine stood still for so many, in its worst place."""

    def __str__(self) -> str:
        one = self.attempt
        return f"{one.local} began after {self.after:.2f} s: {one.failure} after {one.latency:.2f} s"


def excused(attempt: Attempt, places: Stalls) -> bool:
    """Is the machine to blame for this failure? Half of the time that led to it must have been lost, or, for an answer
    that came after all, what loses a packet."""
    if attempt.failure == LATE:
        return worst(places, attempt.start, attempt.end)[0] >= LOST
    time = {"timeout": attempt.latency, "unreachable": ASKED}.get(attempt.failure, BELIEVED)
    return worst(places, attempt.end - time, attempt.end)[0] >= HALF * time


@dataclass(frozen=True)
class Outage:
    """A crash under new connections. ``aim`` and ``GAP`` are judged in seconds in which the machine ran."""

    report: Report
    at: float
    """The crash, or what else happened."""
    until: float
    """End of what is judged."""
    places: Stalls
    aim: float = AIM
    what: str = "the crash"

    @functools.cached_property
    def attempts(self) -> tuple[Attempt, ...]:
        """Those from a second before the crash on, in order; an answer after ``LIMIT`` is the failure ``LATE``."""
        return tuple(
            replace(one, failure=LATE) if not one.failure and one.latency > LIMIT else one
            for one in within(self.report.attempts, self.at - 1.0, self.until - PATIENCE)
        )

    @property
    def failed(self) -> Failures:
        return failures(self.attempts, self.at - 1.0, self.until)

    @property
    def last(self) -> float:
        """Seconds after the crash at which the last one began that failed; 0: none did."""
        last = failures(self.attempts, self.at, self.until).last
        return 0.0 if last is None else last - self.at

    @functools.cached_property
    def late(self) -> tuple[Late, ...]:
        """Those that failed, began more than ``aim`` seconds of running time after the crash, and are not excused."""
        found = []
        for attempt in self.attempts:
            after = attempt.start - self.at
            if attempt.failure and after > self.aim and not excused(attempt, self.places):
                stood, _ = worst(self.places, self.at, attempt.start)
                if after - stood > self.aim:
                    found.append(Late(attempt, after, stood))
        return tuple(found)

    @functools.cached_property
    def lost(self) -> tuple[Held, ...]:
        """Held connections that ended since then, but for those for which the machine is to blame: it stood still for
        half of the time in which the connection was not answered, or before a node of it was believed to be dead."""
        return tuple(
            one
            for one in self.report.held
            if one.failure
            and one.ended > self.at
            and worst(self.places, one.ended - self._time(one), one.ended)[0] < HALF * self._time(one)
        )

    def _time(self, one: Held) -> float:
        return HELD_PATIENCE if one.failure == "timeout" else BELIEVED

    @property
    def strays(self) -> float:
        """The share of those that are ``late``."""
        return len(self.late) / max(1, self.failed.of)

    @property
    def gap(self) -> Gap:
        """The longest time without a new connection being answered."""
        return longest_gap(self.report.attempts, self.at - 1.0, self.until)

    @property
    def answered_in_time(self) -> bool:
        """No gap was longer than ``GAP`` seconds in which the machine ran."""
        gap = self.gap
        return gap.seconds - worst(self.places, gap.begin, gap.begin + gap.seconds)[0] <= GAP

    def __str__(self) -> str:
        failed = self.failed
        stood, where = worst(self.places, self.at, self.at + self.last)
        whole, place = worst(self.places, self.at, self.until)
        return (
            f"{failed.count} of {failed.of} new connections failed {dict(failed.reasons)}, the last began"
            f" {self.last:.2f} s after {self.what} ({where} stood still for {stood:.2f} s of that, {place} for"
            f" {whole:.2f} of {self.until - self.at:.0f} s), longest gap {self.gap.seconds:.2f} s"
            + (f"; {len(self.late)} too late, the first {self.late[0]}" if self.late else "")
        )
