"""What a plan needs to know of the node, read from the kernel."""

from collections import defaultdict
from collections.abc import Collection

from lvsagent.adapters.addresses import Addresses
from lvsagent.core.state import Interface, IPInterface, NodeFacts
from lvsapi.model import IPAddress


def read_facts(node: str, addresses: Addresses, virtual: Collection[IPAddress] = ()) -> NodeFacts:
    """Interfaces, their addresses and the default routes. Addresses that the election fences are left out: they are
    virtual, not the node's own. A lease of DHCP looks alike when little is left of it (NetworkManager and networkd add
    prefix routes themselves), so only those are meant that are known to be ``virtual``, or are on ``lo``, too."""
    by_index: defaultdict[int, list[IPInterface]] = defaultdict(list)
    links, standing = addresses.links(), addresses.addresses()
    home = {link.index for link in links if link.name == "lo"}
    virtual = {*virtual, *(found.address.ip for found in standing if found.index in home)}
    for found in standing:
        if not (found.fenced and found.address.ip in virtual):
            by_index[found.index].append(found.address)
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
