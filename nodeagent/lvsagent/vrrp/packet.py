"""Adverts as bytes: VRRPv3 (RFC 9568 section 5, errata 8298-8301), VRRPv2 (``v2``), HMAC trailers (``auth``). Pure.

``decode`` never raises: what it refuses comes back as Dropped with the first rung of the ladder that failed.
Addresses are ``bytes`` in network order (4 or 16), so comparing them compares them unsigned, as section 6.4.3 asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lvsagent.ipc import AuthenticationMode
from lvsagent.vrrp import ip, v2
from lvsagent.vrrp.advert import (
    GROUP_V4,
    GROUP_V6,
    HEADER_LENGTH,
    HOP_LIMIT,
    MAXIMUM_ADDRESSES,
    MAXIMUM_INTERVAL,
    PROTOCOL,
    TYPE_ADVERTISEMENT,
    VERSION,
    Advertisement,
    ChecksumForm,
    Dropped,
    DropReason,
)
from lvsagent.vrrp.auth import TRAILER_LENGTH, Verifier
from lvsagent.vrrp.ip import IPv4Packet, parse_ipv4

__all__ = [
    "GROUP_V4",
    "GROUP_V6",
    "HEADER_LENGTH",
    "HOP_LIMIT",
    "MAXIMUM_ADDRESSES",
    "MAXIMUM_INTERVAL",
    "PROTOCOL",
    "TYPE_ADVERTISEMENT",
    "VERSION",
    "Advertisement",
    "ChecksumForm",
    "DropReason",
    "Dropped",
    "Expectation",
    "IPv4Packet",
    "Policy",
    "decode",
    "encode",
    "parse_ipv4",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the adverts for one of our virtual routers must be like."""

    version: int = VERSION
    """3, or 2."""
    interval: int = 0
    """Centiseconds. VRRPv2 drops adverts with another one (RFC 3768 section 7.1); 0: any. VRRPv3 takes any."""
    password: bytes | None = None
    """VRRPv2: authentication type 1 with this; None: type 0."""
    verifier: Verifier | None = None
    """Of HMAC trailers; None: an advert with a trailer is too long."""
    sources: frozenset[bytes] | None = None
    """Addresses of the other directors; None: everybody's."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is expected on one interface in one address family. Made once, used for every packet."""

    routers: Mapping[int, Expectation]
    """Virtual Router ID -> Expectation; other IDs are refused."""
    versions: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "versions", frozenset({VERSION, *(expected.version for expected in self.routers.values())})
        )


_ANYTHING: Final = Expectation()
_ONLY_3: Final = frozenset({VERSION})


def decode(
    payload: bytes,
    *,
    source: bytes,
    destination: bytes,
    hop_limit: int,
    own_addresses: frozenset[bytes] = frozenset(),
    virtual_router_ids: frozenset[int] | None = None,
    policy: Policy | None = None,
    wall: float = 0.0,
    monotonic: float = 0.0,
) -> Advertisement | Dropped:
    """The advert in the payload of an IP packet, or why it is refused. Never raises.

    The family is that of ``source`` (4 or 16 bytes). ``virtual_router_ids``: those configured on the interface of
    arrival; None accepts all, or those of ``policy``. ``own_addresses``: adverts from these are our own, looped back.
    ``policy``: without one, plain VRRPv3 from everybody. ``wall`` (seconds since the epoch) and ``monotonic`` (seconds)
    are the time of arrival; only trailers need them.
    """
    if len(payload) < HEADER_LENGTH:
        return Dropped(DropReason.TRUNCATED)
    version = payload[0] >> 4
    size = len(source)
    identifier = payload[1]
    expected = _ANYTHING if policy is None else policy.routers.get(identifier)
    if version not in (_ONLY_3 if policy is None else policy.versions) or (version == v2.VERSION and size != 4):
        return Dropped(DropReason.VERSION, identifier if expected is not None else 0)
    if payload[0] & 0x0F != TYPE_ADVERTISEMENT:
        return Dropped(DropReason.TYPE)
    if identifier == 0 or expected is None or (virtual_router_ids is not None and identifier not in virtual_router_ids):
        return Dropped(DropReason.VRID)
    if version != expected.version:
        return Dropped(DropReason.VERSION, identifier)
    count = payload[3]
    if count == 0:
        return Dropped(DropReason.COUNT_ZERO, identifier)
    # Where the message ends and a trailer may begin.
    end = HEADER_LENGTH + count * size + (v2.DATA_LENGTH if version == v2.VERSION else 0)
    verifier = expected.verifier
    signed = len(payload) == end + TRAILER_LENGTH and verifier is not None
    if count > MAXIMUM_ADDRESSES or (len(payload) != end and not signed):
        return Dropped(DropReason.LENGTH, identifier)
    if signed and verifier is not None and not verifier.fresh(payload[end:], source, wall, monotonic):
        return Dropped(DropReason.STALE, identifier)
    message = payload[:end] if signed else payload
    # The kernel's checksum of IPv6 covers the trailer, that of IPv4 does not (draft-cassen-vrrp-auth-hmac).
    form = _checksum_form(version, message if size == 4 else payload, source, destination)
    if form is None:
        return Dropped(DropReason.CHECKSUM, identifier)
    if hop_limit != HOP_LIMIT:
        return Dropped(DropReason.TTL, identifier)
    if version == v2.VERSION:
        interval = payload[5] * v2.CENTISECONDS
        reason = v2.refusal(message, expected.interval, expected.password)
    else:
        interval = int.from_bytes(payload[4:6]) & MAXIMUM_INTERVAL
        reason = None if interval else DropReason.INTERVAL
    if reason is None and verifier is not None:
        if signed:
            reason = verifier.verify(message, payload[end:], source, wall, monotonic)
        elif verifier.mode is AuthenticationMode.ENFORCE:
            reason = DropReason.AUTH_MISSING
    if reason is not None:
        return Dropped(reason, identifier)
    if not ip.is_host(source):
        return Dropped(DropReason.SOURCE, identifier)
    if source in own_addresses:
        return Dropped(DropReason.SELF, identifier)
    if expected.sources is not None and source not in expected.sources:
        return Dropped(DropReason.SOURCE, identifier)
    stop = HEADER_LENGTH + count * size
    addresses = tuple(payload[at : at + size] for at in range(HEADER_LENGTH, stop, size))
    if size == 16 and not ip.is_link_local(addresses[0]):
        return Dropped(DropReason.LINK_LOCAL, identifier)
    return Advertisement(
        virtual_router_id=identifier,
        priority=payload[2],
        interval=interval,
        addresses=addresses,
        source=source,
        checksum=form,
        version=version,
        authenticated=signed,
    )


def encode(
    advertisement: Advertisement,
    *,
    destination: bytes | None = None,
    checksum: ChecksumForm | None = None,
    password: bytes | None = None,
    trailer: bytes = b"",
) -> bytes:
    """The payload of an IP packet from ``advertisement.source``. ``destination`` is the multicast group when None.

    IPv6 has the pseudo-header form only (RFC 9568 section 5.2.8), VRRPv2 the message form only. ``password`` is for
    VRRPv2. ``trailer``: from ``auth.Signer.sign`` over the advert without one; the same to every destination.
    Raises ValueError for what VRRPv2 cannot say.
    """
    if advertisement.version == v2.VERSION:
        return v2.encode(advertisement, password) + trailer
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
    if family == 6:
        message += trailer
        message[6:8] = ip.checksum(ip.pseudo_header(advertisement.source, target, len(message)), message)
        return bytes(message)
    head = b""
    if form is ChecksumForm.PSEUDO_HEADER:
        head = ip.pseudo_header(advertisement.source, target, len(message))
    message[6:8] = ip.checksum(head, message)
    return bytes(message) + trailer


def _checksum_form(version: int, message: bytes, source: bytes, destination: bytes) -> ChecksumForm | None:
    """Which of the forms the checksum is right for."""
    if version != v2.VERSION:
        head = ip.pseudo_header(source, destination, len(message))
        if ip.ones_complement_sum(head, message) == 0xFFFF:
            return ChecksumForm.PSEUDO_HEADER
    if len(source) == 4 and ip.ones_complement_sum(message) == 0xFFFF:
        return ChecksumForm.MESSAGE
    return None
