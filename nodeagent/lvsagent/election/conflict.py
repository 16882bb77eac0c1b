"""Who else has our addresses: asked before they are used and while they are, heard with ARP and Neighbour Discovery."""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.wire import Wire
from lvsagent.ipc import Finding
from lvsagent.vrrp import arp

WATCH: Final = 3.0
"""Seconds between questions for addresses that we hold: nobody else may answer."""
ASK_DIRECTORS: Final = 1.0
"""Seconds between questions for the other directors' MACs, at least."""
PEER_SILENT: Final = 3.0
"""Seconds after an advert of another Active in which its claims are what they should be."""

Contested = Callable[[Router, float], None]
"""Called when somebody claims an address that the router holds, with the time."""
Freed = Callable[[Router, list[bytes], float], None]
"""Called with addresses that nobody has, of a router that waited for them."""


class Conflicts:
    """Owner of what sockets for ARP and ND hear, and of the questions that leave by them."""

    def __init__(self, wire: Wire, log: Log, contested: Contested, freed: Freed) -> None:
        self._wire = wire
        self._log = log
        self._contested = contested
        self._freed = freed
        self._next_watch = 0.0

    def deadline(self, routers: Iterable[Router]) -> float | None:
        """When to call ``step``; None: nothing is to be asked."""
        times = [router.probing.deadline for router in routers]
        times += [self._next_watch for router in routers if router.active]
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, routers: Iterable[Router], now: float) -> None:
        """Ask what is to be asked now."""
        watch = now >= self._next_watch
        if watch:
            self._next_watch = now + WATCH
        for router in routers:
            ask, free = router.probing.step(now)
            if router.active:
                self._report(router, now)
                if watch:
                    ask += [a for a in router.machine.parameters.addresses if a not in router.probing.withheld]
            self._ask(router, ask, now)
            if free:
                self._freed(router, free, now)

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
            here = [router for router in known if router.vip_place == place]
            for claim in claims:
                if claim.mac != neighbors.mac:
                    self._claimed(claim, here, now)
        return readable

    def _claimed(self, claim: arp.Claim, here: Iterable[Router], now: float) -> None:
        for router in here:
            if claim.mac == router.virtual_mac:  # ours, or a director's
                continue
            if claim.address in router.neighbor_directors:
                router.director_macs[claim.mac] = claim.address
            elif claim.address in router.probing.withheld:
                router.probing.answered(claim.address, claim.mac)
            elif router.active and claim.address in router.machine.parameters.addresses:
                address, mac = str(ipaddress.ip_address(claim.address)), claim.mac.hex(":")
                self._log.seldom(now, address, "somebody claims the address", address=address, mac=mac)
                if router.heard is None or now - router.heard > PEER_SILENT:
                    self._name(router, address, claim.mac, now)
                self._contested(router, now)

    def _name(self, router: Router, address: str, mac: bytes, now: float) -> None:
        """Say who has our address although no other Active is heard."""
        interface = router.config.vip_interface
        if (director := router.director_macs.get(mac)) is not None:
            text = (
                f"director {ipaddress.ip_address(director)} ({mac.hex(':')}) serves {address} too, and no advert of it"
                f" arrives on {interface}: is multicast or IP protocol 112 blocked between the directors?"
            )
            router.findings.note(Finding.NO_PEERS_HEARD, text, now)
            router.findings.forget(Finding.ADDRESS_CLAIMED)
            return
        text = f"{mac.hex(':')} claims {address} on {interface}, which this node serves"
        router.findings.note(Finding.ADDRESS_CLAIMED, text, now)
        self._ask_directors(router, now)

    def _ask_directors(self, router: Router, now: float) -> None:
        """For their MACs, to know them by."""
        if router.directors_asked is None or now - router.directors_asked >= ASK_DIRECTORS:
            router.directors_asked = now
            self._ask(router, router.neighbor_directors, now)

    def _ask(self, router: Router, addresses: Iterable[bytes], now: float) -> None:
        try:
            neighbors = self._wire.neighbors[router.vip_place]
            for address in addresses:
                neighbors.send(neighbors.probe(address))
        except (OSError, KeyError) as error:
            name = router.config.name
            self._log.seldom(now, name, "nobody can be asked for the address", router=name, error=error)

    def _report(self, router: Router, now: float) -> None:
        """Addresses that this Active should serve and does not."""
        everybody = router.probing.owners
        for address, mac in everybody.items():
            if mac in router.director_macs:
                self._name(router, str(ipaddress.ip_address(address)), mac, now)
        owners = {address: mac for address, mac in everybody.items() if mac not in router.director_macs}
        if not owners:
            router.findings.forget(Finding.ADDRESS_CONFLICT)
            return
        self._ask_directors(router, now)
        taken = ", ".join(f"{ipaddress.ip_address(a)} by {mac.hex(':')}" for a, mac in sorted(owners.items()))
        name = router.config.name
        text = f"used on {router.config.vip_interface} by a host that is no director, so not served here: {taken}"
        self._log.seldom(now, name, "the address is used by another host and not taken", router=name, hosts=taken)
        router.findings.note(Finding.ADDRESS_CONFLICT, text, now)
