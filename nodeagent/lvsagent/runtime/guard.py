"""Watches over what is ours on the node: a cheap look twice a second, and what is said when somebody changed it."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Protocol

from lvsagent.adapters.clients import Made
from lvsagent.adapters.loops import Guarded
from lvsagent.core import guard as decide
from lvsagent.core.clients import ClientPaths, client_paths, needs_forwarding6
from lvsagent.core.diff import Owned
from lvsagent.core.doubt import NO_DOUBT, Doubt, benefit
from lvsagent.core.guard import Culprit, Fights, NodeFinding, NodeReadings, Thing
from lvsagent.core.loops import (
    LoopGuard,
    Senders,
    Standing,
    begun,
    guarded,
    loop_guard,
    marks_given,
    ours,
    steps,
    widened,
)
from lvsagent.core.plan import NodePlan
from lvsagent.core.senders import PATIENCE, Ways, unknown, unrecognised
from lvsagent.core.state import ForwardMethod, KernelState, NodeFacts, Service, ServiceKey
from lvsagent.core.traffic import Readings
from lvsagent.core.tunnels import narrow
from lvsagent.ipc import Configure, RouterConfig
from lvsagent.runtime.logs import Throttle
from lvsagent.runtime.view import View
from lvsapi.model import IPAddress, Resolved

LOOK_SECONDS = 0.5
WARY_SECONDS = 0.03
"""While somebody is known to come again: tables that are deleted every second are there for most of it. A tenth of a
core with 1,000 services."""
INSPECT_SECONDS = 5.0
ASK_SECONDS = 10.0
"""Who did it is not asked for anew before."""
AT_ONCE = 100
"""Tables that are written before the weights of suspected nodes are."""
UNKNOWN_SECONDS = 1.0
"""The same while nobody is known: who starts may not answer yet."""
FEWEST_LINES = 10.0
"""Seconds between lines of the log about the same."""

_log = logging.getLogger(__name__)


class Looks(Protocol):
    """What is needed of ``runtime.worker.Worker``."""

    @property
    def readings(self) -> Readings: ...
    async def moved(self) -> bool: ...
    async def inspect(self, remote: tuple[IPAddress, ...], inside: Collection[str]) -> NodeReadings: ...
    async def make(self, paths: ClientPaths) -> Made: ...
    async def guard_loops(self, wish: LoopGuard, there: Standing) -> Guarded: ...
    async def culprit(self, interfaces: tuple[str, ...], sockets: tuple[int, ...]) -> Culprit | None: ...


@dataclass(slots=True, kw_only=True)
class Guard:
    """One for each loop, which tells it what was read and what was made of it."""

    worker: Looks
    view: View
    _fights: Fights = field(default_factory=Fights)
    _left: tuple[KernelState, Counter[Thing]] | None = None
    """As we had left the kernel, and what of it was no longer so. Until it is put back."""
    _culprit: Culprit | None = None
    _said: Culprit | None = None
    """Who was named last."""
    _names: tuple[str, ...] = ()
    """Of this node's interfaces."""
    _ask: float = 0.0
    _throttle: Throttle = field(default_factory=lambda: Throttle(FEWEST_LINES))
    _readings: NodeReadings = field(default_factory=NodeReadings)
    _forwards6: bool = False
    """IPv6 must be forwarded."""
    _narrow: str = ""
    """About a tunnel that is too narrow."""
    _paths: ClientPaths | None = None
    """As made last; None: nothing by this process, what stands stays."""
    _paths_of: tuple[object, ...] = ()
    """What they follow from."""
    _loops: LoopGuard | None = None
    """As wanted last; None: nothing by this process, what stands stays."""
    _wished: tuple[tuple[object, ...], LoopGuard] | None = None
    """What follows from what."""
    _loops_of: tuple[object, ...] = ()
    """What it follows from, and what then stood."""
    _unsure: bool = True
    """Somebody may have taken something, or another node may have come."""
    _ways: Ways = field(default_factory=Ways)
    _refused: bool = False
    """The kernel has no marks for packets of other nodes."""
    _unknown: dict[str, float] = field(default_factory=dict)
    """Nodes whose hardware address is not known, and since when (monotonic)."""
    _waited: bool = False
    """For one of them, at the last look."""
    _strangers: Mapping[str, str] = field(default_factory=dict)
    """Nodes whose packets are not told from others, and why."""
    _liveness: object = None
    """As in the last pass."""
    _standing: Standing = field(default_factory=dict)
    """Services of the loop guard, as last read."""
    _idle: frozenset[ServiceKey] = frozenset()
    """Those of them that stand for nobody's sake but their connections', and have none."""
    _doubt: Doubt = NO_DOUBT
    _behind: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Routers for which this node was the last choice, by its tables."""
    _guarding: asyncio.Lock = field(default_factory=asyncio.Lock)
    """The pass and the look come at any time: the second goes by what the first has left."""

    async def watch(self, stirred: Callable[[], None], news: Callable[[], None]) -> None:
        """For ever. ``stirred``: something is not as it was left. ``news``: there is something to report."""
        inspect = 0.0
        while True:
            now = time.monotonic()
            await asyncio.sleep(WARY_SECONDS if self._fights.count(now) or self.waiting(now) else LOOK_SECONDS)
            try:
                if await self.worker.moved():
                    stirred()
                if self._culprit is None and self._fights.count(time.monotonic()):
                    await self._who(time.monotonic())
                if self._unknown and await self._told():
                    news()
                if time.monotonic() >= inspect:
                    inspect = time.monotonic() + INSPECT_SECONDS
                    await self._inspect()
            except OSError:
                pass  # a kernel that does not answer is the loop's to report
            except Exception:
                # A fault of ours must not stop what is served.
                if self._throttle.allows("watch", time.monotonic()):
                    _log.exception("the guard failed")
                self.view.errors["guard", "internal"] += 1
            if self.judge(time.monotonic()):
                news()

    async def _inspect(self) -> None:
        inside = self._paths.interfaces if self._paths is not None and self._paths.pods else frozenset[str]()
        tables = self.view.plan.state.services.values() if self.view.plan is not None else ()
        self._readings = await self.worker.inspect(remote_pods(tables, self.view.resolved), inside)
        if self._paths is not None:
            self.view.repairs[Thing.CLIENT_PATH] += await self._make(self._paths)
        if self._loops is not None:
            await self._guard_loops(self._loops)  # neighbours come, go and change their cards

    def count(self, there: KernelState) -> None:
        """Everything was read: add up what IPVS counted. ``there``: with the addresses of firewall marks of ranges."""
        beside = self._loops.services if self._loops is not None else {}
        names = {key: key for key in (*there.services, *beside) if key.mark}
        wanted = {(s.address, s.protocol, s.port) for s in self.view.resolved.servers}
        self.view.traffic.update(self.worker.readings, names, wanted)

    def noticed(self, before: KernelState | None, now_there: KernelState, owned: Owned) -> None:
        """The kernel was read anew. ``before``: as we left it; None when we do not know."""
        left, self._standing, self._unsure = self._standing, ours(now_there.services.values()), True
        self.view.repairs.update([Thing.LOOP_GUARD for key in left if self._standing.get(key) != left[key]])
        changed = decide.disturbed(before, now_there, owned) if before is not None else Counter[Thing]()
        if before is not None and changed:
            self._left = (before, changed)
            if changed.keys() - {Thing.SETTING}:
                self._fights.noticed(time.monotonic())

    async def settled(self, now_there: KernelState, owned: Owned, facts: NodeFacts) -> None:
        """A pass is over: count what is as it was left, and say it."""
        self.view.actual = now_there
        wanted = self.view.plan.state.loopback if self.view.plan is not None else frozenset[IPAddress]()
        self._narrow = narrow(self.view.plan.state, facts) if self.view.plan is not None else ""
        await self._serve_clients(now_there.loopback & (wanted | owned.loopback), facts)
        await self._end_loops(facts)
        if self._left is None:
            return
        (before, changed), self._left = self._left, None
        self.view.repairs.update(changed - decide.disturbed(before, now_there, owned))
        now = time.monotonic()
        tables = bool(changed.keys() - {Thing.SETTING})
        if tables:
            self._names = tuple(interface.name for interface in facts.interfaces)
            await self._who(now)
        self.judge(now)
        if self._throttle.allows(f"changed {tables}", now):
            extra: dict[str, object] = {str(thing): number for thing, number in changed.items()}
            if tables:
                extra |= {"times": self._fights.count(now), "likely": decide.blame(self._culprit)}
            _log.warning("somebody changed what is ours; it is put back", extra=extra)

    async def _who(self, now: float) -> None:
        """Who does it, unless that was asked a moment ago."""
        if now >= self._ask:
            said = self.view.claims.statistics
            self._culprit = await self.worker.culprit(self._names, said.sockets if said is not None else ())
            self._ask = now + (ASK_SECONDS if self._culprit is not None else UNKNOWN_SECONDS)

    async def _serve_clients(self, addresses: frozenset[IPAddress], facts: NodeFacts) -> None:
        """Routes, rules and settings for clients inside the cluster, when what they follow from has changed."""
        ways = tuple(sorted(self._readings.reverse_path))
        # Not before it is known that the node loses no route by it.
        safe = self._readings.advertised is not None and not self._readings.advertised
        reasons = (addresses, ways, facts, self.view.resolved, safe)
        if reasons != self._paths_of:
            self._paths_of = reasons
            self._forwards6 = needs_forwarding6(self.view.resolved)
            paths = client_paths(addresses, self.view.resolved, facts, ways, self._forwards6 and safe)
            if paths != self._paths:
                self._paths = paths
                with contextlib.suppress(OSError):
                    await self._make(paths)

    async def _make(self, paths: ClientPaths) -> int:
        made = await self.worker.make(paths)
        for error in made.errors:
            if self._throttle.allows(error, time.monotonic()):
                _log.warning("clients inside the cluster may not be served", extra={"error": error})
        return made.changes

    async def doubt(self, doubt: Doubt, facts: NodeFacts) -> None:
        """Before weights change: who is suspected? With very many tables the weights come first: that new connections
        go to the dead is certain, that somebody lives is not."""
        if doubt != self._doubt:
            self._doubt = doubt
            if 0 < len(doubt.whole) <= AT_ONCE:
                await self._end_loops(facts)

    async def guarded(
        self, wanted: NodePlan, there: KernelState, facts: NodeFacts, now: float
    ) -> frozenset[ServiceKey]:
        """Of ``wanted.whole`` the services that may be so now: what other nodes send here is given to backends of this
        node. What is needed for that and is not there is written first."""
        if not wanted.whole:
            self._unknown, self._strangers = {}, {}
            return frozenset()
        wish = self._wish(wanted, there, facts)
        first = begun(wish, self._standing, self._loops)
        liveness = self.view.claims.liveness  # who was off may be back
        if self._unsure or first != self._loops or liveness != self._liveness or steps(first, self._standing):
            self._liveness, self._loops = liveness, first
            with contextlib.suppress(OSError):
                await self._guard_loops(first)
                self._unsure = False
        before, self._strangers = self._strangers, unrecognised(self._nodes(wanted), self._ways, facts)
        self._unknown = {name: self._unknown.get(name, now) for name in unknown(self._nodes(wanted), self._ways)}
        for name in self._strangers.keys() - before.keys():
            extra = {"peer": name, "error": self._strangers[name]}
            _log.warning("what other nodes send on is not recognised: only the Active node holds all", extra=extra)
        senders = Senders.SOON if self.waiting(now) else Senders.TOLD
        if self._refused or self._strangers:
            senders = Senders.NOT_TOLD
        kernel = {**there.services, **self._standing}
        return guarded(wish, kernel, wanted.whole.values(), own_of(facts), senders)

    def waiting(self, now: float) -> bool:
        """Whether a node has yet to tell its hardware address; one that is off never does."""
        return any(now < since + PATIENCE for since in self._unknown.values())

    async def _told(self) -> bool:
        """Whether a node has told its hardware address, or will not any more. They are asked again."""
        waited, self._waited = self._waited, self.waiting(time.monotonic())
        if self._loops is not None:
            await self._guard_loops(self._loops)
        told = len(unknown(self._nodes(self.view.plan), self._ways)) < len(self._unknown)
        return told or waited > self._waited

    def _nodes(self, wanted: NodePlan | None) -> Mapping[str, Collection[IPAddress]]:
        """The other nodes' addresses. As the election was told: what can wait is not to keep it waiting."""
        known = self.view.peers if wanted is not None and wanted.whole else self.view.claims.about.nodes
        return {node.name: [ip_address(a) for a in node.addresses] for node in known if node.name != self.view.node}

    def _wish(self, wanted: NodePlan, there: KernelState, facts: NodeFacts) -> LoopGuard:
        """Services and marks for packets that other nodes sent on, and for connections in doubt."""
        own = own_of(facts)
        peers = frozenset(address for addresses in self._nodes(wanted).values() for address in addresses) - own
        tables = {**wanted.state.services, **widened(wanted.whole, there.services, own)}
        reasons = (tables, own, peers, self._doubt, self._idle, self._standing)
        if self._wished is None or self._wished[0] != reasons:
            before = self._wished[1].services if self._wished is not None else None
            given = marks_given(tables, before, self._standing)
            wish = loop_guard(tables, own, peers, self._standing.keys(), wanted.whole.keys(), given)
            services, marks = benefit(self._doubt, tables, self._standing, self._idle)
            towards = frozenset(remote_pods(tables.values(), self.view.resolved)) if wish.every else frozenset()
            wish = replace(wish, services={**wish.services, **services}, doubted=marks, towards=towards)
            self._wished = (reasons, wish)
        return self._wished[1]

    async def _end_loops(self, facts: NodeFacts) -> None:
        """Services and marks for packets that other nodes sent on."""
        if self.view.plan is None:
            return
        if self.view.plan.whole and self.view.claims.wish is None:
            return  # the tables of the others come first, and the election is told
        wish = self._wish(self.view.plan, self.view.actual or KernelState(), facts)
        if (wish, self._standing) == self._loops_of:
            return
        if wish != self._loops or steps(wish, self._standing):
            self._loops = wish
            with contextlib.suppress(OSError):
                await self._guard_loops(wish)
        self._loops_of = (wish, self._standing)

    async def _guard_loops(self, wish: LoopGuard) -> None:
        async with self._guarding:
            done = await self.worker.guard_loops(wish, self._standing)
            self._standing, self._idle = done.there, done.idle
            self._ways, self._refused = done.ways, bool(done.errors)
        for error in done.errors:
            if self._throttle.allows(error, time.monotonic()):
                _log.warning("new connections may go to and fro while tables differ", extra={"error": error})

    def told(self, wish: Configure, before: Iterable[RouterConfig], behind: Mapping[str, tuple[str, ...]]) -> None:
        """The election got another wish. Say of which routers this node can no longer be Active, or only when nobody
        else can, and why. ``behind``: of ``core.eligible``."""
        were = {router.name: router.ready for router in before}
        for router in wish.routers:
            ready, was, late = router.ready, were.get(router.name, True), self._behind.get(router.name)
            if (was and not ready) or (ready and router.name in behind and (late is None or not was)):
                also = " while another director can" if ready else ""
                _log.warning(
                    f"this node cannot be Active{also}: its tables are not as wanted",
                    extra={"router": router.name, "addresses": ", ".join(behind.get(router.name, router.addresses))},
                )
            elif ready and router.name not in behind and (late is not None or not was):
                _log.info("this node can be Active again", extra={"router": router.name})
        self._behind = behind

    def judge(self, now: float) -> bool:
        """Say what is new, and what is over. True when there is any of it."""
        fights = self._fights.count(now)
        found = decide.findings(self.view.node, fights, self._culprit, self._readings, self._narrow, self._forwards6)
        fresh = found.keys() - self.view.node_findings.keys()
        if NodeFinding.TABLES_CONTESTED in found and self._culprit not in (None, self._said):
            fresh |= {NodeFinding.TABLES_CONTESTED}
            self._said = self._culprit
        for name in fresh:
            _log.warning("this node needs a look", extra={"finding": name, "error": found[name]})
        for name in self.view.node_findings.keys() - found.keys():
            _log.info("this is over", extra={"finding": name})
        changed = bool(fresh) or found.keys() != self.view.node_findings.keys()
        self.view.node_findings, self.view.node_readings = found, self._readings
        return changed


def own_of(facts: NodeFacts) -> frozenset[IPAddress]:
    """All addresses of this node."""
    return frozenset(address.ip for interface in facts.interfaces for address in interface.addresses)


def remote_pods(tables: Iterable[Service], resolved: Resolved) -> tuple[IPAddress, ...]:
    """One address of each node to which packets are sent by direct routing."""
    direct = {
        destination.address
        for service in tables
        for destination in service.destinations
        if destination.method is ForwardMethod.DIRECT_ROUTE
    }
    nodes: dict[str, IPAddress] = {}
    for server in resolved.servers:
        for backend in server.backends:
            if backend.node is not None and backend.address in direct:
                nodes.setdefault(backend.node, backend.address)
    return tuple(nodes.values())
