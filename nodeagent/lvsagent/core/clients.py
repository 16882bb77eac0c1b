"""What clients inside the cluster need of this node, so that a virtual address answers them too. Pure.

A pod or a process of a node that holds the address itself (on ``lo``: every node) meets three things that a client of
the LAN does not (*measured*, tests/net/test_clients_net.py):

* an answer with the virtual address as its source looks forged to a node that has that address: ``accept_local``;
* a process would take the virtual address for its own source: a route with another source stands before the kernel's
  (IPv4), or its packets get another source on their way out (IPv6, whose routes to local addresses cannot be outdone);
* a pod that is given to a pod beside it, or to itself, is answered past the table: it is masqueraded. And what a CNI
  masquerades on its way out of the cluster must keep its source on the way to another node's pod.

IPv6 knows no forged sources of the first kind.
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from lvsagent.core.state import Interface, IPInterface, NodeFacts
from lvsapi.ipvs import Forwarding
from lvsapi.model import IPAddress, IPNetwork, Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPaths:
    """The wish. Empty: nothing of it."""

    sources: frozenset[tuple[IPv4Address, IPv4Address]] = frozenset()
    """Virtual address, and the node's own address that its processes use towards it."""
    sources6: frozenset[tuple[IPv6Address, IPv6Address]] = frozenset()
    interfaces: frozenset[str] = frozenset()
    """Answers of other nodes' pods come in here (IPv4)."""
    neighbours: frozenset[IPNetwork] = frozenset()
    """Where pods of this node may answer one another directly: a bridge's network, or a pod alone."""
    pods: bool = False
    """Some backend is a pod."""
    forwards6: bool = False
    """``net.ipv6.conf.all.forwarding`` shall be 1."""

    def addresses(self, version: int) -> tuple[IPAddress, ...]:
        """Virtual ones of a family, in order."""
        return tuple(sorted({address for address, _ in (self.sources if version == 4 else self.sources6)}))


def client_paths(
    addresses: Collection[IPAddress],
    resolved: Resolved,
    facts: NodeFacts,
    ways: Collection[str],
    forwards6: bool = False,
) -> ClientPaths:
    """``addresses``: virtual ones on this node. ``ways``: interfaces, other than the uplink, to pods of other nodes.
    ``forwards6``: it is needed, and nothing is in its way."""
    sources: set[tuple[IPv4Address, IPv4Address]] = set()
    sources6: set[tuple[IPv6Address, IPv6Address]] = set()
    outside = {"lo", *ways, *facts.default_interface.values()}
    interfaces = set(ways)
    for address in addresses:
        place = _interface(address, facts)
        if place is None:
            continue
        outside.add(place.name)
        own = _own(place, address.version)[0].ip
        if isinstance(address, IPv4Address) and isinstance(own, IPv4Address):
            sources.add((address, own))
            interfaces.add(place.name)
        elif isinstance(address, IPv6Address) and isinstance(own, IPv6Address):
            sources6.add((address, own))
    versions = {4} if sources else set[int]()
    versions |= {6} if sources6 else set()
    if not versions:
        return ClientPaths()
    if 4 in facts.default_interface:
        interfaces.add(facts.default_interface[4])
    pods = [b for server in resolved.servers for b in server.backends if b.node is not None and not b.host_network]
    bridges = [a.network for i in facts.interfaces if i.name not in outside for a in i.addresses]
    neighbours: set[IPNetwork] = set()
    for address in {b.address for b in pods if b.node == facts.node and b.address.version in versions}:
        beside = (net for net in bridges if net.version == address.version and address in net and net.num_addresses > 1)
        neighbours.add(next(beside, ip_network(address)))
    return ClientPaths(
        sources=frozenset(sources),
        sources6=frozenset(sources6),
        interfaces=frozenset(interfaces) if sources else frozenset(),
        neighbours=frozenset(neighbours),
        pods=bool(pods),
        forwards6=forwards6 and bool(sources6),
    )


def needs_forwarding6(resolved: Resolved) -> bool:
    """Whether answers of IPv6 backends come back through this node: those of its own pods, and of what is reached by
    masquerading. Direct routing and tunnels need none of it (*measured*, tests/net/test_matrix_net.py)."""
    return any(
        (backend.node is not None and not backend.host_network)
        or (backend.forwarding or server.forwarding) is Forwarding.MASQUERADE
        for server in resolved.servers
        if server.address.version == 6
        for backend in server.backends
    )


def _own(interface: Interface, version: int) -> list[IPInterface]:
    return [a for a in interface.addresses if a.version == version and not a.is_link_local]


def _interface(address: IPAddress, facts: NodeFacts) -> Interface | None:
    """Where the address belongs, else the uplink; None: no interface with an address of the node of that family."""
    version = address.version
    having = [interface for interface in facts.interfaces if interface.name != "lo" and _own(interface, version)]
    belongs = (i for i in having if any(address in a.network for a in _own(i, version)))
    return next(belongs, next((i for i in having if i.name == facts.default_interface.get(version)), None))
