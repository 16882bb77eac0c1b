"""Who answers ARP or neighbour solicitations for virtual addresses, on the links over which backends are reached.

The questions name no sender (RFC 5227, RFC 4862), so that no host's table changes by them.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from lvsagent.checks.path_question import SPACING, Claims
from lvsagent.checks.path_routes import Link
from lvsagent.election.frames import ArpSocket, NdSocket, NeighborSocket

MOST: Final = 1000
"""Addresses for which one socket listens: a filter has 4096 instructions at most, two for each address."""
UNUSED: Final = 60.0
"""Seconds after which an address that no check asks about is forgotten."""

_log = logging.getLogger(__name__)


class _Place:
    """One socket on one link."""

    def __init__(self, opened: NeighborSocket) -> None:
        self.socket = opened
        self.claims: dict[bytes, Claims] = {}
        self.used: dict[bytes, float] = {}
        self.rounds: dict[bytes, asyncio.Task[OSError | None]] = {}

    def listen(self) -> None:
        self.socket.listen_for(self.claims)


class Watch:
    """Owner of the sockets. For one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._places: dict[tuple[int, str, bytes, int], list[_Place]] = {}

    def close(self) -> None:
        """May be called twice."""
        for place in self._all():
            self._drop(place)
        self._places.clear()

    async def claims(self, index: int, link: Link, address: bytes, suspect: bytes) -> bool:
        """Whether the host with the MAC ``suspect`` claims the address? Asks when it is time for it. Raises OSError."""
        place = self._place(index, link, address)
        entry = place.claims[address]
        running = place.rounds.get(address)
        if running is None and entry.due(self._loop.time(), suspect):
            running = self._loop.create_task(self._round(place, address, entry))
            place.rounds[address] = running
            await asyncio.sleep(0)  # it has begun
        while running is not None and not running.done() and not entry.by(suspect):
            await asyncio.wait({running}, timeout=SPACING)
        if running is not None and running.done() and not running.cancelled() and (error := running.result()):
            raise error
        return entry.by(suspect)

    async def _round(self, place: _Place, address: bytes, entry: Claims) -> OSError | None:
        end = entry.begin(self._loop.time())
        try:
            place.socket.send(place.socket.probe(address))
            await asyncio.sleep(SPACING)
            place.socket.send(place.socket.probe(address))
            await asyncio.sleep(max(0.0, end - self._loop.time()))
        except OSError as error:
            return error
        finally:
            place.rounds.pop(address, None)
        return None

    def _place(self, index: int, link: Link, address: bytes) -> _Place:
        """Where the address is asked for, made when there is none."""
        now = self._loop.time()
        places = self._places.setdefault((index, link.name, link.mac, len(address)), [])
        found = next((place for place in places if address in place.claims), None)
        if found is None:
            self._forget(now)
            places = self._places.setdefault((index, link.name, link.mac, len(address)), [])
            found = next((place for place in places if len(place.claims) < MOST), None)
            if found is None:
                opened: NeighborSocket
                opened = (ArpSocket if len(address) == 4 else NdSocket)(link.name, index, link.mac)
                found = _Place(opened)
                places.append(found)
                self._loop.add_reader(opened.fileno(), self._read, found)
            found.claims[address] = Claims()
            found.listen()
        found.used[address] = now
        return found

    def _read(self, place: _Place) -> None:
        try:
            for claim in place.socket.claims():
                if claim.mac != place.socket.mac and (entry := place.claims.get(claim.address)) is not None:
                    entry.note(claim.mac, self._loop.time())
        except OSError as error:  # the link is down or gone; who asks there next hears of it
            _log.info("ARP or ND cannot be read", extra={"interface": place.socket.interface, "error": error})
            self._drop(place)
            for places in self._places.values():
                if place in places:
                    places.remove(place)

    def _forget(self, now: float) -> None:
        for key, places in tuple(self._places.items()):
            for place in tuple(places):
                old = [address for address, at in place.used.items() if now - at > UNUSED]
                for address in old:
                    del place.claims[address], place.used[address]
                if not place.claims:
                    self._drop(place)
                    places.remove(place)
                elif old:
                    place.listen()
            if not places:
                del self._places[key]

    def _drop(self, place: _Place) -> None:
        for task in place.rounds.values():
            task.cancel()
        self._loop.remove_reader(place.socket.fileno())
        place.socket.close()

    def _all(self) -> Iterator[_Place]:
        for places in self._places.values():
            yield from places
