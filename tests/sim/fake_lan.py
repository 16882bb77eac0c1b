"""A LAN in virtual time: routers that run the real state machine, links that lose, delay and are cut.

Adverts cross it as bytes of the real codec. A seed decides everything; nothing sleeps.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from lvsagent.vrrp.events import (
    Acquire,
    Announce,
    Event,
    Parameters,
    Received,
    Reconfigure,
    Release,
    SendAdvert,
    Shutdown,
    Startup,
    State,
    StateChanged,
    Tick,
)
from lvsagent.vrrp.machine import VirtualRouter
from lvsagent.vrrp.packet import GROUP_V4, Advertisement, decode, encode

VIP = bytes((10, 0, 0, 200))
"""Of the first virtual router; the next ones follow."""
FIRST_VRID = 51
FENCE = 2.4
"""Seconds after which the kernel has taken the address of a node that does not renew it."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a node did, and when (seconds)."""

    at: float
    node: int
    what: State | str
    """A new state, ``crash``, ``boot``, ``freeze``, ``thaw``, ``advert`` or ``announce``."""
    virtual_router_id: int = FIRST_VRID


@dataclass(slots=True)
class Node:
    """A director, as far as one virtual router is concerned."""

    number: int
    machine: VirtualRouter
    up: bool = True
    """Not crashed."""
    frozen: bool = False
    """The process does not run; the kernel does."""
    held_until: float = 0.0
    """While Active and running: for ever; else when the kernel takes the address."""
    inbox: list[Advertisement] = field(default_factory=list)
    """Arrived while frozen."""

    def holds(self, now: float) -> bool:
        """Does its kernel answer for the VIP?"""
        running = self.up and not self.frozen and self.machine.state is State.ACTIVE
        return running or (self.up and now < self.held_until)

    @property
    def source(self) -> bytes:
        return self.machine.parameters.source

    @property
    def virtual_router_id(self) -> int:
        return self.machine.parameters.virtual_router_id


class FakeLan:
    """Nodes 0..n-1; node i has the priority given for it. ``further``: those of more virtual routers on the same nodes
    and cables. Times are virtual seconds."""

    def __init__(
        self,
        priorities: list[int],
        *further: list[int],
        seed: int = 0,
        interval: float = 0.1,
        preempt: bool = True,
        send_interval: float | None = None,
    ) -> None:
        self.now = 0.0
        self.loss = 0.0
        self.log: list[LogEntry] = []
        self.cuts: set[tuple[int, int]] = set()
        """(from, to): frames of the first do not reach the second."""
        self._random = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._interval = interval
        self.routers = [
            [
                Node(
                    number,
                    VirtualRouter(
                        Parameters(
                            virtual_router_id=FIRST_VRID + router,
                            priority=priority,
                            interval=interval,
                            addresses=(bytes((*VIP[:3], VIP[3] + router)),),
                            source=bytes((10, 0, 0, 11 + number)),
                            preempt=preempt,
                            send_interval=send_interval,
                        )
                    ),
                )
                for number, priority in enumerate(one)
            ]
            for router, one in enumerate((priorities, *further))
        ]
        """By virtual router, then by node."""
        self.nodes = self.routers[0]
        self._every = [node for router in self.routers for node in router]
        for node in self._every:
            self.give(node, Startup())

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            due = [
                deadline
                for node in self._every
                if node.up and not node.frozen and (deadline := node.machine.deadline) is not None
            ]
            moment = min([*due, *(at for at, _, _ in self._queue[:1]), end])
            self.now = max(self.now, moment)
            if moment >= end:
                return
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for node in self._every:
                if node.up and not node.frozen:
                    deadline = node.machine.deadline
                    if deadline is not None and deadline <= self.now:
                        self.give(node, Tick())

    def give(self, node: Node, event: Event) -> None:
        """An event for the node's machine; what it answers happens."""
        for output in node.machine.handle(event, self.now):
            match output:
                case SendAdvert(priority, interval, addresses):
                    if priority > 0:
                        self._note(node, "advert")
                    self._multicast(node, priority, interval, addresses)
                case Acquire():
                    pass
                case Release():
                    node.held_until = 0.0
                case Announce():
                    self._note(node, "announce")
                case StateChanged(_, state, _):
                    self._note(node, state)

    def crash(self, number: int) -> None:
        """The whole node stops; nothing of it answers."""
        for node in self._of(number):
            node.up, node.frozen, node.held_until = False, False, 0.0
            node.inbox.clear()
            self._note(node, "crash")

    def boot(self, number: int) -> None:
        """The node comes back and knows nothing."""
        for node in self._of(number):
            if not node.up:
                node.up = True
                node.machine = VirtualRouter(node.machine.parameters)
                self._note(node, "boot")
                self.give(node, Startup())

    def freeze(self, number: int) -> None:
        """The process stops (SIGSTOP); its kernel goes on, with the address until its lifetime ends."""
        for node in self._of(number):
            if node.up and not node.frozen:
                node.frozen = True
                node.held_until = self.now + FENCE if node.machine.state is State.ACTIVE else 0.0
                self._note(node, "freeze")

    def thaw(self, number: int) -> None:
        """The process goes on, with what arrived meanwhile: like the engine, its own timers first."""
        thawed = [node for node in self._of(number) if node.up and node.frozen]
        for node in thawed:
            node.frozen = False
            node.held_until = 0.0
            self._note(node, "thaw")
            if node.machine.state is State.ACTIVE:
                self.give(node, Tick())
        for node in thawed:
            arrived, node.inbox = node.inbox, []
            for advert in arrived:
                self.give(node, Received(advert))

    def stop(self, number: int) -> None:
        """An orderly end of the process, which waits for nobody."""
        running = [node for node in self._of(number) if node.up and not node.frozen]
        for node in running:
            self.give(node, Shutdown())
        if running:
            self.crash(number)

    def leave(self, number: int) -> None:
        """An orderly end of the process, which serves on until a successor is heard. Initialize says that it ended."""
        for node in self._of(number):
            if node.up and not node.frozen:
                self.give(node, Shutdown(patience=1.0))

    def stand_by(self, number: int, standby: bool = True) -> None:
        """The node is drained, or serves again."""
        for node in self._of(number):
            if node.up and not node.frozen:
                self.give(node, Reconfigure(replace(node.machine.parameters, standby=standby)))

    def cut(self, sender: int, receiver: int) -> None:
        """One way."""
        self.cuts.add((sender, receiver))

    def heal(self) -> None:
        """Every cable whole, no loss, every node up and running."""
        self.cuts.clear()
        self.loss = 0.0
        for node in self.nodes:
            self.thaw(node.number)
            self.boot(node.number)

    def holders(self, router: int = 0) -> list[int]:
        """Nodes whose kernel answers for the VIP now."""
        return [node.number for node in self.routers[router] if node.holds(self.now)]

    def actives(self, router: int = 0) -> list[int]:
        """Nodes that are Active, running or not."""
        return [node.number for node in self.routers[router] if node.machine.state is State.ACTIVE]

    def _of(self, number: int) -> list[Node]:
        """What runs on a node."""
        return [router[number] for router in self.routers]

    def _note(self, node: Node, what: State | str) -> None:
        self.log.append(LogEntry(self.now, node.number, what, node.virtual_router_id))

    def _multicast(self, sender: Node, priority: int, interval: float, addresses: tuple[bytes, ...]) -> None:
        payload = encode(
            Advertisement(
                virtual_router_id=sender.virtual_router_id,
                priority=priority,
                interval=round(interval * 100),
                addresses=addresses,
                source=sender.source,
            )
        )
        for receiver in self.nodes:
            lost = self._random.random() < self.loss or (sender.number, receiver.number) in self.cuts
            if receiver.number == sender.number or lost:
                continue
            at = self.now + self._random.uniform(0.0001, 0.002)
            arrival: Callable[[], None] = partial(self._arrive, receiver.number, sender.source, payload)
            heapq.heappush(self._queue, (at, next(self._order), arrival))

    def _arrive(self, number: int, source: bytes, payload: bytes) -> None:
        """Every router's adverts reach every node; there the VRID says for whom they are."""
        advert = decode(payload, source=source, destination=GROUP_V4, hop_limit=255)
        assert isinstance(advert, Advertisement)
        node = self.routers[advert.virtual_router_id - FIRST_VRID][number]
        if node.frozen:
            node.inbox.append(advert)
        elif node.up:
            self.give(node, Received(advert))
