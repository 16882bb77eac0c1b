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
"""Seconds between renewals of an address. One that the kernel refused is tried again then."""
TOGETHER: Final = 0.1
"""Seconds before its time that an address is renewed with others, so that they do not wake us up one after another."""
OVERDUE: Final = 1.0
"""Seconds since its last renewal after which the kernel may have taken an address."""
AT_ONCE: Final = 200
"""Addresses that are renewed at once: adverts do not wait for more of them."""

Key = tuple[int, bytes]
"""Index of an interface, and an address."""


class Fence:
    """What this process holds. Only addresses it put there itself, or adopted, are ever deleted. Nothing here raises:
    what the kernel refuses is remembered with its words, and tried again."""

    def __init__(self, netlink: Rtnetlink, log: Callable[..., None]) -> None:
        self._netlink = netlink
        self._log = log
        self._wanted: dict[Key, float] = {}
        """When it was last renewed, or tried to be; the one longest ago first."""
        self._refused: dict[Key, str] = {}
        """Those of them that the kernel did not take at the last attempt, and what it said."""
        self._unwanted: dict[int, set[bytes]] = {}
        self._prefixes: dict[bytes, int] = {}

    @property
    def deadline(self) -> float | None:
        """When to renew; None: nothing is held."""
        return next((at + RENEWAL for at in self._wanted.values()), None)

    @property
    def refusing(self) -> bool:
        """The kernel refuses something."""
        return bool(self._refused)

    @property
    def releasing(self) -> bool:
        """Addresses that were to be deleted are still there."""
        return any(self._unwanted.values())

    def holds(self, index: int, address: bytes) -> bool:
        """It is on the interface, by all that is known."""
        return (index, address) in self._wanted and (index, address) not in self._refused

    def wants(self, index: int, address: bytes) -> bool:
        """It is on the interface, or will be as soon as the kernel takes it."""
        return (index, address) in self._wanted

    def lacks(self, index: int, address: bytes) -> bool:
        """It should be on the interface, and the kernel refuses it."""
        return (index, address) in self._refused

    def refused(self, index: int, addresses: Iterable[bytes]) -> dict[bytes, str]:
        """Those of these that the kernel refuses, with its words."""
        if not self._refused:
            return {}
        return {address: self._refused[index, address] for address in addresses if (index, address) in self._refused}

    def acquire(
        self,
        index: int,
        addresses: Iterable[bytes],
        foreign: Iterable[Address],
        prefixes: Mapping[bytes, int],
        now: float,
    ) -> tuple[bytes, ...]:
        """Hold these on the interface of that index. Returns those that somebody else put there: they are left alone.

        ``foreign``: what is on the interface and not ours. ``prefixes``: prefix lengths of those that are not 32
        (IPv6: 128).
        """
        self._prefixes.update(prefixes)
        taken = {there.address for there in foreign if _same(there, prefixes)}
        wanted = tuple(addresses)
        ours = tuple(address for address in wanted if address not in taken)
        self._unwanted.get(index, set()).difference_update(ours)
        self._hold(index, ours, now)
        return tuple(address for address in wanted if address in taken)

    def release(self, index: int, addresses: Iterable[bytes]) -> None:
        """Delete those of these that are ours; what cannot be deleted is tried again by ``retry``."""
        ours = tuple(address for address in addresses if (index, address) in self._wanted)
        self._give_up(index, ours)
        self.discard(index, ours, {})

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

    def renew(self, now: float) -> None:
        """Prolong the life of what is due, AT_ONCE of it, and try again what was refused."""
        due: dict[int, list[bytes]] = {}
        for (index, address), at in itertools.islice(self._wanted.items(), AT_ONCE):
            if at + RENEWAL > now + TOGETHER:
                break
            due.setdefault(index, []).append(address)
        for index, addresses in due.items():
            self._hold(index, tuple(addresses), now)

    def renew_if_overdue(self, now: float, index: int, addresses: Iterable[bytes]) -> None:
        """Before an advert after a stall: what it says must be true again."""
        if now - next(iter(self._wanted.values()), now) > OVERDUE:
            late = tuple(a for a in addresses if now - self._wanted.get((index, a), now) > OVERDUE)
            self._hold(index, late, now)

    def prolong(self, index: int, addresses: Iterable[bytes], seconds: float) -> None:
        """Let these live so long and renew them no more: the next process will hold them."""
        ours = tuple(address for address in addresses if self.holds(index, address))
        self._netlink.hold(index, ours, max(LIFETIME, math.ceil(seconds)), self._prefixes)
        self._give_up(index, ours)

    def forget(self, index: int) -> None:
        """The interface is gone, and its addresses with it."""
        self._give_up(index, [address for at, address in self._wanted if at == index])
        self._unwanted.pop(index, None)

    def _hold(self, index: int, addresses: tuple[bytes, ...], now: float) -> None:
        refused = self._netlink.hold(index, addresses, LIFETIME, self._prefixes)
        for address in addresses:
            key = (index, address)
            self._wanted.pop(key, None)
            self._wanted[key] = now
            if (error := refused.get(address)) is not None:
                self._refused[key] = error.strerror or str(error)
            elif self._refused:
                self._refused.pop(key, None)

    def _give_up(self, index: int, addresses: Iterable[bytes]) -> None:
        for address in addresses:
            self._wanted.pop((index, address), None)
            self._refused.pop((index, address), None)


def _fields(refused: Mapping[bytes, NetlinkError]) -> dict[str, object]:
    """One line for all of them: there may be hundreds."""
    first, error = next(iter(refused.items()))
    return {"address": str(ipaddress.ip_address(first)), "others": len(refused) - 1, "error": error.strerror}


def _same(there: Address, prefixes: Mapping[bytes, int]) -> bool:
    """Ours would be this very address: IPv6 addresses are told apart without their prefix length."""
    return len(there.address) == 16 or there.prefix_length == prefixes.get(there.address, 32)
