"""What VRRP needs of IP: the header that a raw IPv4 socket delivers, checksums, kinds of addresses. Pure."""

from dataclasses import dataclass
from typing import Final

from lvsagent.vrrp.advert import PROTOCOL, Dropped, DropReason

IPV4_HEADER_LENGTH: Final = 20
FRAGMENT_BITS: Final = 0x3FFF
"""More-fragments and the fragment offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IPv4Packet:
    """What a raw IPv4 socket delivers, taken apart. ``payload`` has no options in front of it."""

    source: bytes
    destination: bytes
    ttl: int
    protocol: int
    payload: bytes


def parse_ipv4(packet: bytes) -> IPv4Packet | Dropped:
    """The IPv4 header of a packet from a raw socket, options allowed. Fragments and lies about lengths are refused."""
    if len(packet) < IPV4_HEADER_LENGTH or packet[0] >> 4 != 4:
        return Dropped(DropReason.IP_HEADER)
    header_length = (packet[0] & 0x0F) * 4
    total_length = int.from_bytes(packet[2:4])
    if not IPV4_HEADER_LENGTH <= header_length <= total_length or total_length != len(packet):
        return Dropped(DropReason.IP_HEADER)
    if int.from_bytes(packet[6:8]) & FRAGMENT_BITS:
        return Dropped(DropReason.IP_HEADER)
    return IPv4Packet(
        source=packet[12:16],
        destination=packet[16:20],
        ttl=packet[8],
        protocol=packet[9],
        payload=packet[header_length:],
    )


def pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    """RFC 793 section 3.1 for IPv4, RFC 8200 section 8.1 for IPv6. ``length``: octets of the VRRP message."""
    if len(source) == 4:
        return source + destination + bytes((0, PROTOCOL)) + length.to_bytes(2)
    return source + destination + length.to_bytes(4) + bytes((0, 0, 0, PROTOCOL))


def ones_complement_sum(*parts: bytes | bytearray) -> int:
    """RFC 1071's sum of parts of even length, folded, not complemented. 0xFFFF over a message whose checksum is right.

    Some octet must not be 0, as in every message of VRRP: it starts with its version.
    """
    total = 0
    for part in parts:
        # The number of a big-endian byte string is congruent to the sum of its 16-bit words modulo 65535.
        total += int.from_bytes(part)
    return total % 0xFFFF or 0xFFFF


def checksum(*parts: bytes | bytearray) -> bytes:
    """RFC 1071's checksum in two octets, of parts whose own checksum field is 0."""
    return (~ones_complement_sum(*parts) & 0xFFFF).to_bytes(2)


def is_host(address: bytes) -> bool:
    """Not unspecified, not multicast, not broadcast."""
    if len(address) == 4:
        return address[0] != 0 and address[0] < 224
    return any(address) and address[0] != 0xFF


def is_link_local(address: bytes) -> bool:
    """fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
