"""Who else has our addresses: asked before they are used and while they are, heard with ARP and Neighbour Discovery."""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from lvsagent.election.log import Log
from lvsagent.election.macs import Macs
from lvsagent.election.receive import cure
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

REFUSED: Final = 60.0
"""Seconds for which a refused advert explains that none is heard: most intervals are shorter."""
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Contested = Callable[[Router, float], None]
"""Called when somebody claims an address that the router holds, with the time."""
Freed = Callable[[Router, list[bytes], float], None]
"""Called with addresses that nobody has, of a router that waited for them."""


class _Known:
    """Whose MACs are whose, where a router's addresses are, as far as it was heard lately."""

    def __init__(self, router: Router, macs: Macs, now: float) -> None:
        self._router = router
        self._macs = macs
        self._now = now

    def director(self, mac: bytes) -> bytes | None:
        """The address of the director with that MAC; None: it is none, or not known."""
        return self._macs.owner(mac, self._router.neighbor_directors, self._now)

    def real_server(self, mac: bytes) -> bytes | None:
        """The same of a real server that is no director: two Actives must not hold one address."""
        return self._macs.owner(mac, self._router.real_servers, self._now) if self.director(mac) is None else None

    def __contains__(self, mac: object) -> bool:
        """Those whose answers count for nothing: the real servers."""
        return isinstance(mac, bytes) and self.real_server(mac) is not None


class Conflicts:
    """Owner of what sockets for ARP and ND hear, and of the questions that leave by them."""

    def __init__(self, wire: Wire, log: Log, contested: Contested, freed: Freed) -> None:
        self._wire = wire
        self._log = log
        self._contested = contested
        self._freed = freed
        self._next_watch = 0.0
        self.heard = 0
        """Claims of addresses that matter here."""
        self._macs: dict[Place, Macs] = {}
        self._concerned: dict[Place, dict[bytes, list[Router]]] = {}
        """The routers that an address matters to: their own, a director's, a real server's. Made when it is needed."""
        self._servers_asked: dict[Place, dict[bytes, float]] = {}

    def renew(self) -> None:
        """Routers, their addresses, directors or real servers may be others than before."""
        self._concerned.clear()
        for each in (self._macs, self._servers_asked):
            for place in each.keys() - self._wire.neighbors.keys():
                del each[place]

    def deadline(self, routers: Iterable[Router]) -> float | None:
        """When to call ``step``; None: nothing is to be asked."""
        earliest: float | None = None
        for router in routers:  # asked before every wait
            moment = self._next_watch if router.active else None
            if router.probing.asking and (asking := router.probing.deadline) is not None:
                moment = asking if moment is None else min(asking, moment)
            if moment is not None and (earliest is None or moment < earliest):
                earliest = moment
        return earliest

    def step(self, routers: Iterable[Router], now: float) -> None:
        """Ask what is to be asked now."""
        watch = now >= self._next_watch
        if watch:
            known = tuple(router.claimed for router in routers if router.active)
            answers = any(claimed is not None and now - claimed <= CLAIMED for claimed in known)
            self._next_watch = now + (WATCH_CLAIMED if answers else WATCH)
        for router in routers:
            if not (watch or router.probing.asking):
                continue
            ask: list[bytes] = []
            free: list[bytes] = []
            if router.probing.asking:
                ask, free = router.probing.step(now, self._known(router, now))
                self._ask_directors(router, now)
            if router.active:
                self._report(router, now)
                if watch:
                    withheld = router.probing.withheld
                    ask += [address for address in router.machine.parameters.addresses if address not in withheld]
            self._ask(router, ask, now)
            if free:
                self._freed(router, free, now)

    def undecided(self, router: Router, active: bytes, now: float) -> list[bytes]:
        """Addresses that are asked for although the director with the address ``active`` is Active: a foreign host has
        them, which keeps them from that director, too; or there was no time to answer. Whoever else answers is that
        director, and so may everybody be as long as its MAC is not known."""
        answers = router.probing.answers(now)
        fresh = [address for address in router.probing.withheld if address not in answers]
        known = self._known(router, now)
        if not self._macs[router.vip_place].known(active, now):
            return fresh
        return fresh + [
            address
            for address, macs in answers.items()
            if any(known.director(mac) is None and mac not in known for mac in macs)
        ]

    def read(self, ready: set[int], routers: Iterable[Router], now: float) -> bool:
        """What arrived at those sockets that are ready. False: one cannot be read and should be looked after."""
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
            if place not in self._concerned:
                self._concerned[place] = _concerned(place, routers)
                self._macs.setdefault(place, Macs()).keep(self._concerned[place])
            self.heard += len(claims)
            for claim in dict.fromkeys(claims):
                if claim.mac != neighbors.mac:
                    self._claimed(claim, self._concerned[place].get(claim.address, ()), now)
        return readable

    def _known(self, router: Router, now: float) -> _Known:
        return _Known(router, self._macs.setdefault(router.vip_place, Macs()), now)

    def _claimed(self, claim: arp.Claim, here: Iterable[Router], now: float) -> None:
        for router in here:
            if claim.mac == router.virtual_mac:  # ours, or a director's
                continue
            if claim.address in router.neighbor_directors or claim.address in router.real_servers:
                self._macs[router.vip_place].heard(claim.address, claim.mac, now)
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
        interface, known = router.config.vip_interface, self._known(router, now)
        if (director := known.director(mac)) is not None:
            text = f"director {ipaddress.ip_address(director)} ({mac.hex(':')}) serves {address} too, and "
            if router.unheeded is not None and now - router.unheeded[0] <= REFUSED:
                reason = router.unheeded[1]
                text += f"adverts of directors are refused on {interface} ({reason}): {cure(reason)}"
            else:
                text += (
                    f"no advert of it arrives on {interface}: is multicast or IP protocol 112 blocked between the"
                    " directors, or has somebody put the address there?"
                )
            router.findings.note(Finding.NO_PEERS_HEARD, text, now)
            router.findings.forget(Finding.ADDRESS_CLAIMED)
            return
        if (server := known.real_server(mac)) is not None:
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
        known = self._known(router, now)
        if known.director(mac) is not None or known.real_server(mac) is not None:
            return
        if router.servers_asked is not None and now - router.servers_asked < ASK_DIRECTORS:
            return
        router.servers_asked = now
        asked = self._servers_asked.setdefault(router.vip_place, {})
        fresh = [a for a in sorted(router.real_servers) if a not in asked or now - asked[a] >= ASK_DIRECTORS]
        asked.update(dict.fromkeys(fresh, now))
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
        owners: dict[bytes, bytes] = {}
        if everybody := router.probing.owners:
            known = self._known(router, now)
            for address, mac in everybody.items():
                if known.director(mac) is not None:
                    self._name(router, str(ipaddress.ip_address(address)), mac, now)
                elif mac not in known:
                    owners[address] = mac
        if not owners:
            router.findings.forget(Finding.ADDRESS_CONFLICT)
            return
        self._ask_directors(router, now)
        taken = ", ".join(f"{ipaddress.ip_address(a)} by {mac.hex(':')}" for a, mac in sorted(owners.items()))
        name = router.config.name
        text = f"used on {router.config.vip_interface} by a host that is no director, so not served here: {taken}"
        self._log.seldom(now, name, "the address is used by another host and not taken", router=name, hosts=taken)
        router.findings.note(Finding.ADDRESS_CONFLICT, text, now)


def _concerned(place: Place, routers: Iterable[Router]) -> dict[bytes, list[Router]]:
    found: dict[bytes, list[Router]] = {}
    for router in routers:
        if router.vip_place == place:
            ours = frozenset(router.machine.parameters.addresses)
            for address in ours | router.neighbor_directors | router.real_servers:
                found.setdefault(address, []).append(router)
    return found


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
