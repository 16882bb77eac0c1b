"""What clients inside the cluster need of this node, so that a virtual address answers them too. Pure.

A pod or a process of a node that holds the address itself (on ``lo``: every node) meets three things that a client of
the LAN does not (*measured*, tests/net/test_clients_net.py):

* an answer with the virtual address as its source looks forged to a node that has that address: ``accept_local``;
* a process would take the virtual address for its own source: a route with another source stands before the kernel's;
* a pod that is given to a pod beside it, or to itself, is answered past the table: it is masqueraded. And what a CNI
  masquerades on its way out of the cluster must keep its source on the way to another node's pod.

IPv4 only: IPv6 knows no forged sources of that kind and needs other rules.
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from lvsagent.core.state import Interface, NodeFacts
from lvsapi.model import IPAddress, Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPaths:
    """The wish. Empty: nothing of it."""

    sources: frozenset[tuple[IPv4Address, IPv4Address]] = frozenset()
    """Virtual address, and the node's own address that its processes use towards it."""
    interfaces: frozenset[str] = frozenset()
    """Answers of other nodes' pods come in here."""
    neighbours: frozenset[IPv4Network] = frozenset()
    """Where pods of this node may answer one another directly: a bridge's network, or a pod alone."""
    pods: bool = False
    """Some backend is a pod."""

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Virtual ones, in order."""
        return tuple(sorted({address for address, _ in self.sources}))


def client_paths(
    addresses: Collection[IPAddress], resolved: Resolved, facts: NodeFacts, ways: Collection[str]
) -> ClientPaths:
    """``addresses``: virtual ones on this node. ``ways``: interfaces, other than the uplink, to pods of other nodes."""
    uplink = facts.default_interface.get(4)
    sources = set()
    interfaces = set(ways)
    for address in addresses:
        if isinstance(address, IPv4Address):
            place = _interface(address, facts, uplink)
            if place is not None:
                sources.add((address, _own(place)[0].ip))
                interfaces.add(place.name)
    if not sources:
        return ClientPaths()
    if uplink is not None:
        interfaces.add(uplink)
    pods = [b for server in resolved.servers for b in server.backends if b.node is not None and not b.host_network]
    bridges = [a.network for i in facts.interfaces if i.name not in interfaces | {"lo"} for a in _own(i)]
    neighbours = set()
    for address in {b.address for b in pods if b.node == facts.node}:
        if isinstance(address, IPv4Address):
            beside = (network for network in bridges if address in network and network.prefixlen < 32)
            neighbours.add(next(beside, IPv4Network(address)))
    return ClientPaths(
        sources=frozenset(sources),
        interfaces=frozenset(interfaces),
        neighbours=frozenset(neighbours),
        pods=bool(pods),
    )


def _own(interface: Interface) -> list[IPv4Interface]:
    return [a for a in interface.addresses if isinstance(a, IPv4Interface)]


def _interface(address: IPv4Address, facts: NodeFacts, uplink: str | None) -> Interface | None:
    """Where the address belongs, else the uplink; None: no interface with an address of the node."""
    having = [interface for interface in facts.interfaces if interface.name != "lo" and _own(interface)]
    belongs = (i for i in having if any(address in a.network for a in _own(i)))
    return next(belongs, next((i for i in having if i.name == uplink), None))
