"""The values of the codec: an advertisement, why one is refused, and the numbers of the protocol. Pure."""

from dataclasses import dataclass, field
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
    STALE = "stale"
    """The trailer's time is outside of the freshness window; looked at before anything that costs."""
    CHECKSUM = "checksum"
    TTL = "ttl"
    INTERVAL = "interval"
    """0, or in VRRPv2 another one than ours."""
    AUTH_TYPE = "auth_type"
    """VRRPv2: another authentication type than ours."""
    PASSWORD = "password"
    """VRRPv2: not our password."""
    AUTH_MISSING = "auth_missing"
    """No trailer, and one is demanded."""
    AUTH_MALFORMED = "auth_malformed"
    AUTH_KEY = "auth_key"
    """Signed with a key that we do not have."""
    AUTH_HMAC = "auth_hmac"
    REPLAY = "replay"
    """Well signed, but not newer than what this sender sent before."""
    SOURCE = "source"
    """No host's address, or not that of a director."""
    SELF = "self"
    LINK_LOCAL = "link_local"


@unique
class ChecksumForm(StrEnum):
    """What the checksum covers. RFC 9568 says MESSAGE for IPv4; keepalived and most of the field send PSEUDO_HEADER."""

    PSEUDO_HEADER = "pseudo_header"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """An advertisement that passed every check, of VRRPv3 or VRRPv2."""

    virtual_router_id: int
    priority: int
    """0: the sender gives up; 255: it owns the addresses."""
    interval: int
    """Centiseconds: 1-4095 in VRRPv3, whole seconds (100-25500) in VRRPv2."""
    addresses: tuple[bytes, ...]
    source: bytes
    checksum: ChecksumForm = ChecksumForm.PSEUDO_HEADER
    """VRRPv2 has MESSAGE only."""
    version: int = VERSION
    authenticated: bool = False
    """It carried a trailer, and that was good. A VRRPv2 password does not count: everybody on the wire reads it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """An advert that was refused."""

    reason: DropReason
    virtual_router_id: int = field(default=0, compare=False)
    """Of the router of ours that it was meant for; 0 when it was refused before that was known."""
