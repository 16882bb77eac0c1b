"""The interfaces as they are now, and the sockets open on them."""

import contextlib
import errno
import os
import select
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from lvsagent.election import aside, macvlan
from lvsagent.election.frames import ArpSocket, NdSocket, NeighborSocket
from lvsagent.election.monitor import EventsLost, Monitor
from lvsagent.election.netlink import Address, AddressEvent, Link, Rtnetlink
from lvsagent.election.sockets import AdvertSocket

SCOPE_LINK: Final = 253
Place = tuple[str, int]
"""Interface and family."""


class _Closable(Protocol):
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Wire:
    """Links and addresses of the interfaces that routers name, and one socket of each kind per interface and family."""

    def __init__(self, netlink: Rtnetlink, epoll: select.epoll) -> None:
        self._netlink = netlink
        self._epoll = epoll
        self._watched: frozenset[str] = frozenset()
        self._links: dict[str, Link] = {}
        self._foreign: dict[int, list[Address]] = {}
        self._passing: dict[int, list[Address]] = {}
        """Those that are added the way we add ours. A lease of DHCP looks like it in its last minute."""
        self.fenced: set[tuple[int, bytes, int]] = set()
        """Index, address and prefix length of what was added the way we add ours."""
        self.trouble = ""
        """Why links and addresses are those of an earlier look; empty: they are not."""
        self.adverts: dict[Place, AdvertSocket] = {}
        self.neighbors: dict[Place, NeighborSocket] = {}
        self.monitor = Monitor(netlink.port)
        epoll.register(self.monitor.fileno(), select.EPOLLIN)

    def watch(self, adverts: Iterable[Place], neighbors: Iterable[Place], others: Iterable[str] = ()) -> None:
        """Only these matter from now on; sockets on others are closed. ``others``: interfaces without sockets."""
        wanted_adverts, wanted_neighbors = frozenset(adverts), frozenset(neighbors)
        self._watched = frozenset(name for name, _ in wanted_adverts | wanted_neighbors) | frozenset(others)
        for place in self.adverts.keys() - wanted_adverts:
            self._close(self.adverts.pop(place))
        for place in self.neighbors.keys() - wanted_neighbors:
            self._close(self.neighbors.pop(place))
        self.refresh()

    def refresh(self) -> None:
        """Read links and addresses from the kernel, unless it is in ``trouble``: then what was known stays."""
        try:
            links, addresses = self._netlink.links(), self._netlink.addresses()
        except OSError as error:
            self.trouble = str(error)
            return
        self.trouble = ""
        self._links = {link.name: link for link in links if link.name in self._watched}
        self._foreign, self._passing = {}, {}
        for there in addresses:
            (self._passing if there.fenced else self._foreign).setdefault(there.index, []).append(there)
        self.fenced = {(there.index, there.address, there.prefix_length) for there in addresses if there.fenced}

    def foreign(self, index: int) -> Sequence[Address]:
        """Addresses of that interface that are not ours, in the kernel's order."""
        return self._foreign.get(index, ())

    def link(self, interface: str) -> Link | None:
        return self._links.get(interface)

    def source(self, place: Place, virtual: frozenset[bytes], preferred: bytes, *, link_local: bool) -> bytes | None:
        """The address that adverts come from; None: the interface has none.

        The preferred one as long as it is there; else, of IPv4, the primary one that is not virtual, and of IPv6 a
        link-local one or a global one that is not virtual (their order changes). One that is about to go only where
        there is no other.
        """
        interface, family = place
        link = self._links.get(interface)
        if link is None:
            return None
        size = 4 if family == 4 else 16
        found: list[bytes] = []
        for some in (self._foreign, self._passing):
            found += [
                there.address
                for there in some.get(link.index, ())
                if len(there.address) == size
                and there.usable
                and there.address not in virtual
                and (there.scope >= SCOPE_LINK) == (family == 6 and link_local)
            ]
            if preferred in found:
                return preferred
        return found[0] if found else None

    def changes(self, ours: Callable[[int, bytes], bool]) -> tuple[list[AddressEvent], bool]:
        """Addresses of ours (index, address) that were taken away, and whether anything else that matters changed."""
        taken: list[AddressEvent] = []
        changed = False
        try:
            events = self.monitor.read()
        except EventsLost:
            return [], True
        indexes = {link.index for link in self._links.values()}
        for event in events:
            if isinstance(event, AddressEvent):
                if event.address.index not in indexes:
                    continue
                if not ours(event.address.index, event.address.address):
                    changed = True
                elif event.gone:
                    taken.append(event)
            elif event.link.index in indexes or event.link.name in self._watched:
                changed = changed or event.gone or self._links.get(event.link.name) != event.link
        return taken, changed

    def macvlan(self, name: str, parent: Link, mac: bytes) -> Link:
        """The interface with that MAC on another one, made if need be. Raises OSError."""
        current = self._links.get(name)
        if current is not None and (current.mac, current.parent) == (mac, parent.index):
            return current
        if current is not None:
            macvlan.remove(self._netlink, current.index)
        macvlan.make(self._netlink, name, parent.index, mac)
        self.refresh()
        if (made := self._links.get(name)) is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return made

    def switch(self, index: int, *, on: bool) -> None:
        """Bring a link of ``macvlan`` up or down. Raises OSError."""
        macvlan.switch(self._netlink, index, on=on)

    def remove(self, name: str) -> None:
        """Delete a link of ``macvlan``, if it is there."""
        if (current := self._links.pop(name, None)) is not None:
            with contextlib.suppress(OSError):
                macvlan.remove(self._netlink, current.index)

    def open_adverts(self, place: Place, index: int, source: bytes) -> AdvertSocket:
        """The socket for adverts, opened anew when the interface (IPv4: or the address) is another. Raises OSError."""
        current = self.adverts.get(place)
        if current is not None and current.index == index and (place[1] == 6 or current.source == source):
            return current
        fresh = AdvertSocket(place[1], place[0], index, source)
        self.register(fresh)
        self._close(current)
        self.adverts[place] = fresh
        return fresh

    def close_adverts(self, place: Place) -> None:
        """It is opened anew when it is needed."""
        self._close(self.adverts.pop(place, None))

    def open_neighbors(self, place: Place, link: Link) -> NeighborSocket:
        """The socket for ARP or ND, opened anew when the interface or its MAC is another. Raises OSError."""
        current = self.neighbors.get(place)
        if current is not None and (current.index, current.mac) == (link.index, link.mac):
            return current
        kind = ArpSocket if place[1] == 4 else NdSocket
        fresh = kind(link.name, link.index, link.mac)
        self.register(fresh)
        self._close(current)
        self.neighbors[place] = fresh
        return fresh

    def inodes(self) -> tuple[int, ...]:
        """Of the sockets for adverts, as /proc/net/raw shows them."""
        return tuple(sorted(os.fstat(opened.fileno()).st_ino for opened in self.adverts.values()))

    def register(self, opened: _Closable) -> None:
        """Wake up for this socket too, until ``unregister``. Raises OSError, with the socket closed: one that nobody
        is woken up for would be as good as none."""
        try:
            self._epoll.register(opened.fileno(), select.EPOLLIN)
        except OSError:
            opened.close()
            raise

    def unregister(self, opened: _Closable) -> None:
        """Close a socket of ``register``, without waiting for it.

        The kernel lets a packet socket go only after every processor has passed a quiet moment (``synchronize_net`` in
        net/packet/af_packet.c): 4-8 ms that no timer may wait.
        """
        with contextlib.suppress(OSError):
            self._epoll.unregister(opened.fileno())
        aside.do(opened.close)

    def close(self) -> None:
        opened: list[_Closable] = [*self.adverts.values(), *self.neighbors.values(), self.monitor]
        for each in opened:
            self._close(each)

    def _close(self, opened: _Closable | None) -> None:
        if opened is not None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(opened.fileno())
            opened.close()
