"""What the agent and the election say to each other. Pure: values to lines and back.

One JSON object a line over a unix stream socket in the host folder (``election.sock``). The agent always sends the
whole wish (level-triggered), the election answers with what is. Neither waits for the other.

    agent -> election   Configure
    election -> agent   Configured (all addresses of the wish are in force), StateChanged, Liveness (when it changes and
                        on connect), Statistics (every second and on connect)
"""

import json
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Any


@unique
class Authentication(StrEnum):
    """How adverts are proved to come from a director."""

    NONE = "None"
    PASSWORD = "Password"
    """VRRPv2 authentication type 1 (RFC 2338 section 5.3.6), in clear text: keeps accidents out, not attackers."""
    HMAC = "HMAC"
    """keepalived's ``auth_hmac``: a trailer of 28 bytes (draft-cassen-vrrp-auth-hmac)."""


@unique
class AuthenticationMode(StrEnum):
    """How far a roll-out of HMAC keys has come."""

    RECEIVE_ONLY = "ReceiveOnly"
    """Adverts are sent without a trailer; those received with one are verified, those without are taken."""
    PERMISSIVE = "Permissive"
    """Adverts are sent with a trailer; those received without one are still taken."""
    ENFORCE = "Enforce"
    """Adverts without a good trailer are dropped."""


@unique
class Finding(StrEnum):
    """What a router noticed on the wire that somebody should look into. Also condition reason and label."""

    ADDRESS_CONFLICT = "AddressConflict"
    """A foreign host answers for a virtual address; not taken."""
    ADDRESS_CLAIMED = "AddressClaimed"
    """Somebody else's ARP or ND claims an address while we hold it."""
    ADDRESS_REMOVED = "AddressRemoved"
    """A program on this node deletes a virtual address again and again."""
    ADDRESS_REFUSED = "AddressRefused"
    """The kernel refuses an Active a virtual address."""
    FOREIGN_ROUTER = "ForeignVRID"
    """A router that is no director of ours speaks on our VRID."""
    ADVERT_BLOCKED = "AdvertBlocked"
    """A firewall of this node drops protocol 112."""
    NO_PEERS_HEARD = "NoPeersHeard"
    """Active, and no other director was heard for long although there should be some."""
    ASYMMETRIC_PEER = "AsymmetricPeer"
    """A director with a lower priority stays Active: it does not hear us."""
    ADDRESS_LIST_DIFFERS = "AddressListDiffers"
    INTERVAL_DIFFERS = "IntervalDiffers"
    PASSWORD_INSECURE = "PasswordInsecure"
    KEY_MISSING = "KeyMissing"
    """The configured key is not in the keys folder or cannot be used."""
    REPLAYED = "Replayed"
    """Adverts with a good trailer that were heard before, or are too old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedInterface:
    """keepalived's ``track_interface``."""

    name: str
    weight: int = 0
    """Added to the priority while the interface is up (positive) or down (negative); 0: down takes the router out."""


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
    version: int = 3
    """3 (RFC 9568) or 2 (RFC 3768; IPv4, whole seconds)."""
    send_interval_ms: int = 0
    """Adverts are sent this often, whatever interval they announce; 0: as often as they announce."""
    preempt_delay_ms: int = 0
    """A better router that starts waits so long before it takes over from a worse one."""
    initially_active: bool = False
    """keepalived's ``state MASTER``: the first wait is one interval and the Skew_Time."""
    standby: bool = False
    """Be Active only if nobody else can: priority 1, an Active hands over (node drained, failover asked for)."""
    unicast_peers: tuple[str, ...] | None = None
    """Send to these and hear these only; None: multicast. An empty list is a fault, not multicast."""
    sources: tuple[str, ...] = ()
    """Addresses of the other directors, adverts of others are foreign; empty: not known."""
    real_servers: tuple[str, ...] = ()
    """Hosts on the link of the addresses that have these on ``lo`` and must be silent about them. One that is not
    silent does not keep the addresses from being taken. Bounded by who fills it (``core.neighbors``)."""
    source: str = ""
    """Address that adverts leave from, where the interface has it; empty, or elsewhere: the interface's primary one."""
    authentication: Authentication = Authentication.NONE
    authentication_mode: AuthenticationMode = AuthenticationMode.ENFORCE
    key: str = ""
    """Files of the keys folder: ``<key>.password`` (1-8 octets) or ``<key>.hmac.<id>`` (32-64 octets, id 0-255; the
    greatest id signs)."""
    checksum_without_pseudo_header: bool = False
    """Send RFC 9568's IPv4 checksum instead of keepalived's. Both are accepted."""
    sync_group: str = ""
    """Routers of one group are Active together or not at all."""
    track_interfaces: tuple[TrackedInterface, ...] = ()
    announce_repeat: int = 1
    """Gratuitous ARP requests (unsolicited NAs) for each address in each round."""
    announce_delay_ms: int = 0
    """One more round so long after the take-over, besides the schedule; 0: none."""
    announce_refresh_ms: int = 10_000
    """Between rounds later on; 0: none."""
    announce_on_lower_priority: bool = True
    """An advert of lower priority is answered with a round too."""
    virtual_mac: bool = False
    """VIPs on a macvlan ``vrrp<family>.<vrid>`` with the virtual router's MAC (keepalived's ``use_vmac``)."""
    graceful_restart_ms: int = 0
    """A restart of the election within this time is no transition; 0: it hands over. Without HMAC the peers
    clamp the interval that is announced meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerNode:
    """A node of the cluster that may run an agent."""

    name: str
    addresses: tuple[str, ...]
    """Heartbeats go to the first and are believed from all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """The whole wish: every router that shall exist on this node. Others are shut down."""

    generation: int
    routers: tuple[RouterConfig, ...]
    node: str = ""
    """The name of this node; empty: it sends no heartbeats."""
    serving: bool = False
    """The tables of this node were complete: others may send it packets for any virtual address."""
    nodes: tuple[PeerNode, ...] = ()
    """To exchange heartbeats with. This node may be among them: then its first address is where they leave."""
    healthy: int = 0
    """Told to the other nodes (``core.blind``)."""


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
    """A ``vrrp.events.Cause``, snake_case; also the metric's label."""
    active_address: str
    """Source of the last accepted advert of the Active, or our own address; empty when unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """The nodes that shall get no new connections, and what the others say of their backends."""

    silent: tuple[str, ...] = ()
    """They were heard, and neither they nor their kernels are any more."""
    unready: tuple[str, ...] = ()
    """They say that their tables are not in place yet."""
    healthy: dict[str, int] = field(default_factory=dict)
    """What each of the others tells (``Configure.healthy``), unless it is 0."""


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
    """Gratuitous ARP (request and reply together count once) and unsolicited neighbour advertisements."""
    address_errors: int
    intervals_clamped: int = 0
    """Adverts that announced an interval too long to be believed."""
    problem: str = ""
    """Why the router is refused or does not run now; empty: it runs."""
    findings: dict[str, str] = field(default_factory=dict)
    """Finding -> sentence with the particulars; of the last seconds."""
    effective_priority: int = 0
    """After tracking and ``standby``."""


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
    beats_sent: int = 0
    beats_received: int = 0
    """Those that count."""
    beats_dropped: dict[str, int] = field(default_factory=dict)
    """By ``liveness.beat.DropReason``."""
    beat_errors: int = 0
    """Heartbeats that could not be sent."""
    nodes_mute: tuple[str, ...] = ()
    """Their kernel answers while their election is not heard; not suspected."""
    sockets: tuple[int, ...] = ()
    """Inodes of the sockets for adverts: another one of IP protocol 112 on this node is another daemon's."""


Message = Configure | Configured | StateChanged | Liveness | Statistics
_KINDS: dict[str, type[Message]] = {
    "configure": Configure,
    "configured": Configured,
    "state": StateChanged,
    "liveness": Liveness,
    "statistics": Statistics,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class IpcError(ValueError):
    """A line that is not a message of ours."""


def encode(message: Message) -> bytes:
    """One line, newline included."""
    said = {"kind": _NAMES[type(message)], **_fields(message)}
    return json.dumps(said, separators=(",", ":"), default=_fields).encode() + b"\n"


def _fields(value: Any) -> dict[str, Any]:
    """Of a message, or of one of its parts. Not ``asdict``: that copies every leaf of a hundred routers each second."""
    found = {name: getattr(value, name) for name in value.__dataclass_fields__}
    # An election of an earlier version may still run: what it does not know it hears only where it is used.
    for name in ("healthy", "real_servers"):
        if not found.get(name, True):
            del found[name]
    return found


def decode(line: bytes) -> Message:
    """The message of a line. Raises IpcError, never anything else."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("kind")]
        if kind is Configure:
            fields["routers"] = tuple(_router(router) for router in fields["routers"])
            fields["nodes"] = tuple(
                PeerNode(**{**node, "addresses": tuple(node["addresses"])}) for node in fields.get("nodes", ())
            )
        elif kind is Liveness:
            fields = {name: tuple(nodes) if name != "healthy" else nodes for name, nodes in fields.items()}
        elif kind is Statistics:
            fields["routers"] = tuple(
                RouterStatistics(**{**router, "addresses_held": tuple(router["addresses_held"])})
                for router in fields["routers"]
            )
            fields["nodes_mute"] = tuple(fields.get("nodes_mute", ()))
            fields["sockets"] = tuple(fields.get("sockets", ()))
        return kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IpcError(f"not a message of the agent or the election: {error}: {line[:200]!r}") from error


def _router(fields: dict[str, Any]) -> RouterConfig:
    """JSON has neither tuples nor enums."""
    peers = fields.get("unicast_peers")
    return RouterConfig(
        **{
            **fields,
            "addresses": tuple(fields["addresses"]),
            "unicast_peers": None if peers is None else tuple(peers),
            "sources": tuple(fields.get("sources", ())),
            "real_servers": tuple(fields.get("real_servers", ())),
            "track_interfaces": tuple(TrackedInterface(**each) for each in fields.get("track_interfaces", ())),
            "authentication": Authentication(fields.get("authentication", Authentication.NONE)),
            "authentication_mode": AuthenticationMode(fields.get("authentication_mode", AuthenticationMode.ENFORCE)),
        }
    )
