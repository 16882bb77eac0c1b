"""Virtual addresses with an end of their life: the kernel takes them away when nobody renews them."""

import ipaddress
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from lvsagent.election.netlink import Address, NetlinkError, Rtnetlink

LIFETIME: Final = 2
"""Seconds of ``valid_lft``. The kernel looks once a second, so that an address is gone after 1.0 to 2.4 s."""
RENEWAL: Final = 0.5
"""Seconds between renewals. What the kernel refused is tried again then."""
OVERDUE: Final = 1.0
"""Seconds since the last renewal after which the kernel may have taken the addresses."""
AT_ONCE: Final = 200
"""Addresses that are renewed at once: adverts do not wait for more of them."""


class Fence:
    """What this process holds. Only addresses it put there itself, or adopted, are ever deleted. Nothing here raises:
    what the kernel refuses is remembered with its words, and tried again."""

    def __init__(self, netlink: Rtnetlink, log: Callable[..., None]) -> None:
        self._netlink = netlink
        self._log = log
        self._wanted: dict[int, set[bytes]] = {}
        self._refused: dict[int, dict[bytes, str]] = {}
        """Those of them that the kernel did not take at the last attempt, and what it said."""
        self._unwanted: dict[int, set[bytes]] = {}
        self._prefixes: dict[bytes, int] = {}
        self._round: list[tuple[int, bytes]] = []
        """What is to be renewed yet in the round that began at ``_begun``."""
        self._begun = 0.0
        self._renewed = 0.0
        """When the last round began that is complete."""

    @property
    def deadline(self) -> float | None:
        """When to renew; None: nothing is held."""
        if self._round:
            return self._begun
        return self._begun + RENEWAL if any(self._wanted.values()) else None

    @property
    def releasing(self) -> bool:
        """Addresses that were to be deleted are still there."""
        return any(self._unwanted.values())

    def holds(self, index: int, address: bytes) -> bool:
        """It is on the interface, by all that is known."""
        return self.wants(index, address) and not self.lacks(index, address)

    def wants(self, index: int, address: bytes) -> bool:
        """It is on the interface, or will be as soon as the kernel takes it."""
        return address in self._wanted.get(index, ())

    def lacks(self, index: int, address: bytes) -> bool:
        """It should be on the interface, and the kernel refuses it."""
        return address in self._refused.get(index, ())

    def refused(self, index: int, addresses: Iterable[bytes]) -> dict[bytes, str]:
        """Those of these that the kernel refuses, with its words."""
        words = self._refused.get(index)
        return {address: words[address] for address in addresses if address in words} if words else {}

    def acquire(
        self, index: int, addresses: Iterable[bytes], foreign: Iterable[Address], prefixes: Mapping[bytes, int]
    ) -> tuple[bytes, ...]:
        """Hold these on the interface of that index. Returns those that somebody else put there: they are left alone.

        ``foreign``: what is on the interface and not ours. ``prefixes``: prefix lengths of those that are not 32
        (IPv6: 128).
        """
        self._prefixes.update(prefixes)
        taken = {there.address for there in foreign if _same(there, prefixes)}
        wanted = tuple(addresses)
        ours = tuple(address for address in wanted if address not in taken)
        self._wanted.setdefault(index, set()).update(ours)
        self._unwanted.get(index, set()).difference_update(ours)
        self._hold(index, ours, LIFETIME)
        return tuple(address for address in wanted if address in taken)

    def release(self, index: int, addresses: Iterable[bytes]) -> None:
        """Delete those of these that are ours; what cannot be deleted is tried again by ``retry``."""
        self.discard(index, self._give_up(index, addresses), {})

    def discard(self, index: int, leftovers: tuple[bytes, ...], prefixes: Mapping[bytes, int]) -> None:
        """Delete what an earlier process of ours held."""
        self._prefixes.update(prefixes)
        refused = self._netlink.drop(index, leftovers, self._prefixes)
        if refused:
            self._log("an address could not be deleted and will expire", **_fields(refused))
        self._unwanted.setdefault(index, set()).update(refused)

    def retry(self) -> None:
        """Delete again what could not be deleted."""
        for index, addresses in self._unwanted.items():
            if addresses:
                addresses.intersection_update(self._netlink.drop(index, tuple(addresses), self._prefixes))

    def renew(self, now: float) -> bool:
        """Prolong the life of what is held, AT_ONCE of it, and try again what was refused. True: of everything."""
        if not self._round:
            self._begun = now
            self._round = [(index, address) for index, addresses in self._wanted.items() for address in addresses]
        some = self._round[-AT_ONCE:]
        del self._round[-AT_ONCE:]
        for index, group in itertools.groupby(some, lambda each: each[0]):
            self._hold(index, tuple(address for _, address in group if self.wants(index, address)), LIFETIME)
        if not self._round:
            self._renewed = self._begun
        return not self._round

    def renew_if_overdue(self, now: float, index: int, addresses: Iterable[bytes]) -> None:
        """Before an advert after a stall: what it says must be true again."""
        if now - self._renewed > OVERDUE:
            self._hold(index, tuple(address for address in addresses if self.wants(index, address)), LIFETIME)

    def prolong(self, index: int, addresses: Iterable[bytes], seconds: float) -> None:
        """Let these live so long and renew them no more: the next process will hold them."""
        ours = tuple(address for address in addresses if self.holds(index, address))
        self._netlink.hold(index, ours, max(LIFETIME, math.ceil(seconds)), self._prefixes)
        self._give_up(index, ours)

    def forget(self, index: int) -> None:
        """The interface is gone, and its addresses with it."""
        for each in (self._wanted, self._refused, self._unwanted):
            each.pop(index, None)

    def _hold(self, index: int, addresses: tuple[bytes, ...], seconds: int) -> None:
        refused = self._netlink.hold(index, addresses, seconds, self._prefixes)
        before = self._refused.get(index, {})
        if not refused and not before:
            return
        tried = frozenset(addresses)
        words = {address: error for address, error in before.items() if address not in tried}
        words |= {address: error.strerror or str(error) for address, error in refused.items()}
        self._refused[index] = words

    def _give_up(self, index: int, addresses: Iterable[bytes]) -> tuple[bytes, ...]:
        """Want these no more. Returns those that were wanted."""
        wanted, words = self._wanted.get(index, set()), self._refused.get(index, {})
        ours = tuple(address for address in addresses if address in wanted)
        wanted.difference_update(ours)
        for address in ours:
            words.pop(address, None)
        return ours


def _fields(refused: Mapping[bytes, NetlinkError]) -> dict[str, object]:
    """One line for all of them: there may be hundreds."""
    first, error = next(iter(refused.items()))
    return {"address": str(ipaddress.ip_address(first)), "others": len(refused) - 1, "error": error.strerror}


def _same(there: Address, prefixes: Mapping[bytes, int]) -> bool:
    """Ours would be this very address: IPv6 addresses are told apart without their prefix length."""
    return len(there.address) == 16 or there.prefix_length == prefixes.get(there.address, 32)
