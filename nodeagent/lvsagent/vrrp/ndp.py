"""Neighbour Discovery as frames: announcements, probes, the claims of others (RFC 4861, RFC 9568 section 6.4). Pure."""

from typing import Final

from lvsagent.vrrp.arp import Claim

ETHERTYPE_IPV6: Final = 0x86DD
NEXT_HEADER_ICMPV6: Final = 58
HOP_LIMIT: Final = 255
SOLICITATION: Final = 135
ADVERTISEMENT: Final = 136
FLAG_ROUTER: Final = 0x80
FLAG_OVERRIDE: Final = 0x20
TARGET_LINK_ADDRESS: Final = 2
SOURCE_LINK_ADDRESS: Final = 1
ALL_NODES: Final = bytes.fromhex("ff020000000000000000000000000001")
UNSPECIFIED: Final = bytes(16)

_ETHERTYPE: Final = ETHERTYPE_IPV6.to_bytes(2)
_SOLICITED_NODE: Final = bytes.fromhex("ff0200000000000000000001ff")
_IP: Final = 14
"""Where the IPv6 header begins in an Ethernet frame."""
_ICMP: Final = _IP + 40
_OPTIONS: Final = _ICMP + 24
"""Where the options of a solicitation or an advertisement begin."""


def announcement(address: bytes, mac: bytes, *, forwards: bool) -> bytes:
    """An Ethernet frame, the unsolicited neighbour advertisement: this address (16 bytes) is at this MAC (6 bytes).

    ``forwards``: this node is a router (R flag); a host that says so would be put on lists of default routers.
    """
    flags = FLAG_OVERRIDE | (FLAG_ROUTER if forwards else 0)
    option = bytes((TARGET_LINK_ADDRESS, 1)) + mac
    body = bytes((ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0)) + address + option
    return _frame(address, ALL_NODES, mac, body)


def probe(address: bytes, mac: bytes) -> bytes:
    """An Ethernet frame, the solicitation from nowhere that asks whether the address is taken (RFC 4862, 5.4.2)."""
    body = bytes((SOLICITATION, 0, 0, 0, 0, 0, 0, 0)) + address
    return _frame(UNSPECIFIED, _SOLICITED_NODE + address[13:], mac, body)


def parse(frame: bytes) -> Claim | None:
    """The claim of an Ethernet frame: an advertisement's target, or the source of a solicitation.

    None when it is neither, does not come from this link (hop limit), or claims nothing (a probe).
    """
    if len(frame) < _OPTIONS or frame[12:14] != _ETHERTYPE or frame[_IP] >> 4 != 6:
        return None
    if frame[_IP + 6] != NEXT_HEADER_ICMPV6 or frame[_IP + 7] != HOP_LIMIT or frame[_ICMP + 1] != 0:
        return None
    end = _ICMP + int.from_bytes(frame[_IP + 4 : _IP + 6])
    if not _OPTIONS <= end <= len(frame):
        return None
    kind = frame[_ICMP]
    if kind == ADVERTISEMENT:
        address, option = frame[_ICMP + 8 : _ICMP + 24], TARGET_LINK_ADDRESS
    elif kind == SOLICITATION:
        address, option = frame[_IP + 8 : _IP + 24], SOURCE_LINK_ADDRESS
    else:
        return None
    if not any(address):
        return None
    return Claim(address, _link_address(frame[_OPTIONS:end], option) or frame[6:12])


def _link_address(options: bytes, wanted: int) -> bytes | None:
    """The MAC in the option of that type; None: there is none, or the options lie about their length."""
    at = 0
    while at + 8 <= len(options):
        length = 8 * options[at + 1]
        if options[at] == wanted and length == 8:
            return options[at + 2 : at + 8]
        if length == 0:
            return None
        at += length
    return None


def _frame(source: bytes, destination: bytes, mac: bytes, body: bytes) -> bytes:
    """The ICMPv6 message in its packet in its frame, with its checksum (RFC 4443 section 2.3)."""
    pseudo = source + destination + len(body).to_bytes(4) + bytes((0, 0, 0, NEXT_HEADER_ICMPV6))
    total = (int.from_bytes(pseudo) + int.from_bytes(body)) % 0xFFFF
    checksum = (~total & 0xFFFF).to_bytes(2)
    header = b"\x60\0\0\0" + len(body).to_bytes(2) + bytes((NEXT_HEADER_ICMPV6, HOP_LIMIT)) + source + destination
    return b"\x33\x33" + destination[12:] + mac + _ETHERTYPE + header + body[:2] + checksum + body[4:]
