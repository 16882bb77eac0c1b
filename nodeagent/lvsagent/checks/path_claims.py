"""Who answers ARP or neighbour solicitations for virtual addresses, on the links over which backends are reached.

The questions name no sender (RFC 5227, RFC 4862), so that no host's table changes by them. A host that answered is
asked on between the checks, so that the next check knows at once whether it was silent for long enough.
"""

import asyncio
import errno
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lvsagent.checks.path_question import SPACING, Claims
from lvsagent.checks.path_routes import Link
from lvsagent.election.frames import ArpSocket, NdSocket, NeighborSocket

MOST: Final = 1000
"""Addresses for which one socket listens."""
UNUSED: Final = 60.0
"""Seconds after which an address that no check asks about is forgotten."""
PACE: Final = 0.2
"""Seconds between questions for a host that answered."""
TO_ALL: Final = 4
"""One of so many such questions is broadcast, as a client's is; the others trouble nobody else."""
LONGEST: Final = 60.0
"""Seconds between two checks for which a host is asked on; beyond it is asked anew by each check."""
MOST_WATCHED: Final = 64
"""Hosts and addresses that are asked on between checks."""
SHORTLY: Final = 2.0
"""Seconds for which the others are asked: longer than their silence has to last."""
LOOK: Final = 0.05

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Vigil:
    """A host that answered is asked again and again."""

    since: float
    until: float
    task: asyncio.Task[OSError | None] | None = None


class _Place:
    """One socket on one link."""

    def __init__(self, opened: NeighborSocket) -> None:
        self.socket = opened
        self.claims: dict[bytes, Claims] = {}
        self.used: dict[bytes, float] = {}
        self.rounds: dict[bytes, asyncio.Task[OSError | None]] = {}
        self.vigils: dict[tuple[bytes, bytes], _Vigil] = {}
        """By address and MAC."""

    def listen(self) -> None:
        """Raises OSError: whoever does not hear must not take others for silent."""
        if not self.socket.listen_for(self.claims):
            raise OSError(errno.ENOMEM, "the kernel takes no filter for ARP or ND")


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

    async def claims(
        self, index: int, link: Link, address: bytes, suspect: bytes, *, interval: float, deadline: float
    ) -> bool:
        """Whether the host with the MAC ``suspect`` claims the address? Asks when it is time for it. ``interval``:
        seconds until the next check asks; ``deadline``: by then, on the loop's clock, an answer is wanted. Raises
        OSError."""
        place = self._place(index, link, address)
        entry = place.claims[address]
        if entry.wrong(suspect):
            return await self._silent(place, address, suspect, interval, deadline)
        running = place.rounds.get(address)
        if running is None and entry.due(self._loop.time()):
            running = self._loop.create_task(self._round(place, address, entry))
            place.rounds[address] = running
            await asyncio.sleep(0)  # it has begun
        while running is not None and not running.done() and not entry.by(suspect) and self._loop.time() < deadline:
            await asyncio.wait({running}, timeout=min(SPACING, max(0.0, deadline - self._loop.time())))
        if running is not None and running.done() and not running.cancelled() and (error := running.result()):
            raise error
        if entry.by(suspect):
            self._ask_on(place, address, suspect, interval)
            return True
        return False

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

    async def _silent(self, place: _Place, address: bytes, suspect: bytes, interval: float, deadline: float) -> bool:
        """Of one that answered: False when it has been silent for long enough."""
        entry, asked = place.claims[address], self._loop.time()
        vigil = self._ask_on(place, address, suspect, interval)
        while (still := entry.still(suspect, asked, vigil.since, self._loop.time())) is None:
            if vigil.task is not None and vigil.task.done() and not vigil.task.cancelled():
                if error := vigil.task.result():
                    raise error
                vigil = self._ask_on(place, address, suspect, interval)
            if self._loop.time() >= deadline:
                return True  # not known to be mended
            await asyncio.sleep(min(LOOK, max(0.0, deadline - self._loop.time())))
        if not still:
            vigil.until = self._loop.time()
        return still

    def _ask_on(self, place: _Place, address: bytes, suspect: bytes, interval: float) -> _Vigil:
        """Ask the host until the next check comes, at least."""
        now, key = self._loop.time(), (address, suspect)
        watched = sum(len(each.vigils) for each in self._all())
        long = interval <= LONGEST and (key in place.vigils or watched < MOST_WATCHED)
        until = now + (2 * interval + SHORTLY if long else SHORTLY)
        vigil = place.vigils.get(key)
        if vigil is None:
            vigil = place.vigils[key] = _Vigil(since=now, until=until)
            vigil.task = self._loop.create_task(self._vigil(place, address, suspect, vigil))
        vigil.until = max(vigil.until, until)
        return vigil

    async def _vigil(self, place: _Place, address: bytes, suspect: bytes, vigil: _Vigil) -> OSError | None:
        to_all = place.socket.probe(address)
        to_it = suspect + to_all[len(suspect) :]
        try:
            for number in itertools.count():
                if self._loop.time() >= vigil.until:
                    return None
                place.socket.send(to_it if number % TO_ALL else to_all)
                await asyncio.sleep(PACE)
        except OSError as error:
            return error
        finally:
            place.vigils.pop((address, suspect), None)
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
        for task in (*place.rounds.values(), *(vigil.task for vigil in place.vigils.values())):
            if task is not None:
                task.cancel()
        self._loop.remove_reader(place.socket.fileno())
        place.socket.close()

    def _all(self) -> Iterator[_Place]:
        for places in self._places.values():
            yield from places
