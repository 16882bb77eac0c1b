"""Pods that wait for their path, at run time: has them asked beside the backends, and what is found out written."""

from dataclasses import dataclass, field
from typing import Protocol

from lvsagent.checks.messages import Target, Verdict
from lvsagent.core.gates import Gate, gates
from lvsagent.core.state import NodeFacts
from lvsagent.core.targets import targets
from lvsagent.runtime.health import Asks, Keeper
from lvsagent.runtime.view import View
from lvsapi.gates import Waiting, waiting
from lvsapi.model import Resolved, Snapshot


class Writes(Protocol):
    """What is needed of ``adapters.podgates.PodGates``."""

    def want(self, gates: tuple[Gate, ...]) -> None: ...


@dataclass(slots=True, kw_only=True)
class Gatekeeper:
    """Stands between the keeper of health and the checkers: what is asked for a pod that waits goes on when it is a
    backend, by the same name, so that its answers stay good."""

    view: View
    keeper: Keeper
    asks: Asks
    writes: Writes
    _snapshot: Snapshot | None = None
    _waiting: tuple[Waiting, ...] = ()
    _backends: tuple[Target, ...] = ()
    _more: tuple[Target, ...] = ()
    _verdicts: dict[str, Verdict] = field(default_factory=dict)

    def want(self, targets: tuple[Target, ...]) -> None:
        """The keeper's wish. What was found out about a pod before it was a backend is handed on: of the same question
        the checkers have nothing new to say."""
        before = {target.name for target in self._backends}
        self._backends = targets
        self._ask()
        for target in targets:
            if target.name not in before and (verdict := self._verdicts.get(target.name)) is not None:
                self.keeper.heard(verdict)

    def heard(self, verdict: Verdict) -> None:
        """A backend, or a pod that waits, answered or failed."""
        self._verdicts[verdict.name] = verdict
        self.keeper.heard(verdict)
        self._say()

    def passed(self, snapshot: Snapshot, facts: NodeFacts | None) -> None:
        """A pass of the loop is over."""
        if facts is not None and snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._waiting = waiting(snapshot)
            alone = tuple(one.server for one in self._waiting)
            self._more = targets(Resolved(servers=alone, routers=self.view.resolved.routers, problems=()), facts)
            self._ask()
        self._say()

    def _ask(self) -> None:
        names = {target.name for target in self._backends}
        wanted = (*self._backends, *(target for target in self._more if target.name not in names))
        self.asks.want(wanted)
        kept = {target.name for target in wanted}
        self._verdicts = {name: verdict for name, verdict in self._verdicts.items() if name in kept}

    def _say(self) -> None:
        active = self.view.claims.active
        addresses = {a for router in self.view.resolved.routers if router.name in active for a in router.addresses}
        self.writes.want(gates(self._waiting, self._verdicts, addresses, self.view.node))
