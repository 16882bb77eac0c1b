"""VRRPv3 adverts as bytes (RFC 9568 section 5, errata 8298-8301). Pure.

``decode`` never raises: what it refuses comes back as Dropped with the first rung of the ladder that failed.
Addresses are ``bytes`` in network order (4 or 16), so comparing them compares them unsigned, as section 6.4.3 asks.
"""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

PROTOCOL: Final = 112
VERSION: Final = 3
TYPE_ADVERTISEMENT: Final = 1
HOP_LIMIT: Final = 255
GROUP_V4: Final = bytes((224, 0, 0, 18))
GROUP_V6: Final = bytes.fromhex("ff020000000000000000000000000012")
HEADER_LENGTH: Final = 8
MAXIMUM_ADDRESSES: Final = 64
"""More than anybody lists; bounds the work for one packet."""
MAXIMUM_INTERVAL: Final = 4095
"""Centiseconds, 12 bits."""

IPV4_HEADER_LENGTH: Final = 20
FRAGMENT_BITS: Final = 0x3FFF
"""More-fragments and the fragment offset."""


@unique
class DropReason(StrEnum):
    """Why an advert was not acted on. The word in counters, metrics and logs; in the order of the ladder."""

    IP_HEADER = "ip_header"
    TRUNCATED = "truncated"
    VERSION = "version"
    TYPE = "type"
    VRID = "vrid"
    COUNT_ZERO = "count_zero"
    LENGTH = "length"
    CHECKSUM = "checksum"
    TTL = "ttl"
    INTERVAL = "interval"
    SOURCE = "source"
    SELF = "self"
    LINK_LOCAL = "link_local"


@unique
class ChecksumForm(StrEnum):
    """What the checksum covers. RFC 9568 says MESSAGE for IPv4; keepalived and most of the field send PSEUDO_HEADER."""

    PSEUDO_HEADER = "pseudo_header"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """A VRRPv3 advertisement that passed every check."""

    virtual_router_id: int
    priority: int
    """0: the sender gives up; 255: it owns the addresses."""
    interval: int
    """Centiseconds, 1-4095."""
    addresses: tuple[bytes, ...]
    source: bytes
    checksum: ChecksumForm = ChecksumForm.PSEUDO_HEADER


@dataclass(frozen=True, slots=True)
class Dropped:
    """An advert that was refused."""

    reason: DropReason


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


def decode(
    payload: bytes,
    *,
    source: bytes,
    destination: bytes,
    hop_limit: int,
    own_addresses: frozenset[bytes] = frozenset(),
    virtual_router_ids: frozenset[int] | None = None,
) -> Advertisement | Dropped:
    """The advert in the payload of an IP packet, or why it is refused. Never raises.

    The family is that of ``source`` (4 or 16 bytes). ``virtual_router_ids``: those configured on the interface of
    arrival; None accepts all. ``own_addresses``: adverts from these are our own, looped back.
    """
    if (reason := _refusal(payload, len(source), virtual_router_ids)) is not None:
        return Dropped(reason)
    form = _checksum_form(payload, source, destination)
    if form is None:
        return Dropped(DropReason.CHECKSUM)
    if hop_limit != HOP_LIMIT:
        return Dropped(DropReason.TTL)
    interval = int.from_bytes(payload[4:6]) & MAXIMUM_INTERVAL
    if interval == 0:
        return Dropped(DropReason.INTERVAL)
    if not _is_host(source):
        return Dropped(DropReason.SOURCE)
    if source in own_addresses:
        return Dropped(DropReason.SELF)
    size = len(source)
    addresses = tuple(payload[at : at + size] for at in range(HEADER_LENGTH, len(payload), size))
    if size == 16 and not _is_link_local(addresses[0]):
        return Dropped(DropReason.LINK_LOCAL)
    return Advertisement(
        virtual_router_id=payload[1],
        priority=payload[2],
        interval=interval,
        addresses=addresses,
        source=source,
        checksum=form,
    )


def encode(
    advertisement: Advertisement, *, destination: bytes | None = None, checksum: ChecksumForm | None = None
) -> bytes:
    """The payload of an IP packet from ``advertisement.source``. ``destination`` is the multicast group when None.

    IPv6 has the pseudo-header form only (RFC 9568 section 5.2.8).
    """
    family = 4 if len(advertisement.source) == 4 else 6
    target = destination if destination is not None else GROUP_V4 if family == 4 else GROUP_V6
    form = checksum if checksum is not None else advertisement.checksum
    message = bytearray(
        (
            VERSION << 4 | TYPE_ADVERTISEMENT,
            advertisement.virtual_router_id,
            advertisement.priority,
            len(advertisement.addresses),
        )
    )
    message += advertisement.interval.to_bytes(2) + b"\0\0" + b"".join(advertisement.addresses)
    head = b""
    if form is ChecksumForm.PSEUDO_HEADER or family == 6:
        head = _pseudo_header(advertisement.source, target, len(message))
    message[6:8] = (~_sum(head, message) & 0xFFFF).to_bytes(2)
    return bytes(message)


def _refusal(payload: bytes, address_length: int, virtual_router_ids: frozenset[int] | None) -> DropReason | None:
    """The rungs that look at single fields of the header and at the length."""
    if len(payload) < HEADER_LENGTH:
        return DropReason.TRUNCATED
    if payload[0] >> 4 != VERSION:
        return DropReason.VERSION
    if payload[0] & 0x0F != TYPE_ADVERTISEMENT:
        return DropReason.TYPE
    if payload[1] == 0 or (virtual_router_ids is not None and payload[1] not in virtual_router_ids):
        return DropReason.VRID
    count = payload[3]
    if count == 0:
        return DropReason.COUNT_ZERO
    if count > MAXIMUM_ADDRESSES or len(payload) != HEADER_LENGTH + count * address_length:
        return DropReason.LENGTH
    return None


def _checksum_form(payload: bytes, source: bytes, destination: bytes) -> ChecksumForm | None:
    """Which of the forms the checksum is right for."""
    if _sum(_pseudo_header(source, destination, len(payload)), payload) == 0xFFFF:
        return ChecksumForm.PSEUDO_HEADER
    if len(source) == 4 and _sum(payload) == 0xFFFF:
        return ChecksumForm.MESSAGE
    return None


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    """RFC 793 section 3.1 for IPv4, RFC 8200 section 8.1 for IPv6."""
    if len(source) == 4:
        return source + destination + bytes((0, PROTOCOL)) + length.to_bytes(2)
    return source + destination + length.to_bytes(4) + bytes((0, 0, 0, PROTOCOL))


def _sum(*parts: bytes | bytearray) -> int:
    """RFC 1071's sum of parts of even length, folded, not complemented."""
    total = 0
    for part in parts:
        # The number of a big-endian byte string is congruent to the sum of its 16-bit words modulo 65535.
        total += int.from_bytes(part)
    return total % 0xFFFF or 0xFFFF  # never 0: every message starts with its version


def _is_host(address: bytes) -> bool:
    """Not unspecified, not multicast, not broadcast."""
    if len(address) == 4:
        return address[0] != 0 and address[0] < 224
    return any(address) and address[0] != 0xFF


def _is_link_local(address: bytes) -> bool:
    """fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
