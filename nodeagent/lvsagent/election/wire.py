"""The interfaces as they are now, and the sockets open on them."""

import contextlib
import select
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from lvsagent.election.netlink import Address, AddressEvent, EventsLost, Link, Monitor, Rtnetlink
from lvsagent.election.sockets import AdvertSocket, ArpSocket

SCOPE_LINK: Final = 253


class _Closable(Protocol):
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Wire:
    """Links and addresses of the interfaces that routers name, and one socket of each kind per interface."""

    def __init__(self, netlink: Rtnetlink, epoll: select.epoll) -> None:
        self._netlink = netlink
        self._epoll = epoll
        self._watched: frozenset[str] = frozenset()
        self._links: dict[str, Link] = {}
        self.addresses: tuple[Address, ...] = ()
        """On all interfaces."""
        self.adverts: dict[str, AdvertSocket] = {}
        self.arp: dict[str, ArpSocket] = {}
        self.monitor = Monitor()
        epoll.register(self.monitor.fileno(), select.EPOLLIN)

    def watch(self, interfaces: Iterable[str]) -> None:
        """Only these matter from now on; sockets on others are closed."""
        self._watched = frozenset(interfaces)
        for name in [name for name in (*self.adverts, *self.arp) if name not in self._watched]:
            self._close(self.adverts.pop(name, None))
            self._close(self.arp.pop(name, None))
        self.refresh()

    def refresh(self) -> None:
        """Read links and addresses from the kernel."""
        self._links = {link.name: link for link in self._netlink.links() if link.name in self._watched}
        self.addresses = tuple(self._netlink.addresses())

    def link(self, interface: str) -> Link | None:
        return self._links.get(interface)

    def source(self, interface: str, virtual: frozenset[bytes]) -> bytes | None:
        """The primary IPv4 address of the interface that is not a virtual one; None: it has none."""
        link = self._links.get(interface)
        if link is None:
            return None
        for address in self.addresses:
            usable = address.scope < SCOPE_LINK and not address.fenced and address.address not in virtual
            if address.index == link.index and usable:
                return address.address
        return None

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

    def open_adverts(self, interface: str, index: int, source: bytes) -> AdvertSocket:
        """The socket for adverts, opened anew when interface or address are other ones. Raises OSError."""
        current = self.adverts.get(interface)
        if current is not None and (current.index, current.source) == (index, source):
            return current
        fresh = AdvertSocket(interface, index, source)
        self._close(current)
        self.adverts[interface] = fresh
        self._epoll.register(fresh.fileno(), select.EPOLLIN)
        return fresh

    def open_arp(self, interface: str, index: int, mac: bytes) -> ArpSocket:
        """The socket for ARP, opened anew when the interface is another one or has another MAC. Raises OSError."""
        current = self.arp.get(interface)
        if current is not None and (current.index, current.mac) == (index, mac):
            return current
        fresh = ArpSocket(interface, index, mac)
        self._close(current)
        self.arp[interface] = fresh
        self._epoll.register(fresh.fileno(), select.EPOLLIN)
        return fresh

    def close(self) -> None:
        opened: list[_Closable] = [*self.adverts.values(), *self.arp.values(), self.monitor]
        for each in opened:
            self._close(each)

    def _close(self, opened: _Closable | None) -> None:
        if opened is not None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(opened.fileno())
            opened.close()
