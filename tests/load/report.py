"""What a load run saw, and what follows from it. Pure. All times are CLOCK_MONOTONIC seconds of the client's kernel."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Attempt:
    """One new connection with one request."""

    start: float
    latency: float
    """Seconds until the whole answer was there, or until it failed."""
    failure: str
    """Empty: answered. Else a word: ``timeout``, ``refused``, ``reset``, ``unreachable``, ``wrong``."""
    server: str
    client: str
    """``address:port`` as the server saw it."""
    local: str
    """``address:port`` of the client's own socket, also when nobody answered."""

    @property
    def end(self) -> float:
        return self.start + self.latency


@dataclass(frozen=True, slots=True)
class Held:
    """One connection that was kept open and asked again and again."""

    number: int
    server: str
    """The server of its first answer; empty when there was none."""
    client: str
    local: str
    opened: float
    answers: int
    """Answers that came whole, from the same server, with the request's own marker."""
    last_answer: float
    slowest: float
    """Longest time between a request and its whole answer."""
    failure: str
    """Empty: alive at the end. Else what ended it."""
    ended: float
    """When it failed; 0 while it lives."""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    target: str
    started: float
    ended: float
    attempts: tuple[Attempt, ...]
    held: tuple[Held, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Report":
        """The inverse of ``to_json``."""
        return cls(
            target=value["target"],
            started=value["started"],
            ended=value["ended"],
            attempts=tuple(Attempt(**attempt) for attempt in value["attempts"]),
            held=tuple(Held(**held) for held in value["held"]),
        )


@dataclass(frozen=True, slots=True)
class Failures:
    """New connections that failed in a window."""

    count: int
    of: int
    last: float | None
    """Start of the last one that failed; None when none did."""
    reasons: Mapping[str, int]


def within(attempts: Iterable[Attempt], since: float, until: float) -> tuple[Attempt, ...]:
    """Attempts that started in the window, in the order of their starts."""
    return tuple(sorted((a for a in attempts if since <= a.start <= until), key=lambda a: a.start))


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without a new connection being answered."""

    begin: float
    seconds: float


def longest_gap(attempts: Iterable[Attempt], since: float, until: float) -> Gap:
    """The longest time in the window without a new connection being answered.

    Counted from answer to answer; before the first and after the last one the window's ends count, so that a service
    that never answers again has a gap as long as the window.
    """
    ends = sorted(a.end for a in attempts if not a.failure and since <= a.end <= until)
    marks = [since, *ends, until]
    return max((Gap(a, b - a) for a, b in itertools.pairwise(marks)), key=lambda gap: gap.seconds)


def failures(attempts: Iterable[Attempt], since: float, until: float) -> Failures:
    """How many of the attempts that started in the window failed, and which was the last."""
    window = within(attempts, since, until)
    failed = [a for a in window if a.failure]
    return Failures(
        count=len(failed),
        of=len(window),
        last=failed[-1].start if failed else None,
        reasons=dict(Counter(a.failure for a in failed)),
    )


def distribution(attempts: Iterable[Attempt]) -> dict[str, int]:
    """Answered attempts by server."""
    return dict(sorted(Counter(a.server for a in attempts if not a.failure).items()))


@dataclass(frozen=True, slots=True)
class Survivors:
    """Held connections of one server: how many lived to the end, and the slowest answer of those."""

    alive: int
    of: int
    slowest: float
    reasons: Mapping[str, int]


def survivors(held: Iterable[Held]) -> dict[str, Survivors]:
    """Held connections by server. One that never got an answer counts under the empty name."""
    groups: dict[str, list[Held]] = {}
    for connection in held:
        groups.setdefault(connection.server, []).append(connection)
    return {
        server: Survivors(
            alive=sum(1 for c in group if not c.failure),
            of=len(group),
            slowest=max((c.slowest for c in group if not c.failure), default=0.0),
            reasons=dict(Counter(c.failure for c in group if c.failure)),
        )
        for server, group in sorted(groups.items())
    }


def translated(report: Report) -> int:
    """Answers whose server saw another address or port than the client's own socket has."""
    attempts = sum(1 for a in report.attempts if not a.failure and a.client != a.local)
    return attempts + sum(1 for c in report.held if c.server and c.client != c.local)
