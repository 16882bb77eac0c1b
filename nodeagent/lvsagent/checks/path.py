"""Checks of type Path: does this backend take what IPVS would send it, and is it silent about the address?

docs/health.md says what is asked of which backend, and what is not.
"""

import asyncio
import errno
import secrets
import socket
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from lvsagent.adapters.netlink import NetlinkError
from lvsagent.checks.answer import WELL, Answer, failed, port_of
from lvsagent.checks.errors import OURS, spoken
from lvsagent.checks.messages import Target
from lvsagent.checks.path_claims import Watch
from lvsagent.checks.path_packets import TCP, UDP, Flow, encapsulated
from lvsagent.checks.path_packets import Answer as Packet
from lvsagent.checks.path_question import Question, Result, Way, answers_for, reason
from lvsagent.checks.path_routes import Link, Neighbor, Route, Routes, link, listens, look_for
from lvsagent.checks.path_wire import Wire
from lvsapi.health import CheckType, HealthCheck
from lvsapi.ipvs import IPIP, Forwarding
from lvsapi.model import Protocol

SHARE: Final = 0.9
"""Of the check's time: then it says itself what was missing, before it is ended."""
SHARED: Final = 1.0
"""Seconds for which it is known of a node that it takes an address: all its pods are asked about at different times."""
LINGER: Final = 1.0
"""Seconds after a repeated question in which its late answer is reset, too."""
LOOK: Final = 0.02
"""Seconds between looks whether the kernel has found a MAC."""

_NUMBERS: Final = {Protocol.TCP: TCP, Protocol.UDP: UDP}
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """To one target, as found out."""

    target: Target
    virtual: IPv4Address | IPv6Address
    port: int
    route: Route
    link: Link
    neighbor: Neighbor

    @property
    def way(self) -> Way:
        tunnel = self.target.forwarding is Forwarding.TUNNEL
        return Way(
            virtual=str(self.virtual),
            port=self.port,
            protocol=str(self.target.protocol),
            method=f"{(self.target.tunnel or IPIP).type} tunnel" if tunnel else "direct routing",
            interface=self.link.name,
            mac="" if tunnel else self.neighbor.mac.hex(":"),
            node="" if tunnel else self.target.through,
        )


def _port(check: HealthCheck, target: Target) -> int:
    """Of the virtual address; of a range the one that the check names. 0: none."""
    return target.virtual_port if target.port else check.port or 0


def _looked_at(task: asyncio.Task[Result]) -> None:
    """Whoever began it may have been ended meanwhile; the next one asks anew."""
    if not task.cancelled():
        task.exception()


class Paths:
    """Its ``check`` is the checker. For one event loop; sockets are opened when they are needed first."""

    def __init__(self) -> None:
        self._routes: Routes | None = None
        self._wires: dict[int, Wire] = {}
        self._watch: Watch | None = None
        self._nodes: dict[tuple[int, bytes, bytes], tuple[float, asyncio.Task[Result]]] = {}
        self._lingering: set[ExitStack] = set()

    def close(self) -> None:
        """May be called twice."""
        for _, task in self._nodes.values():
            task.cancel()
        self._nodes.clear()
        for stack in tuple(self._lingering):
            stack.close()
        for part in (self._routes, self._watch, *self._wires.values()):
            if part is not None:
                part.close()
        self._wires.clear()
        self._routes = self._watch = None

    async def check(self, check: HealthCheck, target: Target) -> Answer:
        """One question. Raises OSError."""
        deadline = asyncio.get_running_loop().time() + SHARE * check.timeout_ms / 1000
        if target.virtual_address is None:
            return Answer(ok=False, ours=True, reason=f"{target.name}: there is no virtual address to ask for")
        try:
            whys = await self._whys(check, target, target.virtual_address, deadline)
        except PermissionError as error:
            text = f"paths cannot be asked for ({error}): give lvs-agent the capability NET_RAW"
            return Answer(ok=False, ours=True, reason=text)
        return failed(check, target, "; ".join(whys)) if whys else WELL

    async def _whys(
        self, check: HealthCheck, target: Target, virtual: IPv4Address | IPv6Address, deadline: float
    ) -> list[str]:
        """What is wrong."""
        if self._routes is None:
            self._routes = Routes()
        try:
            route = self._routes.to(target.address)
        except NetlinkError as error:
            return [f"this node has no route to {target.address}: {spoken(error.errno or errno.ENETUNREACH)}"]
        if route.local:
            return self._here(check, target, virtual)
        where = link(route.index)
        path = _Path(
            target=target,
            virtual=virtual,
            port=_port(check, target),
            route=route,
            link=where,
            neighbor=await self._neighbor(route, where, target, deadline),
        )
        answered, claimed = await asyncio.gather(
            self._answers(path, check, deadline), self._claims(path, check, deadline), return_exceptions=True
        )
        for result in (answered, claimed):
            if isinstance(result, BaseException):
                raise result
        whys = [answered] if isinstance(answered, str) and answered else []
        return [*whys, answers_for(path.way)] if claimed else whys

    # -- the host itself ---------------------------------------------------------------------------------------------

    def _here(self, check: HealthCheck, target: Target, virtual: IPv4Address | IPv6Address) -> list[str]:
        """A backend that is this node: its kernel delivers what arrives for the address. Asking by a packet would mean
        asking our own IPVS."""
        masqueraded = target.forwarding is Forwarding.MASQUERADE
        address = target.address if masqueraded else virtual
        port = port_of(check, target) if masqueraded else _port(check, target)
        if not port or target.protocol not in _NUMBERS or listens(address, port, target.protocol):
            return []
        way = Way(virtual=str(address), port=port, protocol=str(target.protocol))
        return [f"nothing listens at {way.place} on this node: let the server listen there or on all addresses"]

    # -- packets to the virtual address ------------------------------------------------------------------------------

    async def _neighbor(self, route: Route, where: Link, target: Target, deadline: float) -> Neighbor:
        """The next hop's MAC, asked for by the kernel when it is not known or old."""
        assert self._routes is not None
        loop = asyncio.get_running_loop()
        found = self._routes.neighbor(route)
        if not where.ethernet or found.fresh:
            return found
        look_for(target.address)
        while not found.mac and loop.time() < deadline:
            await asyncio.sleep(LOOK)
            found = self._routes.neighbor(route)
        return found

    async def _answers(self, path: _Path, check: HealthCheck, deadline: float) -> str:
        """Why the backend gets nothing; empty: it does."""
        target = path.target
        if target.forwarding is Forwarding.MASQUERADE:
            return await self._connects(target, port_of(check, target), deadline)
        if path.link.ethernet and not path.neighbor.mac:
            kind = "ARP" if path.virtual.version == 4 else "neighbour solicitations"
            hop = socket.inet_ntop(socket.AF_INET if len(path.route.hop) == 4 else socket.AF_INET6, path.route.hop)
            return f"nobody answers {kind} for {hop} on {path.link.name}: is the host up and on this LAN?"
        if target.through and target.forwarding is Forwarding.DIRECT_ROUTING:
            result = await self._node(path, deadline)
        else:
            result = await self._ask(path, check, deadline)
        why = reason(path.way, result)
        if not why and (target.through or result is Result.HANDS_ON):
            why = await self._connects(target, port_of(check, target), deadline)
        return why

    async def _node(self, path: _Path, deadline: float) -> Result:
        """One question serves all pods of a node; what was wrong is asked again each time."""
        loop = asyncio.get_running_loop()
        key = (path.route.index, path.neighbor.mac, path.virtual.packed)
        now = loop.time()
        self._nodes = {k: (at, t) for k, (at, t) in self._nodes.items() if not t.done() or now - at < SHARED}
        _, task = self._nodes.get(key, (0.0, None))
        if task is None or (
            task.done() and (task.cancelled() or task.exception() or task.result() is not Result.ACCEPTS)
        ):
            task = loop.create_task(self._ask(path, HealthCheck(type=CheckType.PATH), deadline))
            task.add_done_callback(_looked_at)
            self._nodes[key] = (now, task)
        return await asyncio.shield(task)

    async def _ask(self, path: _Path, check: HealthCheck, deadline: float) -> Result:
        """Packets to the virtual address by the way that IPVS takes."""
        loop = asyncio.get_running_loop()
        target = path.target
        tunnel = target.tunnel or IPIP
        wire = self._wire(len(path.virtual.packed), loop)
        family = socket.AF_INET if path.virtual.version == 4 else socket.AF_INET6
        number = _NUMBERS.get(target.protocol, 0) if path.port else 0
        through = bool(target.through) and target.forwarding is Forwarding.DIRECT_ROUTING
        stack = ExitStack()
        try:
            # The port is ours while it is bound: nobody else's connection is mistaken for this.
            kind = socket.SOCK_DGRAM if number == UDP else socket.SOCK_STREAM
            held = stack.enter_context(socket.socket(family, kind))
            source = self._source(path)
            held.bind((source, 0))
            flow = Flow(
                source=socket.inet_pton(family, source),
                port=held.getsockname()[1],
                virtual=path.virtual.packed,
                virtual_port=path.port,
                protocol=number,
            )
            question = Question(
                flow=flow,
                begun=loop.time(),
                seconds=max(0.0, deadline - loop.time()),
                number=secrets.randbits(32),
                ping_only=through or not number,
                payload=check.payload,
                expect=check.expect,
            )
            news = asyncio.Event()

            def send(packets: list[bytes]) -> None:
                for packet in packets:
                    if target.forwarding is Forwarding.TUNNEL:
                        wire.send_by_tunnel(encapsulated(packet, tunnel), tunnel, str(target.address))
                    else:
                        wire.send(packet, path.link.name, path.neighbor.mac)

            def heard(packet: Packet) -> None:
                with suppress(OSError):  # what cannot be sent now is told by the next step
                    send(question.heard(packet, loop.time()))
                news.set()

            # A server of UDP that does not care which address it was asked at answers from its own.
            froms = (flow.virtual, target.address.packed) if number == UDP else (flow.virtual,)
            for virtual in froms:
                wire.listen((flow.source, flow.port, virtual), number == UDP, heard)
                stack.callback(wire.forget, (flow.source, flow.port, virtual))
            while True:
                send(question.step(loop.time()))
                if question.result is not None:
                    break
                news.clear()
                try:
                    async with asyncio.timeout_at(question.deadline):
                        await news.wait()
                except TimeoutError:
                    continue
            if question.repeated:
                self._linger(stack.pop_all(), loop)
            return question.result
        finally:
            stack.close()

    def _linger(self, stack: ExitStack, loop: asyncio.AbstractEventLoop) -> None:
        def end() -> None:
            self._lingering.discard(stack)
            stack.close()

        self._lingering.add(stack)
        loop.call_later(LINGER, end)

    def _wire(self, size: int, loop: asyncio.AbstractEventLoop) -> Wire:
        if size not in self._wires:
            self._wires[size] = Wire(size, loop)
        return self._wires[size]

    def _source(self, path: _Path) -> str:
        """This node's own address towards the backend."""
        source = path.route.source
        if not source or source == path.virtual.packed or len(source) != len(path.virtual.packed):
            raise OSError(
                errno.EADDRNOTAVAIL,
                f"this node has no address of its own on {path.link.name} to ask {path.virtual} from",
            )
        return socket.inet_ntop(socket.AF_INET if len(source) == 4 else socket.AF_INET6, source)

    async def _connects(self, target: Target, port: int, deadline: float) -> str:
        """An ordinary connection to the backend's own address; what else there is of UDP says nothing."""
        if target.protocol is not Protocol.TCP or not port:
            return ""
        loop = asyncio.get_running_loop()
        shown = Way(virtual=str(target.address), port=port, protocol=str(target.protocol)).place
        family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            try:
                async with asyncio.timeout_at(deadline):
                    await loop.sock_connect(opened, (str(target.address), port))
            except TimeoutError:
                return f"nothing answers {shown}: does a firewall or a NetworkPolicy keep this node from it?"
            except OSError as error:
                if error.errno in OURS:
                    raise
                if error.errno == errno.ECONNREFUSED:
                    return f"nothing listens at {shown}: name the port that the server listens on (targetPort)"
                return f"{shown}: {spoken(error.errno or errno.EIO)}"
        return ""

    # -- ARP and Neighbour Discovery ---------------------------------------------------------------------------------

    async def _claims(self, path: _Path, check: HealthCheck, deadline: float) -> bool:
        """Whether the backend's host says on the link that the virtual address is there."""
        target = path.target
        if target.director or target.forwarding is Forwarding.MASQUERADE:
            return False
        if not path.link.ethernet or not path.neighbor.mac:
            return False
        if not path.route.on_link and not target.through:
            return False  # the next hop is a router, which is none of ours
        if self._watch is None:
            self._watch = Watch(asyncio.get_running_loop())
        return await self._watch.claims(
            path.route.index,
            path.link,
            path.virtual.packed,
            path.neighbor.mac,
            interval=check.interval_ms / 1000,
            deadline=deadline,
        )
