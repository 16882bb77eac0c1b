"""Adverts that reach this node's interface, but not its socket: something on the node drops them.

A packet socket sees them before the firewall does. It is open for a moment only: when a router is Active although
nobody was heard, and from time to time afterwards.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from lvsagent.election.frames import Tap
from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.wire import Place, Wire
from lvsagent.ipc import Finding

LOOK: Final = 1.0
"""Seconds for which a tap is open, or LOOK_INTERVALS if that is longer."""
LOOK_INTERVALS: Final = 3
LONGEST_LOOK: Final = 5.0
REPEAT: Final = 10.0
"""Seconds between looks."""
PAUSE: Final = 0.1
"""Seconds between judgements of who is alone, at least: there may be hundreds of routers, and thousands of turns."""
ENOUGH: Final = 2
"""Adverts seen and not heard: one may come while the tap is being closed."""


@dataclass(slots=True)
class _Look:
    """At one interface."""

    tap: Tap
    until: float
    begun: float
    seen: dict[int, int] = field(default_factory=dict)
    """Adverts by virtual router ID."""


class Blocked:
    """Owner of the taps."""

    def __init__(self, wire: Wire, log: Log) -> None:
        self._wire = wire
        self._log = log
        self._looks: dict[Place, _Look] = {}
        self._next: dict[Place, float] = {}
        """When to look again, of every place where a router is Active and hears nobody."""
        self._judged = -math.inf

    @property
    def deadline(self) -> float:
        """When to call ``turn``; infinite when there is nothing to look at."""
        closing = [look.until for look in self._looks.values()]
        opening = [self._next[place] for place in self._next.keys() - self._looks.keys()]
        return min(closing + opening, default=math.inf)

    def turn(self, ready: set[int], routers: Iterable[Router], now: float) -> None:
        """Open, read and close what is due."""
        readable = any(look.tap.fileno() in ready for look in self._looks.values())
        if now < min(self._judged + PAUSE, self.deadline) and not readable:
            return
        self._judged = now
        alone: dict[Place, list[Router]] = {}
        for router in routers:
            mine = router.machine.parameters
            silence = math.inf if router.heard is None else now - router.heard
            if router.active and silence > mine.active_down(mine.interval):
                alone.setdefault(router.place, []).append(router)
        for place in (self._next.keys() | self._looks.keys()) - alone.keys():
            self._next.pop(place, None)
            self._close(place)
        for place, here in alone.items():
            if (look := self._looks.get(place)) is not None:
                if look.tap.fileno() in ready:
                    self._read(look, here, now)
                if now >= look.until:
                    self._close(place)
            elif now >= self._next.setdefault(place, now):
                self._next[place] = now + REPEAT
                self._open(place, here, now)

    def close(self) -> None:
        for place in tuple(self._looks):
            self._close(place)

    def _open(self, place: Place, here: list[Router], now: float) -> None:
        interval = max(router.machine.parameters.interval for router in here)
        seconds = min(LONGEST_LOOK, max(LOOK, LOOK_INTERVALS * interval))
        try:
            tap = Tap(place[0], place[1], [router.config.virtual_router_id for router in here])
            self._wire.register(tap)
        except OSError as error:
            self._log.seldom(now, str(place), "adverts cannot be looked for", interface=place[0], error=error)
            return
        self._looks[place] = _Look(tap, now + seconds, now)

    def _read(self, look: _Look, here: list[Router], now: float) -> None:
        try:
            for virtual_router_id in look.tap.receive():
                look.seen[virtual_router_id] = look.seen.get(virtual_router_id, 0) + 1
        except OSError as error:  # the interface is gone: the routers on it will notice
            self._log.seldom(now, look.tap.interface, "adverts cannot be looked for", error=error)
        for router in here:
            seen = look.seen.get(router.config.virtual_router_id, 0)
            delivered = router.arrived is not None and router.arrived >= look.begun
            if seen >= ENOUGH and not delivered:
                text = (
                    f"incoming: VRRP (IP protocol 112) arrives on {router.config.interface} and does not reach the"
                    " election: a firewall or rp_filter of this node drops it"
                )
                router.findings.note(Finding.ADVERT_BLOCKED, text, now)

    def _close(self, place: Place) -> None:
        if (look := self._looks.pop(place, None)) is not None:
            self._wire.unregister(look.tap)
