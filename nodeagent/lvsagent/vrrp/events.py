"""What a virtual router is told, what it answers, and the words for it (RFC 9568 sections 6.1, 6.3, 6.4). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final

from lvsagent.vrrp.arp import Announcing
from lvsagent.vrrp.packet import Advertisement

OWNER_PRIORITY: Final = 255
LOWEST_PRIORITY: Final = 1
"""Of a router that stands by."""
INTERVAL_LIMIT: Final = 4
"""A received interval above so many of our own is taken as so many (a forged 40.95 s would disable failover)."""
AUTHENTICATED_LIMIT: Final = 10.0
"""Seconds; the same for a sender that proved itself: it announces its restart so."""


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
    RESTARTED = "restarted"
    """The process before this one announced that it comes back, and this one came in time."""
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
    RESIGNED = "resigned"
    """We were told to stand by, and a successor was heard."""
    SYNC_GROUP = "sync_group"
    """Another router of the group is not Active any more, and a successor was heard."""
    ADDRESS_LOST = "address_lost"
    """Somebody on this node takes our addresses away again and again, and a successor was heard."""
    LATE_TIMER = "late_timer"
    """We were not running for so long that somebody may have replaced us."""


_UP: Final = (State.BACKUP, State.ACTIVE)
_TO_ACTIVE: Final = frozenset({(State.BACKUP, State.ACTIVE)})
_TO_BACKUP: Final = frozenset({(State.ACTIVE, State.BACKUP)})
TRANSITIONS: Final[Mapping[Cause, frozenset[tuple[State, State]]]] = MappingProxyType(
    {
        Cause.STARTUP: frozenset((State.INITIALIZE, state) for state in _UP),
        Cause.RESTARTED: frozenset({(State.INITIALIZE, State.ACTIVE)}),
        Cause.SHUTDOWN: frozenset((state, State.INITIALIZE) for state in _UP),
        Cause.INTERFACE_LOST: frozenset((state, State.INITIALIZE) for state in _UP),
        Cause.ACTIVE_SILENT: _TO_ACTIVE,
        Cause.ACTIVE_RELEASED: _TO_ACTIVE,
        Cause.PREEMPTION: _TO_ACTIVE,
        Cause.HIGHER_PRIORITY: _TO_BACKUP,
        Cause.HIGHER_ADDRESS: _TO_BACKUP,
        Cause.RESIGNED: _TO_BACKUP,
        Cause.SYNC_GROUP: _TO_BACKUP,
        Cause.ADDRESS_LOST: _TO_BACKUP,
        Cause.LATE_TIMER: _TO_BACKUP,
    }
)
"""All there are; anything else is our own fault and raises IllegalTransition."""


FAILURES: Final = frozenset({Cause.INTERFACE_LOST, Cause.ADDRESS_LOST, Cause.LATE_TIMER})
"""Changes that count for damping."""


class IllegalTransition(AssertionError):
    """A change of state that TRANSITIONS does not list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """RFC 9568 section 6.1 and what keepalived adds to it, for one virtual router on one interface."""

    virtual_router_id: int
    priority: int
    """1-254; 255 for the owner of the addresses."""
    interval: float
    """Advertisement_Interval, seconds."""
    addresses: tuple[bytes, ...]
    source: bytes
    """Primary address of the interface: what our adverts come from."""
    preempt: bool = True
    version: int = 3
    """2: RFC 3768, whose Skew_Time does not shrink with the interval, and which learns no interval."""
    send_interval: float | None = None
    """Seconds between adverts, at most ``interval``, which they announce; None: ``interval``. Deviates from section
    6.4.3, so that several adverts in a row may be lost."""
    preempt_delay: float = 0.0
    """Seconds for which an Active of lower priority is left alone after it was first heard."""
    initially_active: bool = False
    """The first wait is Advertisement_Interval + Skew_Time: keepalived's ``state MASTER``."""
    standby: bool = False
    """Priority 1, never preempt, and hand over when Active."""
    grouped: bool = False
    """Become Active only by Promote."""
    announcing: Announcing = field(default_factory=Announcing)

    @property
    def effective_priority(self) -> int:
        """What adverts say and what is compared."""
        return LOWEST_PRIORITY if self.standby else self.priority

    @property
    def spacing(self) -> float:
        """Seconds between adverts."""
        return self.interval if self.send_interval is None else self.send_interval

    def preempts(self, priority: int) -> bool:
        """Whether an Active of this lower priority is replaced: Preempt_Mode; the owner always does so (section 6.1).
        And whoever says the lowest one stands by: that asks for a successor."""
        allowed = self.preempt or self.priority == OWNER_PRIORITY or priority == LOWEST_PRIORITY
        return not self.standby and allowed

    def skew(self, interval: float) -> float:
        """Skew_Time of this priority when the Active advertises at ``interval``, both seconds. Not truncated."""
        return (256 - self.effective_priority) * (1.0 if self.version == 2 else interval) / 256

    def active_down(self, interval: float) -> float:
        """Active_Down_Interval when the Active advertises at ``interval``, both seconds."""
        return 3 * interval + self.skew(interval)

    def believed(self, interval: float, authenticated: bool) -> float:
        """Active_Adver_Interval of an Active that announces this one, both seconds. RFC 3768 has only our own."""
        if self.version == 2:
            return self.interval
        return min(interval, max(AUTHENTICATED_LIMIT if authenticated else 0.0, INTERVAL_LIMIT * self.interval))


@dataclass(frozen=True, slots=True)
class Startup:
    """Begin: interface and tables are there."""

    resume: bool = False
    """The process before this one was Active and announced that it comes back: be Active at once."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End, or pause until the next Startup."""

    cause: Cause = Cause.SHUTDOWN
    patience: float = 0.0
    """Seconds for which an Active serves on until a successor is heard."""


@dataclass(frozen=True, slots=True)
class Suspend:
    """The process is about to be replaced within so many seconds: ask the Backups to wait so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Received:
    """An advert for this virtual router that passed the codec's checks."""

    advertisement: Advertisement
    authenticated: bool = False
    """Its HMAC is good: also a long interval is believed."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Somebody else's ARP or ND claims an address of this virtual router."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Every router of the sync group is willing."""


@dataclass(frozen=True, slots=True)
class Resign:
    """Hand over to a successor, if there is one."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline came, or may have come."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """Other parameters in place. The virtual router ID and the interface cannot change: that is another router."""

    parameters: Parameters


Event = Startup | Shutdown | Suspend | Received | Claimed | Promote | Resign | Tick | Reconfigure


@dataclass(frozen=True, slots=True)
class Leaving:
    """An Active that said farewell, and serves on until a successor is heard."""

    cause: Cause
    until: float
    into: State


@dataclass(frozen=True, slots=True)
class SendAdvert:
    """Send an advert with this priority and interval (seconds) and these addresses."""

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
