"""From a virtual router that everybody agrees on to this node's VRRP instance. Pure."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from ipaddress import ip_address

from lvsagent.core.state import Interface, NodeFacts
from lvsagent.ipc import Authentication, AuthenticationMode, RouterConfig, TrackedInterface
from lvsapi.model import Director, IPAddress, VirtualRouter
from lvsapi.rules import PRIORITY
from lvsapi.status import Reason
from lvsapi.vrrp import AuthenticationType, Checksum, InitialState, Transport

NO_INTERFACE = Reason.NO_INTERFACE
PEERS_NOT_KNOWN = Reason.PEERS_NOT_KNOWN


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a router is not (wholly) as asked for."""

    reason: str
    message: str


def router_of(
    router: VirtualRouter, facts: NodeFacts, absent: Set[IPAddress]
) -> tuple[RouterConfig | None, tuple[Refused, ...]]:
    """This node's instance, and what is wrong. ``absent``: addresses that have no tables here.

    None without a refusal: this node is no director of it, or nothing is left to carry.
    """
    own = next((director for director in router.directors if director.node == facts.node), None)
    addresses = [address for address in router.addresses if address not in absent]
    if own is None or not addresses:
        return None, ()
    interface = _interface(router.interface, "interface", router, addresses, facts)
    if isinstance(interface, Refused):
        return None, (interface,)
    carrier = interface
    if router.vip_interface:
        found = _interface(router.vip_interface, "vipInterface", router, addresses, facts)
        if isinstance(found, Refused):
            return None, (found,)
        carrier = found
    others = [director for director in router.directors if director.node != facts.node]
    peers, refused = _peers(router, interface, others)
    if peers == ():
        return None, refused
    vrrp = router.vrrp
    low, high = PRIORITY
    proved = vrrp.authentication is not AuthenticationType.NONE
    config = RouterConfig(
        name=router.name,
        virtual_router_id=router.virtual_router_id,
        family=router.family,
        interface=interface.name,
        vip_interface=carrier.name,
        addresses=tuple(f"{a}/{router.vip_prefix_length or a.max_prefixlen}" for a in addresses),
        priority=min(high, max(low, own.priority + router.weights.get(facts.node, 0))),
        advertisement_interval_ms=vrrp.advertisement_interval_ms,
        preempt=vrrp.preempt,
        ready=False,
        version=vrrp.version,
        send_interval_ms=vrrp.send_interval_ms,
        preempt_delay_ms=1000 * vrrp.preempt_delay_seconds,
        initially_active=own.initial_state is InitialState.ACTIVE,
        standby=facts.node in router.standby,
        unicast_peers=peers,
        sources=_sources(router.family, interface, others),
        source=_source(router.family, interface, own, peers),
        authentication=Authentication(vrrp.authentication),
        authentication_mode=AuthenticationMode(vrrp.authentication_mode),
        key=router.class_name if proved else "",
        checksum_without_pseudo_header=vrrp.checksum is Checksum.MESSAGE,
        sync_group=vrrp.sync_group,
        track_interfaces=tuple(TrackedInterface(name=t.name, weight=t.weight) for t in vrrp.track_interfaces),
        announce_repeat=vrrp.announcements.repeat,
        announce_delay_ms=1000 * vrrp.announcements.delay_seconds,
        announce_refresh_ms=1000 * vrrp.announcements.refresh_seconds,
        announce_on_lower_priority=vrrp.announcements.on_lower_priority,
        virtual_mac=vrrp.virtual_mac,
        graceful_restart_ms=1000 * vrrp.graceful_restart_seconds,
    )
    return config, refused


def _peers(
    router: VirtualRouter, interface: Interface, others: Iterable[Director]
) -> tuple[tuple[str, ...] | None, tuple[Refused, ...]]:
    """Where unicast adverts go; None: multicast (also for a director without others, whom nobody would hear)."""
    if router.vrrp.transport is not Transport.UNICAST:
        return None, ()
    found: dict[str, tuple[IPAddress, ...]] = {}
    for director in others:
        known = [a for a in director.addresses if a.version == router.family]
        found[director.node] = tuple([a for a in known if _near(a, interface)] or known)
    unknown = sorted(node for node, addresses in found.items() if not addresses)
    refused: tuple[Refused, ...] = ()
    if unknown:
        text = (
            f"VirtualServiceClass {router.class_name}: spec.vrrp.transport: {Transport.UNICAST}: no IPv{router.family}"
            f" address of {', '.join(unknown)} is known: name it in spec.directors.nodes[].addresses"
        )
        refused = (Refused(PEERS_NOT_KNOWN, text),)
    return (tuple(str(a) for addresses in found.values() for a in addresses) if found else None), refused


def _sources(family: int, interface: Interface, others: Iterable[Director]) -> tuple[str, ...]:
    """Where the other directors' adverts come from; empty unless it is known of every one of them.

    An address counts when it is in a network of the interface that hears adverts: a Node's InternalIP may be elsewhere.
    IPv6 adverts come from link-local addresses (RFC 9568 section 5.1.2.1), which no Node object names.
    """
    found: list[str] = []
    for director in others:
        own = [a for a in director.addresses if a.version == family and _near(a, interface)]
        if family == 6:
            own = [a for a in own if a.is_link_local]
        if not own:
            return ()
        found += map(str, own)
    return tuple(found)


def _source(family: int, interface: Interface, own: Director, peers: tuple[str, ...] | None) -> str:
    """Where this node's adverts shall come from, so that it is in the others' ``sources``; empty: not known."""
    there = {network.ip for network in interface.addresses}
    known = [a for a in own.addresses if a.version == family and a in there]
    if family == 6:
        routed = any(not ip_address(peer).is_link_local for peer in peers or ())
        known = [a for a in known if a.is_link_local is not routed]
    return str(known[0]) if known else ""


def _near(address: IPAddress, interface: Interface) -> bool:
    return address.is_link_local or any(address in network.network for network in interface.addresses)


def _interface(
    named: str, field: str, router: VirtualRouter, addresses: list[IPAddress], facts: NodeFacts
) -> Interface | Refused:
    by_name = {interface.name: interface for interface in facts.interfaces}
    if named:
        return by_name.get(named) or Refused(
            NO_INTERFACE,
            f"VirtualServiceClass {router.class_name}: spec.{field}: {named}: node {facts.node} has no such interface"
            f" (it has {', '.join(sorted(by_name))}): name one that every director has, or leave the field empty",
        )
    fitting = [
        (-network.network.prefixlen, interface.name)
        for address in addresses
        for interface in facts.interfaces
        for network in interface.addresses
        if interface.name != "lo" and network.network.prefixlen < network.max_prefixlen and address in network.network
    ]
    name = min(fitting)[1] if fitting else facts.default_interface.get(router.family, "")
    return by_name.get(name) or Refused(
        NO_INTERFACE,
        f"spec.addresses: {addresses[0]}: node {facts.node} has no interface whose network holds it and no default"
        f" route: set spec.interface in VirtualServiceClass {router.class_name}",
    )
