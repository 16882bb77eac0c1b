"""Which backends are asked for their health, and by what name. Pure."""

from collections.abc import Iterable, Iterator

from lvsagent.checks.messages import Target
from lvsagent.core.plan import method_of
from lvsagent.core.state import ForwardMethod, NodeFacts
from lvsapi.health import HealthCheck
from lvsapi.ipvs import Forwarding
from lvsapi.model import Backend, IPAddress, Protocol, Resolved, VirtualServer

FORWARDING = {
    ForwardMethod.MASQUERADE: Forwarding.MASQUERADE,
    ForwardMethod.TUNNEL: Forwarding.TUNNEL,
    ForwardMethod.DIRECT_ROUTE: Forwarding.DIRECT_ROUTING,
}


MARGIN_SECONDS = 1.0


def slowness(checks: Iterable[HealthCheck]) -> float:
    """Seconds within which every node has noticed that a backend is gone, or has asked it the first time."""
    return MARGIN_SECONDS + max(
        (check.interval_ms + (check.fall - 1) * (check.retry_ms or check.interval_ms) + check.timeout_ms) / 1000
        for check in checks
    )


def place_of(address: IPAddress, port: int | str) -> str:
    """``192.168.139.201:80``, ``[2001:db8::1]:80``."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def name_of(server: VirtualServer, backend: Backend) -> str:
    """A target's name."""
    places = f"{place_of(server.address, server.ports)} {place_of(backend.address, backend.port)}"
    return f"{server.owner} {places}/{server.protocol or 'all'}"


def is_asked(server: VirtualServer, backend: Backend) -> bool:
    """Whether anything is to be known of a backend: of one that drains nothing is."""
    return bool(server.health.checks) and backend.weight > 0


def asked(servers: Iterable[VirtualServer]) -> Iterator[tuple[VirtualServer, Backend]]:
    """Every backend that is asked."""
    return ((server, backend) for server in servers for backend in server.backends if is_asked(server, backend))


def own_addresses(facts: NodeFacts) -> frozenset[IPAddress]:
    """What this node has besides ``lo``."""
    return frozenset(a.ip for interface in facts.interfaces if interface.name != "lo" for a in interface.addresses)


def targets(resolved: Resolved, facts: NodeFacts) -> tuple[Target, ...]:
    """What this node asks. Every target starts as down; the caller knows better."""
    own = own_addresses(facts)
    hosts: dict[IPAddress, tuple[set[str], set[IPAddress]]] = {}
    for router in resolved.routers:
        for address in router.addresses:
            names, addresses = hosts.setdefault(address, (set(), set()))
            names.update(director.node for director in router.directors)
            addresses.update(a for director in router.directors for a in director.addresses)
    found = []
    for server, backend in asked(resolved.servers):
        names, addresses = hosts.get(server.address, (set(), set()))
        method = method_of(backend.forwarding or server.forwarding, backend, facts.node, own)
        found.append(
            Target(
                name=name_of(server, backend),
                address=backend.address,
                port=backend.port,
                protocol=server.protocol or Protocol.TCP,
                checks=server.health.checks,
                virtual_address=server.address,
                virtual_port=server.port,
                forwarding=FORWARDING[method],
                tunnel=backend.tunnel if method is ForwardMethod.TUNNEL else None,
                through=(backend.node or "") if not backend.host_network else "",
                director=backend.node in names or backend.address in addresses,
            )
        )
    return tuple(found)
