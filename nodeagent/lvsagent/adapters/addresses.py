"""Addresses of ``lo``, and dumps of links, addresses and default routes, over rtnetlink. One thread."""

import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from lvsagent.adapters.netlink import (
    Attributes,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    by_type,
    error_name,
    parse_attributes,
)
from lvsagent.core.diff import AddLoopback, DeleteLoopback
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.state import IPInterface
from lvsapi.model import IPAddress

ROUTE = 0
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE = 20, 21, 22, 18, 26
NLM_F_CREATE_EXCL = 0x600
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 6, 8
IFA_F_NODAD, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_AF_SPEC = 1, 3, 4, 26
IFLA_INET6_FLAGS, IF_RA_RCVD = 1, 0x20
RTPROT_RA = 9
IFF_UP = 0x1
RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_TABLE = 1, 4, 6, 15
TABLE_MAIN, RTN_UNICAST = 254, 1
SCOPE_HOST = 254
IFADDRMSG = struct.Struct("=BBBBI")
IFINFOMSG = struct.Struct("=BBHiII")
RTMSG = struct.Struct("=BBBBBBBBI")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
FENCE_LONGEST = 300
"""Seconds. A VIP that the election fences never lives longer, a lease of DHCP mostly does (``adapters.facts``)."""
_HOME = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address on an interface."""

    index: int
    address: IPInterface
    fenced: bool
    """As the election holds it: no prefix route, and the kernel will remove it within FENCE_LONGEST seconds."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    mac: str
    up: bool
    mtu: int


class Addresses:
    """rtnetlink of the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._netlink = Netlink(ROUTE)
        self._lo = next((link.index for link in self.links() if link.name == "lo"), 1)

    def close(self) -> None:
        """May be called twice."""
        self._netlink.close()

    def loopback(self) -> frozenset[IPAddress]:
        """Host addresses (/32, /128) on ``lo`` without 127.0.0.1 and ::1."""
        return frozenset(
            found.address.ip
            for found in self.addresses()
            if found.index == self._lo
            and found.address.network.prefixlen == found.address.max_prefixlen
            and found.address.ip not in _HOME
        )

    def apply(self, ops: Sequence[AddLoopback | DeleteLoopback]) -> tuple[OperationFailed, ...]:
        """All operations, in order, going on after failures."""
        failed = self._netlink.batch([self._encode(op) for op in ops])
        return tuple(_failure(ops[index], code) for index, code in sorted(failed.items()))

    def addresses(self) -> list[LinkAddress]:
        """Every address of every interface."""
        payloads = self._netlink.dump(Message(RTM_GETADDR, 0, IFADDRMSG.pack(0, 0, 0, 0, 0)))
        found = (_link_address(header, attributes) for header, attributes in by_type(payloads, IFADDRMSG.size))
        return [address for address in found if address]

    def links(self) -> list[Link]:
        """Every interface."""
        payloads = self._netlink.dump(Message(RTM_GETLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0, 0)))
        links = []
        for header, attributes in by_type(payloads, IFINFOMSG.size):
            _, _, _, index, flags, _ = IFINFOMSG.unpack(header)
            name = attributes[IFLA_IFNAME].rstrip(b"\0").decode()
            mac = attributes.get(IFLA_ADDRESS, b"").hex(":")
            mtu = _u32(attributes.get(IFLA_MTU, b""))
            links.append(Link(index=index, name=name, mac=mac, up=bool(flags & IFF_UP), mtu=mtu))
        return links

    def default_routes(self) -> dict[int, int]:
        """Interface index of the default route with the lowest metric in table main, by family (4, 6)."""
        best: dict[int, tuple[int, int]] = {}
        payloads = self._netlink.dump(Message(RTM_GETROUTE, 0, RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)))
        for header, attributes in by_type(payloads, RTMSG.size):
            family, length, _, _, table, _, _, kind, _ = RTMSG.unpack(header)
            table = _u32(attributes.get(RTA_TABLE, b"")) or table
            version = {socket.AF_INET: 4, socket.AF_INET6: 6}.get(family)
            if version and length == 0 and table == TABLE_MAIN and kind == RTN_UNICAST and RTA_OIF in attributes:
                candidate = (_u32(attributes.get(RTA_PRIORITY, b"")), _u32(attributes[RTA_OIF]))
                best[version] = min(best.get(version, candidate), candidate)
        return {version: index for version, (_, index) in best.items()}

    def advertised(self) -> frozenset[int]:
        """Indices of the interfaces that heard a router advertisement since they are up, or have routes by one."""
        heard = set()
        payloads = self._netlink.dump(Message(RTM_GETLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0, 0)))
        for header, attributes in by_type(payloads, IFINFOMSG.size):
            family = parse_attributes(attributes.get(IFLA_AF_SPEC, b"")).get(socket.AF_INET6, b"")
            if _u32(parse_attributes(family).get(IFLA_INET6_FLAGS, b"")) & IF_RA_RCVD:
                heard.add(IFINFOMSG.unpack(header)[3])
        payloads = self._netlink.dump(Message(RTM_GETROUTE, 0, RTMSG.pack(socket.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)))
        for header, attributes in by_type(payloads, RTMSG.size):
            if RTMSG.unpack(header)[5] == RTPROT_RA:
                heard.add(_u32(attributes.get(RTA_OIF, b"")))
        return frozenset(heard)

    def interface_to(self, address: IPAddress) -> int | None:
        """Index of the interface over which this node reaches an address; None: it has no route."""
        header = RTMSG.pack(FAMILIES[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        try:
            answer = self._netlink.request(Message(RTM_GETROUTE, 0, header + attribute(RTA_DST, address.packed)))
        except NetlinkError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                return None
            raise
        return _u32(parse_attributes(answer[RTMSG.size :]).get(RTA_OIF, b"")) or None

    def _encode(self, op: AddLoopback | DeleteLoopback) -> Message:
        address = op.address
        header = IFADDRMSG.pack(FAMILIES[address.version], address.max_prefixlen, 0, SCOPE_HOST, self._lo)
        body = header + attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
        if isinstance(op, DeleteLoopback):
            return Message(RTM_DELADDR, 0, body)
        if address.version == 6:
            body += attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NODAD))
            # Preferred for 0 s, valid for ever: never the source of this node's own connections.
            body += attribute(IFA_CACHEINFO, struct.pack("=IIII", 0, 0xFFFFFFFF, 0, 0))
        return Message(RTM_NEWADDR, NLM_F_CREATE_EXCL, body)


def _link_address(header: bytes, attributes: Attributes) -> LinkAddress | None:
    family, length, low_flags, _, index = IFADDRMSG.unpack(header)
    data = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")
    flags = _u32(attributes[IFA_FLAGS]) if IFA_FLAGS in attributes else low_flags
    valid = _u32(attributes.get(IFA_CACHEINFO, b"")[4:8]) if IFA_CACHEINFO in attributes else 0xFFFFFFFF
    fenced = bool(flags & IFA_F_NOPREFIXROUTE) and not flags & IFA_F_PERMANENT and valid <= FENCE_LONGEST
    address: IPInterface
    if family == socket.AF_INET and len(data) == 4:
        address = IPv4Interface((data, length))
    elif family == socket.AF_INET6 and len(data) == 16:
        address = IPv6Interface((data, length))
    else:
        return None
    return LinkAddress(index=index, address=address, fenced=fenced)


def _u32(data: bytes) -> int:
    return int(struct.unpack("=I", data)[0]) if len(data) == 4 else 0


def _failure(op: AddLoopback | DeleteLoopback, code: int) -> OperationFailed:
    reason, remedy = {
        errno.EEXIST: (Reason.ALREADY_EXISTS, "the next pass reads lo and tries again"),
        errno.EADDRNOTAVAIL: (Reason.NO_SUCH_ADDRESS, "the next pass reads lo and tries again"),
        errno.EPERM: (Reason.NO_PERMISSION, "the process needs the capability NET_ADMIN"),
    }.get(code, (Reason.OTHER, "look at ip address show dev lo"))
    message = f"{type(op).__name__} {op.address} (lo): {reason.value} ({error_name(code)}): {remedy}"
    return OperationFailed(op=op, reason=reason, errno=code, message=message)
