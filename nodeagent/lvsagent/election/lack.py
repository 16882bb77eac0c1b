"""Addresses that an Active should hold and that the kernel refuses it. Pure: when to hand over because of them.

Refusals are tried again with every renewal. Another director may have more luck, so it is asked to take over; but if
none can do better the addresses must not go to and fro all the time.
"""

import errno
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PATIENCE: Final = 1.0
"""Seconds for which refusals may last."""
AGAIN: Final = 10.0
"""Seconds until a successor is asked for again where none came."""
NAMED: Final = 3
"""Addresses that a sentence names."""

_DENIED: Final = frozenset({os.strerror(errno.EACCES), os.strerror(errno.EPERM)})


@dataclass(slots=True)
class Lack:
    """Of one router. Times are seconds on one monotonic clock."""

    refused: Mapping[bytes, str] = field(default_factory=dict)
    """Address -> the kernel's words."""
    _since: float = 0.0
    _asked: float | None = None
    """When a successor was last asked for."""

    def update(self, refused: Mapping[bytes, str], now: float) -> tuple[int, bool]:
        """What is refused now. Returns how many addresses were not before, and whether some are not any more."""
        before, self.refused = self.refused, refused
        if not before:
            self._since = now
        if not refused:
            self._asked = None
        return len(refused.keys() - before.keys()), bool(before.keys() - refused.keys())

    def clear(self) -> None:
        """Not Active any more."""
        self.refused, self._asked = {}, None

    def hands_over(self, now: float, wait: float) -> bool:
        """Ask for a successor now? Then it counts as asked.

        ``wait``: seconds for which this router shall hold on to what nobody else served when it took it: it grows when
        directors hand over to each other again and again.
        """
        if not self.refused or now - self._since < max(PATIENCE, wait):
            return False
        if self._asked is not None and now - self._asked < AGAIN:
            return False
        self._asked = now
        return True

    def sentence(self, interface: str) -> str:
        """Addresses, the kernel's words, the remedy."""
        first = next(iter(self.refused))
        words = self.refused[first]
        named = ", ".join(str(ipaddress.ip_address(address)) for address in list(self.refused)[:NAMED])
        others = f" and {len(self.refused) - NAMED} more" if len(self.refused) > NAMED else ""
        remedy = "see what its log says (dmesg), and its memory"
        if words in _DENIED:
            remedy = "the election needs CAP_NET_ADMIN"
            remedy += f", and IPv6 net.ipv6.conf.{interface}.disable_ipv6=0" if len(first) == 16 else ""
        return (
            f"the kernel of this node refuses {named}{others} on {interface} ({words}): not served here, tried again,"
            f" and left to another director if there is one; {remedy}"
        )
