"""When to look for connections that other tables have placed elsewhere, and when to say which tables one has. Pure.

A node's own change is one reason to look. The other is that a node which gives connections, because it is Active, has
other tables for a moment: it alone suspects somebody, or has heard of endpoints earlier. What it opens meanwhile is
misplaced for all others, and only the pod's node can know. So who is Active says the digest of its tables, and who has
others looks for as long as they differ, and once more when they are alike again. See docs/decisions/0008.
"""

from dataclasses import dataclass, field
from typing import Final

AFTER_CHANGE: Final = (0.0, 1.0, 4.0, 8.0)
"""Seconds: other nodes are not programmed at the same moment, and until then place connections by their old table. The
last is for what is left of connections that nobody tells of (``core.leftovers``)."""
AFTER_DIFFERENCE: Final = (0.0, 1.0)
"""Seconds: the last that was opened has perhaps not carried data yet."""
SOON: Final = 0.2
"""Seconds from hearing of a difference to the first look: nodes differ for as long at every change of endpoints."""
WHILE_DIFFERENT: Final = 1.0
"""Seconds between looks."""
REPEAT: Final = 30.0
"""Seconds; less than any timeout of an entry that carries data."""
REST: Final = 4.0
"""So many times as long as a look took there is none after it."""
REST_WHILE_DIFFERENT: Final = 19.0
"""Likewise for looks that go on for as long as tables differ: a twentieth of a processor."""
SAY_AGAIN: Final = (0.3, 1.0, 3.0)
"""Seconds after a change: a datagram can be lost."""
RENEW: Final = 5.0
"""Seconds between sayings at other times."""
FORGET: Final = 12.0
"""Seconds after which who says nothing gives no connections any more."""


@dataclass(slots=True)
class Looks:
    """The moments at which to look, in monotonic seconds."""

    _moments: list[float] = field(default_factory=list)
    _differing: bool = False
    _rest: float = 0.0
    """Until when there is none."""

    def changed(self, now: float) -> None:
        """This node's tables are others now."""
        self._moments = [now + after for after in AFTER_CHANGE]

    def compared(self, differs: bool, now: float) -> None:
        """Whether an Active node's tables differ from this one's."""
        if differs and not self._differing:
            self._add(now + SOON)
        elif self._differing and not differs:
            self._add(*(now + after for after in AFTER_DIFFERENCE))
        self._differing = differs

    def due(self, now: float) -> bool:
        """Whether to look now."""
        return bool(self._moments) and now >= max(self._moments[0], self._rest)

    def looked(self, begun: float, ended: float, found: bool) -> None:
        """One is done; ``found``: there are misplaced connections, this node's or not."""
        took = ended - begun
        self._rest = ended + REST * took
        self._moments = [moment for moment in self._moments if moment > begun]
        if self._differing:
            self._add(ended + max(WHILE_DIFFERENT, REST_WHILE_DIFFERENT * took))
        elif found and not self._moments:
            self._add(ended + REPEAT)

    def _add(self, *moments: float) -> None:
        self._moments = sorted({*self._moments, *moments})


@dataclass(slots=True)
class Said:
    """What this node says of its tables while it is Active."""

    _digest: bytes = b""
    _due: list[float] = field(default_factory=list)

    def due(self, digest: bytes, active: bool, now: float) -> bool:
        """Whether to say it now."""
        if not active:
            self._digest, self._due = b"", []
            return False
        if digest != self._digest:
            self._digest = digest
            self._due = [now + after for after in SAY_AGAIN]
            return True
        if now < self._due[0]:
            return False
        self._due = [moment for moment in self._due if moment > now] or [now + RENEW]
        return True


@dataclass(slots=True)
class Others:
    """What the Active nodes say of theirs."""

    _said: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def heard(self, node: str, digest: bytes, now: float) -> None:
        """A node said it."""
        self._said[node] = (digest, now)

    def differing(self, digest: bytes, now: float) -> frozenset[str]:
        """The nodes whose tables are not these."""
        self._said = {node: said for node, said in self._said.items() if now - said[1] < FORGET}
        return frozenset(node for node, (theirs, _) in self._said.items() if theirs != digest)
