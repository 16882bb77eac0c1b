"""rtnetlink with struct: addresses and links of this network namespace (linux/rtnetlink.h, linux/if_addr.h)."""

import errno
import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 6, 8
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK = 1, 3, 5
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x02, 0x08, 0x40, 0x80, 0x200
IFF_UP, IFF_RUNNING = 0x1, 0x40
SO_RCVBUFFORCE: Final = 33
"""Not in the socket module of Python 3.11 (asm-generic/socket.h)."""

_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RECEIVE_BUFFER: Final = 1 << 20
LONGEST: Final = 1 << 16
"""Octets of a datagram; the kernel makes them of 32 KiB at most."""
BATCH: Final = 100
"""Requests in one datagram. The kernel queues all answers to them before the first one can be read, some 800 octets of
the receive buffer each: with 257 of them the usual 208 KiB overflow."""
PATIENCE: Final = 1.0
"""Seconds for an answer. It is there before ``send`` returns, or never."""
MOST_LEFT: Final = 10_000
"""Datagrams that are thrown away after an error."""
ATTEMPTS: Final = 5
"""To read links or addresses while they do not change."""
FENCE_LONGEST: Final = 60
"""Seconds that an address of ours has left at most: a restart that was announced may last for 30. A lease of DHCP has
hours, and NetworkManager puts it on the interface without a route, too."""
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class NetlinkError(OSError):
    """The kernel refused a request. ``errno`` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface."""

    index: int
    name: str
    mac: bytes
    up: bool
    """Switched on by the administrator."""
    running: bool
    """Has carrier."""
    parent: int = 0
    """Index of the interface that this one is made on, or is the other end of; 0: none."""

    @property
    def working(self) -> bool:
        return self.up and self.running


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address on an interface, 4 or 16 bytes."""

    index: int
    address: bytes
    prefix_length: int
    scope: int
    flags: int
    left: int = 0
    """Seconds until the kernel removes it, unless it is permanent."""

    @property
    def fenced(self) -> bool:
        """Added the way we add ours: with an end of its life soon and without a route."""
        wanted = IFA_F_NOPREFIXROUTE | (IFA_F_NODAD if len(self.address) == 16 else 0)
        return self.flags & (wanted | IFA_F_PERMANENT) == wanted and self.left <= FENCE_LONGEST

    @property
    def usable(self) -> bool:
        """Packets can come from it: not under Duplicate Address Detection (RFC 4862), nor failed there."""
        return not self.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """A link is new or other than before, or gone."""

    link: Link
    gone: bool


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """An address is new or renewed, or gone."""

    address: Address
    gone: bool


class Rtnetlink:
    """Requests, answered before the call returns: the kernel works on a request while it is being sent."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        enlarge(self._socket)
        self._socket.bind((0, 0))
        self._socket.settimeout(PATIENCE)
        self._sequence = itertools.count(1)

    @property
    def port(self) -> int:
        """What the kernel calls this socket in its notices (nlmsg_pid)."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """Every interface. Raises OSError."""
        return [
            event.link
            for event in self._dump(RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
            if isinstance(event, LinkEvent)
        ]

    def addresses(self) -> list[Address]:
        """Every address, in the kernel's order: an interface's primary IPv4 one first. Raises OSError."""
        return [
            event.address
            for event in self._dump(RTM_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
            if isinstance(event, AddressEvent)
        ]

    def request(self, kind: int, flags: int, body: bytes) -> None:
        """Any one request. Raises NetlinkError when it is refused, OSError when it cannot be made."""
        sequence = next(self._sequence) & 0xFFFFFFFF
        header = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, 0)
        self._socket.send(header + body)
        while True:
            for message, _, answers, content in messages(self._socket.recv(LONGEST)):
                if message == NLMSG_ERROR and answers == sequence:
                    if code := -struct.unpack_from("=i", content)[0]:
                        raise NetlinkError(code, os.strerror(code))
                    return

    def hold(
        self, index: int, addresses: tuple[bytes, ...], seconds: int, prefixes: Mapping[bytes, int]
    ) -> dict[bytes, NetlinkError]:
        """Add or renew addresses that vanish by themselves after so many seconds. Returns those refused; never raises.

        ``prefixes``: prefix lengths of those that are not 32 (IPv6: 128). IPv6 ones answer at once, and nothing that
        leaves this node chooses them as its source (preferred_lft 0).
        """
        flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
        extra = {
            family: attribute(IFA_CACHEINFO, struct.pack("=IIII", preferred, seconds, 0, 0))
            + attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NOPREFIXROUTE | more))
            for family, preferred, more in ((socket.AF_INET, seconds, 0), (socket.AF_INET6, 0, IFA_F_NODAD))
        }
        return self._change(RTM_NEWADDR, flags, index, addresses, prefixes, extra)

    def drop(
        self, index: int, addresses: tuple[bytes, ...], prefixes: Mapping[bytes, int]
    ) -> dict[bytes, NetlinkError]:
        """Delete addresses. Returns those refused; one that is not there (or whose link is gone) is no error. Never
        raises."""
        refused = self._change(RTM_DELADDR, NLM_F_REQUEST, index, addresses, prefixes, {})
        absent = (errno.EADDRNOTAVAIL, errno.ENODEV)
        return {address: error for address, error in refused.items() if error.errno not in absent}

    def _change(
        self,
        kind: int,
        flags: int,
        index: int,
        addresses: tuple[bytes, ...],
        prefixes: Mapping[bytes, int],
        extra: Mapping[socket.AddressFamily, bytes],
    ) -> dict[bytes, NetlinkError]:
        """One message an address; the answers come back by sequence number."""
        refused: dict[bytes, NetlinkError] = {}
        for first in range(0, len(addresses), BATCH):
            refused |= self._exchange(kind, flags, index, addresses[first : first + BATCH], prefixes, extra)
        return refused

    def _exchange(
        self,
        kind: int,
        flags: int,
        index: int,
        addresses: tuple[bytes, ...],
        prefixes: Mapping[bytes, int],
        extra: Mapping[socket.AddressFamily, bytes],
    ) -> dict[bytes, NetlinkError]:
        """``_change`` in one send. The kernel does one request after another and answers those that fail, and the last
        one. Where its answer does not come, all count as refused that are not known to be."""
        asked: dict[int, bytes] = {}
        batch = b""
        for address in addresses:
            sequence = next(self._sequence) & 0xFFFFFFFF
            family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
            body = _ADDRESS.pack(family, prefixes.get(address, 8 * len(address)), 0, 0, index)
            body += attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address) + extra.get(family, b"")
            more = 0 if len(asked) + 1 < len(addresses) else NLM_F_ACK
            batch += _HEADER.pack(_HEADER.size + len(body), kind, flags | more, sequence, 0) + body
            asked[sequence] = address
        last = next(reversed(asked))
        refused: dict[bytes, NetlinkError] = {}
        try:
            self._socket.send(batch)
            while last in asked:
                for message, _, sequence, body in messages(self._socket.recv(LONGEST)):
                    if message == NLMSG_ERROR and sequence in asked:
                        address = asked.pop(sequence)
                        if code := -struct.unpack_from("=i", body)[0]:
                            refused[address] = NetlinkError(code, os.strerror(code))
        except OSError as error:
            # Made anew: one that was raised refers to this frame, which would refer to it, and nobody collects that.
            code = error.errno or errno.ETIMEDOUT
            refused |= {address: NetlinkError(code, os.strerror(code)) for address in asked.values()}
            self._drain()
        return refused

    def _dump(self, kind: int, body: bytes) -> list[LinkEvent | AddressEvent]:
        """What there is. Of a list that changes while it is read a part may be missing: it is read again, and what was
        read last is taken. Raises OSError."""
        events: list[LinkEvent | AddressEvent] = []
        for _ in range(ATTEMPTS):
            try:
                events, whole = self._dump_once(kind, body)
            except OSError:
                self._drain()
                raise
            if whole:
                break
        return events

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[LinkEvent | AddressEvent], bool]:
        """What there is, and whether it stayed so meanwhile (NLM_F_DUMP_INTR)."""
        sequence = next(self._sequence) & 0xFFFFFFFF
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body)
        events: list[LinkEvent | AddressEvent] = []
        whole = True
        while True:
            for message, flags, answers, content in messages(self._socket.recv(LONGEST)):
                if answers != sequence:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if message == NLMSG_DONE:
                    return events, whole
                if message == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    raise NetlinkError(code, os.strerror(code))
                if (event := event_of(message, content)) is not None:
                    events.append(event)

    def _drain(self) -> None:
        """Forget answers that nobody waits for: a socket that overflowed takes no others until it is empty."""
        self._socket.setblocking(False)
        for _ in range(MOST_LEFT):
            try:
                self._socket.recv(LONGEST)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS once more
                continue
        self._socket.settimeout(PATIENCE)


def enlarge(opened: socket.socket) -> None:
    """Its receive buffer, to _RECEIVE_BUFFER octets, or as far as net.core.rmem_max allows (no CAP_NET_ADMIN)."""
    try:
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    attributes: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return attributes


def link_message(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """struct ifinfomsg: of the link of that index, or of one that attributes name; flags to change."""
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def event_of(kind: int, body: bytes) -> LinkEvent | AddressEvent | None:
    """What a message tells of a link or an address; None: of something else."""
    if kind in (RTM_NEWLINK, RTM_DELLINK) and len(body) >= _LINK.size:
        _family, _hardware, index, flags, _change = _LINK.unpack_from(body)
        attributes = _attributes(body[_LINK.size :])
        link = Link(
            index=index,
            name=attributes.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
            mac=attributes.get(IFLA_ADDRESS, b""),
            up=bool(flags & IFF_UP),
            running=bool(flags & IFF_RUNNING),
            parent=struct.unpack("=I", parent)[0] if len(parent := attributes.get(IFLA_LINK, b"")) == 4 else 0,
        )
        return LinkEvent(link, kind == RTM_DELLINK)
    if kind in (RTM_NEWADDR, RTM_DELADDR) and len(body) >= _ADDRESS.size and body[0] in _FAMILIES:
        _family, prefix_length, low_flags, scope, index = _ADDRESS.unpack_from(body)
        attributes = _attributes(body[_ADDRESS.size :])
        address = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")
        flags = struct.unpack("=I", attributes[IFA_FLAGS])[0] if len(attributes.get(IFA_FLAGS, b"")) == 4 else low_flags
        left = int.from_bytes(attributes.get(IFA_CACHEINFO, b"")[4:8], sys.byteorder)
        found = Address(index=index, address=address, prefix_length=prefix_length, scope=scope, flags=flags, left=left)
        return AddressEvent(found, kind == RTM_DELADDR)
    return None
