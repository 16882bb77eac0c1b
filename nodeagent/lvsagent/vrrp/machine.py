"""The VRRP router's state machine: RFC 9568 section 6.4 whole, and nothing of it anywhere else. Pure.

Feed it events with the time they happened; act on what it returns, in that order; call again at ``deadline``.
Deviations from the RFC, each on purpose: addresses are acquired before the first advert (tables are in place by
then); an Active that gives way to a better one sends a last advert, so that the better one announces once more;
answers to losing adverts are spaced; a received interval counts for at most four times our own; a timer that fires
far too late makes an Active listen first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final, assert_never

from lvsagent.vrrp.arp import Announcements
from lvsagent.vrrp.packet import Advertisement

OWNER_PRIORITY: Final = 255
INTERVAL_LIMIT: Final = 4
"""A received interval above so many of our own is taken as so many (a forged 40.95 s would disable failover)."""
ANSWER_SPACING: Final = 0.25
"""Losing adverts are answered at once unless an advert of ours left within this part of our interval."""


@unique
class State(StrEnum):
    """RFC 9568 section 6.3."""

    INITIALIZE = "Initialize"
    BACKUP = "Backup"
    ACTIVE = "Active"


@unique
class Cause(StrEnum):
    """Why a router changed its state. A metric label."""

    STARTUP = "startup"
    SHUTDOWN = "shutdown"
    INTERFACE_LOST = "interface_lost"
    ACTIVE_SILENT = "active_silent"
    """No advert for the Active_Down_Interval."""
    ACTIVE_RELEASED = "active_released"
    """The Active said that it gives up (priority 0)."""
    PREEMPTION = "preemption"
    """The Active that was heard has a lower priority."""
    HIGHER_PRIORITY = "higher_priority"
    HIGHER_ADDRESS = "higher_address"
    """Equal priority, greater sender address."""
    LATE_TIMER = "late_timer"
    """We were not running for so long that somebody may have replaced us."""


_UP: Final = (State.BACKUP, State.ACTIVE)
TRANSITIONS: Final[Mapping[Cause, frozenset[tuple[State, State]]]] = MappingProxyType(
    {
        Cause.STARTUP: frozenset((State.INITIALIZE, state) for state in _UP),
        Cause.SHUTDOWN: frozenset((state, State.INITIALIZE) for state in _UP),
        Cause.INTERFACE_LOST: frozenset((state, State.INITIALIZE) for state in _UP),
        Cause.ACTIVE_SILENT: frozenset({(State.BACKUP, State.ACTIVE)}),
        Cause.ACTIVE_RELEASED: frozenset({(State.BACKUP, State.ACTIVE)}),
        Cause.PREEMPTION: frozenset({(State.BACKUP, State.ACTIVE)}),
        Cause.HIGHER_PRIORITY: frozenset({(State.ACTIVE, State.BACKUP)}),
        Cause.HIGHER_ADDRESS: frozenset({(State.ACTIVE, State.BACKUP)}),
        Cause.LATE_TIMER: frozenset({(State.ACTIVE, State.BACKUP)}),
    }
)
"""All there are; anything else is our own fault and raises IllegalTransition."""


class IllegalTransition(AssertionError):
    """A change of state that TRANSITIONS does not list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """RFC 9568 section 6.1, for one virtual router on one interface."""

    virtual_router_id: int
    priority: int
    """1-254; 255 for the owner of the addresses."""
    interval: float
    """Advertisement_Interval, seconds."""
    addresses: tuple[bytes, ...]
    source: bytes
    """Primary address of the interface: what our adverts come from."""
    preempt: bool = True

    def skew(self, interval: float) -> float:
        """Skew_Time of this priority when the Active advertises at ``interval``, both seconds. Not truncated."""
        return (256 - self.priority) * interval / 256

    def active_down(self, interval: float) -> float:
        """Active_Down_Interval when the Active advertises at ``interval``, both seconds."""
        return 3 * interval + self.skew(interval)


@dataclass(frozen=True, slots=True)
class Startup:
    """Begin: interface and tables are there."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End, or pause until the next Startup."""

    cause: Cause = Cause.SHUTDOWN


@dataclass(frozen=True, slots=True)
class Received:
    """An advert for this virtual router that passed the codec's checks."""

    advertisement: Advertisement


@dataclass(frozen=True, slots=True)
class Claimed:
    """Somebody else's ARP claims an address of this virtual router."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline came, or may have come."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """Other parameters in place. The virtual router ID and the interface cannot change: that is another router."""

    parameters: Parameters


Event = Startup | Shutdown | Received | Claimed | Tick | Reconfigure


@dataclass(frozen=True, slots=True)
class SendAdvert:
    """Multicast an advert with this priority and interval (seconds) and these addresses."""

    priority: int
    interval: float
    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Acquire:
    """Put these addresses on the interface."""

    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Take these addresses off the interface."""

    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """One round of gratuitous ARP requests (unsolicited neighbour advertisements) for these addresses."""

    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The router is in another state; everything that belongs to it was said before."""

    previous: State
    state: State
    cause: Cause


Output = SendAdvert | Acquire | Release | Announce | StateChanged


@dataclass(slots=True)
class VirtualRouter:
    """One virtual router on one node. Times are seconds on one monotonic clock."""

    parameters: Parameters
    state: State = field(default=State.INITIALIZE, init=False)
    active_address: bytes | None = field(default=None, init=False)
    """Source of the last accepted advert of the Active, our own while Active; None: unknown."""
    clamped_intervals: int = field(default=0, init=False)
    """Adverts whose interval was taken as shorter than they said."""
    peer_heard: float | None = field(default=None, init=False)
    """When the last advert with a priority above 0 came, accepted or not; None: never."""
    _timer: float = field(default=0.0, init=False)
    """Adver_Timer while Active, Active_Down_Timer while Backup."""
    _armed: float = field(default=0.0, init=False)
    """When Active_Down_Timer was last set."""
    _advertised: float = field(default=0.0, init=False)
    _active_interval: float = field(default=0.0, init=False)
    """Active_Adver_Interval."""
    _expiry: Cause = field(default=Cause.ACTIVE_SILENT, init=False)
    """What it means when Active_Down_Timer fires."""
    _announcements: Announcements = field(default_factory=Announcements, init=False)

    @property
    def deadline(self) -> float | None:
        """When to call with Tick; None: not before some other event."""
        if self.state is State.INITIALIZE:
            return None
        announcement = self._announcements.deadline
        return self._timer if announcement is None else min(self._timer, announcement)

    def handle(self, event: Event, now: float) -> tuple[Output, ...]:
        """What to do about the event, in this order."""
        return tuple(self._handle(event, now))

    def _handle(self, event: Event, now: float) -> Iterator[Output]:
        if self.state is State.ACTIVE and self._is_stale(now):
            # Before anything else, above all before we answer an advert of the router that replaced us.
            yield from self._become_backup(Cause.LATE_TIMER, self.parameters.interval, now)
        match event:
            case Reconfigure(parameters):
                yield from self._reconfigure(parameters, now)
            case Startup():
                if self.state is State.INITIALIZE:
                    yield from self._start(now)
            case Shutdown(cause):
                if self.state is not State.INITIALIZE:
                    yield from self._shut_down(cause)
            case Received(advertisement):
                if advertisement.source != self.parameters.source:  # looped back by a switch or a bridge
                    yield from self._received(advertisement, now)
            case Claimed():
                self._announcements.claimed(now)
                yield from self._announce(now)
            case Tick():
                yield from self._tick(now)
            case _:
                assert_never(event)

    def _is_stale(self, now: float) -> bool:
        """Section 6.4.3 knows no late timers. After this long every Backup has replaced us."""
        return now - self._timer > self.parameters.active_down(self.parameters.interval)

    def _start(self, now: float) -> Iterator[Output]:
        """Section 6.4.1."""
        if self.parameters.priority == OWNER_PRIORITY:
            yield from self._become_active(Cause.STARTUP, now)
        else:
            self._active_interval = self.parameters.interval
            self._arm_active_down(now)
            yield self._change(State.BACKUP, Cause.STARTUP)

    def _shut_down(self, cause: Cause) -> Iterator[Output]:
        """Sections 6.4.2 and 6.4.3, first paragraphs."""
        if self.state is State.ACTIVE:
            yield self._advert(priority=0)
            yield Release(self.parameters.addresses)
        self._announcements.stop()
        self.active_address = None
        yield self._change(State.INITIALIZE, cause)

    def _received(self, advertisement: Advertisement, now: float) -> Iterator[Output]:
        if self.state is State.INITIALIZE:
            return
        if advertisement.priority > 0:
            self.peer_heard = now
        if self.state is State.BACKUP:
            self._received_as_backup(advertisement, now)
        else:
            yield from self._received_as_active(advertisement, now)

    def _received_as_backup(self, advertisement: Advertisement, now: float) -> None:
        """Section 6.4.2."""
        mine = self.parameters
        if advertisement.priority == 0:
            # The earlier of both: a repeated (or forged) farewell must not put the take-over off.
            self._timer = min(self._timer, now + mine.skew(self._active_interval))
            self._expiry = Cause.ACTIVE_RELEASED
            self.active_address = None
        elif advertisement.priority >= mine.priority or not (mine.preempt or mine.priority == OWNER_PRIORITY):
            self.active_address = advertisement.source
            self._active_interval = self._learned(advertisement)
            self._arm_active_down(now)
        else:
            self.active_address = advertisement.source
            self._expiry = Cause.PREEMPTION

    def _received_as_active(self, advertisement: Advertisement, now: float) -> Iterator[Output]:
        """Section 6.4.3."""
        mine = self.parameters
        if advertisement.priority == 0:
            yield self._advertise(now)
            self._timer = now + mine.interval
            return
        better = (advertisement.priority, advertisement.source) > (mine.priority, mine.source)
        if better:
            same = advertisement.priority == mine.priority
            yield self._advert(priority=mine.priority)
            yield from self._become_backup(
                Cause.HIGHER_ADDRESS if same else Cause.HIGHER_PRIORITY, self._learned(advertisement), now
            )
            self.active_address = advertisement.source
            return
        if now - self._advertised >= ANSWER_SPACING * mine.interval:
            yield self._advertise(now)
        self._announcements.claimed(now)
        yield from self._announce(now)

    def _tick(self, now: float) -> Iterator[Output]:
        if self.state is State.BACKUP and now >= self._timer:
            yield from self._become_active(self._expiry, now)
        elif self.state is State.ACTIVE:
            if now >= self._timer:
                yield self._advertise(now)
                # From the deadline, so that lateness does not add up; from now when one was missed.
                following = self._timer + self.parameters.interval
                self._timer = following if following > now else now + self.parameters.interval
            yield from self._announce(now)

    def _reconfigure(self, parameters: Parameters, now: float) -> Iterator[Output]:
        """Not in the RFC: everything that can change does so without leaving the state."""
        before, self.parameters = self.parameters, parameters
        if self.state is State.BACKUP and parameters != before:
            if self._active_interval == before.interval:
                self._active_interval = parameters.interval
            if self._expiry is not Cause.ACTIVE_RELEASED:
                self._timer = self._armed + parameters.active_down(self._active_interval)
        elif self.state is State.ACTIVE and parameters != before:
            kept = frozenset(before.addresses)
            wanted = frozenset(parameters.addresses)
            if gone := tuple(address for address in before.addresses if address not in wanted):
                yield Release(gone)
            if fresh := tuple(address for address in parameters.addresses if address not in kept):
                yield Acquire(fresh)
                self._announcements.start(now)
            yield self._advertise(now)
            self._timer = now + parameters.interval
            self.active_address = parameters.source
            yield from self._announce(now)

    def _become_active(self, cause: Cause, now: float) -> Iterator[Output]:
        yield Acquire(self.parameters.addresses)
        yield self._advertise(now)
        self._timer = now + self.parameters.interval
        self._announcements.start(now)
        yield from self._announce(now)
        self.active_address = self.parameters.source
        yield self._change(State.ACTIVE, cause)

    def _become_backup(self, cause: Cause, active_interval: float, now: float) -> Iterator[Output]:
        self._announcements.stop()
        self._active_interval = active_interval
        self._arm_active_down(now)
        self.active_address = None
        yield Release(self.parameters.addresses)
        yield self._change(State.BACKUP, cause)

    def _arm_active_down(self, now: float) -> None:
        self._armed = now
        self._timer = now + self.parameters.active_down(self._active_interval)
        self._expiry = Cause.ACTIVE_SILENT

    def _learned(self, advertisement: Advertisement) -> float:
        """The sender's interval in seconds, at most INTERVAL_LIMIT of our own."""
        limit = INTERVAL_LIMIT * self.parameters.interval
        if advertisement.interval / 100 > limit:
            self.clamped_intervals += 1
        return min(advertisement.interval / 100, limit)

    def _advertise(self, now: float) -> SendAdvert:
        self._advertised = now
        return self._advert(priority=self.parameters.priority)

    def _advert(self, *, priority: int) -> SendAdvert:
        return SendAdvert(priority, self.parameters.interval, self.parameters.addresses)

    def _announce(self, now: float) -> Iterator[Announce]:
        if self._announcements.due(now):
            yield Announce(self.parameters.addresses)

    def _change(self, state: State, cause: Cause) -> StateChanged:
        if (self.state, state) not in TRANSITIONS[cause]:
            raise IllegalTransition(f"{self.state} -> {state} because of {cause}")
        previous, self.state = self.state, state
        return StateChanged(previous, state, cause)
