"""Who was heard with which MAC: hosts that are known by their addresses. Pure.

Whoever sends on the segment chooses what is heard here, so that nothing is kept for long, and of each address the last
few MACs only.
"""

from collections.abc import Container
from typing import Final

MEMORY: Final = 300.0
"""Seconds for which a MAC is known after it was heard. Hosts are asked again when it matters."""
MOST: Final = 4
"""MACs of one address: a bond may change its own, a host may be replaced."""


class Macs:
    """Of one interface and family. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._heard: dict[bytes, dict[bytes, float]] = {}
        """Address -> MAC -> when, heard longest ago first."""
        self._addresses: dict[bytes, set[bytes]] = {}
        """The same by MAC."""

    def __len__(self) -> int:
        """Pairs of an address and a MAC that are remembered."""
        return sum(map(len, self._heard.values()))

    def heard(self, address: bytes, mac: bytes, now: float) -> None:
        """A host says that the address is at that MAC."""
        macs = self._heard.setdefault(address, {})
        macs.pop(mac, None)
        while macs and (len(macs) >= MOST or now - next(iter(macs.values())) > MEMORY):
            self._forget(address, next(iter(macs)))
        macs[mac] = now
        self._addresses.setdefault(mac, set()).add(address)

    def owner(self, mac: bytes, among: Container[bytes], now: float) -> bytes | None:
        """The one of these addresses that was heard with the MAC lately; None: none was."""
        for address in self._addresses.get(mac, ()):
            if address in among and now - self._heard[address][mac] <= MEMORY:
                return address
        return None

    def known(self, address: bytes, now: float) -> bool:
        """Whether a MAC of this address was heard lately."""
        return any(now - when <= MEMORY for when in self._heard.get(address, {}).values())

    def keep(self, addresses: Container[bytes]) -> None:
        """Nobody asks about others any more."""
        for address in tuple(self._heard):
            if address not in addresses:
                for mac in tuple(self._heard[address]):
                    self._forget(address, mac)
                del self._heard[address]

    def _forget(self, address: bytes, mac: bytes) -> None:
        del self._heard[address][mac]
        self._addresses[mac].discard(address)
        if not self._addresses[mac]:
            del self._addresses[mac]
