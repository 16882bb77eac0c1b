"""What a client saw on its cable, and what follows from it. Pure; times are the kernel's, in seconds."""

import itertools
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

ETHERTYPE_IPV4: Final = 0x0800
ICMP: Final = 1
VRRP: Final = 112
ECHO_REPLY: Final = 0
ECHO_REQUEST: Final = 8


class Answer(NamedTuple):
    """An echo reply from the virtual address."""

    at: float
    mac: bytes
    """Who sent it."""


class Advert(NamedTuple):
    at: float
    source: str
    virtual_router_id: int
    priority: int


@dataclass(slots=True)
class Trace:
    """In the order of arrival."""

    requests: list[float]
    answers: list[Answer]
    adverts: list[Advert]

    @classmethod
    def empty(cls) -> "Trace":
        return cls([], [], [])

    def add(self, at: float, frame: bytes, address: str) -> None:
        """Note the frame if it matters. ``address``: the one that is asked."""
        if len(frame) < 35 or int.from_bytes(frame[12:14]) != ETHERTYPE_IPV4:
            return
        head = 14 + 4 * (frame[14] & 0x0F)
        if frame[23] == VRRP and len(frame) >= head + 8:
            self.adverts.append(Advert(at, socket.inet_ntoa(frame[26:30]), frame[head + 1], frame[head + 2]))
        elif frame[23] == ICMP and len(frame) > head:
            if frame[head] == ECHO_REPLY and frame[26:30] == socket.inet_aton(address):
                self.answers.append(Answer(at, frame[6:12]))
            elif frame[head] == ECHO_REQUEST and frame[30:34] == socket.inet_aton(address):
                self.requests.append(at)

    def of(self, source: str, virtual_router_id: int = 51) -> list[float]:
        """When this director advertised itself (priority 0 is a farewell and does not count)."""
        wanted = (source, virtual_router_id)
        return [each.at for each in self.adverts if (each.source, each.virtual_router_id) == wanted and each.priority]


@dataclass(frozen=True, slots=True)
class Outage:
    """The longest time in which nobody answered."""

    begin: float
    """Last answer before."""
    end: float
    """First answer after."""
    last_advert: float
    """The last one of the router that failed."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    @property
    def age(self) -> float:
        """Of the last advert when the router failed; the RFC's timer ran so long already."""
        return max(0.0, self.begin - self.last_advert)

    @property
    def detection(self) -> float:
        """From the last advert to the first answer of another."""
        return self.end - self.last_advert


def longest_gap(answers: Sequence[Answer], since: float) -> tuple[float, float]:
    """Begin and end of the longest time between two answers, the later of which came after ``since``.

    Raises ValueError when there are not two such answers.
    """
    pairs = [
        (before.at, after.at)
        for before, after in itertools.pairwise(answers)
        if after.at >= since and after.at > before.at
    ]
    if not pairs:
        raise ValueError("fewer than two answers")
    return max(pairs, key=lambda pair: pair[1] - pair[0])


def outage(trace: Trace, failed: str, since: float) -> Outage:
    """What the failure of the router with the source address ``failed`` cost. Raises ValueError: not to be told."""
    begin, end = longest_gap(trace.answers, since)
    heard = [at for at in trace.of(failed) if at < end]
    if not heard:
        raise ValueError(f"no advert of {failed} was seen before the outage")
    return Outage(begin, end, heard[-1])


def gap_in(answers: Iterable[Answer], begin: float, end: float) -> float:
    """The longest time without an answer inside the window, its edges included."""
    moments = [begin, *(answer.at for answer in answers if begin <= answer.at <= end), end]
    return max(after - before for before, after in itertools.pairwise(moments))


def spacings(moments: Sequence[float]) -> list[float]:
    """Times between neighbours."""
    return [after - before for before, after in itertools.pairwise(moments)]


def lateness(moments: Sequence[float], interval: float) -> list[float]:
    """By how much each advert came later after the one before than it should, in seconds; early ones count as 0."""
    return [max(0.0, spacing - interval) for spacing in spacings(moments)]


def additions(events: Iterable[bool]) -> int:
    """How often an address appeared. ``events``: was it added (or renewed), or deleted? It was absent before."""
    present, count = False, 0
    for there in events:
        count += there and not present
        present = there
    return count
