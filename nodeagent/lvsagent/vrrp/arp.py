"""Gratuitous ARP: frames, the claims of others, and when to announce (RFC 826, RFC 9568 section 6.4). Pure.

Announcements come in two forms, because there are switches and hosts that heed only one of them: the request (op 1)
with a target hardware address of all ones, as keepalived sends it, and the reply (op 2) whose target is its sender,
which Linux takes for gratuitous too and so believes at once.
"""

from dataclasses import dataclass, field
from typing import Final

BROADCAST: Final = b"\xff" * 6
ETHERTYPE_ARP: Final = 0x0806
FRAME_LENGTH: Final = 42
REQUEST: Final = 1
REPLY: Final = 2
# Ethernet type ARP; hardware Ethernet, protocol IPv4, address lengths 6 and 4.
_ETHERTYPE: Final = ETHERTYPE_ARP.to_bytes(2)
_FIXED: Final = bytes((0, 1, 8, 0, 6, 4))

SCHEDULE: Final = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 1.2)
"""Seconds after the take-over. The last one is beyond Linux's ``locktime`` of 1 s for every entry changed at 0."""
REFRESH: Final = 10.0
"""Seconds between announcements from then on."""
CLAIM_INTERVAL: Final = 1.0
"""Seconds between answers to others' claims, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcing:
    """How often an Active announces: keepalived's ``garp_master_*``."""

    repeat: int = 1
    """Frames for each address in each round."""
    delay: float = 0.0
    """One round more, so many seconds after the take-over; 0: only SCHEDULE."""
    refresh: float = REFRESH
    """Seconds between rounds from then on; 0: no more."""
    on_lower_priority: bool = True
    """An advert of a lower priority is answered with a round."""

    def rounds(self) -> tuple[float, ...]:
        """Seconds after the take-over, ascending."""
        return tuple(sorted({*SCHEDULE, self.delay}))


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody says with an ARP packet that an address is at a hardware address."""

    address: bytes
    mac: bytes


def announcement(address: bytes, mac: bytes) -> bytes:
    """An Ethernet frame, the gratuitous ARP request: this address (4 bytes) is at this hardware address (6 bytes)."""
    body = _FIXED + REQUEST.to_bytes(2) + mac + address + BROADCAST + address
    return BROADCAST + mac + _ETHERTYPE + body


def announcing_reply(address: bytes, mac: bytes) -> bytes:
    """The same as a gratuitous ARP reply, to everybody."""
    body = _FIXED + REPLY.to_bytes(2) + mac + address + mac + address
    return BROADCAST + mac + _ETHERTYPE + body


def parse(frame: bytes) -> Claim | None:
    """The claim of an Ethernet frame; None when it is no ARP for IPv4 over Ethernet or claims nothing (a probe)."""
    if len(frame) < FRAME_LENGTH or frame[12:14] != _ETHERTYPE or frame[14:20] != _FIXED:
        return None
    if int.from_bytes(frame[20:22]) not in (REQUEST, REPLY):
        return None
    address = frame[28:32]
    if not any(address):
        return None
    return Claim(address, frame[22:28])


@dataclass(slots=True)
class Announcements:
    """When one Active router announces its addresses. Times are seconds on one clock."""

    settings: Announcing = Announcing()
    deadline: float | None = None
    """When the next round is due; None: not announcing."""
    _active: bool = field(default=False, init=False)
    _started: float = field(default=0.0, init=False)
    _next: int = field(default=0, init=False)
    _claimed: bool = field(default=False, init=False)
    """Somebody claimed an address since the last round."""
    _answered: float = field(default=-CLAIM_INTERVAL, init=False)
    """When the last such claim was answered."""

    def start(self, now: float) -> None:
        """A take-over: the first round is due at once."""
        self._active = True
        self._started = now
        self._next = 0
        self._claimed = False
        self.deadline = now

    def stop(self) -> None:
        """Not Active any more."""
        self._active = False
        self.deadline = None

    def due(self, now: float) -> bool:
        """Is a round to be sent now? Rounds missed meanwhile are one."""
        if self.deadline is None or now < self.deadline:
            return False
        if self._claimed:
            self._claimed = False
            self._answered = now
        rounds = self.settings.rounds()
        while self._next < len(rounds) and self._started + rounds[self._next] <= now:
            self._next += 1
        if self._next < len(rounds):
            self.deadline = self._started + rounds[self._next]
        else:
            self.deadline = now + self.settings.refresh if self.settings.refresh else None
        return True

    def claimed(self, now: float) -> None:
        """Somebody else claimed an address: the next round is due at once; of many claims, one in CLAIM_INTERVAL."""
        if self._active:
            self._claimed = True
            answer = max(now, self._answered + CLAIM_INTERVAL)
            self.deadline = answer if self.deadline is None else min(self.deadline, answer)
