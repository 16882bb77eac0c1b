"""A director that reaches none of a router's backends stands by while another one reaches some. Pure: time is an
argument, in seconds.

Directors tell one another in the heartbeats: 16 bits, one for each virtual router by a hash of its name. A bit is set
while the sender reaches living backends for every router of that bit; so two routers with one bit cost a move, never
make one.

Nobody moves for what all will see in a moment: a director waits as long as any other one may need to notice that its
backends are gone, and as long again, and more, before it comes back.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lvsagent.core.health import Watch
from lvsagent.core.targets import asked, name_of, slowness
from lvsapi.model import Backend, Resolved, VirtualRouter, VirtualServer

BITS = 16
RETURN_SECONDS = 10.0
"""Longer than it took to stand by, a director must see backends before it stands up again."""
WHY = "none of the backends that are asked for their health answers here"


def bit_of(router: VirtualRouter) -> int:
    """The router's bit, as a mask."""
    return 1 << zlib.crc32(router.name.encode()) % BITS


@dataclass(slots=True)
class _Sight:
    """What a director sees of a router's backends."""

    lost: float | None = None
    """Since when none lives here, while another director reaches some."""
    well: float | None = None
    """Since when some live again."""
    standby: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A router with backends that are asked."""

    router: VirtualRouter
    known: bool
    """Every backend has answered, or failed to."""
    living: bool
    """Some live."""
    patience: float
    """Seconds."""


@dataclass(slots=True)
class Blindness:
    """What this node decided for each router. Call ``judge`` in each pass."""

    standby: frozenset[str] = frozenset()
    """Names of the routers for which this node stands by."""
    bits: int = 0
    """What to tell others."""
    waits: float | None = None
    """When ``judge`` may come to something else without news."""
    _sights: dict[str, _Sight] = field(default_factory=dict)

    def judge(self, views: Iterable[View], node: str, told: Mapping[str, int], now: float) -> frozenset[str]:
        """The routers for which this node stands by. ``told``: bits of other nodes that are heard, by name."""
        mine = [view for view in views if any(director.node == node for director in view.router.directors)]
        before, self._sights = self._sights, {}
        self.waits, self.bits, dark = None, 0, 0
        for view in mine:
            name, bit = view.router.name, bit_of(view.router)
            if view.living:
                self.bits |= bit
            else:
                dark |= bit
            sight = self._sights[name] = before.get(name) or _Sight()
            others = {director.node for director in view.router.directors} - {node}
            helped = any(told.get(other, 0) & bit for other in others)
            self._look(sight, view, helped, now)
        self.bits &= ~dark
        self.standby = frozenset(name for name, sight in self._sights.items() if sight.standby)
        return self.standby

    def _look(self, sight: _Sight, view: View, helped: bool, now: float) -> None:
        if not view.living:
            sight.well = None
            sight.lost = (sight.lost if sight.lost is not None else now) if helped and view.known else None
            if sight.lost is not None and not sight.standby:
                sight.standby = now - sight.lost >= view.patience
                self._wait(sight.standby, sight.lost + view.patience)
            return
        sight.lost = None
        if sight.standby:
            sight.well = sight.well if sight.well is not None else now
            sight.standby = now - sight.well < view.patience + RETURN_SECONDS
            self._wait(not sight.standby, sight.well + view.patience + RETURN_SECONDS)

    def _wait(self, done: bool, moment: float) -> None:
        if not done:
            self.waits = moment if self.waits is None else min(self.waits, moment)


def views(resolved: Resolved, watch: Watch) -> tuple[View, ...]:
    """The routers that carry anything that is asked."""
    by_owner: dict[object, list[tuple[VirtualServer, Backend]]] = {}
    for server, backend in asked(resolved.servers):
        by_owner.setdefault((server.owner, server.address.version), []).append((server, backend))
    found = []
    for router in resolved.routers:
        pairs = [pair for owner in router.owners for pair in by_owner.get((owner, router.family), ())]
        if pairs:
            standings = [watch.standings.get(name_of(*pair)) for pair in pairs]
            found.append(
                View(
                    router=router,
                    known=all(standing is not None and standing.known for standing in standings),
                    living=any(watch.is_alive(*pair) for pair in pairs),
                    patience=max(slowness(server.health.checks) for server, _ in pairs),
                )
            )
    return tuple(found)


def standing_by(resolved: Resolved, node: str, names: frozenset[str]) -> Resolved:
    """``resolved`` with this node as the last choice for the routers of these names."""
    if not names:
        return resolved
    routers = tuple(
        replace(router, standby={**router.standby, node: router.standby.get(node) or WHY})
        if router.name in names
        else router
        for router in resolved.routers
    )
    return replace(resolved, routers=routers)
