"""Is an address taken? Asked before its first use, as hosts do (RFC 5227 section 2.1, RFC 4862 section 5.4). Pure."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Final

from lvsagent.vrrp.arp import BROADCAST, ETHERTYPE_ARP, REQUEST

PROBES: Final = 3
SPACING: Final = 0.1
"""Seconds between probes, and after the last one until it is known that nobody answers. RFC 5227 waits 1-2 s, for
links that come up slowly; ours is up, and its peers' adverts are waited for meanwhile."""
AGAIN: Final = 1.0
"""Seconds from one series of probes to the next one, while somebody answers."""
MOST_ANSWERS: Final = 2048
"""Of one series, by different MACs: whoever is on the segment can send as many as it likes. More than there can be real
servers, so that they do not hide a foreign host by their number."""
_HEAD: Final = ETHERTYPE_ARP.to_bytes(2) + bytes((0, 1, 8, 0, 6, 4)) + REQUEST.to_bytes(2)


def arp_probe(address: bytes, mac: bytes) -> bytes:
    """An Ethernet frame, the ARP probe: who has this address (4 bytes)? Its sender names none, so no cache changes."""
    return BROADCAST + mac + _HEAD + mac + bytes(4) + bytes(6) + address


@dataclass(slots=True)
class _Question:
    """About one address."""

    begun: float
    deadline: float
    left: int = PROBES
    answers: dict[bytes, None] = field(default_factory=dict)
    """MACs of those who answered in this series."""
    owner: bytes | None = None
    """MAC of who answered in the series before, and must not be ignored."""


@dataclass(slots=True)
class Probing:
    """Addresses of one router that are not to be used yet. Times are seconds on one clock."""

    _questions: dict[bytes, _Question] = field(default_factory=dict)

    @property
    def deadline(self) -> float | None:
        """When to call ``step``; None: nothing is asked."""
        return min((question.deadline for question in self._questions.values()), default=None)

    @property
    def asking(self) -> bool:
        """Some are not to be used yet."""
        return bool(self._questions)

    @property
    def withheld(self) -> frozenset[bytes]:
        """Not to be used now."""
        return frozenset(self._questions)

    @property
    def owners(self) -> dict[bytes, bytes]:
        """Address -> MAC of the host that has it."""
        return {address: question.owner for address, question in self._questions.items() if question.owner}

    def answers(self, now: float) -> dict[bytes, frozenset[bytes]]:
        """Address -> MACs of those who have it, for all that were asked for long enough to know."""
        return {
            address: frozenset(question.answers) | ({question.owner} if question.owner else frozenset())
            for address, question in self._questions.items()
            if question.owner or question.answers or now - question.begun >= SPACING
        }

    def start(self, addresses: Iterable[bytes], now: float) -> None:
        """Ask for these, those asked for already as before."""
        for address in addresses:
            self._questions.setdefault(address, _Question(now, now))

    def stop(self, kept: Iterable[bytes] = ()) -> None:
        """Ask no more, but for ``kept``: the others are not ours to use, or a peer of ours has them."""
        wanted = frozenset(kept)
        for address in self._questions.keys() - wanted:
            del self._questions[address]

    def answered(self, address: bytes, mac: bytes) -> None:
        """A host with that MAC, not ours, says that it has the address."""
        question = self._questions.get(address)
        if question is not None and len(question.answers) < MOST_ANSWERS:
            question.answers[mac] = None

    def step(self, now: float, ignored: Container[bytes] = ()) -> tuple[list[bytes], list[bytes]]:
        """(addresses to send a probe for now, addresses that nobody has). ``ignored``: MACs whose answers count for
        nothing, those of our own real servers."""
        ask: list[bytes] = []
        free: list[bytes] = []
        for address, question in tuple(self._questions.items()):
            if now < question.deadline:
                continue
            if question.left:
                question.left -= 1
                question.deadline = now + SPACING
                ask.append(address)
            elif (owner := next((mac for mac in question.answers if mac not in ignored), None)) is None:
                del self._questions[address]
                free.append(address)
            else:
                again = max(now, question.begun + AGAIN)
                self._questions[address] = _Question(again, again, owner=owner)
        return ask, free
