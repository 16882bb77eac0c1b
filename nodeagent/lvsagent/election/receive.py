"""Adverts as they come in: read, checked, given to the router that they are for."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping

from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.sockets import Datagram
from lvsagent.election.wire import Wire
from lvsagent.vrrp import packet

Heard = Callable[[Router, packet.Advertisement, float], None]
"""Called for each advert that passed, with the time."""


class Receiver:
    """Reader of all advert sockets."""

    def __init__(self, wire: Wire, log: Log, heard: Heard) -> None:
        self._wire = wire
        self._log = log
        self._heard = heard
        self.dropped = dict.fromkeys(map(str, packet.DropReason), 0)
        """Adverts not acted on."""

    def read(self, ready: set[int], routers: Iterable[Router], now: float) -> bool:
        """What arrived at those sockets that are ready. False: one cannot be read and should be looked after."""
        known = tuple(routers)
        readable = True
        for place, advert_socket in tuple(self._wire.adverts.items()):
            if advert_socket.fileno() not in ready:
                continue
            here = {
                router.config.virtual_router_id: router
                for router in known
                if router.place == place and router.refused is None
            }
            own = frozenset(router.machine.parameters.source for router in here.values())
            try:
                for received in advert_socket.receive():
                    self._read(received, here, own, now)
            except OSError as error:
                self._log.seldom(now, str(place), "adverts cannot be read", interface=place[0], error=error)
                readable = False
        return readable

    def _read(
        self, outer: Datagram | packet.Dropped, here: Mapping[int, Router], own: frozenset[bytes], now: float
    ) -> None:
        if isinstance(outer, packet.Dropped):
            self.dropped[outer.reason] += 1
            return
        advert = packet.decode(
            outer.payload,
            source=outer.source,
            destination=outer.destination,
            hop_limit=outer.hop_limit,
            own_addresses=own,
            virtual_router_ids=frozenset(here),
        )
        if isinstance(advert, packet.Dropped):
            self.dropped[advert.reason] += 1
            source = str(ipaddress.ip_address(outer.source))
            self._log.seldom(now, source, "an advert was dropped", source=source, reason=advert.reason)
            return
        router = here[advert.virtual_router_id]
        router.adverts_received += 1
        self._heard(router, advert, now)
