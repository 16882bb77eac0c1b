"""Which hosts of the LAN have a router's addresses rightly, on ``lo``, and must be silent about them. Pure.

The election asks before it takes an address whether somebody has it. One of these that answers is set up wrongly, but
no foreign host: the address is taken all the same, and the path's check keeps that backend out of service.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from itertools import islice
from typing import Final

from lvsagent.core.state import NodeFacts
from lvsagent.core.targets import own_addresses
from lvsagent.ipc import PeerNode, RouterConfig
from lvsapi.ipvs import Forwarding
from lvsapi.model import IPAddress, IPNetwork, Resolved, VirtualRouter

MOST: Final = 64
"""Of one router: each is asked for its MAC in the moment in which somebody answers."""
_Asked = tuple[tuple[RouterConfig, ...], Resolved, NodeFacts, tuple[PeerNode, ...]]


@dataclass(slots=True)
class Neighbors:
    """Remembers its last answer: most passes change nothing of it."""

    _before: _Asked | None = None
    _after: tuple[RouterConfig, ...] = ()

    def of(
        self, routers: tuple[RouterConfig, ...], resolved: Resolved, facts: NodeFacts, nodes: tuple[PeerNode, ...]
    ) -> tuple[RouterConfig, ...]:
        """The same routers, each with the hosts of its addresses' link that have these: real servers that get packets
        by direct routing or a tunnel, and all nodes but this one and the directors, whom the election knows by their
        adverts. MOST of them: real servers first, then nodes with backends, each in the order of their addresses."""
        asked = (routers, resolved, facts, nodes)
        if self._before is None or self._before[1] is not resolved or self._before != asked:
            backends = _backends(resolved)
            by_name = {router.name: router for router in resolved.routers}
            links = {(each.vip_interface, each.family) for each in routers}
            near = {link: _near(*link, facts, nodes) for link in links}
            self._before = asked
            self._after = tuple(
                replace(
                    config,
                    real_servers=_hosts(
                        config, by_name[config.name], backends, near[config.vip_interface, config.family], facts
                    ),
                )
                for config in routers
            )
        return self._after


@dataclass(frozen=True, slots=True)
class _Backends:
    """Of one virtual address."""

    outside: set[IPAddress]
    nodes: set[str]


def _backends(resolved: Resolved) -> Mapping[IPAddress, _Backends]:
    found: defaultdict[IPAddress, _Backends] = defaultdict(lambda: _Backends(set(), set()))
    for server in resolved.servers:
        about = found[server.address]
        for backend in (*server.backends, *((server.sorry,) if server.sorry else ())):
            if backend.node is not None:
                about.nodes.add(backend.node)
            elif (backend.forwarding or server.forwarding) is not Forwarding.MASQUERADE:
                about.outside.add(backend.address)
    return found


@dataclass(frozen=True, slots=True)
class _Link:
    """Of one interface and family."""

    networks: tuple[IPNetwork, ...]
    nodes: tuple[tuple[IPAddress, str], ...]
    """Of those networks: address and name, by address."""
    own: frozenset[IPAddress]

    def has(self, address: IPAddress) -> bool:
        return any(address in network for network in self.networks)


def _near(interface: str, family: int, facts: NodeFacts, nodes: tuple[PeerNode, ...]) -> _Link:
    networks = tuple(
        n.network for i in facts.interfaces if i.name == interface for n in i.addresses if n.version == family
    )
    link = _Link(networks, (), own_addresses(facts))
    found = [(ip_address(address), node.name) for node in nodes for address in node.addresses]
    return replace(link, nodes=tuple(sorted((each for each in found if link.has(each[0])), key=lambda e: int(e[0]))))


def _hosts(
    config: RouterConfig,
    router: VirtualRouter,
    backends: Mapping[IPAddress, _Backends],
    link: _Link,
    facts: NodeFacts,
) -> tuple[str, ...]:
    carried = [ip_interface(address).ip for address in config.addresses]
    outside = {address for virtual in carried if virtual in backends for address in backends[virtual].outside}
    busy = {node for virtual in carried if virtual in backends for node in backends[virtual].nodes}
    directors = {director.node for director in router.directors} | {facts.node}
    silent = link.own.union(carried, (a for director in router.directors for a in director.addresses))
    silent |= {address for address, node in link.nodes if node in directors}
    found = dict.fromkeys(sorted((a for a in outside if link.has(a)), key=int))
    found |= dict.fromkeys(address for address, node in link.nodes if node in busy)
    found |= dict.fromkeys(address for address, _ in link.nodes)
    first = islice((address for address in found if address not in silent), MOST)
    return tuple(map(str, sorted(first, key=int)))
