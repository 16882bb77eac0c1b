"""Packets of the path's check: what is sent for the virtual address to a backend's door, what comes back. Pure.

All addresses are 4 or 16 octets. Every packet has a hop limit of 1: who does not have the address himself, and would
route it on (to the director, which would answer through its own table), cannot.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lvsagent.vrrp import ip
from lvsapi.ipvs import Tunnel, TunnelType

ICMP, IPIP, TCP, UDP, IPV6, GRE, ICMPV6 = 1, 4, 6, 17, 41, 47, 58
HOPS: Final = 1
SYN, RST, ACK = 0x02, 0x04, 0x10
ETHERTYPES: Final = {4: 0x0800, 16: 0x86DD}
"""By the length of the address."""
ECHO_DATA: Final = b"lvs path"
_TCP: Final = struct.Struct("!HHIIBBHHH")
_UDP: Final = struct.Struct("!HHHH")
_ECHO: Final = struct.Struct("!BBHHH")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_DONT_FRAGMENT: Final = 0x4000
_WINDOW: Final = 0xFFFF
_SEGMENT: Final = bytes((2, 4)) + (1220).to_bytes(2)
"""Option of a SYN; a segment that passes every tunnel."""
_ECHOES: Final = {4: (8, 0), 16: (128, 129)}
"""Types of an echo request and reply (RFC 792, RFC 4443)."""
_UNREACHABLE: Final = {4: 3, 16: 1}
_EXCEEDED: Final = {4: 11, 16: 3}
_NO_PORT: Final = {4: 3, 16: 4}
"""Code of a destination that is unreachable: nothing listens at the port."""
_QUOTED: Final = {4: 8, 16: 8}
"""Octets of an ICMP error before the packet that it is about."""


class Heard(StrEnum):
    """What came back."""

    ACCEPTED = "accepted"
    """SYN and ACK."""
    REFUSED = "refused"
    """RST, or for UDP ICMP: nothing listens at the port."""
    ECHOED = "echoed"
    ANSWERED = "answered"
    """A datagram."""
    UNREACHABLE = "unreachable"
    """ICMP: any other."""
    EXCEEDED = "exceeded"
    """ICMP: somebody would have routed it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Between this director and the virtual address."""

    source: bytes
    port: int
    """Of this director; an echo's identifier."""
    virtual: bytes
    virtual_port: int
    protocol: int
    """TCP, UDP, or another, which is asked by echo only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """To one flow."""

    heard: Heard
    source: bytes
    port: int
    virtual: bytes
    sender: bytes
    """Of ICMP, else the virtual address."""
    to_echo: bool = False
    """The error is about the echo request."""
    sequence: int = 0
    """ACCEPTED: what a reset must have as its own number."""
    data: bytes = b""
    """ANSWERED."""


def syn(flow: Flow, sequence: int) -> bytes:
    """The first packet of a connection."""
    return _segment(flow, sequence, SYN, _SEGMENT)


def reset(flow: Flow, sequence: int) -> bytes:
    """Ends what the SYN began: the backend keeps nothing."""
    return _segment(flow, sequence, RST, b"")


def datagram(flow: Flow, payload: bytes) -> bytes:
    """UDP."""
    length = _UDP.size + len(payload)
    body = _UDP.pack(flow.port, flow.virtual_port, length, 0) + payload
    total = _checksum(flow, UDP, body)
    # 0 says that there is none (RFC 768).
    return _packet(flow, UDP, body[:6] + (total if any(total) else b"\xff\xff") + payload)


def echo(flow: Flow) -> bytes:
    """A ping of the virtual address."""
    body = _ECHO.pack(_ECHOES[len(flow.source)][0], 0, 0, flow.port, 1) + ECHO_DATA
    if len(flow.source) == 4:
        return _packet(flow, ICMP, body[:2] + ip.checksum(body) + body[4:])
    return _packet(flow, ICMPV6, body[:2] + _checksum(flow, ICMPV6, body) + body[4:])


def encapsulated(packet: bytes, tunnel: Tunnel) -> bytes:
    """What stands behind the outer header (for gue: behind that of UDP), as the kernel's IPVS writes it.

    Checksums, which the receiver takes as they are, are left out.
    """
    version = packet[0] >> 4
    match tunnel.type:
        case TunnelType.IPIP:
            return packet
        case TunnelType.GRE:
            return bytes(2) + ETHERTYPES[4 if version == 4 else 16].to_bytes(2) + packet
        case TunnelType.GUE:
            return bytes((0, IPIP if version == 4 else IPV6, 0, 0)) + packet


def parse(packet: bytes) -> Answer | None:
    """What a packet that came in says; None: nothing of ours. Padding of the link is allowed."""
    if not packet:
        return None
    version = packet[0] >> 4
    if version == 4:
        outer = ip.parse_ipv4(packet[: int.from_bytes(packet[2:4])])
        if not isinstance(outer, ip.IPv4Packet):
            return None
        return _answer(outer.source, outer.destination, outer.protocol, outer.payload)
    if version == 6 and len(packet) >= _IPV6.size:
        _, length, protocol, _, source, destination = _IPV6.unpack_from(packet)
        return _answer(source, destination, protocol, packet[_IPV6.size : _IPV6.size + length])
    return None


def _answer(virtual: bytes, source: bytes, protocol: int, body: bytes) -> Answer | None:
    size = len(source)
    if protocol == TCP and len(body) >= _TCP.size:
        _, port, _, number, _, flags, *_ = _TCP.unpack_from(body)
        if flags & RST:
            return Answer(heard=Heard.REFUSED, source=source, port=port, virtual=virtual, sender=virtual)
        if flags & (SYN | ACK) == SYN | ACK:
            return Answer(
                heard=Heard.ACCEPTED, source=source, port=port, virtual=virtual, sender=virtual, sequence=number
            )
    elif protocol == UDP and len(body) >= _UDP.size:
        _, port, length, _ = _UDP.unpack_from(body)
        data = body[_UDP.size : max(length, _UDP.size)]
        return Answer(heard=Heard.ANSWERED, source=source, port=port, virtual=virtual, sender=virtual, data=data)
    elif protocol == (ICMP if size == 4 else ICMPV6) and len(body) >= _ECHO.size:
        kind, code, _, identifier, _ = _ECHO.unpack_from(body)
        if kind == _ECHOES[size][1]:
            return Answer(heard=Heard.ECHOED, source=source, port=identifier, virtual=virtual, sender=virtual)
        if kind == _EXCEEDED[size]:
            return _quoted(Heard.EXCEEDED, virtual, body[_QUOTED[size] :])
        if kind == _UNREACHABLE[size]:
            heard = Heard.REFUSED if code == _NO_PORT[size] else Heard.UNREACHABLE
            return _quoted(heard, virtual, body[_QUOTED[size] :])
    return None


def _quoted(heard: Heard, sender: bytes, packet: bytes) -> Answer | None:
    """An ICMP error about a packet of ours, of which it holds the beginning; in its tunnel, too."""
    if len(packet) >= ip.IPV4_HEADER_LENGTH and packet[0] >> 4 == 4:
        protocol, source, virtual = packet[9], packet[12:16], packet[16:20]
        body = packet[(packet[0] & 0x0F) * 4 :]
    elif len(packet) >= _IPV6.size and packet[0] >> 4 == 6:
        protocol, source, virtual, body = packet[6], packet[8:24], packet[24:40], packet[40:]
    else:
        return None
    if protocol in (IPIP, IPV6, GRE):
        # That nothing listens is said of the tunnel's end.
        told = Heard.UNREACHABLE if heard is Heard.REFUSED else heard
        return _quoted(told, sender, body[4:] if protocol == GRE else body)
    if heard is Heard.REFUSED and protocol != UDP:
        heard = Heard.UNREACHABLE  # a host that means it resets; this is a firewall
    if len(body) < _UDP.size or protocol not in (TCP, UDP, ICMP, ICMPV6):
        return None
    to_echo = protocol in (ICMP, ICMPV6)
    port = int.from_bytes(body[4:6] if to_echo else body[:2])
    return Answer(heard=heard, source=source, port=port, virtual=virtual, sender=sender, to_echo=to_echo)


def _segment(flow: Flow, sequence: int, flags: int, options: bytes) -> bytes:
    offset = (_TCP.size + len(options)) // 4 << 4
    body = _TCP.pack(flow.port, flow.virtual_port, sequence, 0, offset, flags, _WINDOW, 0, 0) + options
    return _packet(flow, TCP, body[:16] + _checksum(flow, TCP, body) + body[18:])


def _packet(flow: Flow, protocol: int, body: bytes) -> bytes:
    if len(flow.source) == 16:
        return _IPV6.pack(6 << 28, len(body), protocol, HOPS, flow.source, flow.virtual) + body
    fields = (0x45, 0, _IPV4.size + len(body), 0, _DONT_FRAGMENT, HOPS, protocol)
    blank = _IPV4.pack(*fields, 0, flow.source, flow.virtual)
    return _IPV4.pack(*fields, int.from_bytes(ip.checksum(blank)), flow.source, flow.virtual) + body


def _checksum(flow: Flow, protocol: int, body: bytes) -> bytes:
    """With the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
    width: Callable[[int], bytes] = (lambda n: n.to_bytes(2)) if len(flow.source) == 4 else (lambda n: n.to_bytes(4))
    pseudo = flow.source + flow.virtual + width(protocol) + width(len(body))
    return ip.checksum(pseudo, body + bytes(len(body) % 2))
