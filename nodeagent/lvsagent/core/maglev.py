"""Where the kernel's scheduler ``mh`` sends a client: net/netfilter/ipvs/ip_vs_mh.c, computed here. Pure.

The kernel hashes with hsiphash, which on 64-bit machines is SipHash-1-3 of one 32-bit number cut to 32 bits, under
fixed keys; 32-bit machines hash otherwise and are no part of this. The table has 4093 slots unless the kernel was built
with another CONFIG_IP_VS_MH_TAB_INDEX than 12. ``tests/net`` compares with the kernel, client by client.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from math import gcd
from typing import Final

from lvsagent.core.state import Destination, Service, ServiceFlag
from lvsapi.model import IPAddress

SLOTS: Final = 4093
TABLE_BITS: Final = 6
"""IP_VS_MH_TAB_BITS: weights are cut to so many bits."""
_KEYS: Final = (2654435761, 2654446892)
_MASK: Final = (1 << 64) - 1

DestinationKey = tuple[IPAddress, int]


def fold(address: int, version: int) -> int:
    """The 32 bits of an address that are hashed."""
    if version == 4:
        return address
    return (address >> 96) ^ (address >> 64 & 0xFFFF_FFFF) ^ (address >> 32 & 0xFFFF_FFFF) ^ (address & 0xFFFF_FFFF)


def hsiphash(value: int, key: int) -> int:
    """SipHash-1-3 of one 32-bit number with both halves of the key alike, cut to 32 bits (lib/siphash.c)."""
    v0, v1 = 0x736F6D6570736575 ^ key, 0x646F72616E646F6D ^ key
    v2, v3 = 0x6C7967656E657261 ^ key, 0x7465646279746573 ^ key
    block = 4 << 56 | value
    v3 ^= block
    for turn in range(4):
        if turn == 1:
            v0 ^= block
            v2 ^= 0xFF
        v0 = v0 + v1 & _MASK
        v1 = (v1 << 13 | v1 >> 51) & _MASK ^ v0
        v0 = (v0 << 32 | v0 >> 32) & _MASK
        v2 = v2 + v3 & _MASK
        v3 = (v3 << 16 | v3 >> 48) & _MASK ^ v2
        v0 = v0 + v3 & _MASK
        v3 = (v3 << 21 | v3 >> 43) & _MASK ^ v0
        v2 = v2 + v1 & _MASK
        v1 = (v1 << 17 | v1 >> 47) & _MASK ^ v2
        v2 = (v2 << 32 | v2 >> 32) & _MASK
    return (v0 ^ v1 ^ v2 ^ v3) & 0xFFFF_FFFF


class Placement:
    """The table of one service."""

    def __init__(self, service: Service, last: Mapping[DestinationKey, int]) -> None:
        """``last``: the last weights above 0 of destinations that are at 0; who is not in it had 1.

        The kernel builds its table from them, and ``core.diff`` has every destination begin above 0.
        """
        self._version = service.key.address.version
        self._by_port = bool(service.flags & ServiceFlag.SCHED2)
        self._fallback = bool(service.flags & ServiceFlag.SCHED1)
        # The kernel puts a new destination at the head of its list.
        listed = service.destinations[::-1]
        self._weights = {d.key: d.weight for d in listed}
        self._slots = _slots([(d.key, _hashes(d), d.weight or last.get(d.key, 1)) for d in listed])

    def of(self, client: int, port: int) -> DestinationKey | None:
        """The destination of a client's packet that belongs to no known connection; None: there is none.

        Destinations that are full (upper threshold) count as free.
        """
        if not self._slots:
            return None
        base = fold(client, self._version) + (port if self._by_port else 0)
        first = hsiphash(base & 0xFFFF_FFFF, _KEYS[0]) % SLOTS
        key = self._slots[first]
        if self._weights[key] > 0 or not self._fallback:
            return key if self._weights[key] > 0 else None
        for offset in range(SLOTS):
            value = base + (offset + first) % SLOTS
            key = self._slots[hsiphash(value & 0xFFFF_FFFF, _KEYS[0]) % SLOTS]
            if self._weights[key] > 0:
                return key
        return None


def _hashes(destination: Destination) -> tuple[int, int]:
    """Where a destination's preferences begin, and their step."""
    address = destination.address
    value = fold(int(address), address.version) + destination.port & 0xFFFF_FFFF
    return hsiphash(value, _KEYS[0]) % SLOTS, hsiphash(value, _KEYS[1]) % (SLOTS - 1) + 1


def _slots(listed: Sequence[tuple[DestinationKey, tuple[int, int], int]]) -> list[DestinationKey]:
    """ip_vs_mh_populate. ``listed``: key, hashes, last weight, in the order of the kernel's list."""
    divisor = gcd(*(weight for _, _, weight in listed))
    if not divisor:
        return []
    shift = max((max(weight for _, _, weight in listed) // divisor).bit_length() - TABLE_BITS, 0)
    turns = [(key, _preferences(*hashes), (weight // divisor >> shift) or 1) for key, hashes, weight in listed]
    table: list[DestinationKey | None] = [None] * SLOTS
    free = SLOTS
    while True:
        for key, preferences, times in turns:
            for _ in range(times):
                while table[slot := preferences()] is not None:
                    pass
                table[slot] = key
                free -= 1
                if not free:
                    return [key for key in table if key is not None]


def _preferences(first: int, step: int) -> Callable[[], int]:
    numbers = count(first, step)
    return lambda: next(numbers) % SLOTS
