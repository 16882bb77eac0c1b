"""Can a router run now? Its links, their carrier, the address that its adverts come from, its sockets."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lvsagent.election.router import Router, packed
from lvsagent.election.wire import Wire
from lvsagent.vrrp import events

MOST_SERVERS: Final = 1000
"""Real servers whose ARP or ND is heard at one socket: with more the kernel's filter might be the coarse one."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a router stands on while it runs."""

    index: int
    """Of the interface that has the addresses."""
    source: bytes
    mac: bytes = b""
    """Where the addresses are, unless it is the virtual MAC."""


def ground(router: Router, wire: Wire, virtual: frozenset[bytes], now: float) -> Ground | str:
    """What the router can stand on, its sockets open; or why it cannot run now.

    ``virtual``: addresses of all routers, which no advert comes from.
    """
    config = router.config
    link, vip_link = wire.link(config.interface), wire.link(config.vip_interface)
    preferred = packed(config.source, config.family) or router.machine.parameters.source
    source = wire.source(router.place, virtual, preferred, link_local=router.link_local)
    if link is None or vip_link is None:
        return f"interface {config.interface if link is None else config.vip_interface} is missing"
    if source is None:
        kind = "IPv4" if config.family == 4 else "link-local IPv6" if router.link_local else "global IPv6"
        return f"interface {config.interface} has no {kind} address"
    if link.working and vip_link.working:
        router.carrier_lost = None
    elif _out_for_long(router, now):
        return f"interface {config.interface if not link.working else config.vip_interface} is down or has no carrier"
    try:
        wire.open_adverts(router.place, link.index, source)
        wire.open_neighbors(router.vip_place, vip_link)
    except OSError as error:
        return f"interface {config.interface}: {error.strerror}"
    if router.virtual_mac is None:
        return Ground(vip_link.index, source, vip_link.mac)
    try:
        return Ground(wire.macvlan(router.carrier, vip_link, router.virtual_mac).index, source)
    except OSError as error:
        return f"interface {router.carrier} cannot be made on {config.vip_interface}: {error.strerror}"


def leave_alone(router: Router, wire: Wire, others: Iterable[Router]) -> None:
    """Close the socket for adverts of an interface without addresses. What took these away (an MTU below 1280, a stay
    in another namespace) took its memberships, too: later on it would hear nothing, and its router be Active beside
    another."""
    place = router.place
    if wire.source(place, frozenset(), b"", link_local=router.link_local) is not None:
        return
    if all(each.place != place or each.machine.state is events.State.INITIALIZE for each in others):
        wire.close_adverts(place)


def leftovers(router: Router, wire: Wire) -> tuple[bytes, ...]:
    """Addresses of the router that an earlier process of ours put on the interface."""
    return tuple(
        address
        for address in router.machine.parameters.addresses
        if (router.index, address, router.prefix_length(address)) in wire.fenced
    )


def listen(wire: Wire, routers: tuple[Router, ...]) -> list[str]:
    """Tell the kernel what the routers listen for. Returns the interfaces where it does not take that now."""
    deaf: list[str] = []
    for place, adverts in wire.adverts.items():
        identifiers = (
            router.config.virtual_router_id for router in routers if router.place == place and router.refused is None
        )
        if not adverts.listen_for(identifiers):
            deaf.append(place[0])
    for place, neighbors in wire.neighbors.items():
        here = [router for router in routers if router.vip_place == place]
        servers = sorted({address for router in here for address in router.real_servers})
        ours = (a for router in here for a in (*router.machine.parameters.addresses, *router.neighbor_directors))
        if not neighbors.listen_for(itertools.chain(ours, servers[:MOST_SERVERS])):
            deaf.append(place[0])
    return deaf


def lost_track(router: Router, wire: Wire) -> str | None:
    """The tracked interface without which the router must not run, and that is not well; None: there is none."""
    for tracked in router.config.track_interfaces:
        if tracked.weight == 0 and not _works(wire, tracked.name):
            return f"tracked interface {tracked.name} is missing, down or has no carrier"
    return None


def priority(router: Router, wire: Wire) -> int:
    """What tracking makes of the router's priority: 1-254, as keepalived's ``track_interface``; 255 never moves."""
    wanted = router.config.priority
    if wanted == events.OWNER_PRIORITY:
        return wanted
    for tracked in router.config.track_interfaces:
        if _works(wire, tracked.name) == (tracked.weight > 0):
            wanted += tracked.weight
    return max(1, min(events.OWNER_PRIORITY - 1, wanted))


def _works(wire: Wire, interface: str) -> bool:
    link = wire.link(interface)
    return link is not None and link.working


def _out_for_long(router: Router, now: float) -> bool:
    """For longer than the peers wait. A flap that is shorter changes nothing."""
    if router.machine.state is events.State.INITIALIZE:
        return True
    if router.carrier_lost is None:
        router.carrier_lost = now
    if router.machine.state is events.State.BACKUP:  # until it would take over
        return router.machine.deadline is None or now >= router.machine.deadline
    mine = router.machine.parameters
    return now - router.carrier_lost > mine.active_down(mine.interval)
