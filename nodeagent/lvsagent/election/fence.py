"""Virtual addresses with an end of their life: the kernel takes them away when nobody renews them."""

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from lvsagent.election.netlink import Address, NetlinkError, Rtnetlink

LIFETIME: Final = 2
"""Seconds of ``valid_lft``. The kernel looks once a second, so that an address is gone after 1.0 to 2.4 s."""
RENEWAL: Final = 0.5
"""Seconds between renewals."""
OVERDUE: Final = 1.0
"""Seconds since the last renewal after which the kernel may have taken the addresses."""


class Fence:
    """What this process holds. Only addresses it put there itself, or adopted, are ever deleted."""

    def __init__(self, netlink: Rtnetlink, log: Callable[..., None]) -> None:
        self._netlink = netlink
        self._log = log
        self._held: dict[int, set[bytes]] = {}
        self._unwanted: dict[int, set[bytes]] = {}
        self._prefixes: dict[bytes, int] = {}
        self._renewed = 0.0

    @property
    def deadline(self) -> float | None:
        """When to renew; None: nothing is held."""
        return self._renewed + RENEWAL if any(self._held.values()) else None

    @property
    def releasing(self) -> bool:
        """Addresses that were to be deleted are still there."""
        return any(self._unwanted.values())

    def holds(self, index: int, address: bytes) -> bool:
        return address in self._held.get(index, ())

    def acquire(
        self, index: int, addresses: Iterable[bytes], present: Iterable[Address], prefixes: Mapping[bytes, int]
    ) -> int:
        """Hold these on the interface of that index. Returns how many could not be.

        ``present``: what is on the interface; an address that somebody else put there is left alone.
        ``prefixes``: prefix lengths of those that are not 32 (IPv6: 128).
        """
        self._prefixes.update(prefixes)
        wanted = tuple(addresses)
        foreign = {
            there.address for there in present if there.index == index and not there.fenced and _same(there, prefixes)
        }
        for address in wanted:
            if address in foreign:
                self._log("the address is on the interface already and not ours", address=_text(address), index=index)
        ours = tuple(address for address in wanted if address not in foreign)
        refused = self._netlink.hold(index, ours, LIFETIME, self._prefixes)
        self._report("the address could not be added", refused)
        self._held.setdefault(index, set()).update(address for address in ours if address not in refused)
        self._unwanted.get(index, set()).difference_update(ours)
        return len(wanted) - len(ours) + len(refused)

    def release(self, index: int, addresses: Iterable[bytes]) -> None:
        """Delete those of these that we hold; what cannot be deleted is tried again by ``retry``."""
        held = self._held.get(index, set())
        ours = tuple(address for address in addresses if address in held)
        held.difference_update(ours)
        self.discard(index, ours, {})

    def discard(self, index: int, leftovers: tuple[bytes, ...], prefixes: Mapping[bytes, int]) -> None:
        """Delete what an earlier process of ours held."""
        self._prefixes.update(prefixes)
        refused = self._netlink.drop(index, leftovers, self._prefixes)
        self._report("the address could not be deleted and will expire", refused)
        self._unwanted.setdefault(index, set()).update(refused)

    def retry(self) -> None:
        """Delete again what could not be deleted."""
        for index, addresses in self._unwanted.items():
            if addresses:
                addresses.intersection_update(self._netlink.drop(index, tuple(addresses), self._prefixes))

    def renew(self, now: float) -> int:
        """Prolong the life of everything held. Returns how many could not be; those are tried again."""
        self._renewed = now
        failed = 0
        for index, addresses in self._held.items():
            refused = self._netlink.hold(index, tuple(addresses), LIFETIME, self._prefixes)
            self._report("the address could not be renewed", refused)
            failed += len(refused)
        return failed

    def renew_if_overdue(self, now: float, index: int, addresses: Iterable[bytes]) -> None:
        """Before an advert after a stall: what it says must be true again."""
        if now - self._renewed > OVERDUE:
            self._netlink.hold(index, tuple(a for a in addresses if self.holds(index, a)), LIFETIME, self._prefixes)

    def prolong(self, index: int, addresses: Iterable[bytes], seconds: float) -> None:
        """Let these live so long and renew them no more: the next process will hold them."""
        held = self._held.get(index, set())
        ours = tuple(address for address in addresses if address in held)
        self._netlink.hold(index, ours, max(LIFETIME, math.ceil(seconds)), self._prefixes)
        held.difference_update(ours)

    def forget(self, index: int) -> None:
        """The interface is gone, and its addresses with it."""
        self._held.pop(index, None)
        self._unwanted.pop(index, None)

    def _report(self, sentence: str, refused: dict[bytes, NetlinkError]) -> None:
        for address, error in refused.items():
            self._log(sentence, address=_text(address), error=error.strerror)


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def _same(there: Address, prefixes: Mapping[bytes, int]) -> bool:
    """Ours would be this very address: IPv6 addresses are told apart without their prefix length."""
    return len(there.address) == 16 or there.prefix_length == prefixes.get(there.address, 32)
