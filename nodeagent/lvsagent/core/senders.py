"""By what the packets of other nodes are known, and whether all of them are. Pure.

A node may send a packet here that it has been sent itself. It comes with the node's hardware address, if nothing
stands between: a router, or a tunnel, sends it under an address of its own.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from lvsagent.core.state import Interface, NodeFacts
from lvsapi.model import IPAddress

PATIENCE = 1.0
"""Seconds after which a node that was asked for its hardware address and told none is taken for one that is off. The
kernel of one that is on answers within milliseconds, whatever runs there."""
MAC_TEXT = len("00:00:00:00:00:00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An entry of the kernel's neighbour table."""

    address: IPAddress
    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What the kernel says."""

    macs: Mapping[IPAddress, bytes] = field(default_factory=dict)
    """Of the other nodes' addresses."""
    gateways: frozenset[bytes] = frozenset()
    """Hardware addresses with which packets of other networks come, too."""
    interfaces: frozenset[int] = frozenset()
    """Over which backends of other nodes are reached, by index."""

    @property
    def senders(self) -> frozenset[bytes]:
        """Hardware addresses of the other nodes. Not those of a gateway: clients come from there, too."""
        return frozenset(self.macs.values()) - self.gateways


def ways_of(
    neighbours: Iterable[Neighbour],
    peers: Collection[IPAddress],
    gateways: Collection[IPAddress],
    interfaces: Iterable[int] = (),
) -> Ways:
    """By the neighbour table. ``gateways``: of default routes."""
    found = list(neighbours)
    return Ways(
        macs={one.address: one.mac for one in found if one.address in peers},
        gateways=frozenset(one.mac for one in found if one.address in gateways),
        interfaces=frozenset(interfaces),
    )


def unrecognised(nodes: Mapping[str, Collection[IPAddress]], ways: Ways, facts: NodeFacts) -> Mapping[str, str]:
    """The other nodes whose packets can never be recognised here, and why. One that is only not known yet is not among
    them."""
    cards = _cards(facts)
    joined: set[int] = set()
    found = {}
    for name, addresses in nodes.items():
        near = {card.index for card in cards if any(_near(address, card) for address in addresses)}
        joined |= near
        if not near:
            found[name] = "it is in no network of this node"
        elif any(ways.macs.get(address) in ways.gateways for address in addresses):
            found[name] = "it is a gateway of this node"
    names = {card.index: card.name for card in facts.interfaces}
    for index in sorted(ways.interfaces - joined):
        found.setdefault("", f"backends of other nodes are reached over {names.get(index, index)}")
    return found


def outside(nodes: Iterable[IPAddress], facts: NodeFacts) -> frozenset[int]:
    """Interfaces, by index, over which other nodes and the rest of the world are reached, but no pod of this node."""
    found = {card.index for card in _cards(facts) for address in nodes if _near(address, card)}
    return frozenset(found | {card.index for card in facts.interfaces if card.name in facts.default_interface.values()})


def unknown(nodes: Mapping[str, Collection[IPAddress]], ways: Ways) -> frozenset[str]:
    """The other nodes that have not told their hardware address."""
    return frozenset(name for name, addresses in nodes.items() if not any(a in ways.macs for a in addresses))


def _cards(facts: NodeFacts) -> list[Interface]:
    return [card for card in facts.interfaces if card.name != "lo" and len(card.mac) == MAC_TEXT]


def _near(address: IPAddress, card: Interface) -> bool:
    return any(address in one.network for one in card.addresses if one.network.prefixlen < one.max_prefixlen)
