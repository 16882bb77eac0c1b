"""Who else has our addresses: asked before they are used and while they are, heard with ARP and Neighbour Discovery."""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.wire import Place, Wire
from lvsagent.ipc import Finding
from lvsagent.vrrp import arp

WATCH: Final = 3.0
"""Seconds between questions for addresses that we hold: nobody else may answer."""
WATCH_CLAIMED: Final = 1.0
"""The same while somebody else answers: each answer is countered with an announcement, which moves clients back."""
CLAIMED: Final = 10.0
"""Seconds for which an answer counts for that."""
ASK_DIRECTORS: Final = 1.0
"""Seconds between questions for the MACs of the other directors, and of the real servers, at least."""
PEER_SILENT: Final = 3.0
"""Seconds after an advert of another Active in which its claims are what they should be."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Contested = Callable[[Router, float], None]
"""Called when somebody claims an address that the router holds, with the time."""
Freed = Callable[[Router, list[bytes], float], None]
"""Called with addresses that nobody has, of a router that waited for them."""


class _Servers:
    """The MACs of a router's real servers, as far as they are known."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def __contains__(self, mac: object) -> bool:
        return isinstance(mac, bytes) and self._router.real_server(mac) is not None


class Conflicts:
    """Owner of what sockets for ARP and ND hear, and of the questions that leave by them."""

    def __init__(self, wire: Wire, log: Log, contested: Contested, freed: Freed) -> None:
        self._wire = wire
        self._log = log
        self._contested = contested
        self._freed = freed
        self._next_watch = 0.0
        self._servers_asked: dict[tuple[Place, bytes], float] = {}

    def deadline(self, routers: Iterable[Router]) -> float | None:
        """When to call ``step``; None: nothing is to be asked."""
        times = [router.probing.deadline for router in routers]
        times += [self._next_watch for router in routers if router.active]
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, routers: Iterable[Router], now: float) -> None:
        """Ask what is to be asked now."""
        watch = now >= self._next_watch
        if watch:
            known = tuple(router.claimed for router in routers if router.active)
            answers = any(claimed is not None and now - claimed <= CLAIMED for claimed in known)
            self._next_watch = now + (WATCH_CLAIMED if answers else WATCH)
        for router in routers:
            ask, free = router.probing.step(now, _Servers(router))
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
            elif claim.address in router.real_servers:
                router.server_macs[claim.mac] = claim.address
            elif claim.address in router.probing.withheld:
                router.claimed = now
                router.probing.answered(claim.address, claim.mac)
                self._ask_servers(router, claim.mac, now)
            elif router.active and claim.address in router.machine.parameters.addresses:
                address, mac = str(ipaddress.ip_address(claim.address)), claim.mac.hex(":")
                self._log.seldom(now, address, "somebody claims the address", address=address, mac=mac)
                router.claimed = now
                self._ask_servers(router, claim.mac, now)
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
        if (server := router.real_server(mac)) is not None:
            text = _remedy(ipaddress.ip_address(server), mac, ipaddress.ip_address(address), interface)
        else:
            text = f"{mac.hex(':')} claims {address} on {interface}, which this node serves"
        router.findings.note(Finding.ADDRESS_CLAIMED, text, now)
        self._ask_directors(router, now)

    def _ask_directors(self, router: Router, now: float) -> None:
        """For their MACs, to know them by."""
        if router.directors_asked is None or now - router.directors_asked >= ASK_DIRECTORS:
            router.directors_asked = now
            self._ask(router, router.neighbor_directors, now)

    def _ask_servers(self, router: Router, mac: bytes, now: float) -> None:
        """For the real servers' MACs, if that one is nobody's yet: at once, as the answer decides about an address.
        Routers share their servers, so each is asked once."""
        if mac in router.director_macs or router.real_server(mac) is not None:
            return
        self._servers_asked = {key: at for key, at in self._servers_asked.items() if now - at < ASK_DIRECTORS}
        fresh = [a for a in sorted(router.real_servers) if (router.vip_place, a) not in self._servers_asked]
        self._servers_asked.update(((router.vip_place, address), now) for address in fresh)
        self._ask(router, fresh, now)

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
        servers = _Servers(router)
        owners = {a: mac for a, mac in everybody.items() if mac not in router.director_macs and mac not in servers}
        if not owners:
            router.findings.forget(Finding.ADDRESS_CONFLICT)
            return
        self._ask_directors(router, now)
        taken = ", ".join(f"{ipaddress.ip_address(a)} by {mac.hex(':')}" for a, mac in sorted(owners.items()))
        name = router.config.name
        text = f"used on {router.config.vip_interface} by a host that is no director, so not served here: {taken}"
        self._log.seldom(now, name, "the address is used by another host and not taken", router=name, hosts=taken)
        router.findings.note(Finding.ADDRESS_CONFLICT, text, now)


def _remedy(server: IPAddress, mac: bytes, address: IPAddress, interface: str) -> str:
    """Of a real server that is not silent about an address that this node serves."""
    who = f"real server {server} ({mac.hex(':')})"
    if address.version == 4:
        return (
            f"{who} answers ARP for {address} on {interface}, which this node serves: set"
            " net.ipv4.conf.all.arp_ignore=1 and net.ipv4.conf.all.arp_announce=2 there (lvs-node-init does it), and"
            f" have {address} on lo only"
        )
    return (
        f"{who} answers neighbour solicitations for {address} on {interface}, which this node serves: have {address}"
        " there on lo only (nodad), not on an interface of the LAN, and no proxy_ndp for it"
    )
