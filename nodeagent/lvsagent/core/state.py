"""The kernel's state that concerns us, as values. Pure.

Read from the kernel by ``adapters``, wanted by ``core.plan``, compared by ``core.diff``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Interface, IPv6Interface

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


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """What identifies an IPVS service."""

    address: IPAddress
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.protocol} {host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Destination:
    """A real server of an IPVS service. Key within the service: (address, port)."""

    address: IPAddress
    port: int
    method: ForwardMethod
    weight: int

    @property
    def key(self) -> tuple[IPAddress, int]:
        return (self.address, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An IPVS service with its destinations in the order in which they are to be inserted."""

    key: ServiceKey
    scheduler: str
    flags: int
    """ServiceFlag bits without HASHED."""
    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """What is (or shall be) in the kernel. Wanted: ours only. Read: everything, foreign included."""

    services: Mapping[ServiceKey, Service] = field(default_factory=dict)
    loopback: frozenset[IPAddress] = frozenset()
    """Addresses on ``lo`` (/32 or /128), without 127.0.0.1 and ::1."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Key as in sysctl(8) with slashes under /proc/sys, e.g. ``net/ipv4/vs/sloppy_tcp``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface and its addresses."""

    name: str
    index: int
    mac: str
    up: bool
    addresses: tuple[IPInterface, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a plan needs to know of the node."""

    node: str
    interfaces: tuple[Interface, ...]
    default_interface: Mapping[int, str] = field(default_factory=dict)
    """Interface of the default route, by family (4, 6)."""
