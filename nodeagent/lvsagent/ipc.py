"""What the agent and the election say to each other. Pure: values to lines and back.

One JSON object a line over a unix stream socket in the host folder (``election.sock``). The agent always sends the
whole wish (level-triggered), the election answers with what is. Neither waits for the other.

    agent -> election   Configure
    election -> agent   Configured (all addresses of the wish are in force), StateChanged, Statistics (every second and
                        on connect)
"""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """One VRRP instance on this node."""

    name: str
    virtual_router_id: int
    family: int
    """4 or 6."""
    interface: str
    """Adverts are sent and heard here."""
    vip_interface: str
    addresses: tuple[str, ...]
    """Virtual addresses with prefix length, e.g. ``192.168.139.123/32``."""
    priority: int
    """1-255; 255 only for the address owner."""
    advertisement_interval_ms: int = 100
    preempt: bool = True
    ready: bool = True
    """Tables are in place. False: the router stays in (or returns to) Initialize and holds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """The whole wish: every router that shall exist on this node. Others are shut down."""

    generation: int
    routers: tuple[RouterConfig, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """The wish of that generation is in force: no address outside of it is held any more."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """A router went from one state of RFC 9568 section 6.4 to another."""

    router: str
    previous: str
    state: str
    """``Initialize``, ``Backup`` or ``Active``."""
    cause: str
    """A ``vrrp.machine.Cause``, snake_case; also the metric's label."""
    active_address: str
    """Source of the last accepted advert of the Active, or our own address; empty when unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatistics:
    """Counters since the election started; the labels of the metrics."""

    router: str
    state: str
    virtual_router_id: int
    family: int
    interface: str
    priority: int
    active_address: str
    addresses_held: tuple[str, ...]
    transitions: dict[str, int]
    """Keyed ``<from>,<to>,<cause>``."""
    adverts_sent: int
    adverts_received: int
    announcements_sent: int
    """Gratuitous ARP requests and unsolicited neighbour advertisements."""
    address_errors: int
    intervals_clamped: int = 0
    """Adverts that announced an interval too long to be believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """State of the election process, sent on connect and every second."""

    started: float
    """Unix time of the start of the process."""
    generation: int
    """Of the wish in force; -1 when it was loaded from disk."""
    routers: tuple[RouterStatistics, ...]
    dropped: dict[str, int]
    """Adverts not acted on, by ``vrrp.packet.DropReason``."""
    late_timers: int
    lateness_max_ms: float
    """Since the last Statistics."""
    realtime: bool
    """SCHED_RR was granted."""
    memory_locked: bool


Message = Configure | Configured | StateChanged | Statistics
_KINDS: dict[str, type[Message]] = {
    "configure": Configure,
    "configured": Configured,
    "state": StateChanged,
    "statistics": Statistics,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class IpcError(ValueError):
    """A line that is not a message of ours."""


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return json.dumps({"kind": _NAMES[type(message)], **asdict(message)}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. Raises IpcError, never anything else."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("kind")]
        if kind is Configure:
            fields["routers"] = tuple(
                RouterConfig(**{**router, "addresses": tuple(router["addresses"])}) for router in fields["routers"]
            )
        elif kind is Statistics:
            fields["routers"] = tuple(
                RouterStatistics(**{**router, "addresses_held": tuple(router["addresses_held"])})
                for router in fields["routers"]
            )
        return kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IpcError(f"not a message of the agent or the election: {error}: {line[:200]!r}") from error
