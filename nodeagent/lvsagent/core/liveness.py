"""Which nodes beat for one another, and what is done about one that is suspected. Pure.

Suspicion is cheap: weight 0 stops new connections, keeps the held ones, and leaves the table of ``mh`` as it is. So it
is laid over what the objects say, on every node by itself, and taken away as soon as the node speaks.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from lvsagent.ipc import Liveness, PeerNode
from lvsapi.model import Backend, IPAddress, Resolved, Snapshot, VirtualServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspects:
    """Nodes whose backends get no new connections."""

    names: frozenset[str] = frozenset()
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Their own -> name of the node: a real server may be named by one of them."""

    @classmethod
    def of(cls, liveness: Liveness, nodes: Iterable[PeerNode], node: str) -> "Suspects":
        """``node``: this one, which can always take what is sent to it."""
        names = frozenset(liveness.silent) | frozenset(liveness.unready)
        names -= {node}
        return cls(
            names=names, addresses={a: each.name for each in nodes if each.name in names for a in each.addresses}
        )

    def only(self, names: Collection[str]) -> "Suspects":
        """Those of them."""
        addresses = {address: name for address, name in self.addresses.items() if name in names}
        return Suspects(names=self.names & frozenset(names), addresses=addresses)

    def includes(self, backend: Backend) -> bool:
        """Whether the backend is on one of them."""
        return backend.node in self.names or str(backend.address) in self.addresses


@dataclass(slots=True)
class Overlay:
    """Lays suspicion over what is resolved. Remembers its last answer: most passes change neither."""

    _before: tuple[Resolved, Suspects] | None = None
    _after: Resolved | None = field(default=None)

    def over(self, resolved: Resolved, suspects: Suspects) -> Resolved:
        """``resolved`` with weight 0 for backends on suspected nodes. A virtual server of which nothing would be left
        stays as it is: then the suspicion helps nobody, and it may be wrong."""
        if not suspects.names:
            return resolved
        if (
            self._after is None
            or self._before is None
            or self._before[0] is not resolved
            or self._before[1] != suspects
        ):
            self._before = (resolved, suspects)
            self._after = replace(resolved, servers=tuple(_without(server, suspects) for server in resolved.servers))
        return self._after


def _without(server: VirtualServer, suspects: Suspects) -> VirtualServer:
    backends = tuple(
        replace(backend, weight=0) if backend.weight and suspects.includes(backend) else backend
        for backend in server.backends
    )
    return replace(server, backends=backends) if any(backend.weight for backend in backends) else server


def peers(snapshot: Snapshot, resolved: Resolved) -> tuple[PeerNode, ...]:
    """Whom to exchange heartbeats with: every node of which an address is known, this one too. Nobody while nothing is
    served. Addresses are those of the Node object, or what a class says of a director."""
    if not resolved.servers:
        return ()
    found: dict[str, dict[IPAddress, None]] = {node.name: dict.fromkeys(node.addresses) for node in snapshot.nodes}
    for item in snapshot.classes:
        for director in item.directors:
            if not found.get(director.node):
                found[director.node] = dict.fromkeys(director.addresses)
    return tuple(
        PeerNode(name=name, addresses=tuple(map(str, addresses)))
        for name, addresses in sorted(found.items())
        if addresses
    )


def changes(before: Liveness, now: Liveness) -> Mapping[str, str]:
    """What to say of each node of which something else is thought now: ``silent``, ``unready`` or ``good``."""
    old = {**dict.fromkeys(before.unready, "unready"), **dict.fromkeys(before.silent, "silent")}
    new = {**dict.fromkeys(now.unready, "unready"), **dict.fromkeys(now.silent, "silent")}
    return {name: new.get(name, "good") for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}
