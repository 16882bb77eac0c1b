"""Health of backends at run time: tells the checkers what to ask, hears verdicts, says what they change."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lvsagent.checks.messages import Target, Verdict
from lvsagent.core.backends import line_of, quorum_line
from lvsagent.core.blind import Blindness, standing_by, views
from lvsagent.core.health import Watch
from lvsagent.core.state import NodeFacts, Service, ServiceKey
from lvsagent.runtime.view import View
from lvsapi.model import ObjectKey, Resolved

_log = logging.getLogger(__name__)


class Asks(Protocol):
    """What is needed of ``runtime.checks.Checks``."""

    def want(self, targets: tuple[Target, ...]) -> None: ...


Event = Callable[[ObjectKey, str, str, str], None]
"""Object, ``Normal`` or ``Warning``, reason, message."""


@dataclass(slots=True, kw_only=True)
class Keeper:
    """One for each loop. ``heard`` is called by the checkers, the rest by the loop."""

    view: View
    wake: Callable[[], None]
    hurry: Callable[[], None] | None = None
    """As ``wake``, for a backend that must get no more clients. None: ``wake`` is quick enough."""
    event: Event = lambda *_: None
    asks: Asks | None = None
    """None: nobody asks, and everything that is asked for stays as it is taken for."""
    watch: Watch = field(default_factory=Watch)
    blindness: Blindness = field(default_factory=Blindness)

    def __post_init__(self) -> None:
        self.view.watch = self.watch

    def heard(self, verdict: Verdict) -> None:
        """A backend answered, or failed."""
        news = self.watch.news
        change = self.watch.heard(verdict, time.monotonic())
        if change is not None:
            line = line_of(change)
            _log.log(
                logging.INFO if change.up else logging.WARNING,
                line,
                extra={"object": change.owner, **({"reason": change.reason} if change.reason else {})},
            )
            self._tell(change.owner, change.up, "BackendUp" if change.up else "BackendDown", line, change.reason)
        if self.watch.news != news:
            (self.wake if verdict.up or self.hurry is None else self.hurry)()

    def over(
        self,
        resolved: Resolved,
        facts: NodeFacts,
        tables: Mapping[ServiceKey, Service],
        now: float,
        *,
        prune: bool = True,
    ) -> Resolved:
        """``resolved`` with the weights that follow from what is known; the checkers are told what to ask.
        ``tables``: what the kernel has. ``prune``: what fails may be taken out of them."""
        targets = self.watch.wish(resolved, facts, tables)
        if self.asks is not None:
            self.asks.want(targets)
        active = self.view.claims.active
        addresses = {a for router in resolved.routers if router.name in active for a in router.addresses}
        found = self.watch.over(resolved, facts, addresses, now, prune=prune)
        for change in self.watch.changes():
            line = quorum_line(change)
            _log.log(logging.INFO if change.up else logging.ERROR, line, extra={"object": change.owner})
            self._tell(change.owner, change.up, "QuorumReached" if change.up else "QuorumLost", line, "")
        self.view.effective = found
        return self._stand_by(resolved, found, facts.node, now)

    def waits_until(self, now: float) -> float | None:
        """When a weight changes without any verdict."""
        moments = (self.watch.waits_until(now), self.blindness.waits)
        return min((moment for moment in moments if moment is not None), default=None)

    def _stand_by(self, resolved: Resolved, weighed: Resolved, node: str, now: float) -> Resolved:
        """Leave the addresses to others who reach backends when this node reaches none."""
        before = self.blindness.standby
        names = self.blindness.judge(views(resolved, self.watch), node, self.view.claims.liveness.healthy, now)
        for name in sorted(names - before):
            _log.warning("no backend is reached from here, and some are from another node: this one stands by",
                         extra={"router": name})  # fmt: skip
        for name in sorted(before - names):
            _log.info("backends are reached again: this node stands by no longer", extra={"router": name})
        return standing_by(weighed, node, names)

    def _tell(self, owner: ObjectKey, up: bool, reason: str, line: str, why: str) -> None:
        """Of many directors the Active one speaks."""
        active = self.view.claims.active
        if any(router.name in active and owner in router.owners for router in self.view.resolved.routers):
            text = f"Node {self.view.node}: {line}" + (f": {why}" if why else "")
            self.event(owner, "Normal" if up else "Warning", reason, text)
