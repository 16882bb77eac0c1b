"""HMAC trailers behind adverts, as keepalived >= 2.4.1 sends them (``auth_hmac``; draft-cassen-vrrp-auth-hmac). Pure.

28 octets follow the message, of any version and family:

    | type 1 | key id | reserved 0 | seconds (32) | 1/65536 seconds (16) | counter (16) | HMAC (128) |

The HMAC is HMAC-SHA256 cut to 16 octets, over: family (4 or 6), version, VRID, 0, source address in 16 octets
(IPv4: zeros behind it), the message with its checksum as 0, the trailer with its HMAC as 0. The destination is no part
of it, so one trailer serves all unicast peers. Seconds, fraction and counter are one sequence of 64 bits; a sender
never repeats or lowers it, and a receiver takes only what is newer (RFC 1982 arithmetic) and not older or later than
the freshness window by its own clock.
"""

import hmac
import math
import struct
from collections.abc import Mapping
from typing import Final

from lvsagent.ipc import AuthenticationMode
from lvsagent.vrrp.advert import DropReason

TRAILER_LENGTH: Final = 28
TYPE_HMAC_SHA256: Final = 1
HMAC_LENGTH: Final = 16
KEY_MINIMUM: Final = 32
KEY_MAXIMUM: Final = 64
WINDOW_MINIMUM: Final = 5
"""Seconds; keepalived's ``time_window`` is max(3 * advert_int, 5)."""
SENDERS: Final = 16
"""Remembered for each virtual router; the one heard longest ago gives way. Only good trailers get this far."""
SETTLE: Final = 120.0
"""Seconds until a new key signs: every node must have it before (a kubelet refreshes a Secret within some 90 s)."""
STEP: Final = 1.0
"""Seconds; a wall clock that moves by more at once was stepped."""

_PREFIX: Final = struct.Struct("!BBHIHH")
_NO_HMAC: Final = bytes(HMAC_LENGTH)
_SEQUENCE: Final = 1 << 64


def window_for(interval: float) -> int:
    """The freshness window in seconds for an Advertisement_Interval in seconds, as keepalived derives it."""
    return max(math.ceil(3 * interval), WINDOW_MINIMUM)


def parse_key(content: bytes) -> bytes:
    """The key in a file: ``hex:`` and digits as for keepalived, or the octets themselves.

    A newline at the end of text is the editor's; in a binary key it belongs to the key. Raises ValueError, without
    the key.
    """
    text = content.rstrip(b"\r\n")
    if text.startswith(b"hex:"):
        try:
            key = bytes.fromhex(text[4:].decode("ascii"))
        except ValueError:
            # The cause would quote a digit.
            raise ValueError("HMAC key: hexadecimal digits needed after hex:") from None
    else:
        key = text if all(0x20 <= octet < 0x7F for octet in text) else content
    return _checked(key, "HMAC key")


class KeyRing:
    """Keys by id. All of them are accepted; the greatest id signs. Never prints a key."""

    __slots__ = ("keys", "newest")

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        """Raises ValueError: no key, an id that is not 0-255 (keepalived knows 1-255), a key not of 32-64 octets."""
        if not keys:
            raise ValueError("HMAC keys: at least one is needed")
        for identifier, key in keys.items():
            if not 0 <= identifier <= 255:
                raise ValueError(f"HMAC key {identifier}: the id must be 0-255")
            _checked(key, f"HMAC key {identifier}")
        self.keys = dict(keys)
        self.newest = max(keys)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(map(str, sorted(self.keys)))})"


class Clock:
    """The time in trailers: the wall clock, but steps of it do not reach the wire unasked. One for the process.

    keepalived refuses everybody for as long as its wall clock is wrong. Here a stepped clock is held against: time goes
    on from before the step, by the monotonic clock, until a well-signed advert shows that the others live by the new
    time and nobody by the old one. A wrong step therefore changes nothing; a right one (NTP after boot) is followed as
    soon as it matters.
    """

    __slots__ = ("_confirmed", "_offset", "stepped")

    def __init__(self, wall: float, monotonic: float) -> None:
        """``wall``: seconds since the epoch; ``monotonic``: seconds, best of CLOCK_BOOTTIME."""
        self._offset = wall - monotonic
        self._confirmed = -math.inf
        self.stepped = False
        """The wall clock says something else than we do."""

    def read(self, wall: float, monotonic: float) -> float:
        """Seconds since the epoch."""
        offset = wall - monotonic
        self.stepped = abs(offset - self._offset) > STEP
        if not self.stepped:
            self._offset = offset
        return monotonic + self._offset

    def adopt(self, wall: float, monotonic: float) -> None:
        """Live by the wall clock from now on."""
        self._offset = wall - monotonic
        self.stepped = False

    def confirm(self, monotonic: float) -> None:
        """Somebody else lives by the time that we hold."""
        self._confirmed = monotonic

    def confirmed_within(self, seconds: float, monotonic: float) -> bool:
        return monotonic - self._confirmed <= seconds


class Signer:
    """Makes the trailers of one virtual router."""

    __slots__ = ("_clock", "_next", "_ring", "_sequence", "_settle", "_window", "signing")

    def __init__(
        self,
        ring: KeyRing,
        clock: Clock,
        *,
        window: int = WINDOW_MINIMUM,
        settle: float = SETTLE,
        monotonic: float = 0.0,
    ) -> None:
        """``window`` and ``settle`` in seconds. ``monotonic``: now."""
        self._ring = ring
        self._clock = clock
        self._window = window
        self._settle = settle
        self._sequence: int | None = None
        self._next: tuple[int, float] | None = None
        """A newer key, and when it signs (monotonic)."""
        # Of several keys the newest may have come with this very process, and to no other node yet.
        self.signing = sorted(ring.keys)[-2:][0]
        """The id of the key that signs."""
        self.use(ring, monotonic)

    def use(self, ring: KeyRing, monotonic: float) -> None:
        """Other keys. A newer one signs when every node has had time to get it; at once when the old one is gone."""
        self._ring = ring
        if self.signing not in ring.keys:
            self.signing = ring.newest
        if ring.newest == self.signing:
            self._next = None
        elif self._next is None or self._next[0] != ring.newest:
            self._next = (ring.newest, monotonic + self._settle)

    def sign(self, message: bytes, source: bytes, wall: float, monotonic: float) -> bytes:
        """The trailer for an encoded advert, whatever its destination and checksum are. A new one for every advert."""
        if self._next is not None and monotonic >= self._next[1]:
            self.signing, self._next = self._next[0], None
        sequence = self._advance(self._clock.read(wall, monotonic))
        prefix = _PREFIX.pack(
            TYPE_HMAC_SHA256, self.signing, 0, sequence >> 32, sequence >> 16 & 0xFFFF, sequence & 0xFFFF
        )
        return prefix + _digest(self._ring.keys[self.signing], message, prefix, source)

    def _advance(self, now: float) -> int:
        """The larger of the clock and the last sequence plus one; the clock if the last is too far ahead for anybody.

        keepalived 2.4.3's rule: without its second half a corrected step of the clock locks a sender out for as long
        as the step was.
        """
        clock = int(now * 65536) << 16 & _SEQUENCE - 1
        last = self._sequence
        if last is not None and not _after(clock, last) and _difference(last >> 32, clock >> 32) <= self._window:
            clock = (last + 1) % _SEQUENCE
        self._sequence = clock
        return clock


class Verifier:
    """Judges the trailers of one virtual router's adverts. Its memory does not grow with what arrives."""

    __slots__ = ("_clock", "_marks", "_ring", "_window", "mode", "skew")

    def __init__(
        self,
        ring: KeyRing,
        clock: Clock,
        *,
        mode: AuthenticationMode = AuthenticationMode.ENFORCE,
        window: int = WINDOW_MINIMUM,
    ) -> None:
        """``window`` in seconds. A bad trailer is refused in every mode, a missing one only by ENFORCE."""
        self._ring = ring
        self._clock = clock
        self._window = window
        self._marks: dict[bytes, int] = {}
        """Source -> greatest sequence, heard longest ago first."""
        self.mode = mode
        self.skew = 0
        """Seconds that the last accepted sender's clock was behind ours (before: negative)."""

    def use(self, ring: KeyRing) -> None:
        """Other keys; what was heard is remembered."""
        self._ring = ring

    def fresh(self, trailer: bytes, source: bytes, wall: float, monotonic: float) -> bool:
        """Is its time within the window? Cheap, and proves nothing: asked before the digest, to shed replays."""
        held = int(self._clock.read(wall, monotonic))
        seconds = int.from_bytes(trailer[4:8])
        if self._near(held, seconds):
            return True
        if not self._clock.stepped or not self._near(int(wall), seconds):
            return False
        # The wall clock may be the wrong one: while somebody lives by the held one, it counts only for those that we
        # know, whose old adverts cannot come back.
        mark = self._marks.get(source)
        if mark is not None and self._alive(mark, held, int(wall)):
            return True
        return not self._clock.confirmed_within(self._window, monotonic)

    def verify(self, message: bytes, trailer: bytes, source: bytes, wall: float, monotonic: float) -> DropReason | None:
        """Why the trailer of a message, complete and ``fresh``, is refused; None: it is good, and remembered."""
        kind, identifier, reserved, seconds, fraction, counter = _PREFIX.unpack_from(trailer)
        if kind != TYPE_HMAC_SHA256 or reserved != 0:
            return DropReason.AUTH_MALFORMED
        key = self._ring.keys.get(identifier)
        if key is None:
            return DropReason.AUTH_KEY
        prefix = trailer[: _PREFIX.size]
        if not hmac.compare_digest(trailer[_PREFIX.size :], _digest(key, message, prefix, source)):
            return DropReason.AUTH_HMAC
        held = int(self._clock.read(wall, monotonic))
        sequence = seconds << 32 | fraction << 16 | counter
        mark = self._marks.get(source)
        if mark is not None and self._alive(mark, held, int(wall)) and not _after(sequence, mark):
            return DropReason.REPLAY
        self._marks.pop(source, None)
        if len(self._marks) == SENDERS:
            del self._marks[next(iter(self._marks))]
        self._marks[source] = sequence
        self.skew = _difference(held, seconds)
        if self._near(held, seconds):
            self._clock.confirm(monotonic)
        elif not self._clock.confirmed_within(self._window, monotonic):
            self._clock.adopt(wall, monotonic)
        return None

    def _alive(self, mark: int, held: int, wall: int) -> bool:
        """A mark outside of the window orders only what the window refuses; forgotten, it frees a corrected sender."""
        return self._near(held, mark >> 32) or self._near(wall, mark >> 32)

    def _near(self, now: int, seconds: int) -> bool:
        return abs(_difference(now, seconds)) <= self._window


def _checked(key: bytes, name: str) -> bytes:
    if not KEY_MINIMUM <= len(key) <= KEY_MAXIMUM:
        raise ValueError(f"{name}: {KEY_MINIMUM}-{KEY_MAXIMUM} octets needed, got {len(key)}")
    return key


def _digest(key: bytes, message: bytes, prefix: bytes, source: bytes) -> bytes:
    head = bytes((4 if len(source) == 4 else 6, message[0] >> 4, message[1], 0)) + source.ljust(16, b"\0")
    signed = head + message[:6] + b"\0\0" + message[8:] + prefix + _NO_HMAC
    return hmac.digest(key, signed, "sha256")[:HMAC_LENGTH]


def _difference(one: int, other: int) -> int:
    """One minus other, both of 32 bits that wrap round (RFC 1982), as a signed number."""
    return ((one - other + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000


def _after(one: int, other: int) -> bool:
    """Of two sequences (RFC 1982 with 64 bits)."""
    return 0 < (one - other) % _SEQUENCE < _SEQUENCE >> 1
