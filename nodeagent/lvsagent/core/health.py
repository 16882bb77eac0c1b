"""From verdicts about backends to the weights that the tables shall have. Pure: time is an argument.

What was decided, and why it cannot make a packet go round (docs/health.md):

* A backend that fails keeps its place in the table with weight 0, or goes, as its object says.
* A node that is not Active for an address takes its own backends for good: what the Active sent to it it delivers.
* Until its first answer a backend is what the kernel has it for; one that is new is down, unless its object says
  otherwise. So is the sorry server: who starts anew between two bounds of a quorum does not send everybody to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

from lvsagent.checks.messages import Target, Verdict
from lvsagent.core.plan import is_local
from lvsagent.core.state import NodeFacts, Service, ServiceKey
from lvsagent.core.targets import is_asked, name_of, own_addresses, place_of, slowness, targets
from lvsapi.health import CheckType, OnFailure
from lvsapi.model import Backend, IPAddress, ObjectKey, Protocol, Resolved, VirtualServer

SCALE = 100
"""Weights of an object whose backends have shares of their weight are so many times as great."""
SLOW_START_BEGIN = 0.1
"""Of its weight that a returning backend begins with."""

Place = tuple[ObjectKey, IPAddress, Protocol | None, int]
"""What identifies a virtual server."""


@dataclass(slots=True)
class Standing:
    """What is known of a target."""

    up: bool
    known: bool = False
    """It has answered, or failed to."""
    percent: int = 100
    reason: str = ""
    since: float | None = None
    """When it came up after it was known to be down; None: its start is over, or was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A backend that went or came: for log and events."""

    owner: ObjectKey
    up: bool
    service: str
    """``192.168.139.201:80``."""
    virtual: str
    removed: bool
    """Out of the table, not only without weight."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumChange:
    """A virtual server that came or went."""

    owner: ObjectKey
    up: bool
    virtual: str
    weight: int
    quorum: int
    sorry: str
    """Who is sorry now; empty: nobody."""


@dataclass(slots=True)
class Watch:
    """What this node knows of its backends. ``wish`` first, then ``over`` in each pass."""

    standings: dict[str, Standing] = field(default_factory=dict)
    quorums: dict[Place, bool] = field(default_factory=dict)
    """Whether each virtual server's living weight suffices."""
    _stood: dict[Place, bool] = field(default_factory=dict)
    """Whether it did, by the tables with which each was first seen: who had the clients, they or the sorry server."""
    _backends: dict[str, tuple[VirtualServer, Backend]] = field(default_factory=dict)
    _wished: tuple[Resolved, NodeFacts] | None = None
    _targets: tuple[Target, ...] = ()
    news: int = 0
    """Grows with everything that can change a weight."""
    _before: tuple[object, ...] = ()
    _after: Resolved | None = None
    _begun: dict[Place, float] = field(default_factory=dict)
    """When the first answers of a virtual server's backends were first waited for."""
    _awaits: float | None = None
    _prune: bool = True
    _changes: list[QuorumChange] = field(default_factory=list)

    def wish(self, resolved: Resolved, facts: NodeFacts, tables: Mapping[ServiceKey, Service]) -> tuple[Target, ...]:
        """What is to be asked now. ``tables``: what the kernel has, for backends that are asked for the first time."""
        if self._wished is not None and self._wished[0] is resolved and self._wished[1] == facts:
            return self._targets
        self._wished = (resolved, facts)
        wanted = targets(resolved, facts)
        self._backends = {
            name_of(server, backend): (server, backend)
            for server in resolved.servers
            for backend in server.backends
            if is_asked(server, backend)
        }
        standing = _standing(tables)
        kept: dict[str, Standing] = {}
        for name, (server, backend) in self._backends.items():
            there = standing.get((server.address, server.protocol, server.port, backend.address, backend.port))
            first = server.health.initially_up if there is None else there
            kept[name] = self.standings.get(name) or Standing(up=first)
        self.standings = kept
        places = {_place(server) for server in resolved.servers}
        self._stood = {place: up for place, up in _served(resolved, tables) if place not in self.quorums}
        self.quorums = {place: up for place, up in self.quorums.items() if place in places}
        self._begun = {place: begun for place, begun in self._begun.items() if place in places}
        self._targets = tuple(replace(target, up=kept[target.name].up) for target in wanted)
        self.news += 1
        return self._targets

    def heard(self, verdict: Verdict, now: float) -> Change | None:
        """Take note of a verdict. Returns what is to be said; None: nothing new."""
        standing, known = self.standings.get(verdict.name), self._backends.get(verdict.name)
        if standing is None or known is None or not verdict.known:
            return None
        server, backend = known
        before = (standing.up, standing.percent, standing.known)
        changed = standing.up is not verdict.up
        # One that was taken for down and is: why it never came is news.
        told = changed or (not standing.known and not verdict.up)
        if changed:
            slow = server.health.slow_start_seconds > 0 and verdict.up and standing.known
            standing.since = now if slow else None
        standing.up, standing.percent, standing.known = verdict.up, verdict.percent, True
        standing.reason = "" if verdict.up else verdict.reason
        if before != (standing.up, standing.percent, True):
            self.news += 1
        if not told:
            return None
        return Change(
            owner=server.owner,
            up=verdict.up,
            service=place_of(backend.address, backend.port),
            virtual=place_of(server.address, server.ports),
            removed=server.health.on_failure is OnFailure.REMOVE,
            reason=verdict.reason,
        )

    def over(
        self, resolved: Resolved, facts: NodeFacts, active: Set[IPAddress], now: float, *, prune: bool = True
    ) -> Resolved:
        """``resolved`` with the weights that follow from what is known. ``active``: addresses that this node has.
        ``prune``: False while nothing is taken out of tables; then what fails has weight 0, whatever is asked for. The
        same object while nothing has changed."""
        self._prune = prune
        key = (resolved, facts, frozenset(active), self.news, prune, int(now) if self._starting(now) else 0)
        same = self._after is not None and self._before[0] is resolved and self._before[1:] == key[1:]
        if not same:
            own = own_addresses(facts)
            servers = tuple(self._weighed(server, facts.node, own, active, now) for server in resolved.servers)
            self._after = replace(resolved, servers=servers)
            self._before = key
        assert self._after is not None
        return self._after

    def changes(self) -> tuple[QuorumChange, ...]:
        """Virtual servers that came or went since this was asked last."""
        found, self._changes = tuple(self._changes), []
        return found

    def unanswered(self, resolved: Resolved, now: float) -> frozenset[IPAddress]:
        """Addresses that would be served by nobody, because first answers are still to come: a node that starts does
        not take them before. Not for longer than an answer may take."""
        found = set()
        self._awaits = None
        for server in resolved.servers:
            known = [standing for backend in server.backends if (standing := self._of(server, backend)) is not None]
            if all(s.known for s in known) or any(self.is_alive(server, backend) for backend in server.backends):
                continue
            end = self._begun.setdefault(_place(server), now) + slowness(server.health.checks)
            if now < end:
                found.add(server.address)
                self._awaits = end if self._awaits is None else min(self._awaits, end)
        return frozenset(found)

    def waits_until(self, now: float) -> float | None:
        """When something changes without any verdict."""
        moments = (now + 1.0 if self._starting(now) else None, self._awaits)
        return min((moment for moment in moments if moment is not None), default=None)

    def _of(self, server: VirtualServer, backend: Backend) -> Standing | None:
        return self.standings.get(name_of(server, backend)) if is_asked(server, backend) else None

    def is_alive(self, server: VirtualServer, backend: Backend) -> bool:
        """Whether a backend may have clients, by what is known of it."""
        if not is_asked(server, backend):
            return backend.weight > 0
        standing = self.standings.get(name_of(server, backend))
        return standing is not None and standing.up and standing.percent > 0

    # -- weights -------------------------------------------------------------------------------------------------

    def _starting(self, now: float) -> bool:
        """Whether any backend is in its slow start; forgets those that are through."""
        found = False
        for name, standing in self.standings.items():
            if standing.since is not None:
                server, _ = self._backends[name]
                if now - standing.since >= server.health.slow_start_seconds:
                    standing.since = None
                    self.news += 1
                else:
                    found = True
        return found

    def _weighed(
        self, server: VirtualServer, node: str, own: Set[IPAddress], active: Set[IPAddress], now: float
    ) -> VirtualServer:
        if not server.health.checks and server.sorry is None:
            return server
        living = sum(self._living(server, backend) for backend in server.backends)
        ours = server.address not in active and any(is_local(backend, node, own) for backend in server.backends)
        if not self._suffices(server, living, ours) and server.sorry is not None and not ours:
            others = (replace(backend, weight=0) for backend in self._left(server, node, own, active))
            there = [b for b in others if (b.address, b.port) != (server.sorry.address, server.sorry.port)]
            return replace(server, backends=_ordered([*there, server.sorry]))
        if not server.health.checks:
            return server
        scale = SCALE if _has_shares(server) else 1
        backends = []
        for backend in self._left(server, node, own, active):
            trusted = server.address not in active and is_local(backend, node, own)
            share = 1.0 if trusted or not backend.weight else self._share(server, backend, now)
            weight = max(1, int(backend.weight * scale * share)) if share > 0 and backend.weight else 0
            backends.append(replace(backend, weight=weight))
        return replace(server, backends=tuple(backends))

    def _left(self, server: VirtualServer, node: str, own: Set[IPAddress], active: Set[IPAddress]) -> Iterator[Backend]:
        """Backends that stay in the table."""
        removes = server.health.on_failure is OnFailure.REMOVE and self._prune
        for backend in server.backends:
            trusted = server.address not in active and is_local(backend, node, own)
            if not removes or trusted or not backend.weight or self._is_up(server, backend):
                yield backend

    def _is_up(self, server: VirtualServer, backend: Backend) -> bool:
        standing = self.standings.get(name_of(server, backend)) if is_asked(server, backend) else None
        return standing is None or standing.up

    def _share(self, server: VirtualServer, backend: Backend, now: float) -> float:
        """Of its weight, 0 for none."""
        standing = self.standings.get(name_of(server, backend))
        if standing is None or not standing.up:
            return 0.0
        share = standing.percent / 100
        if standing.since is not None:
            grown = (now - standing.since) / server.health.slow_start_seconds
            share *= SLOW_START_BEGIN + (1 - SLOW_START_BEGIN) * min(1.0, max(0.0, grown))
        return share

    def _living(self, server: VirtualServer, backend: Backend) -> int:
        if not self.is_alive(server, backend):
            return 0
        standing = self.standings.get(name_of(server, backend))
        percent = standing.percent if standing is not None and is_asked(server, backend) else 100
        return max(1, backend.weight * percent // 100)

    def _suffices(self, server: VirtualServer, living: int, ours: bool) -> bool:
        """keepalived's quorum: what was up stays up down to quorum - hysteresis. ``ours``: this node takes its own
        backends for good, so its table does not tell."""
        place, health = _place(server), server.health
        before = self.quorums.get(place, None if ours else self._stood.get(place))
        up = living >= (health.quorum if before is None else health.quorum + (-1 if before else 1) * health.hysteresis)
        up = up and living > 0
        self.quorums[place] = up
        if before is not None and before is not up:
            self._changes.append(
                QuorumChange(
                    owner=server.owner,
                    up=up,
                    virtual=place_of(server.address, server.ports),
                    weight=living,
                    quorum=health.quorum,
                    sorry="" if up or server.sorry is None else place_of(server.sorry.address, server.sorry.port),
                )
            )
        return up


def _standing(tables: Mapping[ServiceKey, Service]) -> Mapping[tuple[object, ...], bool]:
    """Whether each destination in the kernel has weight."""
    return {
        (key.address, key.protocol, key.port, destination.address, destination.port): destination.weight > 0
        for key, service in tables.items()
        for destination in service.destinations
    }


def _served(resolved: Resolved, tables: Mapping[ServiceKey, Service]) -> Iterator[tuple[Place, bool]]:
    """Whether others than the sorry server get clients, of virtual servers that have one and stand in the tables."""
    there = {(key.address, key.protocol, key.port): service for key, service in tables.items()}
    for server in resolved.servers:
        table = there.get((server.address, server.protocol, server.port))
        if table is None or server.sorry is None:
            continue
        sorry = (server.sorry.address, server.sorry.port)
        getting = {destination.key for destination in table.destinations if destination.weight > 0}
        if getting - {sorry}:
            yield _place(server), True
        elif getting and sorry not in {(backend.address, backend.port) for backend in server.backends}:
            yield _place(server), False


def _place(server: VirtualServer) -> Place:
    return (server.owner, server.address, server.protocol, server.port)


def _has_shares(server: VirtualServer) -> bool:
    return server.health.slow_start_seconds > 0 or any(c.type is CheckType.AGENT for c in server.health.checks)


def _ordered(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """The canonical order (``VirtualServer.backends``)."""
    return tuple(sorted(backends, key=lambda backend: (int(backend.address), backend.port)))
