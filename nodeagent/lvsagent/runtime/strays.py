"""Makes the kernel forget, on a node that was Active, connections that went on without it (``core.strays``)."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from lvsagent.adapters import connections
from lvsagent.core.affinity import Connection, backends
from lvsagent.core.senders import outside
from lvsagent.core.state import NodeFacts
from lvsagent.core.strays import AGAIN, LOOK, departed, strays
from lvsagent.runtime.logs import Throttle
from lvsagent.runtime.view import View
from lvsapi.model import IPAddress

_log = logging.getLogger(__name__)

Call = Callable[[Callable[[], None]], Awaitable[None]]
Ways = Callable[[Iterable[IPAddress]], Awaitable[Mapping[IPAddress, int | None]]]


class Strays:
    """``run`` until cancelled."""

    def __init__(self, *, view: View, call: Call, ways: Ways, facts: Callable[[], NodeFacts | None]) -> None:
        """``call``: ``Worker.call``; ``ways``: ``Worker.ways``; ``facts``: of the node, as last read."""
        self._view = view
        self._call = call
        self._ways = ways
        self._facts = facts
        self._active: frozenset[str] = frozenset()
        self._transitions = 0
        """Of all routers here, when it was looked last: one may have been Active for a moment between."""
        self._next: float | None = 0.0
        """When to look, monotonic seconds. Whoever starts does not know what was before."""
        self._throttle = Throttle()

    async def run(self) -> None:
        """Turn for ever. A fault is logged: clients that use a port again may have to take another."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.turn(time.monotonic())
            except Exception as error:
                if self._throttle.allows(str(error), time.monotonic()):
                    _log.error("connections that went on without this node are not forgotten", extra={"error": error},
                               exc_info=not isinstance(error, OSError))  # fmt: skip

    async def turn(self, now: float) -> int:
        """Look if there may be any. Returns how many are forgotten."""
        before = self._active, self._transitions
        self._active = self._view.claims.active
        self._transitions = sum(sum(r.transitions.values()) for r in self._view.claims.routers.values())
        if before[0] - self._active or before[1] != self._transitions:
            self._next = now
        plan, facts = self._view.plan, self._facts()
        if self._next is None or now < self._next or plan is None or facts is None or not plan.whole:
            return 0
        started = time.monotonic()
        here = {address for address, node in backends(self._view.resolved).items() if node == self._view.node}
        here |= {address.ip for card in facts.interfaces for address in card.addresses}
        held = self._view.claims.held()
        entries = await asyncio.to_thread(lambda: departed(connections.Listing(), plan.whole, held, here))
        self._next = now + AGAIN if entries else None
        clients = {connection.client: _client(connection) for connection in entries}
        found = await self._ways(clients.values())
        nodes = [ip_address(a) for node in self._view.peers for a in node.addresses if node.name != self._view.node]
        over = strays(entries, {number: found.get(a) for number, a in clients.items()}, outside(nodes, facts))
        if over:
            await self._call(lambda: connections.write(over))
            self._view.exchanged["forgotten"] += len(over)
            extra = {"count": len(over), "ms": round((time.monotonic() - started) * 1000)}
            _log.info("connections that went on without this node are forgotten", extra=extra)
        return len(over)


def _client(connection: Connection) -> IPAddress:
    return IPv4Address(connection.client) if connection.address.version == 4 else IPv6Address(connection.client)
