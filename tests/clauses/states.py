"""An independent judge of one router's states: told what happened and what the router did, names the clauses broken.

Written from RFC 9568 section 6.4, with the deviations that ``deviations.py`` lists and without the product's code but
for its words (events and outputs). Times are seconds. ``Judge.due`` is when the RFC's timer fires.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from lvsagent.vrrp.events import (
    Acquire,
    Announce,
    Event,
    Output,
    Received,
    Reconfigure,
    Release,
    SendAdvert,
    Shutdown,
    Startup,
    State,
    StateChanged,
    Tick,
)

ANSWERS: Final = 0.25
"""D9: part of the interval within which a losing advert needs no second answer."""
LONGEST: Final = 4
"""D10: a received interval counts for so many of ours at most."""
MOMENT: Final = 1e-9
"""Seconds within which two computations of one time may differ."""


@dataclass(slots=True)
class Seen:
    """What one event made the router do."""

    adverts: list[SendAdvert] = field(default_factory=list)
    announced: bool = False
    first: str = ""
    """``advert`` or ``announce``: what it said first."""
    held: frozenset[bytes] = frozenset()
    unheld: bool = False
    """It announced an address that it did not hold."""
    state: State | None = None
    """Another one than before."""


@dataclass(slots=True)
class Judge:
    """One per router."""

    priority: int
    interval: float
    source: bytes
    addresses: tuple[bytes, ...]
    preempt: bool = True
    state: State = State.INITIALIZE
    due: float = 0.0
    """Adver_Timer while Active, Active_Down_Timer while Backup."""
    armed_by: str = "C18"
    """The clause that says when it fires."""
    said: float = -1.0
    """When the last advert of ours left."""
    held: frozenset[bytes] = frozenset()
    active_interval: float = 0.0

    def watch(self, event: Event, now: float, outputs: Iterable[Output]) -> set[str]:
        """The clauses that the router broke. Judged from then on as if it had done right."""
        seen = self._see(outputs)
        broken: set[str] = {"C51"} if seen.unheld else set()
        broken |= {"C8"} if any(advert.priority not in (0, self.priority) for advert in seen.adverts) else set()
        before = self.state
        match event:
            case Startup() if self.state is State.INITIALIZE:
                broken |= self._startup(seen, now)
            case Shutdown():
                broken |= self._shutdown(seen)
            case Received():
                broken |= self._received(event, seen, now)
            case Tick() if now >= self.due - MOMENT and self.state is not State.INITIALIZE:
                broken |= self._fired(seen, now)
            case Reconfigure(parameters) if self.state is State.ACTIVE:
                if set(parameters.addresses) - set(self.addresses) and not seen.announced:
                    broken.add("C56")
                if parameters.addresses != self.addresses:  # not of the RFC: an advert says so at once
                    self.addresses, self.due, self.armed_by = parameters.addresses, now + self.interval, "C36"
            case _:
                if seen.state is not None or (seen.adverts and self.state is State.ACTIVE):
                    broken.add(self.armed_by)
        if before is State.BACKUP and self.state is State.BACKUP and (seen.adverts or seen.announced):
            broken.add(self.armed_by)
        if seen.adverts:
            self.said = now
        return broken

    def _see(self, outputs: Iterable[Output]) -> Seen:
        seen = Seen(held=self.held)
        for output in outputs:
            match output:
                case SendAdvert():
                    seen.adverts.append(output)
                    seen.first = seen.first or "advert"
                case Announce(addresses):
                    seen.announced = True
                    seen.first = seen.first or "announce"
                    seen.unheld = seen.unheld or not seen.held.issuperset(addresses)
                case Acquire(addresses):
                    seen.held |= frozenset(addresses)
                case Release(addresses):
                    seen.held -= frozenset(addresses)
                case StateChanged(_, state, _):
                    seen.state = state
        self.held = seen.held
        return seen

    def _became_active(self, clause: str, seen: Seen, now: float) -> set[str]:
        right = [advert.priority for advert in seen.adverts] == [self.priority] and seen.first == "advert"
        right = right and seen.announced and seen.state is State.ACTIVE
        self.state, self.due, self.armed_by = State.ACTIVE, now + self.interval, "C36"
        broken = set() if right else {clause}
        return broken if seen.announced else broken | {"C56"}

    def _wait(self, clause: str, now: float) -> None:
        self.state, self.armed_by = State.BACKUP, clause
        self.due = now + 3 * self.active_interval + self._skew()

    def _skew(self) -> float:
        return (256 - self.priority) * self.active_interval / 256

    def _startup(self, seen: Seen, now: float) -> set[str]:
        if self.priority == 255:
            return self._became_active("C17", seen, now)
        self.active_interval = self.interval
        self._wait("C18", now)
        return set() if seen.state is State.BACKUP and not seen.first else {"C18"}

    def _shutdown(self, seen: Seen) -> set[str]:
        before, self.state = self.state, State.INITIALIZE
        wanted = [0] if before is State.ACTIVE else []
        right = [advert.priority for advert in seen.adverts] == wanted and not seen.announced
        right = right and not self.held and (seen.state is State.INITIALIZE or before is State.INITIALIZE)
        return set() if right else {"C35" if before is State.ACTIVE else "C24"}

    def _fired(self, seen: Seen, now: float) -> set[str]:
        if self.state is State.BACKUP:
            late = self.armed_by
            broken = self._became_active("C25", seen, now)
            return broken if seen.state is State.ACTIVE else {late}
        late, self.armed_by = self.armed_by, "C36"
        self.due = self.due + self.interval if self.due + self.interval > now else now + self.interval
        return set() if [advert.priority for advert in seen.adverts] == [self.priority] else {late}

    def _received(self, event: Received, seen: Seen, now: float) -> set[str]:
        advert = event.advertisement
        if self.state is State.INITIALIZE or advert.source == self.source:
            return {"C18"} if seen.state is not None else set()
        announced = min(advert.interval / 100, LONGEST * self.interval)
        if self.state is State.BACKUP:
            return self._received_as_backup(advert.priority, announced, seen, now)
        if advert.priority == 0:
            self.due, self.armed_by = now + self.interval, "C37"
            return set() if [each.priority for each in seen.adverts] == [self.priority] else {"C37"}
        if (advert.priority, advert.source) > (self.priority, self.source):
            clause = "C38" if advert.priority > self.priority else "C39"
            self.active_interval = announced
            self._wait(clause, now)
            # D8: one last advert may leave.
            right = seen.state is State.BACKUP and not self.held and len(seen.adverts) <= 1 and not seen.announced
            return set() if right else {clause}
        if seen.state is not None:
            return {"C39" if advert.priority == self.priority else "C40"}
        spared = now - self.said < ANSWERS * self.interval
        return set() if seen.adverts or spared else {"C40"}

    def _received_as_backup(self, priority: int, announced: float, seen: Seen, now: float) -> set[str]:
        if priority == 0:
            clause = "C26"
            if now + self._skew() < self.due:  # D14
                self.due, self.armed_by = now + self._skew(), clause
        elif priority >= self.priority or not (self.preempt or self.priority == 255 or priority == 1):  # D15
            clause = "C27"
            self.active_interval = announced
            self._wait(clause, now)
        else:
            clause = "C28"
            self.armed_by = clause
        return {clause} if seen.state is not None or seen.first else set()


def doctored(outputs: Iterable[Output], **changes: object) -> tuple[Output, ...]:
    """The same with every advert changed: for tests that make a breach."""
    return tuple(replace(each, **changes) if isinstance(each, SendAdvert) else each for each in outputs)  # type: ignore[arg-type]
