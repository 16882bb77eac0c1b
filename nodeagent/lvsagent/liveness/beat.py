"""The heartbeat of a node: one datagram of 32 octets, 60 with a proof. Pure.

    | magic 4 | version 1 | flags 1 | zero 2 | node 8 | incarnation 8 | sequence 4 | interval (ms) 2 | healthy 2 |

Big-endian. ``node`` is the beginning of the SHA-256 of the node's name, ``incarnation`` when the sender was started
(ms since the epoch), and ``sequence`` counts from there. The proof is a trailer of ``vrrp.auth`` with the node in the
place of the source address. ``healthy`` was reserved once and is 0 then. Flags of a later version are ignored.
"""

import hashlib
import struct
from enum import StrEnum, unique
from typing import Final, NamedTuple

from lvsagent.vrrp import auth

PORT: Final = 9480
MAGIC: Final = b"lvsB"
VERSION: Final = 1
SERVING: Final = 0x01
LEAVING: Final = 0x02
LENGTH: Final = 32
SIGNED_LENGTH: Final = LENGTH + auth.TRAILER_LENGTH
INTERVALS: Final = (10, 1000)
"""Milliseconds. A longer interval would hide a dead node for longer than anybody announces."""

_LAYOUT: Final = struct.Struct("!4sBBH8sQIHH")


@unique
class DropReason(StrEnum):
    """Why a heartbeat counts for nothing. The word in counters, metrics and logs; in the order of the ladder."""

    LENGTH = "length"
    MAGIC = "magic"
    VERSION = "version"
    RESERVED = "reserved"
    INTERVAL = "interval"
    SELF = "self"
    """It carries our own node's name: reflected, or two nodes are called alike."""
    UNKNOWN_NODE = "unknown_node"
    SOURCE = "source"
    """Not from an address of that node."""
    AUTH_MISSING = "auth_missing"
    STALE = "stale"
    """The proof's time is outside of the freshness window."""
    AUTH_MALFORMED = "auth_malformed"
    AUTH_KEY = "auth_key"
    AUTH_HMAC = "auth_hmac"
    REPLAY = "replay"
    """Well signed, but not newer than what this node sent before."""
    SEQUENCE = "sequence"
    """Repeated, or overtaken on its way."""


class Beat(NamedTuple):
    """A heartbeat."""

    node: bytes
    """``node_id`` of the sender."""
    incarnation: int
    sequence: int
    interval: float
    """Seconds until the next one."""
    serving: bool
    """The sender's tables are in place: it can take packets for any virtual address."""
    leaving: bool = False
    """The sender ends in order; its tables stay, and a successor is to be expected."""
    healthy: int = 0
    """Virtual routers, by bits, for which the sender reaches living backends (``core.blind``). 0: it asks none."""


def node_id(name: str) -> bytes:
    """Eight octets that stand for a node's name on the wire."""
    return hashlib.sha256(name.encode()).digest()[:8]


def encode(beat: Beat) -> bytes:
    """The datagram without a proof. Raises struct.error for a number that does not fit."""
    flags = SERVING * beat.serving | LEAVING * beat.leaving
    milliseconds = round(beat.interval * 1000)
    return _LAYOUT.pack(
        MAGIC, VERSION, flags, 0, beat.node, beat.incarnation, beat.sequence, milliseconds, beat.healthy
    )


def decode(payload: bytes) -> Beat | DropReason:
    """The heartbeat in a datagram; its proof, if any, is ``payload[LENGTH:]`` and judged elsewhere. Never raises."""
    if len(payload) not in (LENGTH, SIGNED_LENGTH):
        return DropReason.LENGTH
    magic, version, flags, zero, node, incarnation, sequence, interval, healthy = _LAYOUT.unpack_from(payload)
    if magic != MAGIC:
        return DropReason.MAGIC
    if version != VERSION:
        return DropReason.VERSION
    if zero:
        return DropReason.RESERVED
    if not INTERVALS[0] <= interval <= INTERVALS[1]:
        return DropReason.INTERVAL
    said = bool(flags & SERVING), bool(flags & LEAVING), healthy
    return Beat(node, incarnation, sequence, interval / 1000, *said)
