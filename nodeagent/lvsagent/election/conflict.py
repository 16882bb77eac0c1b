"""Who else says with ARP or Neighbour Discovery that our addresses are at its MAC."""

import ipaddress
from collections.abc import Callable, Iterable

from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.wire import Wire
from lvsagent.vrrp import arp

Contested = Callable[[Router, float], None]
"""Called when somebody claims an address that the router holds, with the time."""


class Conflicts:
    """Reader of all sockets for ARP and ND."""

    def __init__(self, wire: Wire, log: Log, contested: Contested) -> None:
        self._wire = wire
        self._log = log
        self._contested = contested

    def read(self, ready: set[int], routers: Iterable[Router], now: float) -> bool:
        """What arrived at those sockets that are ready. False: one cannot be read and should be looked after."""
        known = tuple(routers)
        readable = True
        for place, neighbors in tuple(self._wire.neighbors.items()):
            if neighbors.fileno() not in ready:
                continue
            try:
                claims = neighbors.claims()
            except OSError as error:
                self._log.seldom(now, str(place), "ARP or ND cannot be read", interface=place[0], error=error)
                readable = False
                continue
            here = [router for router in known if router.active and router.vip_place == place]
            for claim in claims:
                if claim.mac != neighbors.mac:
                    self._claimed(claim, here, now)
        return readable

    def _claimed(self, claim: arp.Claim, here: Iterable[Router], now: float) -> None:
        for router in here:
            if claim.address in router.machine.parameters.addresses:
                address = str(ipaddress.ip_address(claim.address))
                self._log.seldom(now, address, "somebody claims the address", address=address, mac=claim.mac.hex(":"))
                self._contested(router, now)
