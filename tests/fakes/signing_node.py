"""A node that signs and verifies adverts, with a wall clock that can be set."""

from lvsagent.vrrp.auth import Clock, KeyRing, Signer, Verifier
from lvsagent.vrrp.packet import (
    GROUP_V4,
    GROUP_V6,
    Advertisement,
    ChecksumForm,
    Dropped,
    Expectation,
    Policy,
    decode,
    encode,
)

KEY = bytes(range(32))
OTHER_KEY = b"another key of thirty-two octets"
RING = KeyRing({1: KEY})
SOURCE = bytes((10, 0, 0, 11))
STRANGER = bytes((10, 0, 0, 12))
VIP = bytes((10, 0, 0, 200))
NOON = 1_750_000_000.0
HOUR = 3600.0


def advert(source: bytes = SOURCE, priority: int = 100, version: int = 3) -> Advertisement:
    form = ChecksumForm.MESSAGE if version == 2 else ChecksumForm.PSEUDO_HEADER
    return Advertisement(
        virtual_router_id=51,
        priority=priority,
        interval=100,
        addresses=(VIP,) if len(source) == 4 else (b"\xfe\x80" + bytes(14),),
        source=source,
        version=version,
        checksum=form,
    )


class Node:
    """A node with a wall clock that can be set; a second of it is a second of ``now``."""

    def __init__(self, *, wall: float = NOON, boot: float = 0.0, ring: KeyRing = RING, **kept: object) -> None:
        self.step = wall - boot
        """Wall clock less monotonic clock."""
        self.clock = Clock(wall, boot)
        self.signer = Signer(ring, self.clock)
        self.verifier = Verifier(ring, self.clock, **kept)  # type: ignore[arg-type]

    def send(self, now: float, source: bytes = SOURCE, **changes: int) -> tuple[bytes, bytes]:
        sent = advert(source, **changes)
        trailer = self.signer.sign(encode(sent), source, now + self.step, now)
        return encode(sent, trailer=trailer), source

    def hear(self, sent: tuple[bytes, bytes], now: float, **changes: object) -> Advertisement | Dropped:
        payload, source = sent
        fields: dict[str, object] = {
            "source": source,
            "destination": GROUP_V4 if len(source) == 4 else GROUP_V6,
            "hop_limit": 255,
            "policy": Policy({51: Expectation(version=payload[0] >> 4, verifier=self.verifier)}),
            "wall": now + self.step,
            "monotonic": now,
        }
        return decode(payload, **{**fields, **changes})  # type: ignore[arg-type]

    def takes(self, sent: tuple[bytes, bytes], now: float) -> bool:
        return isinstance(self.hear(sent, now), Advertisement)
