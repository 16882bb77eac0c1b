"""Adverts as they come in: read, checked, given to the router that they are for."""

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.sockets import Datagram
from lvsagent.election.wire import Place, Wire
from lvsagent.ipc import Finding
from lvsagent.vrrp import packet

Heard = Callable[[Router, packet.Advertisement, float], None]
"""Called for each advert that passed, with the time."""

PATIENCE: Final = 1.0
"""Seconds for which adverts may differ from ours: a changed wish, or the notice of a restart."""


_OLD: Final = (packet.DropReason.STALE, packet.DropReason.REPLAY)
_UNPROVED: Final = (
    packet.DropReason.AUTH_TYPE,
    packet.DropReason.PASSWORD,
    packet.DropReason.AUTH_MISSING,
    packet.DropReason.AUTH_MALFORMED,
    packet.DropReason.AUTH_KEY,
    packet.DropReason.AUTH_HMAC,
)
_CURE: Final = "give both the same authentication and the same key"
_CURES: Final = {
    packet.DropReason.VERSION: "give both the same version of VRRP",
    packet.DropReason.INTERVAL: "give both the same advertisement interval, which VRRPv2 demands",
    packet.DropReason.STALE: "set the clocks of both",
    packet.DropReason.REPLAY: "set the clocks of both",
    packet.DropReason.TTL: "they come over a router, or are sent with another TTL (hop limit) than 255",
    packet.DropReason.CHECKSUM: "something on the way changes them, or their address is translated (NAT)",
    packet.DropReason.COUNT_ZERO: "name the addresses at their sender",
    packet.DropReason.LENGTH: "something on the way changes them, or only their sender has authentication by HMAC",
    packet.DropReason.LINK_LOCAL: "name a link-local address first at their sender",
}
"""What to do about adverts of a director that are refused; _CURE for the other reasons."""
DROPPED: Final = "an advert was dropped"
DEAF: Final = 3.0
"""Seconds of losing adverts after which their sender must have heard ours."""


@dataclass(frozen=True, slots=True)
class _Audience:
    """Who listens at one socket."""

    routers: Mapping[int, Router]
    """By virtual router ID."""
    own: frozenset[bytes]
    policy: packet.Policy


class Receiver:
    """Reader of all advert sockets."""

    def __init__(self, wire: Wire, log: Log, heard: Heard) -> None:
        self._wire = wire
        self._log = log
        self._heard = heard
        self.dropped = dict.fromkeys(map(str, packet.DropReason), 0)
        """Adverts not acted on."""
        self.refused = 0
        """Their number."""
        self._audiences: dict[Place, _Audience] = {}

    def renew(self) -> None:
        """Routers, their sources or what they expect may be others than before."""
        self._audiences.clear()

    def read(self, ready: set[int], routers: Iterable[Router], now: float) -> bool:
        """What arrived at those sockets that are ready. False: one cannot be read and should be looked after."""
        readable = True
        for place, advert_socket in tuple(self._wire.adverts.items()):
            if advert_socket.fileno() not in ready:
                continue
            if place not in self._audiences:
                self._audiences[place] = _audience(place, routers)
            audience = self._audiences[place]
            for router in audience.routers.values():
                router.arrived = now
            try:
                for received in advert_socket.receive():
                    if isinstance(received, packet.Dropped):
                        self.dropped[received.reason] += 1
                        self.refused += 1
                    else:
                        self._read(received, audience, now)
            except OSError as error:
                self._log.seldom(now, str(place), "adverts cannot be read", interface=place[0], error=error)
                readable = False
        return readable

    def _read(self, outer: Datagram, audience: _Audience, now: float) -> None:
        advert = packet.decode(
            outer.payload,
            source=outer.source,
            destination=outer.destination,
            hop_limit=outer.hop_limit,
            own_addresses=audience.own,
            policy=audience.policy,
            wall=time.time(),
            monotonic=now,
        )
        if isinstance(advert, packet.Dropped):
            self._refuse(outer, advert, audience.routers.get(advert.virtual_router_id), now)
            return
        router = audience.routers[advert.virtual_router_id]
        router.adverts_received += 1
        router.heard = now
        _compare(router, advert, now)
        self._heard(router, advert, now)

    def _refuse(self, outer: Datagram, dropped: packet.Dropped, router: Router | None, now: float) -> None:
        """Count it, and say so seldom: whoever floods us chooses the source, and pays for no more than that."""
        reason = dropped.reason
        self.dropped[reason] += 1
        self.refused += 1
        if self._log.due(now, reason, DROPPED):
            self._log(DROPPED, source=ipaddress.ip_address(outer.source), reason=reason)
        if router is None:
            return
        if outer.source in router.directors:
            router.unheeded = (now, reason)
            if router.active and reason not in _OLD:  # only an Active speaks
                who = ipaddress.ip_address(outer.source)
                text = f"adverts of director {who} are refused on {router.config.interface} ({reason}): {cure(reason)}"
                router.findings.doubt(Finding.NO_PEERS_HEARD, text, now, PATIENCE)
        if reason in _OLD:
            source = ipaddress.ip_address(outer.source)
            text = f"{source} sends adverts that were signed for another time ({reason}): are clocks wrong?"
            router.findings.note(Finding.REPLAYED, text, now)
        elif reason in _UNPROVED or reason is packet.DropReason.SOURCE:
            _name_stranger(router, outer, reason, now)


def cure(reason: packet.DropReason) -> str:
    """What to do about adverts of a director that are refused for that reason."""
    return _CURES.get(reason, _CURE)


def _audience(place: Place, routers: Iterable[Router]) -> _Audience:
    here = {
        router.config.virtual_router_id: router
        for router in routers
        if router.place == place and router.refused is None
    }
    return _Audience(
        routers=here,
        own=frozenset(router.machine.parameters.source for router in here.values()),
        policy=packet.Policy({identifier: router.expectation for identifier, router in here.items()}),
    )


def _name_stranger(router: Router, outer: Datagram, reason: packet.DropReason, now: float) -> None:
    """An advert for our virtual router that was dropped: was it sent by somebody who is no director?"""
    unproved = reason in _UNPROVED
    if outer.source in router.directors:
        return
    who = f"has not our key ({reason})" if unproved and not router.directors else "is no director"
    text = (
        f"{ipaddress.ip_address(outer.source)} speaks with priority {outer.payload[2]} for virtual router"
        f" {router.config.virtual_router_id} on {router.config.interface} and {who}:"
        " give one of both another virtual router ID"
    )
    router.findings.note(Finding.FOREIGN_ROUTER, text, now)


def _compare(router: Router, advert: packet.Advertisement, now: float) -> None:
    """Differences that do not matter to the election, and that somebody should look into (RFC 9568 section 7.1)."""
    mine, text = router.machine.parameters, None
    if advert.addresses != mine.addresses and set(advert.addresses) != set(mine.addresses):
        source = ipaddress.ip_address(advert.source)
        text = f"{source} has {_listed(advert.addresses)}, this node {_listed(mine.addresses)}"
    router.findings.doubt(Finding.ADDRESS_LIST_DIFFERS, text, now, PATIENCE)
    text, interval = None, round(mine.interval * 100)
    if advert.interval != interval and advert.priority > 0:
        source = ipaddress.ip_address(advert.source)
        text = f"{source} announces {10 * advert.interval} ms, this node {10 * interval} ms"
    router.findings.doubt(Finding.INTERVAL_DIFFERS, text, now, PATIENCE)
    worse = (advert.priority, advert.source) < (mine.effective_priority, mine.source)
    if router.active and worse and advert.priority > 0:
        source = ipaddress.ip_address(advert.source)
        text = f"{source} with priority {advert.priority} stays Active beside this node: it does not hear our adverts"
        router.findings.doubt(Finding.ASYMMETRIC_PEER, text, now, DEAF, max(DEAF, 3 * mine.interval))


def _listed(addresses: Iterable[bytes]) -> str:
    return " ".join(str(ipaddress.ip_address(address)) for address in sorted(addresses))
