"""Connections that the present table would send elsewhere, and what to do with such facts of others. Pure.

With ``mh`` every node sends a packet of a connection that it does not know to the same pod, as long as the set of
destinations is the one with which the connection was opened. When it is not, those whose place has changed are
exceptions: their pod's node knows them (it has an entry for every connection of its pods) and tells the nodes that may
become Active, which put them into their kernels. See docs/decisions/0008.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Final, NamedTuple

from lvsagent.core.maglev import DestinationKey, Placement
from lvsagent.core.state import Service, ServiceFlag, ServiceKey
from lvsapi.model import IPAddress, Protocol, Resolved

STATES: Final[Mapping[tuple[Protocol, str], tuple[int, int]]] = {
    (Protocol.TCP, "ESTABLISHED"): (1, 900),
    (Protocol.TCP, "FIN_WAIT"): (4, 120),
    (Protocol.TCP, "CLOSE_WAIT"): (7, 60),
    (Protocol.UDP, "UDP"): (0, 300),
    (Protocol.SCTP, "ESTABLISHED"): (8, 900),
}
"""The states in which a connection carries data: the kernel's number (include/net/ip_vs.h) and its timeout in seconds
unless somebody changed it. An entry's idle time is its timeout less what is left of it."""
NUMBERS: Final = {(protocol, number): name for (protocol, name), (number, _) in STATES.items()}
NEWER: Final = 2
"""Seconds by which one of two that claim the same client must have heard from it later."""
REFRESH: Final = 20
"""Seconds by which an entry may be behind before it is written anew."""


Flow = tuple[Protocol, IPAddress, int, int, int]
"""What identifies a connection: protocol, virtual address and port, client's address as a number and its port."""


class Connection(NamedTuple):
    """An entry of the kernel's connection table, and a claim about it: this client belongs to that destination."""

    protocol: Protocol
    address: IPAddress
    """The virtual one."""
    port: int
    client: int
    """Its address as a number, of the same family."""
    client_port: int
    destination: DestinationKey
    state: str
    """The kernel's word."""
    expires: int
    """Seconds until the kernel forgets it unless a packet comes."""

    @property
    def service(self) -> tuple[Protocol, IPAddress, int]:
        return self[:3]

    @property
    def flow(self) -> Flow:
        return self[:5]

    @property
    def idle(self) -> int:
        """Seconds since its last packet; 0 for a state without data."""
        return max(0, STATES[self.protocol, self.state][1] - self.expires) if self.carries_data else 0

    @property
    def carries_data(self) -> bool:
        return (self.protocol, self.state) in STATES


_Name = tuple[Protocol, IPAddress, int]


@dataclass(slots=True)
class Tables:
    """The placements of this node's services, each computed when it is first asked for after a change."""

    _services: Mapping[_Name, Service] = field(default_factory=dict)
    _placements: dict[_Name, Placement] = field(default_factory=dict)
    _last: dict[ServiceKey, dict[DestinationKey, int]] = field(default_factory=dict)
    """The last weights above 0, as the kernel remembers them."""
    _digests: dict[_Name, int] = field(default_factory=dict)

    def use(self, services: Mapping[ServiceKey, Service], without: Collection[_Name] = ()) -> bool:
        """Other tables. True: a place may have changed. Services whose nodes do not choose alike are left out, and
        those ``without`` which it is to be done."""
        wanted = {}
        for key, service in services.items():
            alike = service.scheduler == "mh" and not key.mark and not service.flags & ServiceFlag.PERSISTENT
            if alike and key.protocol is not None and (key.protocol, key.address, key.port) not in without:
                wanted[key.protocol, key.address, key.port] = service
        if wanted == self._services:
            return False
        stay = {name for name, service in wanted.items() if self._services.get(name) == service}
        self._placements = {name: placement for name, placement in self._placements.items() if name in stay}
        self._digests = {
            name: self._digests[name] if name in stay else _digest(service) for name, service in wanted.items()
        }
        self._services = wanted
        kept, self._last = self._last, {}
        for service in wanted.values():
            before = kept.get(service.key, {})
            self._last[service.key] = {d.key: d.weight or before.get(d.key, 1) for d in service.destinations}
        return True

    @property
    def services(self) -> Mapping[ServiceKey, Service]:
        """Those whose nodes choose alike."""
        return {service.key: service for service in self._services.values()}

    @property
    def digest(self) -> bytes:
        """16 octets that are the same on nodes that place every connection alike."""
        return (sum(self._digests.values()) % (1 << 128)).to_bytes(16)

    def __contains__(self, name: tuple[Protocol, IPAddress, int]) -> bool:
        return name in self._services

    def __bool__(self) -> bool:
        return bool(self._services)

    def has(self, connection: Connection) -> bool:
        """Whether its destination is one of its service."""
        service = self._services.get(connection.service)
        return service is not None and connection.destination in self._last[service.key]

    def exceptions(self, connections: Iterable[Connection], local: Iterable[IPAddress]) -> Iterator[Connection]:
        """Of the connections to ``local`` destinations those that a node without an entry would send elsewhere."""
        here = frozenset(local)
        return (connection for connection in connections if self.excepts(connection, here))

    def excepts(self, connection: Connection, local: Container[IPAddress]) -> bool:
        """Whether it is one of these."""
        ours = connection.destination[0] in local and connection.carries_data and self.has(connection)
        return ours and self.place(connection) != connection.destination

    def place(self, connection: Connection) -> DestinationKey | None:
        """Where a node without an entry would send it; its service must be one of these."""
        placement = self._placements.get(connection.service)
        if placement is None:
            service = self._services[connection.service]
            placement = self._placements[connection.service] = Placement(service, self._last[service.key])
        return placement.of(connection.client, connection.client_port)


def _digest(service: Service) -> int:
    """The forwarding method is left out: a destination is reached from each node in its own way."""
    key = service.key
    places = ",".join(f"{d.address} {d.port} {d.weight}" for d in service.destinations)
    text = f"{key.protocol} {key.address} {key.port} {int(service.flags)} {places}"
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest())


def local_only(resolved: Resolved) -> frozenset[_Name]:
    """The services of which every node knows its own pods only: their tables are different on purpose."""
    return frozenset((s.protocol, s.address, s.port) for s in resolved.servers if s.local and s.protocol is not None)


def unsuspected(services: Mapping[ServiceKey, Service], resolved: Resolved) -> Mapping[ServiceKey, Service]:
    """The tables with the weights that the objects say, whatever this node thinks of other nodes."""
    found = dict(services)
    for server in resolved.servers:
        key = ServiceKey(address=server.address, protocol=server.protocol, port=server.port)
        service = services.get(key)
        if service is not None:
            weights = {(b.address, b.port): b.weight for b in server.backends}
            if any(weights.get(d.key, d.weight) != d.weight for d in service.destinations):
                found[key] = replace(
                    service,
                    destinations=tuple(replace(d, weight=weights.get(d.key, d.weight)) for d in service.destinations),
                )
    return found


def suspected(services: Mapping[ServiceKey, Service], resolved: Resolved, node: str) -> bool:
    """Whether a backend on the node has weight 0 in the tables, against what the objects say."""
    here = {(b.address, b.port) for s in resolved.servers for b in s.backends if b.node == node}
    meant = unsuspected(services, resolved)
    return any(
        one.key in here and one.weight != other.weight
        for key, service in services.items()
        for one, other in zip(service.destinations, meant[key].destinations, strict=True)
    )


def backends(resolved: Resolved) -> dict[IPAddress, str]:
    """The node of every backend that is on one."""
    return {b.address: b.node for server in resolved.servers for b in server.backends if b.node is not None}


def to_write(
    claims: Iterable[tuple[str, Connection]],
    have: Iterable[Connection],
    tables: Tables,
    nodes: Mapping[IPAddress, str],
) -> list[Connection]:
    """What of the claims (each with the node that makes it) the kernel is to be told, which holds ``have``.

    Believed is only the node on which the destination runs, and only about destinations of our own tables. Of two who
    claim one client the one wins who heard from it last. An entry that sees the connection's packets itself is never
    touched: it is as new as the claim, or the connection is closing.
    """
    own: dict[Flow, Connection] = {connection.flow: connection for connection in have}
    found: dict[Flow, Connection] = {}
    for sender, claim in claims:
        if nodes.get(claim.destination[0]) != sender or not claim.carries_data or not tables.has(claim):
            continue
        rival = found.get(claim.flow) or own.get(claim.flow)
        if rival is None or _outdoes(claim, rival):
            found[claim.flow] = claim
    return list(found.values())


def _outdoes(claim: Connection, rival: Connection) -> bool:
    if claim.destination != rival.destination:
        return claim.idle + NEWER < rival.idle
    return rival.state == claim.state and claim.expires > rival.expires + REFRESH
