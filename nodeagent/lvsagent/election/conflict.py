"""Who else says with ARP that our addresses are at its MAC."""

import socket
from collections.abc import Callable, Iterable

from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.wire import Wire
from lvsagent.vrrp import arp

Contested = Callable[[Router, float], None]
"""Called when somebody claims an address that the router holds, with the time."""


class Conflicts:
    """Reader of all ARP sockets."""

    def __init__(self, wire: Wire, log: Log, contested: Contested) -> None:
        self._wire = wire
        self._log = log
        self._contested = contested

    def read(self, ready: set[int], routers: Iterable[Router], now: float) -> bool:
        """What arrived at those sockets that are ready. False: one cannot be read and should be looked after."""
        known = tuple(routers)
        readable = True
        for name, arp_socket in tuple(self._wire.arp.items()):
            if arp_socket.fileno() not in ready:
                continue
            try:
                claims = [claim for frame in arp_socket.receive() if (claim := arp.parse(frame)) is not None]
            except OSError as error:
                self._log.seldom(now, name, "ARP cannot be read", interface=name, error=error)
                readable = False
                continue
            here = [router for router in known if router.active and router.config.vip_interface == name]
            for claim in claims:
                if claim.mac != arp_socket.mac:
                    self._claimed(claim, here, now)
        return readable

    def _claimed(self, claim: arp.Claim, here: Iterable[Router], now: float) -> None:
        for router in here:
            if claim.address in router.machine.parameters.addresses:
                address = socket.inet_ntoa(claim.address)
                self._log.seldom(now, address, "somebody claims the address", address=address, mac=claim.mac.hex(":"))
                self._contested(router, now)
