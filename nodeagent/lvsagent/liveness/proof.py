"""Heartbeats proved with a key, and how a key is rolled out without a gap. Pure: time is an argument.

The trailer is that of adverts (``vrrp.auth``), the node's octets in the place of the source address. Whoever has no key
ignores trailers. Whoever has one takes unproved beats of a node until it has proved one, and of nobody ROLL_OUT after
the key came: by then every node has it.
"""

import math
from typing import Final

from lvsagent.liveness import beat
from lvsagent.liveness.beat import DropReason
from lvsagent.vrrp import auth

KEY: Final = "nodes"
"""Files ``nodes.hmac.<id>`` of the keys folder."""
ROLL_OUT: Final = 300.0
"""Seconds."""


class Proofs:
    """Signs our beats and judges those of others."""

    def __init__(self, node: bytes, clock: auth.Clock) -> None:
        """``node``: our own ``beat.node_id``."""
        self._node = node
        self._clock = clock
        self._ring: auth.KeyRing | None = None
        self._signer: auth.Signer | None = None
        self._verifiers: dict[bytes, auth.Verifier] = {}
        """By node; each remembers the newest sequence. There are as many as nodes that proved a beat."""
        self._demanded = math.inf

    def use(self, ring: auth.KeyRing | None, now: float) -> None:
        """The keys in force; the same ones again change nothing. A key that is gone stays until there is another."""
        if ring is None or ring is self._ring:
            return
        self._ring = ring
        if self._signer is None:
            self._demanded = now + ROLL_OUT
            self._signer = auth.Signer(ring, self._clock, monotonic=now)
        else:
            self._signer.use(ring, now)
        for verifier in self._verifiers.values():
            verifier.use(ring)

    def sign(self, message: bytes, wall: float, now: float) -> bytes:
        """The datagram of an encoded beat."""
        if self._signer is None:
            return message
        return message + self._signer.sign(message, self._node, wall, now)

    def judge(
        self, node: bytes, payload: bytes, wall: float, now: float, *, length: int = beat.LENGTH
    ) -> DropReason | None:
        """Why a decoded datagram of a known node is not believed; None: it is. ``length``: octets before the proof."""
        if self._ring is None:
            return None
        trailer = payload[length:]
        verifier = self._verifiers.get(node)
        if not trailer:
            return DropReason.AUTH_MISSING if verifier is not None or now >= self._demanded else None
        one = verifier or auth.Verifier(self._ring, self._clock)
        if not one.fresh(trailer, node, wall, now):
            return DropReason.STALE
        refused = one.verify(payload[:length], trailer, node, wall, now)
        if refused is not None:
            return DropReason(refused)
        self._verifiers[node] = one
        return None
