"""Tells other nodes which connections to this node's pods their tables would send elsewhere, and writes what they tell.

A change of the tables, and tables of an Active node that differ, are followed by looks at the connections
(``core.agreement``), then by one now and then for as long as there are exceptions; without any there is nothing to do.
Loss is made up for by the next telling. See docs/decisions/0008.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from typing import Final, Protocol

from lvsagent.adapters import connections
from lvsagent.core import claims
from lvsagent.core.affinity import Connection, Tables, backends, local_only, suspected, to_write, unsuspected
from lvsagent.core.agreement import Looks, Others, Said
from lvsagent.core.leftovers import MOST, Look, Place, Vouchers, look
from lvsagent.core.plan import NodePlan
from lvsagent.liveness import proof
from lvsagent.liveness.beat import DropReason, node_id
from lvsagent.runtime.logs import Throttle
from lvsagent.runtime.view import View
from lvsagent.vrrp import auth
from lvsapi.model import IPAddress

TICK: Final = 0.1
"""Seconds between looks at the plan."""
AGAIN: Final = 0.4
"""Seconds after which who waits for answers asks once more."""
RETRY: Final = 1.0
"""Seconds after a failure."""
ANSWER: Final = 0.3
"""Seconds between answers to those who ask."""
PATIENCE: Final = 1.0
"""Seconds for which an answer waits until we do not suspect the asker any more: what we open meanwhile is misplaced at
it, too."""
RECEIVE_BUFFER: Final = 1 << 20
"""Octets."""
PASSES: Final = 16
"""Whose tables are followed one by one while one look is taken."""
PACE: Final = 32
"""Datagrams sent at a stretch."""

Call = Callable[[Callable[[], None]], Awaitable[None]]

_log = logging.getLogger(__name__)


class Keys(Protocol):
    """What is needed of ``election.keys.Keys``."""

    def refresh(self, now: float) -> bool: ...
    def ring(self, key: str) -> auth.KeyRing | None: ...


class Affinity(asyncio.DatagramProtocol):
    """``run`` until cancelled."""

    def __init__(
        self, *, view: View, call: Call, keys: Keys, port: int = claims.PORT, wake: Callable[[], None] = lambda: None
    ) -> None:
        """``call``: ``Worker.call``; writing must not run beside what else is done to the kernel's daemons. ``wake``:
        called when this node has heard everything that it waited for (``view.hold``)."""
        self._view = view
        self._call = call
        self._keys = keys
        self._port = port
        self._wake = wake
        self._tables = Tables()
        self._meant = Tables()
        """The same without suspicions: a node that comes back has these."""
        self._plan: NodePlan | None = None
        self._plans: deque[NodePlan] = deque(maxlen=PASSES)
        """Of the passes that the tables do not follow yet."""
        self._looks = Looks()
        self._said = Said()
        self._others = Others()
        self._vouchers = Vouchers(time.monotonic())
        self._changed = 0.0
        """When the tables last did."""
        self._asked: list[float] | None = None
        """When to ask; None: not begun."""
        self._answered = 0.0
        self._asking: dict[str, float] = {}
        """Who asks, and until when its answer may wait."""
        self._ended: set[str] = set()
        """Who has told everything, with which the inbox is not done yet."""
        self._inbox: dict[tuple[object, ...], tuple[str, Connection]] = {}
        self._proofs = proof.Proofs(node_id(view.node), auth.Clock(time.time(), time.monotonic()))
        self._transport: asyncio.DatagramTransport | None = None
        self._family = socket.AF_INET
        self._own = ""
        """Our Node's address, from which we speak."""
        self._event = asyncio.Event()
        self._throttle = Throttle()
        self.counted = view.exchanged
        self.dropped = view.exchange_dropped

    async def run(self) -> None:
        """Turn for ever. A fault is logged: what is not told is lost with the next takeover, and nothing else."""
        try:
            while True:
                try:
                    await self._turn(time.monotonic())
                except Exception as error:
                    self._complain(error)
                    await asyncio.sleep(RETRY)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK):
                        await self._event.wait()
                self._event.clear()
        finally:
            if self._transport is not None:
                self._transport.close()

    def noticed(self) -> None:
        """A pass is over. Each counts: tables may be others for a shorter time than that between two turns."""
        # Not before the kernel has the first tables: an entry for a destination that is not there belongs to nobody.
        plan = self._view.plan if self._view.actual is not None else None
        if plan is not None and plan is not self._plan:
            self._plan = plan
            self._plans.append(plan)
            self._event.set()

    async def _follow(self, now: float) -> None:
        """The tables of the passes since, one after another."""
        while self._plans:
            plan = self._plans.popleft()
            services, without = plan.state.services, local_only(self._view.resolved)
            meant = unsuspected(services, self._view.resolved)
            if self._tables.use(services, without) | self._meant.use(meant, without):
                self._changed = now
                self._looks.changed(now)
                await self._say(now)

    async def _say(self, now: float) -> None:
        """Tell the others our tables when it is time, and look when theirs are not ours."""
        digest = self._tables.digest
        if self._tables and self._said.due(digest, bool(self._view.claims.active), now):
            await self._send([claims.tables(self._view.node, digest)])
        self._compare(now)

    def _compare(self, now: float) -> None:
        self._view.differing = self._others.differing(self._tables.digest, now)
        self._looks.compared(bool(self._view.differing), now)

    async def _turn(self, now: float) -> None:
        if not self._nodes():
            return
        await self._listen()
        self._keys.refresh(now)
        self._proofs.use(self._keys.ring(proof.KEY), now)
        self.noticed()
        await self._follow(now)
        if not self._tables:
            return
        if self._asked is None:
            self._asked = [now, now + AGAIN]
        if self._asked and now >= self._asked[0]:
            del self._asked[0]
            if len(self._asked) or (self._view.hold is not None and not self._view.hold.done):
                await self._send([claims.ask(self._view.node)])
        await self._say(now)
        if self._inbox or self._ended:
            await self._write()
        asking = self._answerable(now)
        if asking or self._looks.due(now):
            await self._look()
            await self._send([claims.end(self._view.node)], asking)

    def _answerable(self, now: float) -> list[str]:
        """Who asked and is to be answered now."""
        if not self._asking or self._plan is None or now - self._answered < ANSWER:
            return []
        services, resolved = self._tables.services, self._view.resolved
        found = [
            node for node, until in self._asking.items() if now >= until or not suspected(services, resolved, node)
        ]
        for node in found:
            del self._asking[node]
        if found:
            self._answered = now
        return found

    # -- out -----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Tell the exceptions among this node's connections, and make the kernel forget what is left of others."""
        started = time.monotonic()
        local = [address for address, node in backends(self._view.resolved).items() if node == self._view.node]
        seen = await asyncio.to_thread(self._seen, local, self._place(started))
        self._looks.looked(started, time.monotonic(), seen.misplaced)
        self._note(seen.left_out)
        found, over = list(seen.told.values()), seen.over
        if found:
            await self._send(list(claims.tell(self._view.node, found)))
            self.counted["told"] += len(found) if self._targets() else 0
            milliseconds = round((time.monotonic() - started) * 1000)
            _log.info("connections told to other nodes", extra={"count": len(found), "ms": milliseconds})
        if over:
            await self._call(lambda: connections.write(over))
            self.counted["forgotten"] += len(over)
            _log.info("what was left of connections that are over is gone", extra={"count": len(over)})

    def _place(self, now: float) -> Place:
        mine, claimed, agents = self._view.node, self._view.claims, self._nodes()
        self._vouchers.forget(now)
        routers = [router for router in claimed.wish or () if router.name in claimed.active]
        return Place(
            active=claimed.held() | {ip_interface(address).ip for router in routers for address in router.addresses},
            told=frozenset(
                address for address, node in backends(self._view.resolved).items() if node != mine and node in agents
            ),
            # Who is suspected cannot tell; and where an Active node has other tables, pods' nodes tell by those, too.
            alone=self._vouchers.complete(self._changed, now)
            and not self._view.differing
            and self._meant.services == self._tables.services,
        )

    def _seen(self, local: Sequence[IPAddress], here: Place) -> Look:
        """By our tables, or by those of a node that does not suspect whom we suspect."""
        tables = [self._tables] if self._meant.services == self._tables.services else [self._tables, self._meant]
        listing = connections.Listing()
        found = look(listing, tables, self._meant, local, here, self._vouchers)
        found.left_out += listing.left_out
        return found

    def _note(self, left_out: int) -> None:
        """Say and count what was too much: it may be lost with the next takeover."""
        self.counted["left_out"] += left_out
        if left_out and self._throttle.allows("left out", time.monotonic()):
            _log.warning("more connections than one look takes: some are not told", extra={"left_out": left_out})

    async def _send(self, messages: Sequence[bytes], nodes: Sequence[str] | None = None) -> None:
        """To these nodes; None: to all."""
        if self._transport is None:
            return
        targets = [target for node, target in self._targets().items() if nodes is None or node in nodes]
        for number, encoded in enumerate(messages):
            signed = self._proofs.sign(encoded, time.time(), time.monotonic())
            for target in targets:
                self._transport.sendto(signed, target)
            if number % PACE == PACE - 1:
                await asyncio.sleep(0.002)

    # -- in ------------------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str, int, int, int]) -> None:
        """Another agent asks or tells."""
        message = claims.decode(data)
        if isinstance(message, claims.Malformed):
            self.dropped[message] += 1
            return
        senders = {node_id(name): name for name in self._nodes()}
        sender = senders.get(message.node)
        refused = self._judge(message, sender, data, addr[0])
        if refused is not None or sender is None:
            self.dropped[refused or DropReason.UNKNOWN_NODE] += 1
            if self._throttle.allows(f"dropped {refused}", time.monotonic()):
                _log.warning(
                    "a message about connections is not believed", extra={"source": addr[0], "reason": refused}
                )
        elif message.kind is claims.Kind.ASK:
            self._asking.setdefault(sender, time.monotonic() + PATIENCE)
            self._event.set()
        elif message.kind is claims.Kind.TABLES:
            self._others.heard(sender, message.digest, time.monotonic())
            self._compare(time.monotonic())
            self._event.set()
        else:
            self.counted["heard"] += len(message.claims)
            for claim in message.claims[: MOST - len(self._inbox)]:
                self._inbox[sender, *claim.flow] = (sender, claim)
            if not message.claims:
                self._ended.add(sender)
            self._event.set()

    def error_received(self, exc: Exception) -> None:
        """No route, no neighbour, a firewall: told again later."""
        self.dropped[claims.UNREACHABLE] += 1

    def _judge(self, message: claims.Message, sender: str | None, data: bytes, source: str) -> DropReason | None:
        """Why a message is not believed."""
        if sender is None:
            return DropReason.UNKNOWN_NODE
        if sender == self._view.node:
            return DropReason.SELF
        if source not in self._nodes()[sender]:
            return DropReason.SOURCE
        return self._proofs.judge(message.node, data, time.time(), time.monotonic(), length=message.length)

    async def _write(self) -> None:
        waiting, self._inbox = list(self._inbox.values()), {}
        ended, self._ended = self._ended, set()
        await self._write_claims(waiting)
        if self._view.hold is not None and any([self._view.hold.told(node) for node in ended]):
            self._wake()

    async def _write_claims(self, waiting: Sequence[tuple[str, Connection]]) -> None:
        if not waiting:
            return
        nodes = backends(self._view.resolved)
        self._vouchers.heard(
            (claim for sender, claim in waiting if nodes.get(claim.destination[0]) == sender), time.monotonic()
        )
        fresh, left_out = await asyncio.to_thread(self._fresh, waiting, nodes)
        self._note(left_out)
        if not fresh:
            return
        started = time.monotonic()
        await self._call(lambda: connections.write(fresh))
        self.counted["written"] += len(fresh)
        milliseconds = round((time.monotonic() - started) * 1000, 1)
        _log.info("connections of other nodes written", extra={"count": len(fresh), "ms": milliseconds})

    def _fresh(
        self, waiting: Sequence[tuple[str, Connection]], nodes: Mapping[IPAddress, str]
    ) -> tuple[list[Connection], int]:
        listing = connections.Listing(claim.flow for _, claim in waiting)
        return to_write(waiting, listing, self._tables, nodes), listing.left_out

    # -- who and where -------------------------------------------------------------------------------------------

    def _nodes(self) -> dict[str, tuple[str, ...]]:
        """Every node's addresses by name, as the election was told."""
        return {node.name: node.addresses for node in self._view.claims.about.nodes}

    def _targets(self) -> dict[str, tuple[str, int]]:
        """Of each other node the first address of the family that we speak."""
        version = 6 if self._family is socket.AF_INET6 else 4
        found = {}
        for name, addresses in self._nodes().items():
            usable = [address for address in addresses if ip_address(address).version == version]
            if usable and name != self._view.node:
                found[name] = (usable[0], self._port)
        return found

    async def _listen(self) -> None:
        """Open the socket; anew when our Node has another address: others believe no other, and send to no other."""
        own = (self._nodes().get(self._view.node) or (self._own or "0.0.0.0",))[0]
        if self._transport is not None and not self._transport.is_closing() and own == self._own:
            return
        if self._transport is None:
            await asyncio.to_thread(connections.clean)
        else:
            self._transport.close()
            await asyncio.sleep(0)  # Only then is the port free.
        self._transport = await self._open(own)
        self._own = own

    async def _open(self, own: str) -> asyncio.DatagramTransport:
        """Speak from the address of our Node, by which others know us, if this machine has it."""
        self._family = socket.AF_INET6 if ":" in own else socket.AF_INET
        opened = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            try:
                opened.bind((own, self._port))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                opened.bind(("::" if ":" in own else "0.0.0.0", self._port))
        except OSError:
            opened.close()
            raise
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=opened)
        return transport

    def _complain(self, error: Exception) -> None:
        self._view.exchange_errors += 1
        if self._throttle.allows(str(error), time.monotonic()):
            _log.error(
                "connections cannot be kept where the table changed; trying again",
                extra={"error": error},
                exc_info=not isinstance(error, OSError),
            )
