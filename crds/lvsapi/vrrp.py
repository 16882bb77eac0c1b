"""The election's settings as values: what a VirtualServiceClass says under ``spec.vrrp``. Pure.

Words are those of RFC 9568, RFC 3768 and keepalived.conf(5). Every default is what a network without other VRRP routers
needs.
"""

from dataclasses import dataclass
from enum import StrEnum


class Transport(StrEnum):
    """How adverts travel."""

    MULTICAST = "Multicast"
    UNICAST = "Unicast"
    """To the other directors' own addresses: for networks that do not carry 224.0.0.18 and ff02::12."""


class Checksum(StrEnum):
    """What the checksum of a VRRPv3 advert over IPv4 covers. Both are understood; this is what is sent."""

    PSEUDO_HEADER = "PseudoHeader"
    """RFC 5798, and keepalived's default."""
    MESSAGE = "Message"
    """RFC 9568 section 5.2.8: the VRRP message alone."""


class AuthenticationType(StrEnum):
    """How an advert proves that it comes from a director."""

    NONE = "None"
    PASSWORD = "Password"
    """VRRPv2 type 1: eight octets in clear text. Keeps accidents out, not attackers."""
    HMAC = "HMAC"
    """keepalived's ``auth_hmac``: key from the Secret, with a replay window."""


class AuthenticationMode(StrEnum):
    """How far a roll-out of HMAC keys has come."""

    RECEIVE_ONLY = "ReceiveOnly"
    PERMISSIVE = "Permissive"
    ENFORCE = "Enforce"


class ConditionStatus(StrEnum):
    """What a Node's condition can say for sure; "Unknown" says nothing."""

    TRUE = "True"
    FALSE = "False"


class InitialState(StrEnum):
    """keepalived's ``state``: how a director begins."""

    BACKUP = "Backup"
    ACTIVE = "Active"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedInterface:
    """keepalived's ``track_interface``: added to the priority while up (positive) or down (negative).
    0: down takes the node out of the election."""

    name: str
    weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedCondition:
    """keepalived's ``track_script`` with a condition of the Node for a script: added to the priority while it holds
    (positive) or does not (negative). 0: while it does not hold, the node is Active only if nobody else can."""

    type: str
    status: ConditionStatus = ConditionStatus.TRUE
    """The good one. What is absent or Unknown counts as good: not knowing moves nothing."""
    weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcements:
    """Gratuitous ARP requests and unsolicited neighbour advertisements."""

    repeat: int = 1
    """Packets for each address in each round."""
    delay_seconds: int = 0
    """One more round so long after the take-over; 0: none."""
    refresh_seconds: int = 10
    """Between later rounds; 0: none."""
    on_lower_priority: bool = True
    """An advert of lower priority is answered by a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VrrpSettings:
    """Election settings of a class."""

    version: int = 3
    """3 (RFC 9568), or 2 (RFC 3768: IPv4 only, whole seconds)."""
    advertisement_interval_ms: int = 100
    """RFC 9568 Advertisement_Interval: 10-40950 ms in steps of 10. 100 ms loses a node in at most 0.35 s."""
    send_interval_ms: int = 0
    """Adverts are sent this often, whatever interval they announce; 0: as often as they announce."""
    preempt: bool = True
    """RFC 9568 Preempt_Mode. Hitless here, so on: VIPs return to where the ranking wants them."""
    preempt_delay_seconds: int = 0
    """keepalived's ``preempt_delay``: a better node waits so long after its start before it takes over."""
    virtual_router_ids: tuple[int, int] = (200, 215)
    """First and last VRID that may be allocated. Sixteen routers spread VIPs over the directors."""
    transport: Transport = Transport.MULTICAST
    checksum: Checksum = Checksum.PSEUDO_HEADER
    authentication: AuthenticationType = AuthenticationType.NONE
    authentication_mode: AuthenticationMode = AuthenticationMode.ENFORCE
    """Of HMAC; the others have no modes."""
    sync_group: str = ""
    """Virtual routers of one group are Active together or not at all."""
    announcements: Announcements = Announcements()
    virtual_mac: bool = False
    """keepalived's ``use_vmac``: VIPs on a macvlan with the virtual router's MAC address."""
    graceful_restart_seconds: int = 0
    """An election that restarts within this time loses nothing; 0: it hands over."""
    track_interfaces: tuple[TrackedInterface, ...] = ()
    track_conditions: tuple[TrackedCondition, ...] = ()
