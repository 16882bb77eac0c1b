"""The benefit of the doubt: what becomes of held connections while a node is suspected that may be alive. Pure.

Weight 0 keeps new connections from a suspected node, and by it a node that becomes Active in that very moment would
lead astray the held ones of that node's pods, which it has to place anew. So packets in the middle of a TCP connection
get a firewall mark while a suspicion is fresh, and the mark's service holds the table without that suspicion. When the
suspicion has lasted for BENEFIT seconds, the destinations of the node are taken out of it: connections that it gave to
them end with a reset instead of waiting for nobody (docs/decisions/0010-benefit-of-the-doubt.md).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from lvsagent.core.liveness import Suspects
from lvsagent.core.loops import DOUBT_MARKS, SCHEDULER, Standing, marked
from lvsagent.core.state import Mark, Service, ServiceKey
from lvsapi.model import IPAddress, Protocol, Resolved

BENEFIT = 2.0
"""Seconds. A virtual machine that stops for a snapshot or a move is back in less; who is dead is dead for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What follows from who is suspected."""

    whole: Standing = field(default_factory=dict)
    """Tables without the fresh suspicions, by their ordinary keys; only those that differ."""
    gone: frozenset[IPAddress] = frozenset()
    """Of the backends whose nodes have been suspected for too long."""


NO_DOUBT = Doubt()


@dataclass(slots=True)
class Doubts:
    """Remembers since when each node has been suspected."""

    until: float | None = None
    """When the next suspicion is no longer fresh, monotonic seconds."""
    _since: dict[str, float] = field(default_factory=dict)

    def of(
        self, tables: Mapping[ServiceKey, Service], resolved: Resolved, suspects: Suspects, now: float, directs: bool
    ) -> Doubt:
        """``tables``: as planned with ``suspects``; ``resolved``: what they were planned from, without the suspicion.
        ``directs``: this node may become Active; no other meets connections that it does not know."""
        self._since = {name: self._since.get(name, now) for name in suspects.names}
        fresh = {name for name, since in self._since.items() if now < since + BENEFIT}
        self.until = min((self._since[name] + BENEFIT for name in fresh), default=None)
        if not suspects.names or not directs:
            return NO_DOUBT
        recent, lasting = suspects.only(fresh), suspects.only(suspects.names - fresh)
        whole = {}
        gone: set[IPAddress] = set()
        for server in resolved.servers:
            gone.update(backend.address for backend in server.backends if lasting.includes(backend))
            key = ServiceKey(address=server.address, protocol=server.protocol, port=server.port)
            table = tables.get(key) if server.end_port is None else None
            if table is None or not _is_held(table):
                continue
            meant = {(b.address, b.port): b.weight for b in server.backends if recent.includes(b)}
            destinations = tuple(replace(d, weight=meant.get(d.key, d.weight)) for d in table.destinations)
            if destinations != table.destinations:
                whole[key] = replace(table, destinations=destinations)
        return Doubt(whole=whole, gone=frozenset(gone))


def _is_held(table: Service) -> bool:
    """Whether nodes place its connections alike, and packets in the middle of one can be told from the first."""
    return table.key.protocol is Protocol.TCP and table.scheduler == SCHEDULER and table.persistent is None


def benefit(
    doubt: Doubt, tables: Mapping[ServiceKey, Service], there: Standing, idle: Collection[ServiceKey]
) -> tuple[Standing, frozenset[Mark]]:
    """Services and marks. ``there``: services that stand; one that is needed no more stays, unmarked, until it is
    ``idle``, because its connections would end with it."""
    services = {}
    marks = set()
    for key, other in _marked(tables):
        whole = doubt.whole.get(key)
        if whole is not None:
            kept = tuple(d for d in whole.destinations if d.address not in doubt.gone)
            services[other] = replace(whole, key=other, destinations=kept)
            marks.add(Mark(address=key.address, protocol=key.protocol, first=key.port, last=key.port, value=other.mark))
        elif other in there and other not in idle:
            wanted = {d.key for d in tables[key].destinations if d.address not in doubt.gone}
            table = there[other]
            services[other] = replace(table, destinations=tuple(d for d in table.destinations if d.key in wanted))
    return services, frozenset(marks)


def _marked(tables: Mapping[ServiceKey, Service]) -> Iterable[tuple[ServiceKey, ServiceKey]]:
    """Every table of the kind, and the key of the service beside it. All of them, so that each keeps its mark."""
    taken: set[tuple[int, int]] = set()
    for key in sorted((key for key, table in tables.items() if not key.mark and _is_held(table)), key=str):
        other = marked(key, taken, DOUBT_MARKS)
        taken.add((key.address.version, other.mark))
        yield key, other
