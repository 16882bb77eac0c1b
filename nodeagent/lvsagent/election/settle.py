"""Can a router run now? Its links, their carrier, the address that its adverts come from, its sockets."""

from dataclasses import dataclass

from lvsagent.election.netlink import Link
from lvsagent.election.router import Router, packed
from lvsagent.election.wire import Wire
from lvsagent.vrrp import machine


@dataclass(frozen=True, slots=True)
class Ground:
    """What a router stands on while it runs."""

    vip_link: Link
    source: bytes


def ground(router: Router, wire: Wire, virtual: frozenset[bytes], now: float) -> Ground | str:
    """What the router can stand on, its sockets open; or why it cannot run now.

    ``virtual``: addresses of all routers, which no advert comes from.
    """
    config = router.config
    link, vip_link = wire.link(config.interface), wire.link(config.vip_interface)
    preferred = packed(config.source, config.family) or router.machine.parameters.source
    source = wire.source(router.place, virtual, preferred, link_local=router.link_local)
    if link is None or not link.up:
        return f"interface {config.interface} is missing or down"
    if vip_link is None or not vip_link.up:
        return f"interface {config.vip_interface} is missing or down"
    if source is None:
        kind = "IPv4" if config.family == 4 else "link-local IPv6" if router.link_local else "global IPv6"
        return f"interface {config.interface} has no {kind} address"
    if link.running and vip_link.running:
        router.carrier_lost = None
    elif _without_carrier(router, now):
        return f"interface {config.interface} or {config.vip_interface} has no carrier"
    try:
        wire.open_adverts(router.place, link.index, source)
        wire.open_neighbors(router.vip_place, vip_link)
    except OSError as error:
        return f"interface {config.interface}: {error.strerror}"
    return Ground(vip_link, source)


def leftovers(router: Router, wire: Wire) -> tuple[bytes, ...]:
    """Addresses of the router that an earlier process of ours put on the interface."""
    wanted = {address: router.prefix_length(address) for address in router.machine.parameters.addresses}
    return tuple(
        there.address
        for there in wire.addresses
        if there.index == router.index and there.fenced and wanted.get(there.address) == there.prefix_length
    )


def listen(wire: Wire, routers: tuple[Router, ...]) -> None:
    """Tell the kernel what the routers listen for."""
    for place, adverts in wire.adverts.items():
        adverts.listen_for(
            router.config.virtual_router_id for router in routers if router.place == place and router.refused is None
        )
    for place, neighbors in wire.neighbors.items():
        neighbors.listen_for(
            address
            for router in routers
            if router.vip_place == place
            for address in router.machine.parameters.addresses
        )


def _without_carrier(router: Router, now: float) -> bool:
    """For longer than the peers wait. A flap that is shorter changes nothing."""
    if router.machine.state is machine.State.INITIALIZE:
        return True
    if router.carrier_lost is None:
        router.carrier_lost = now
    mine = router.machine.parameters
    return now - router.carrier_lost > mine.active_down(mine.interval)
