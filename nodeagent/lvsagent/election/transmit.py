"""Adverts and announcements as they leave."""

from typing import Final

from lvsagent.election.log import Log
from lvsagent.election.router import Router
from lvsagent.election.wire import Wire
from lvsagent.ipc import Finding
from lvsagent.vrrp import events, packet

GROUPS: Final = {4: packet.GROUP_V4, 6: packet.GROUP_V6}


class Transmitter:
    """Writer to all sockets."""

    def __init__(self, wire: Wire, log: Log) -> None:
        self._wire = wire
        self._log = log

    def advertise(self, router: Router, advert: events.SendAdvert, now: float) -> None:
        """To the group, or to every peer."""
        mine = router.machine.parameters
        said = packet.Advertisement(
            virtual_router_id=mine.virtual_router_id,
            priority=advert.priority,
            interval=max(1, round(advert.interval * 100)),
            addresses=advert.addresses,
            source=mine.source,
            version=mine.version,
        )
        # Words only: an exception refers to the frame that caught it, and nobody would collect the two if this frame
        # referred to it.
        trouble, denied = "", False
        for destination in router.peers or (GROUPS[router.config.family],):
            try:
                payload = router.credentials.encode(said, destination, now)
                self._wire.adverts[router.place].send(payload, destination, mine.source)
                router.adverts_sent += 1
            except (OSError, KeyError, ValueError) as error:
                trouble, denied = str(error) or type(error).__name__, isinstance(error, PermissionError)
        if trouble and not router.send_failed:
            self._log("the advert could not be sent", router=router.config.name, error=trouble)
        router.send_failed = bool(trouble)
        if denied:
            text = f"outgoing: a firewall of this node drops VRRP (IP protocol 112) on {router.config.interface}"
            router.findings.note(Finding.ADVERT_BLOCKED, text, now)

    def announce(self, router: Router, addresses: tuple[bytes, ...], now: float) -> None:
        """Gratuitous ARP in both forms, unsolicited neighbour advertisements."""
        try:
            neighbors = self._wire.neighbors[router.vip_place]
            for address in addresses:
                for _ in range(router.machine.parameters.announcing.repeat):
                    for frame in neighbors.announcements(address, router.virtual_mac):
                        neighbors.send(frame)
                    router.announcements_sent += 1
        except (OSError, KeyError) as error:
            name = router.config.name
            self._log.seldom(now, name, "the address could not be announced", router=name, error=error)
