"""What a plan needs to know of the node, read from the kernel."""

from collections import defaultdict

from lvsagent.adapters.addresses import Addresses
from lvsagent.core.state import Interface, IPInterface, NodeFacts


def read_facts(node: str, addresses: Addresses) -> NodeFacts:
    """Interfaces, their addresses and the default routes. Addresses that the election fences are left out: they are
    virtual, not the node's own."""
    by_index: defaultdict[int, list[IPInterface]] = defaultdict(list)
    for found in addresses.addresses():
        if not found.fenced:
            by_index[found.index].append(found.address)
    links = addresses.links()
    names = {link.index: link.name for link in links}
    return NodeFacts(
        node=node,
        interfaces=tuple(
            Interface(
                name=link.name,
                index=link.index,
                mac=link.mac,
                up=link.up,
                addresses=tuple(by_index[link.index]),
                mtu=link.mtu,
            )
            for link in links
        ),
        default_interface={
            version: names[index] for version, index in addresses.default_routes().items() if index in names
        },
    )
