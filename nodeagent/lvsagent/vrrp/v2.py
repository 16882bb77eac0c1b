"""What VRRPv2 (RFC 3768) has and VRRPv3 has not: whole seconds, and authentication data behind the addresses. Pure.

    |ver 2 typ 1| VRID | priority | count |
    |auth type | interval (s) | checksum |
    | IPv4 addresses, 4 * count | authentication data, always 8 octets |

The checksum covers all of it, the authentication data too, and never a pseudo-header. Authentication type 1, the
password in clear text, is RFC 2338's (section 5.3.6); RFC 3768 took it away, and most networks with VRRPv2 have it.
"""

from hmac import compare_digest
from typing import Final

from lvsagent.vrrp.advert import Advertisement, DropReason
from lvsagent.vrrp.ip import checksum

VERSION: Final = 2
DATA_LENGTH: Final = 8
NO_AUTHENTICATION: Final = 0
SIMPLE_TEXT_PASSWORD: Final = 1
CENTISECONDS: Final = 100
"""In a second."""


def parse_password(content: bytes) -> bytes:
    """The password in a file: 1-8 octets; a newline behind it does not count. Raises ValueError, never quoting it."""
    password = content.rstrip(b"\r\n")
    if not 1 <= len(password) <= DATA_LENGTH or b"\0" in password:
        raise ValueError(
            f"a VRRPv2 password has 1-{DATA_LENGTH} octets and no zero octet, got {len(password)}: "
            "every router of the virtual router must have the same"
        )
    return password


def refusal(message: bytes, interval: int, password: bytes | None) -> DropReason | None:
    """Of a complete message whose checksum is right. ``interval``: ours in centiseconds; 0: any.

    ``password``: None asks for authentication type 0, whose data are ignored (RFC 3768 section 5.3.10).
    """
    theirs = message[5] * CENTISECONDS
    if theirs == 0 or (interval and theirs != interval):
        return DropReason.INTERVAL
    if message[4] != (NO_AUTHENTICATION if password is None else SIMPLE_TEXT_PASSWORD):
        return DropReason.AUTH_TYPE
    if password is not None and not compare_digest(message[-DATA_LENGTH:], _data(password)):
        return DropReason.PASSWORD
    return None


def encode(advertisement: Advertisement, password: bytes | None) -> bytes:
    """The message. Raises ValueError for IPv6 and for an interval that is not 1-255 whole seconds."""
    seconds, rest = divmod(advertisement.interval, CENTISECONDS)
    if rest or not 1 <= seconds <= 255:
        raise ValueError(
            f"VRRPv2 virtual router {advertisement.virtual_router_id}: an interval of {advertisement.interval} "
            "centiseconds cannot be said; take whole seconds (1-255), or version 3"
        )
    if len(advertisement.source) != 4:
        raise ValueError(f"VRRPv2 virtual router {advertisement.virtual_router_id}: has no IPv6; take version 3")
    message = bytearray(
        (
            VERSION << 4 | 1,
            advertisement.virtual_router_id,
            advertisement.priority,
            len(advertisement.addresses),
            NO_AUTHENTICATION if password is None else SIMPLE_TEXT_PASSWORD,
            seconds,
            0,
            0,
        )
    )
    message += b"".join(advertisement.addresses) + _data(password or b"")
    message[6:8] = checksum(message)
    return bytes(message)


def _data(password: bytes) -> bytes:
    """The first 8 octets, filled up with zeros, as keepalived does."""
    return password[:DATA_LENGTH].ljust(DATA_LENGTH, b"\0")
