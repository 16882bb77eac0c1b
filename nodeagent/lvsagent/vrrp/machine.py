"""The VRRP router's state machine: RFC 9568 section 6.4 whole, and what a node that serves wants beyond it. Pure.

Feed it events with the time they happened; act on what it returns, in that order; call again at ``deadline``.
Deviations from the RFC, each on purpose: addresses are acquired before the first advert (tables are in place by
then); an Active that gives way to a better one sends a last advert, so that the better one announces once more;
answers to losing adverts are spaced; a received interval counts for at most four times our own unless its sender
proved itself; a timer that fires far too late makes an Active listen first; an Active that ends or resigns serves on
until it hears its successor; adverts may be sent more often than the interval that they announce; whoever stands by is
replaced whatever Preempt_Mode says.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, assert_never

from lvsagent.vrrp.arp import Announcements
from lvsagent.vrrp.damping import Damping
from lvsagent.vrrp.events import (
    FAILURES,
    LOWEST_PRIORITY,
    OWNER_PRIORITY,
    TRANSITIONS,
    Acquire,
    Announce,
    Cause,
    Claimed,
    Event,
    IllegalTransition,
    Leaving,
    Output,
    Parameters,
    Promote,
    Received,
    Reconfigure,
    Release,
    Resign,
    SendAdvert,
    Shutdown,
    Startup,
    State,
    StateChanged,
    Suspend,
    Tick,
)
from lvsagent.vrrp.packet import Advertisement

ANSWER_SPACING: Final = 0.25
"""Losing adverts are answered at once unless an advert of ours left within this part of our interval."""
REPEATS: Final = 3
"""Times that a farewell, or the notice of a restart, is sent, in case some are lost."""
REPEAT_SPACING: Final = 0.01
"""Seconds between them."""
PATIENCE: Final = 1.0
"""Seconds for which an Active that resigns waits for a successor before it goes on."""


@dataclass(slots=True)
class VirtualRouter:
    """One virtual router on one node. Times are seconds on one monotonic clock."""

    parameters: Parameters
    state: State = field(default=State.INITIALIZE, init=False)
    active_address: bytes | None = field(default=None, init=False)
    """Source of the last accepted advert of the Active, our own while Active; None: unknown."""
    willing: bool = field(default=False, init=False)
    """A Backup of a sync group that would be Active by itself."""
    clamped_intervals: int = field(default=0, init=False)
    """Adverts whose interval was taken as shorter than they said."""
    _timer: float = field(default=0.0, init=False)
    """Adver_Timer while Active, Active_Down_Timer while Backup."""
    _armed: float = field(default=0.0, init=False)
    """When Active_Down_Timer was last set."""
    _advertised: float = field(default=0.0, init=False)
    _active_interval: float = field(default=0.0, init=False)
    """Active_Adver_Interval."""
    _expiry: Cause = field(default=Cause.ACTIVE_SILENT, init=False)
    """What it means when Active_Down_Timer fires."""
    _inferior_since: float | None = field(default=None, init=False)
    """Since when an Active of lower priority is left alone (preempt delay)."""
    _damped_until: float = field(default=0.0, init=False)
    damping: Damping = field(default_factory=Damping, init=False)
    _leaving: Leaving | None = field(default=None, init=False)
    _repeat: tuple[int, float, SendAdvert] | None = field(default=None, init=False)
    """An advert to be sent again: how often yet, and when next."""
    _announcements: Announcements = field(init=False)

    def __post_init__(self) -> None:
        self._announcements = Announcements(self.parameters.announcing)

    @property
    def deadline(self) -> float | None:
        """When to call with Tick; None: not before some other event."""
        if self.state is State.INITIALIZE or self.willing:
            return None
        # Asked before and after every event: no list is made for it.
        earliest = self._timer if self._leaving is None else self._leaving.until
        announcement = self._announcements.deadline
        if announcement is not None and announcement < earliest:
            earliest = announcement
        if self._repeat is not None and self._repeat[1] < earliest:
            earliest = self._repeat[1]
        return earliest

    @property
    def leaving(self) -> bool:
        """Active, and only until a successor is heard."""
        return self._leaving is not None

    def handle(self, event: Event, now: float) -> tuple[Output, ...]:
        """What to do about the event, in this order."""
        return tuple(self._handle(event, now))

    def _handle(self, event: Event, now: float) -> Iterator[Output]:
        if self.state is State.ACTIVE and self._is_stale(now):
            # Before anything else, above all before we answer an advert of the router that replaced us.
            if self._leaving is not None and self._leaving.into is State.INITIALIZE:
                yield from self._give_up_waiting(self._leaving, now)
            else:
                yield from self._become_backup(Cause.LATE_TIMER, self.parameters.interval, now)
        match event:
            case Reconfigure(parameters):
                yield from self._reconfigure(parameters, now)
            case Startup(resume):
                if self.state is State.INITIALIZE:
                    yield from self._start(resume, now)
                elif self._leaving is not None and self._leaving.into is State.INITIALIZE:
                    yield from self._stay(now)
            case Shutdown(cause, patience):
                yield from self._shut_down(cause, patience, now)
            case Suspend(seconds):
                if self.state is State.ACTIVE:
                    yield from self._suspend(seconds, now)
            case Resign(cause):
                if self.state is State.ACTIVE and self._leaving is None:
                    yield from self._leave(Leaving(cause, now + PATIENCE, State.BACKUP), now)
            case Promote():
                if self.willing:
                    yield from self._become_active(self._expiry, now)
            case Received(advertisement, authenticated):
                if advertisement.source != self.parameters.source:  # looped back by a switch or a bridge
                    yield from self._received(advertisement, authenticated, now)
            case Claimed():
                self._announcements.claimed(now)
                yield from self._announce(now)
            case Tick():
                yield from self._tick(now)
            case _:
                assert_never(event)

    def _is_stale(self, now: float) -> bool:
        """Section 6.4.3 knows no late timers. After this long every Backup has replaced us."""
        if self._leaving is not None:
            return now > self._leaving.until + PATIENCE
        return now - self._timer > self.parameters.active_down(self.parameters.interval)

    def _start(self, resume: bool, now: float) -> Iterator[Output]:
        """Section 6.4.1."""
        mine = self.parameters
        if resume or (mine.effective_priority == OWNER_PRIORITY and not mine.grouped):
            yield from self._become_active(Cause.RESTARTED if resume else Cause.STARTUP, now)
            return
        self._active_interval = mine.interval
        self._arm_active_down(now)
        if mine.initially_active and not mine.standby:
            self._timer = now + mine.interval + mine.skew(mine.interval)
        yield self._change(State.BACKUP, Cause.STARTUP, now)

    def _shut_down(self, cause: Cause, patience: float, now: float) -> Iterator[Output]:
        """Sections 6.4.2 and 6.4.3, first paragraphs."""
        if self.state is State.INITIALIZE:
            return
        if self.state is State.ACTIVE and patience > 0:
            if self._leaving is None or self._leaving.into is not State.INITIALIZE:
                yield from self._leave(Leaving(cause, now + patience, State.INITIALIZE), now)
            return
        if self.state is State.ACTIVE:
            if self._leaving is None:
                yield self._advert(priority=0)
            yield Release(self.parameters.addresses)
        yield self._end(cause, now)

    def _end(self, cause: Cause, now: float) -> StateChanged:
        self._forget()
        self.active_address = None
        return self._change(State.INITIALIZE, cause, now)

    def _leave(self, leaving: Leaving, now: float) -> Iterator[Output]:
        self._leaving = leaving
        farewell = self._advert(priority=0)
        self._repeat = (REPEATS - 1, now + REPEAT_SPACING, farewell)
        yield farewell

    def _stay(self, now: float) -> Iterator[Output]:
        """No successor came, or we are wanted again."""
        self._leaving = None
        self._repeat = None
        yield self._advertise(now)
        self._timer = now + self.parameters.spacing

    def _succeeded(
        self, advertisement: Advertisement, leaving: Leaving, interval: float, now: float
    ) -> Iterator[Output]:
        if leaving.into is State.INITIALIZE:
            yield Release(self.parameters.addresses)
            yield self._end(leaving.cause, now)
        else:
            yield from self._become_backup(leaving.cause, interval, now)
            self.active_address = advertisement.source

    def _suspend(self, seconds: float, now: float) -> Iterator[Output]:
        """Backups wait three intervals and their Skew_Time, which we do not know: a third of it is enough."""
        notice = SendAdvert(self.parameters.effective_priority, seconds / 3, self.parameters.addresses)
        self._repeat = (REPEATS - 1, now + REPEAT_SPACING, notice)
        self._timer = now + seconds
        yield notice

    def _received(self, advertisement: Advertisement, authenticated: bool, now: float) -> Iterator[Output]:
        if self.state is State.INITIALIZE:
            return
        if self.state is State.BACKUP:
            self._received_as_backup(advertisement, authenticated, now)
        else:
            yield from self._received_as_active(advertisement, authenticated, now)

    def _received_as_backup(self, advertisement: Advertisement, authenticated: bool, now: float) -> None:
        """Section 6.4.2."""
        mine = self.parameters
        if advertisement.priority == 0:
            # The earlier of both: a repeated (or forged) farewell must not put the take-over off.
            self._timer = min(self._timer, now + mine.skew(self._active_interval))
            self._expiry = Cause.ACTIVE_RELEASED
            self.active_address = None
        elif (
            advertisement.priority >= mine.effective_priority
            or not mine.preempts(advertisement.priority)
            or self._is_tolerated(advertisement.priority, now)
        ):
            if advertisement.priority >= mine.effective_priority:
                self._inferior_since = None
            self.active_address = advertisement.source
            self._active_interval = self._learned(advertisement, authenticated)
            self._arm_active_down(now)
        else:
            self.active_address = advertisement.source
            self._expiry = Cause.PREEMPTION

    def _is_tolerated(self, priority: int, now: float) -> bool:
        """Is the Active, of this lower priority, to be left alone yet? (keepalived.conf(5) ``preempt_delay``)"""
        if self._inferior_since is None:
            self._inferior_since = now
        patience = 0.0 if priority == LOWEST_PRIORITY else self.parameters.preempt_delay
        return now < max(self._damped_until, self._inferior_since + patience)

    def _received_as_active(self, advertisement: Advertisement, authenticated: bool, now: float) -> Iterator[Output]:
        """Section 6.4.3."""
        mine = self.parameters
        if self._leaving is not None:
            if advertisement.priority > 0:
                interval = self._learned(advertisement, authenticated)
                yield from self._succeeded(advertisement, self._leaving, interval, now)
            return
        if advertisement.priority == 0:
            yield self._advertise(now)
            self._timer = now + mine.spacing
            return
        if (advertisement.priority, advertisement.source) > (mine.effective_priority, mine.source):
            same = advertisement.priority == mine.effective_priority
            yield self._advert(priority=mine.effective_priority)
            yield from self._become_backup(
                Cause.HIGHER_ADDRESS if same else Cause.HIGHER_PRIORITY,
                self._learned(advertisement, authenticated),
                now,
            )
            self.active_address = advertisement.source
            return
        # RFC 3768 section 6.4.3 discards it in silence.
        if mine.version != 2 and now - self._advertised >= ANSWER_SPACING * mine.spacing:
            yield self._advertise(now)
        if mine.announcing.on_lower_priority:
            self._announcements.claimed(now)
            yield from self._announce(now)

    def _tick(self, now: float) -> Iterator[Output]:
        if self.state is State.BACKUP and now >= self._timer:
            if self.parameters.grouped:
                self.willing = True
            else:
                yield from self._become_active(self._expiry, now)
        elif self.state is State.ACTIVE:
            if self._repeat is not None and now >= self._repeat[1]:
                left, _, advert = self._repeat
                self._repeat = (left - 1, now + REPEAT_SPACING, advert) if left > 1 else None
                yield advert
            if self._leaving is not None:
                if now >= self._leaving.until:
                    yield from self._give_up_waiting(self._leaving, now)
            elif now >= self._timer:
                yield self._advertise(now)
                # From the deadline, so that lateness does not add up; from now when one was missed.
                following = self._timer + self.parameters.spacing
                self._timer = following if following > now else now + self.parameters.spacing
            yield from self._announce(now)

    def _give_up_waiting(self, leaving: Leaving, now: float) -> Iterator[Output]:
        if leaving.into is State.INITIALIZE:
            yield Release(self.parameters.addresses)
            yield self._end(leaving.cause, now)
        else:
            yield from self._stay(now)

    def _reconfigure(self, parameters: Parameters, now: float) -> Iterator[Output]:
        """Not in the RFC: everything that can change does so without leaving the state."""
        before, self.parameters = self.parameters, parameters
        if parameters == before:
            return
        self._announcements.settings = parameters.announcing
        if self.state is State.BACKUP:
            self.willing = self.willing and parameters.grouped  # nobody promotes one that left its group
            if self._active_interval == before.interval:
                self._active_interval = parameters.interval
            if self._expiry is not Cause.ACTIVE_RELEASED and not self.willing:
                self._timer = self._armed + parameters.active_down(self._active_interval)
        elif self.state is State.ACTIVE:
            yield from self._reconfigure_active(before, now)

    def _reconfigure_active(self, before: Parameters, now: float) -> Iterator[Output]:
        mine = self.parameters
        kept, wanted = frozenset(before.addresses), frozenset(mine.addresses)
        if gone := tuple(address for address in before.addresses if address not in wanted):
            yield Release(gone)
        if fresh := tuple(address for address in mine.addresses if address not in kept):
            yield Acquire(fresh)
            self._announcements.start(now)
        self.active_address = mine.source
        if mine.standby and not before.standby and self._leaving is None:
            yield from self._leave(Leaving(Cause.RESIGNED, now + PATIENCE, State.BACKUP), now)
        elif self._leaving is None or (self._leaving.cause is Cause.RESIGNED and not mine.standby):
            yield from self._stay(now)
        yield from self._announce(now)

    def _become_active(self, cause: Cause, now: float) -> Iterator[Output]:
        yield Acquire(self.parameters.addresses)
        yield self._advertise(now)
        self._timer = now + self.parameters.spacing
        self._forget()
        self._announcements.start(now)
        yield from self._announce(now)
        self.active_address = self.parameters.source
        yield self._change(State.ACTIVE, cause, now)

    def _become_backup(self, cause: Cause, active_interval: float, now: float) -> Iterator[Output]:
        self._forget()
        self._active_interval = active_interval
        self._arm_active_down(now)
        self.active_address = None
        yield Release(self.parameters.addresses)
        yield self._change(State.BACKUP, cause, now)

    def _forget(self) -> None:
        """What belonged to the state that ends."""
        self._announcements.stop()
        self._leaving = None
        self._repeat = None
        self._inferior_since = None
        self.willing = False

    def _arm_active_down(self, now: float) -> None:
        self._armed = now
        self._timer = now + self.parameters.active_down(self._active_interval)
        self._expiry = Cause.ACTIVE_SILENT
        self.willing = False

    def _learned(self, advertisement: Advertisement, authenticated: bool) -> float:
        """The sender's interval in seconds, as far as it is believed."""
        believed = self.parameters.believed(advertisement.interval / 100, authenticated)
        self.clamped_intervals += self.parameters.version != 2 and believed < advertisement.interval / 100
        return believed

    def _advertise(self, now: float) -> SendAdvert:
        self._advertised = now
        return self._advert(priority=self.parameters.effective_priority)

    def _advert(self, *, priority: int) -> SendAdvert:
        return SendAdvert(priority, self.parameters.interval, self.parameters.addresses)

    def _announce(self, now: float) -> Iterator[Announce]:
        if self._announcements.due(now):
            yield Announce(self.parameters.addresses)

    def _change(self, state: State, cause: Cause, now: float) -> StateChanged:
        if cause in FAILURES:
            self.damping.failed(now)
        if state is State.BACKUP:
            self._damped_until = now + self.damping.wait(now)
        if (self.state, state) not in TRANSITIONS[cause]:
            raise IllegalTransition(f"{self.state} -> {state} because of {cause}")
        previous, self.state = self.state, state
        return StateChanged(previous, state, cause)
