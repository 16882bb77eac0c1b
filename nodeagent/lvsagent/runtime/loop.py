"""The one owner of the agent's state: something happened -> look at everything -> do the difference -> say so."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lvsagent import ipc
from lvsagent.core import agent as decide
from lvsagent.core import eligible
from lvsagent.core.diff import Difference, Op, Owned, diff
from lvsagent.core.doubt import Doubts
from lvsagent.core.drains import Drains
from lvsagent.core.failure import OperationFailed
from lvsagent.core.liveness import Overlay, Suspects, changes, peers
from lvsagent.core.neighbors import Neighbors
from lvsagent.core.plan import CONDITION, filled, plan
from lvsagent.core.state import KernelState, NodeFacts, ServiceKey
from lvsagent.runtime.guard import Guard
from lvsagent.runtime.health import Keeper
from lvsagent.runtime.logs import Throttle, name_problems
from lvsagent.runtime.ports import Election, Source
from lvsagent.runtime.record import Record
from lvsagent.runtime.view import View
from lvsagent.runtime.worker import Worker
from lvsapi.assign import assign, nodes_alone, with_assignments
from lvsapi.model import IPAddress, Problem, Resolved, Snapshot
from lvsapi.resolve import resolve
from lvsapi.status import Reason

DEBOUNCE_SECONDS = 0.01
SHARE = 0.03
"""Of a core for passes that nothing urgent asks for: endpoints that change all the time are looked at together."""
LONGEST_REST = 0.1
"""Seconds between two such passes at most, however long they take."""
POLL_SECONDS = 5.0
"""The kernel is read anew at least so often; ``runtime.guard`` notices most of what others change much sooner."""
RETRY_SECONDS = 1.0
ELECTION_GRACE_SECONDS = 3.0
"""An election that does not answer for so long is dead, and its addresses with it."""
UNSUPPORTED = Reason.KERNEL_UNSUPPORTED

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Loop:
    """``run`` until cancelled. ``wake`` from anywhere on the same thread."""

    source: Source
    worker: Worker
    view: View
    election: Election | None
    standalone: bool
    """Nobody else assigns virtual routers and directors."""
    owned: Owned
    adopt: bool = False
    """The record of what is ours was lost."""
    passed: Callable[[Snapshot], None] = lambda _: None
    """Called after each pass that knew something."""
    programmed: Callable[[], None] = lambda: None
    """Called after each pass that has programmed the kernel, or found it as it should be."""
    transition: Callable[[ipc.StateChanged, Resolved], None] = lambda _, __: None
    prepare: Callable[[], None] = lambda: None
    """Called when the kernel can be programmed at last: only now it has all settings. Blocking."""
    guard: Guard | None = None
    health: Keeper | None = None
    have: KernelState | None = None
    """As last read; None: read it anew."""
    facts: NodeFacts | None = None
    _snapshot: Snapshot | None = None
    _next_read: float = 0.0
    _retry: float | None = None
    _lost: float | None = None
    _event: asyncio.Event = field(default_factory=asyncio.Event)
    _throttle: Throttle = field(default_factory=Throttle)
    _conflicts: frozenset[str] = frozenset()
    _urgent: bool = False
    """Nothing else is waited for."""
    _rested: float = 0.0
    """From when on the next pass that is not urgent may begin."""
    _overlay: Overlay = field(default_factory=Overlay)
    _doubts: Doubts = field(default_factory=Doubts)
    _drains: Drains = field(default_factory=Drains)
    _neighbors: Neighbors = field(default_factory=Neighbors)
    _waiting: frozenset[IPAddress] = frozenset()
    """Addresses whose tables may be whole in a moment."""
    _places: frozenset[ServiceKey] = frozenset()
    """Where services of ours stand, but for those with firewall marks, which are known by these."""
    _adopted: bool | None = None
    """Tables of ours stood before this process did; None: the kernel was not read yet."""
    _known: bool = False
    """The tables are made from what the source said, or stood already."""
    _stood: frozenset[ServiceKey] = frozenset()
    """Services of the wish that were in the kernel once."""
    _serving: bool = False
    """Complete tables stood once; what fails later is no reason to take the node out."""
    _record: Record = field(init=False)

    def __post_init__(self) -> None:
        self._record = Record(worker=self.worker, view=self.view, written=None if self.adopt else self.owned)

    def wake(self) -> None:
        """Something changed: look soon."""
        self._event.set()

    def hurry(self) -> None:
        """Something changed for which nothing else is waited for."""
        self._urgent = True
        self.wake()

    def stirred(self) -> None:
        """Somebody else changed something: read everything anew."""
        self._next_read = 0.0
        self.hurry()

    def heard(self, message: ipc.Message) -> None:
        """The election said something."""
        if isinstance(message, ipc.StateChanged):
            _log.info(
                "a virtual router changed its state",
                extra={
                    "router": message.router,
                    "from": message.previous,
                    "to": message.state,
                    "cause": message.cause,
                    "active": message.active_address,
                },
            )
            self.transition(message, self.view.resolved)
        elif isinstance(message, ipc.Liveness):
            for node, standing in changes(self.view.claims.liveness, message).items():
                _log.warning("the standing of a node has changed", extra={"peer": node, "standing": standing})
        if self.view.claims.heard(message):
            self._urgent = self._urgent or not isinstance(message, ipc.Statistics)
            self.wake()

    def connection(self, connected: bool) -> None:
        """The election came or went."""
        self.view.election_connected = connected
        self._lost = None if connected else time.monotonic()
        _log.log(
            logging.INFO if connected else logging.WARNING,
            "the election answers" if connected else "the election does not answer; its addresses end by themselves",
        )
        self.wake()

    async def run(self) -> None:
        """Turn for ever."""
        await self._first()
        while True:
            try:
                async with asyncio.timeout(self._timeout(time.monotonic())):
                    await self._event.wait()
                await self._gather()
            except TimeoutError:
                pass
            self._event.clear()
            self._urgent = False
            self.source.expire()
            used = time.thread_time()
            try:
                await self.turn(time.monotonic())
            except Exception:
                # A fault of ours must not stop what is served: the tables stay, and the next pass looks again.
                _log.exception("a pass failed; the tables stay as they are")
                self.view.errors["pass", "internal"] += 1
                self.have, self._retry = None, time.monotonic() + RETRY_SECONDS
            self.view.heartbeat = time.monotonic()
            self._rested = self.view.heartbeat + min(LONGEST_REST, (time.thread_time() - used) / SHARE)

    async def _gather(self) -> None:
        """Let more come together: a moment after the first event of a quiet time, longer after a pass."""
        due = max(time.monotonic() + DEBOUNCE_SECONDS, self._rested)
        while not self._urgent and (left := due - time.monotonic()) > 0:
            self._event.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._event.wait()

    async def _first(self) -> None:
        """Come back: hear first which routers are Active here, because their tables must not shrink meanwhile."""
        deadline = time.monotonic() + RETRY_SECONDS
        self.view.heartbeat = time.monotonic()
        while self.election and self.owned.services and self.view.claims.statistics is None:
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(0.02)
        self.wake()

    def _timeout(self, now: float) -> float:
        moments = [self._next_read, self._retry, self.view.claims.waits_until()]
        moments += [self._drains.until, self._doubts.until]
        moments.append(self.view.hold.until if self.view.hold is not None else None)
        if self._lost is not None:
            moments.append(self._lost + ELECTION_GRACE_SECONDS)
        if self.health is not None:
            moments.append(self.health.waits_until(now))
        future = [moment for moment in moments if moment is not None and moment > now]
        return max(0.001, min([*future, now + POLL_SECONDS]) - now)

    async def turn(self, now: float) -> None:
        """One pass over everything."""
        if self._lost is not None and now - self._lost >= ELECTION_GRACE_SECONDS:
            self._lost = None
            self.view.claims.lost()
        synced, snapshot = self.source.synced, self.source.snapshot()
        if snapshot is not None:
            self._resolve(snapshot)
        if not await self._read(now) or snapshot is None or self.have is None or self.facts is None:
            if snapshot is not None:
                self.passed(snapshot)
            return
        standing = self.owned.services | (self.have.services.keys() if self.adopt else frozenset())
        if self._adopted is None:
            self._adopted = bool(self.owned.services & self.have.services.keys())
        suspects = Suspects.of(self.view.claims.liveness, self.view.peers, self.view.node)
        resolved = self._drains.over(self.view.resolved, now, self.have.services)
        if self.health is not None:
            resolved = self.health.over(resolved, self.facts, self.have.services, now, prune=synced)
        laid = self._overlay.over(resolved, suspects)
        wanted = plan(laid, self.facts, self.view.claims.active, standing, self.have.services)
        if self.guard is not None:
            whole = await self.guard.guarded(wanted, self.have, self.facts, now)
            waits = self.guard.waiting(now)
            self._waiting = frozenset(key.address for key in wanted.whole if waits and key not in whole)
            wanted = filled(wanted, whole)
        self.view.plan = wanted
        if self.guard is not None:
            doubt = self._doubts.of(wanted.state.services, resolved, suspects, now, bool(wanted.routers))
            await self.guard.doubt(doubt, self.facts)
        difference = diff(wanted.state, self.have, self.owned)
        step = decide.split(difference.ops, self._claimed(now), synced)
        failures: tuple[OperationFailed, ...] = ()
        self.owned = decide.owning(self.owned, wanted.state, self.have, difference.conflicts, self.adopt)
        if step.now:
            failures = await self._apply(step.now)
            difference = diff(wanted.state, self.have, self.owned)
        if self.guard is not None:
            await self.guard.settled(self.have, self.owned, self.facts)
        # What is gone from the kernel is ours no longer.
        self.owned = decide.owning(self.owned, wanted.state, self.have, difference.conflicts, self.adopt)
        await self._record.keep(self.owned)
        # After a reboot the last good state may name pods that are gone: what serves comes from the source.
        self._known = self._known or synced or self._adopted
        routers = self._neighbors.of(wanted.routers, self.view.resolved, self.facts, self.view.peers)
        self._tell(routers, wanted.state, difference, now)
        self._conclude(wanted.problems, difference, failures)
        self.programmed()
        self.passed(snapshot)

    async def _read(self, now: float) -> bool:
        """Read the kernel when it is time. False when it cannot be used."""
        due = self.have is None or now >= self._next_read or (self._retry is not None and now >= self._retry)
        before = self.have
        try:
            if self.have is not None and not due:
                self.have = await self.worker.ask(self._places, self.have)
                return True
            self._retry = None
            self._next_read = now + POLL_SECONDS
            self.have, self.facts = await self.worker.read(self._places | self.owned.services)
        except OSError as error:
            self.have = None
            self._refused(error)
            return False
        if not self.view.kernel_supported:
            _log.info("the kernel can be programmed now")
            await self.worker.call(self.prepare)
        self.view.kernel_supported = True
        if self.guard is not None:
            self.guard.noticed(before, self.have, self.owned)
            self.guard.count(self.have)
        return True

    def _refused(self, error: OSError) -> None:
        """The kernel has no IPVS or does not let us. Stay and say so: a crash loop would say less."""
        message = error.strerror or str(error)
        if self._throttle.allows(message, time.monotonic()):
            _log.error("the kernel cannot be programmed; trying again", extra={"reason": UNSUPPORTED, "error": message})
        self.view.kernel_supported, self.view.in_place = False, False
        self.view.errors["read", "kernel_unsupported"] += 1
        self.view.problems = tuple(
            Problem(key=owner, condition=CONDITION, reason=UNSUPPORTED, message=f"{self.view.node}: {message}")
            for owner in sorted({server.owner for server in self.view.resolved.servers})
        )

    def _resolve(self, snapshot: Snapshot) -> None:
        if snapshot == self._snapshot:
            return
        self._snapshot = snapshot
        problems: tuple[Problem, ...] = ()
        if self.standalone:
            decided = assign(snapshot)
            snapshot = with_assignments(snapshot, decided.assignments)
            problems = decided.problems
        snapshot = nodes_alone(snapshot)
        resolved = resolve(snapshot)
        found = (*problems, *resolved.problems)
        name_problems(_log, set(found) - set(self.view.resolved.problems))
        self.view.resolved = Resolved(servers=resolved.servers, routers=resolved.routers, problems=found)
        self.view.peers = peers(snapshot, resolved)
        self._places = decide.places(resolved)

    @property
    def _healthy(self) -> int:
        return self.health.blindness.bits if self.health is not None else 0

    def _claimed(self, now: float) -> frozenset[IPAddress] | None:
        return frozenset() if self.election is None else self.view.claims.claimed(now)

    async def _apply(self, ops: tuple[Op, ...]) -> tuple[OperationFailed, ...]:
        assert self.have is not None
        try:
            applied = await self.worker.apply(ops, self.have, self.owned)
        except OSError:
            self.have = None
            raise
        self.have = applied.state
        self.view.programming.observe(applied.seconds)
        self._record.tried(self.owned, applied.unsaved)
        for op in ops:
            self.view.operations[_operation(op)] += 1
        for failure in applied.failures:
            self.view.errors[failure.operation, str(failure.reason)] += 1
            if self._throttle.allows(failure.message, time.monotonic()):
                _log.error(
                    "the kernel refused an operation",
                    extra={"operation": failure.operation, "reason": str(failure.reason), "error": failure.message},
                )
        if applied.failures:
            self._retry = time.monotonic() + RETRY_SECONDS
        _log.info(
            "programmed",
            extra={**decide.count(ops), "failed": len(applied.failures), "ms": round(applied.seconds * 1000, 1)},
        )
        return applied.failures

    def _tell(
        self, routers: tuple[ipc.RouterConfig, ...], want: KernelState, difference: Difference, now: float
    ) -> None:
        assert self.have is not None
        if self.election is None:
            return
        claims = self.view.claims
        incomplete = decide.unfinished(difference.ops, difference.conflicts, want)
        complete = frozenset(want.loopback & self.have.loopback) - incomplete - self._waiting
        if self.health is not None:
            complete -= self.health.watch.unanswered(self.view.resolved, now)
        before = decide.addresses_of(claims.wish) if claims.wish is not None else claims.held()
        self._serving = self._serving or (self._known and bool(complete or not want.services))
        about = decide.About(node=self.view.node, serving=self._serving, nodes=self.view.peers, healthy=self._healthy)
        previous = claims.wish or ()
        behind = eligible.behind(routers, incomplete, claims.active, previous)
        routers = eligible.last_choice(routers, behind)
        self._stood = frozenset((self._stood | self.have.services.keys()) & want.services.keys())
        offered = decide.offered(routers, complete, decide.standing(want, self.have, self._stood), before)
        others = {peer.name for peer in self.view.peers} - {self.view.node}
        fit = bool(decide.addresses_of(offered))
        aside = fit and decide.returning(self.view.hold, claims, self.view.resolved, others, now)
        if aside:
            offered = decide.standing_aside(offered)
        wish = claims.tell(offered, now, about)
        if wish is not None:
            self.election.configure(wish)
            if self.guard is not None and not aside:
                self.guard.told(wish, previous, behind)
            ready = sum(router.ready for router in wish.routers)
            _log.info(
                "the election was told",
                extra={"generation": wish.generation, "routers": len(wish.routers), "ready": ready},
            )

    def _conclude(
        self, planned: tuple[Problem, ...], difference: Difference, failures: tuple[OperationFailed, ...]
    ) -> None:
        conflicts = frozenset(map(str, difference.conflicts))
        for conflict in conflicts - self._conflicts:
            _log.error("a service of somebody else is in the way", extra={"error": conflict})
        self._conflicts = conflicts
        fresh = (*planned, *decide.problems_of_pass(self.view.resolved, difference.conflicts, failures))
        name_problems(_log, set(planned) - set(self.view.problems))
        self.view.problems = fresh
        self.view.in_place = not failures


def _operation(op: Op) -> str:
    name = type(op).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
