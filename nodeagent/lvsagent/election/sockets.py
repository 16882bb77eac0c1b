"""VRRP over raw sockets, bound to one interface each."""

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from lvsagent.election import bpf
from lvsagent.vrrp import packet

# Not in the socket module of Python 3.11 (linux/in.h, linux/in6.h).
IP_MULTICAST_ALL: Final = 49
IP_PKTINFO: Final = 8
IPV6_MULTICAST_ALL: Final = 29
TRAFFIC_CLASS_INTERNETWORK_CONTROL: Final = 0xC0
PRIORITY_CONTROL: Final = 7
"""TC_PRIO_CONTROL."""
CHECKSUM_OFFSET: Final = 6
"""In every version of VRRP. The kernel fills and verifies it for IPv6 (RFC 3542 section 3.1)."""
LONGEST: Final = 2048
"""Octets of an advert that are looked at."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """What arrived, whatever the family."""

    source: bytes
    destination: bytes
    hop_limit: int
    payload: bytes


class AdvertSocket:
    """Adverts of one interface and family, in and out."""

    def __init__(self, family: int, interface: str, index: int, source: bytes) -> None:
        """``family``: 4 or 6. ``source``: of this socket's memberships (IPv4).

        Raises OSError: no CAP_NET_RAW, no such interface.
        """
        self.family = family
        self.interface = interface
        self.index = index
        self.source = source
        domain = socket.AF_INET if family == 4 else socket.AF_INET6
        opened = socket.socket(domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, packet.PROTOCOL)
        try:
            opened.setblocking(False)
            bpf.attach(opened, [bpf.NOTHING])
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY_CONTROL)
            (_prepare_ipv4 if family == 4 else _prepare_ipv6)(opened, index, source)
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        self._accepted: frozenset[int] = frozenset()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def listen_for(self, virtual_router_ids: Iterable[int]) -> bool:
        """Let the kernel drop the adverts of other virtual routers; of any version, so that ours are counted. False:
        it takes no filter, and what was heard before is heard."""
        accept = frozenset(virtual_router_ids)
        if accept == self._accepted:
            return True
        # The octet after the first of VRRP is the VRID in every version of it. IPv4's header comes first, IPv6's does
        # not come at all.
        program: list[bpf.Instruction] = [(bpf.LOAD_BYTE, 0, 0, 1)]
        if self.family == 4:
            program = [(bpf.LOAD_X_HEADER_LENGTH, 0, 0, 0), (bpf.LOAD_BYTE_INDIRECT, 0, 0, 1)]
        taken = bpf.attach_some(self._socket, [*program, *bpf.any_of(accept)], [bpf.ANYTHING])
        self._accepted = accept if taken else frozenset()
        return taken

    def send(self, payload: bytes, destination: bytes, source: bytes) -> None:
        """One advert to a group or a peer. Raises OSError."""
        if self.family == 4:
            where = (socket.inet_ntop(socket.AF_INET, destination), 0)
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("@i4s4x", self.index, source))]
            self._socket.sendmsg([payload], ancillary, 0, where)
        else:
            target = (socket.inet_ntop(socket.AF_INET6, destination), 0, 0, self.index)
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("@16si", source, self.index))]
            self._socket.sendmsg([payload], ancillary, 0, target)

    def receive(self, limit: int = 64) -> Iterator[Datagram | packet.Dropped]:
        """What arrived; ``limit`` at most, so that a flood cannot hold up the timers."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(limit):
                yield self._receive_ipv4() if self.family == 4 else self._receive_ipv6()

    def _receive_ipv4(self) -> Datagram | packet.Dropped:
        outer = packet.parse_ipv4(self._socket.recv(LONGEST))
        if isinstance(outer, packet.Dropped):
            return outer
        return Datagram(outer.source, outer.destination, outer.ttl, outer.payload)

    def _receive_ipv6(self) -> Datagram | packet.Dropped:
        payload, ancillary, _flags, sender = self._socket.recvmsg(LONGEST, 256)
        told = {kind: data for level, kind, data in ancillary if level == socket.IPPROTO_IPV6}
        hops, arrival = told.get(socket.IPV6_HOPLIMIT, b""), told.get(socket.IPV6_PKTINFO, b"")
        if len(hops) != 4 or len(arrival) != 20:
            return packet.Dropped(packet.DropReason.IP_HEADER)
        source = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
        return Datagram(source, arrival[:16], struct.unpack("@i", hops)[0], payload)


def _prepare_ipv4(opened: socket.socket, index: int, source: bytes) -> None:
    # Group, address to send from, interface by index: names and addresses may change under us.
    membership = packet.GROUP_V4 + source + struct.pack("@i", index)
    opened.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, membership)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, packet.HOP_LIMIT)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, packet.HOP_LIMIT)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TRAFFIC_CLASS_INTERNETWORK_CONTROL)


def _prepare_ipv6(opened: socket.socket, index: int, _source: bytes) -> None:
    level = socket.IPPROTO_IPV6
    opened.setsockopt(level, socket.IPV6_CHECKSUM, CHECKSUM_OFFSET)
    opened.setsockopt(level, socket.IPV6_RECVHOPLIMIT, 1)
    opened.setsockopt(level, socket.IPV6_RECVPKTINFO, 1)
    opened.setsockopt(level, IPV6_MULTICAST_ALL, 0)
    opened.setsockopt(level, socket.IPV6_JOIN_GROUP, packet.GROUP_V6 + struct.pack("@i", index))
    opened.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
    opened.setsockopt(level, socket.IPV6_MULTICAST_LOOP, 0)
    opened.setsockopt(level, socket.IPV6_MULTICAST_HOPS, packet.HOP_LIMIT)
    opened.setsockopt(level, socket.IPV6_UNICAST_HOPS, packet.HOP_LIMIT)
    opened.setsockopt(level, socket.IPV6_TCLASS, TRAFFIC_CLASS_INTERNETWORK_CONTROL)
