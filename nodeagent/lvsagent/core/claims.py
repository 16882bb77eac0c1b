"""Claims about connections as datagrams between agents. Pure.

    | magic 4 | version 1 | kind 1 | zero 2 | node 8 | length 2 | groups 2 |

Big-endian. ``node`` is the beginning of the SHA-256 of the sender's name, ``length`` that of the message without the
proof behind it (``liveness.proof``). Kind 1 asks for claims; kind 3 says which tables an Active node has, by a digest
of 16 octets; kind 2 carries groups, one for each service and destination, and one without groups says to who asked that
it was told everything:

    | family 1 | protocol 1 | port 2 | destination port 2 | claims 2 | address | destination | claims… |

A claim is the client's address, its port, the state (16 bits each; the kernel's number) and the seconds until the entry
expires (16 bits). Addresses have 4 or 16 octets, as the family (4 or 6) says.
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum, StrEnum, unique
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from lvsagent.core.affinity import NUMBERS, STATES, Connection
from lvsagent.core.maglev import DestinationKey
from lvsagent.liveness.beat import node_id
from lvsagent.vrrp.auth import TRAILER_LENGTH
from lvsapi.model import IPAddress, Protocol

PORT: Final = 9481
UNREACHABLE: Final = "unreachable"
"""Why a datagram did not leave: the word in metrics, beside ``Malformed`` and the reasons of ``liveness.beat``."""
MAGIC: Final = b"lvsA"
VERSION: Final = 1
DIGEST: Final = 16
"""Octets."""
LARGEST: Final = 1200
"""Octets of a message: with the proof below every MTU that IPv6 allows."""
_HEADER: Final = struct.Struct("!4sBBH8sHH")
_GROUP: Final = struct.Struct("!BBHHH")
_TAIL: Final = struct.Struct("!HHH")
_PROTOCOLS: Final = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_OF_NUMBER: Final = {number: protocol for protocol, number in _PROTOCOLS.items()}
_WIDTHS: Final = {4: 4, 6: 16}


@unique
class Kind(IntEnum):
    """What a message is for."""

    ASK = 1
    TELL = 2
    TABLES = 3


@unique
class Malformed(StrEnum):
    """Why a datagram is no message. The word in logs."""

    LENGTH = "length"
    MAGIC = "magic"
    VERSION = "version"
    CONTENT = "content"


class Message(NamedTuple):
    """A datagram."""

    kind: Kind
    node: bytes
    """``node_id`` of the sender."""
    length: int
    """Octets without the proof."""
    claims: tuple[Connection, ...]
    digest: bytes = b""
    """Of kind 3: ``core.affinity.Tables.digest``."""


def ask(node: str) -> bytes:
    """A request for everybody's claims."""
    return _HEADER.pack(MAGIC, VERSION, Kind.ASK, 0, node_id(node), _HEADER.size, 0)


def tables(node: str, digest: bytes) -> bytes:
    """Which tables the node has by which it gives connections."""
    return _HEADER.pack(MAGIC, VERSION, Kind.TABLES, 0, node_id(node), _HEADER.size + len(digest), 0) + digest


def end(node: str) -> bytes:
    """All claims were told."""
    return _pack(node, b"", 0)


def tell(node: str, claims: Iterable[Connection]) -> Iterator[bytes]:
    """Messages with the claims; none without any."""
    groups: dict[tuple[Protocol, IPAddress, int, DestinationKey], list[bytes]] = {}
    for claim in claims:
        width = _WIDTHS[claim.address.version]
        number, _ = STATES[claim.protocol, claim.state]
        record = claim.client.to_bytes(width) + _TAIL.pack(claim.client_port, number, min(claim.expires, 0xFFFF))
        groups.setdefault((*claim.service, claim.destination), []).append(record)
    body, count = b"", 0
    for (protocol, address, port, (destination, mapped)), records in groups.items():
        addresses = address.packed + destination.packed
        while records:
            room = (LARGEST - _HEADER.size - len(body) - _GROUP.size - len(addresses)) // len(records[0])
            if room < 1:
                yield _pack(node, body, count)
                body, count = b"", 0
                continue
            part, records = records[:room], records[room:]
            head = _GROUP.pack(address.version, _PROTOCOLS[protocol], port, mapped, len(part))
            body, count = body + head + addresses + b"".join(part), count + 1
    if count:
        yield _pack(node, body, count)


def _pack(node: str, body: bytes, count: int) -> bytes:
    return _HEADER.pack(MAGIC, VERSION, Kind.TELL, 0, node_id(node), _HEADER.size + len(body), count) + body


def decode(payload: bytes) -> Message | Malformed:
    """The message in a datagram; its proof, if any, is ``payload[length:]``. Never raises."""
    if len(payload) < _HEADER.size:
        return Malformed.LENGTH
    magic, version, kind, zero, node, length, count = _HEADER.unpack_from(payload)
    if magic != MAGIC:
        return Malformed.MAGIC
    if version != VERSION:
        return Malformed.VERSION
    if zero or length < _HEADER.size or len(payload) - length not in (0, TRAILER_LENGTH):
        return Malformed.LENGTH
    body = payload[_HEADER.size : length]
    if kind == Kind.TABLES:
        return Message(Kind.TABLES, node, length, (), body) if len(body) == DIGEST and not count else Malformed.CONTENT
    try:
        claims = tuple(_claims(body, count))
        return Message(Kind(kind), node, length, claims)
    except (ValueError, KeyError, struct.error):
        return Malformed.CONTENT


def _claims(body: bytes, count: int) -> Iterator[Connection]:
    """Raises ValueError, KeyError, struct.error."""
    offset = 0
    for _ in range(count):
        family, number, port, mapped, records = _GROUP.unpack_from(body, offset)
        width, protocol = _WIDTHS[family], _OF_NUMBER[number]
        offset += _GROUP.size
        address, destination = (_address(body[offset + i * width : offset + (i + 1) * width]) for i in (0, 1))
        offset += 2 * width
        for _ in range(records):
            client_port, state, expires = _TAIL.unpack_from(body, offset + width)
            client = int.from_bytes(body[offset : offset + width])
            name = NUMBERS[protocol, state]
            yield Connection(protocol, address, port, client, client_port, (destination, mapped), name, expires)
            offset += width + _TAIL.size
    if offset != len(body):
        raise ValueError("octets are left over")


def _address(octets: bytes) -> IPAddress:
    return IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)
