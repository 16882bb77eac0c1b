"""The kernel's state that concerns us, as values. Pure.

Read from the kernel by ``adapters``, wanted by ``core.plan``, compared by ``core.diff``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Interface, IPv6Interface

from lvsapi.ipvs import IPIP, Tunnel
from lvsapi.model import IPAddress, Protocol

IPInterface = IPv4Interface | IPv6Interface


class ForwardMethod(IntEnum):
    """include/uapi/linux/ip_vs.h IP_VS_CONN_F_FWD_MASK values."""

    MASQUERADE = 0
    LOCAL_NODE = 1
    TUNNEL = 2
    DIRECT_ROUTE = 3


class ServiceFlag(IntEnum):
    """include/uapi/linux/ip_vs.h IP_VS_SVC_F_*. For mh, SCHED1 is mh-fallback and SCHED2 mh-port."""

    PERSISTENT = 0x1
    HASHED = 0x2
    ONE_PACKET = 0x4
    SCHED1 = 0x8
    SCHED2 = 0x10
    SCHED3 = 0x20


@dataclass(frozen=True, slots=True, eq=False)
class ServiceKey:
    """What identifies an IPVS service: family and firewall mark, or else address, protocol and port."""

    address: IPAddress
    protocol: Protocol | None
    port: int
    mark: int = 0
    """0: none. The kernel does not know the address of a marked service: a foreign one shows 0.0.0.0 or ::."""

    @property
    def identity(self) -> tuple[object, ...]:
        """As the kernel sees it."""
        return (self.address.version, self.mark) if self.mark else (self.address, self.protocol, self.port)

    def __eq__(self, other: object) -> bool:
        return self.identity == other.identity if isinstance(other, ServiceKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.identity)

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        named = f"{self.protocol or 'every port'} {host}:{self.port}"
        return f"firewall mark {self.mark:#x} ({named})" if self.mark else named


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A rule that gives packets the firewall mark by which their IPVS service is found."""

    address: IPAddress
    protocol: Protocol | None
    """None: whatever is sent to the address."""
    first: int
    last: int
    value: int
    instead: int = 0
    """The mark that such packets have already; 0: none."""

    def __str__(self) -> str:
        ports = f"{self.protocol} {self.first}-{self.last}" if self.protocol else "every port"
        return f"firewall mark {self.value:#x} for {self.address} {ports}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A rule for new clients of ports that have no backend left: IPVS alone would tell them by ICMP, now and then."""

    address: IPAddress
    protocol: Protocol
    first: int
    last: int
    drop: bool = False
    """They get nothing. Else a TCP reset; what is not TCP is told by IPVS."""

    def __str__(self) -> str:
        return f"{'drop' if self.drop else 'reset'} for {self.address} {self.protocol} {self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Destination:
    """A real server of an IPVS service. Key within the service: (address, port)."""

    address: IPAddress
    port: int
    """0: that of the packet (marked services only)."""
    method: ForwardMethod
    weight: int
    upper: int = 0
    """Connection thresholds; 0: none."""
    lower: int = 0
    tunnel: Tunnel = IPIP
    """Counts with method TUNNEL only."""

    @property
    def key(self) -> tuple[IPAddress, int]:
        return (self.address, self.port)


@dataclass(frozen=True, slots=True)
class Persistent:
    """Templates of clients."""

    timeout: int
    """Seconds."""
    prefix_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An IPVS service with its destinations in the order in which they are to be inserted."""

    key: ServiceKey
    scheduler: str
    flags: int
    """ServiceFlag bits without HASHED."""
    destinations: tuple[Destination, ...]
    persistent: Persistent | None = None
    """Exactly when the flag PERSISTENT is set."""


class SyncRole(IntEnum):
    """include/uapi/linux/ip_vs.h IP_VS_STATE_*."""

    MASTER = 1
    BACKUP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncDaemon:
    """The kernel's sync daemon of one role."""

    role: SyncRole
    interface: str
    sync_id: int

    def __str__(self) -> str:
        return f"sync daemon {self.role.name.lower()} on {self.interface}, syncid {self.sync_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """What is (or shall be) in the kernel. Wanted: ours only. Read: everything, foreign included."""

    services: Mapping[ServiceKey, Service] = field(default_factory=dict)
    loopback: frozenset[IPAddress] = frozenset()
    """Addresses on ``lo`` (/32 or /128), without 127.0.0.1 and ::1."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Key as in sysctl(8) with slashes under /proc/sys, e.g. ``net/ipv4/vs/sloppy_tcp``."""
    marks: frozenset[Mark] = frozenset()
    """Of our own nftables table. So is the next one."""
    refusals: frozenset[Refusal] = frozenset()
    daemons: frozenset[SyncDaemon] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface and its addresses."""

    name: str
    index: int
    mac: str
    up: bool
    addresses: tuple[IPInterface, ...]
    mtu: int = 0
    """Octets; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a plan needs to know of the node."""

    node: str
    interfaces: tuple[Interface, ...]
    default_interface: Mapping[int, str] = field(default_factory=dict)
    """Interface of the default route, by family (4, 6)."""
