"""Whether what clients send fits into the tunnels to the backends. Pure.

The director takes the outer header from its interface's MTU (``ip_vs_xmit.c``) and tells a client whose packet is too
large by ICMP (``net.ipv4.vs.pmtu_disc``). It cannot see whether the backend asked for smaller segments.
"""

from collections.abc import Iterable
from typing import Final

from lvsagent.core.state import Destination, ForwardMethod, Interface, KernelState, NodeFacts
from lvsapi.ipvs import Tunnel, TunnelChecksum, TunnelType
from lvsapi.model import IPAddress

HEADERS: Final = {4: 20, 6: 40}
"""Octets of an IP header, by version."""
TCP: Final = 20


def overhead(tunnel: Tunnel, version: int) -> int:
    """Octets that a tunnel over IPv4 or IPv6 adds."""
    match tunnel.type:
        case TunnelType.IPIP:
            inner = 0
        case TunnelType.GRE:
            inner = 8 if tunnel.checksum is TunnelChecksum.CSUM else 4
        case TunnelType.GUE:
            # UDP and GUE; the remote checksum needs private flags and its two offsets.
            inner = 8 + 4 + (8 if tunnel.checksum is TunnelChecksum.REMCSUM else 0)
    return HEADERS[version] + inner


def narrow(state: KernelState, facts: NodeFacts) -> str:
    """A sentence about the first tunnel into which a full packet of a client does not fit; empty: there is none."""
    own = {address.ip for interface in facts.interfaces for address in interface.addresses}
    tunnels = [
        (key.address, destination)
        for key, service in state.services.items()
        for destination in service.destinations
        if destination.method is ForwardMethod.TUNNEL and destination.address not in own
    ]
    found = []
    for address, destination in sorted(tunnels, key=lambda item: (str(item[0]), str(item[1].address))):
        source, way = _towards(address, facts), _towards(destination.address, facts)
        if source and way and way.mtu and way.mtu - _adds(destination) < source.mtu:
            found.append((address, destination, source, way))
    if not found:
        return ""
    address, destination, source, way = found[0]
    adds = _adds(destination)
    fits = way.mtu - adds
    segment = fits - HEADERS[address.version] - TCP
    more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
    return (
        f"{facts.node}: a packet for {address} of more than {fits} octets does not fit into the"
        f" {destination.tunnel.type} tunnel to {destination.address}{more}, which adds {adds} to the MTU of {way.name},"
        f" {way.mtu}; clients may send {source.mtu}. They are told by ICMP, and those behind a firewall that drops it"
        f" hang with large requests. Set the MTU of {way.name}, and of all on the way, to {source.mtu + adds} or more,"
        f" or let the backend ask for smaller segments (on it: ip route change default via GATEWAY advmss {segment})"
    )


def _adds(destination: Destination) -> int:
    return overhead(destination.tunnel, destination.address.version)


def _towards(address: IPAddress, facts: NodeFacts) -> Interface | None:
    """The interface in whose network the address is, else that of the default route."""
    fitting: Iterable[tuple[int, Interface]] = (
        (network.network.prefixlen, interface)
        for interface in facts.interfaces
        for network in interface.addresses
        if interface.name != "lo" and network.version == address.version and address in network.network
    )
    best = max(fitting, key=lambda item: item[0], default=None)
    if best is not None:
        return best[1]
    name = facts.default_interface.get(address.version)
    return next((interface for interface in facts.interfaces if interface.name == name), None)
