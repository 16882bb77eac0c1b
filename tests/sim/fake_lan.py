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
FENCE = 2.4
"""Seconds after which the kernel has taken the address of a node that does not renew it."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a node did, and when (seconds)."""

    at: float
    node: int
    what: State | str
    """A new state, ``crash``, ``boot``, ``freeze``, ``thaw``, ``advert`` or ``announce``."""


@dataclass(slots=True)
class Node:
    """A director."""

    number: int
    machine: VirtualRouter
    up: bool = True
    """Not crashed."""
    frozen: bool = False
    """The process does not run; the kernel does."""
    held_until: float = 0.0
    """While Active and running: for ever; else when the kernel takes the address."""
    inbox: list[bytes] = field(default_factory=list)
    """Arrived while frozen."""

    def holds(self, now: float) -> bool:
        """Does its kernel answer for the VIP?"""
        running = self.up and not self.frozen and self.machine.state is State.ACTIVE
        return running or (self.up and now < self.held_until)

    @property
    def source(self) -> bytes:
        return self.machine.parameters.source


class FakeLan:
    """Nodes 0..n-1; node i has the priority given for it. Times are virtual seconds."""

    def __init__(
        self,
        priorities: list[int],
        *,
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
        self.nodes = [
            Node(
                number,
                VirtualRouter(
                    Parameters(
                        virtual_router_id=51,
                        priority=priority,
                        interval=interval,
                        addresses=(VIP,),
                        source=bytes((10, 0, 0, 11 + number)),
                        preempt=preempt,
                        send_interval=send_interval,
                    )
                ),
            )
            for number, priority in enumerate(priorities)
        ]
        for node in self.nodes:
            self.give(node, Startup())

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            due = [
                deadline
                for node in self.nodes
                if node.up and not node.frozen and (deadline := node.machine.deadline) is not None
            ]
            moment = min([*due, *(at for at, _, _ in self._queue[:1]), end])
            self.now = max(self.now, moment)
            if moment >= end:
                return
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for node in self.nodes:
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
                        self.log.append(LogEntry(self.now, node.number, "advert"))
                    self._multicast(node, priority, interval, addresses)
                case Acquire():
                    pass
                case Release():
                    node.held_until = 0.0
                case Announce():
                    self.log.append(LogEntry(self.now, node.number, "announce"))
                case StateChanged(_, state, _):
                    self.log.append(LogEntry(self.now, node.number, state))

    def crash(self, number: int) -> None:
        """The whole node stops; nothing of it answers."""
        node = self.nodes[number]
        node.up, node.frozen, node.held_until = False, False, 0.0
        node.inbox.clear()
        self.log.append(LogEntry(self.now, number, "crash"))

    def boot(self, number: int) -> None:
        """The node comes back and knows nothing."""
        node = self.nodes[number]
        if not node.up:
            node.up = True
            node.machine = VirtualRouter(node.machine.parameters)
            self.log.append(LogEntry(self.now, number, "boot"))
            self.give(node, Startup())

    def freeze(self, number: int) -> None:
        """The process stops (SIGSTOP); its kernel goes on, with the address until its lifetime ends."""
        node = self.nodes[number]
        if node.up and not node.frozen:
            node.frozen = True
            node.held_until = self.now + FENCE if node.machine.state is State.ACTIVE else 0.0
            self.log.append(LogEntry(self.now, number, "freeze"))

    def thaw(self, number: int) -> None:
        """The process goes on, with what arrived meanwhile: like the engine, its own timers first."""
        node = self.nodes[number]
        if node.up and node.frozen:
            node.frozen = False
            node.held_until = 0.0
            self.log.append(LogEntry(self.now, number, "thaw"))
            if node.machine.state is State.ACTIVE:
                self.give(node, Tick())
            arrived, node.inbox = node.inbox, []
            for payload in arrived:
                self._receive(node, payload)

    def stop(self, number: int) -> None:
        """An orderly end of the process, which waits for nobody."""
        node = self.nodes[number]
        if node.up and not node.frozen:
            self.give(node, Shutdown())
            self.crash(number)

    def leave(self, number: int) -> None:
        """An orderly end of the process, which serves on until a successor is heard. Initialize says that it ended."""
        node = self.nodes[number]
        if node.up and not node.frozen:
            self.give(node, Shutdown(patience=1.0))

    def stand_by(self, number: int, standby: bool = True) -> None:
        """The node is drained, or serves again."""
        node = self.nodes[number]
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

    def holders(self) -> list[int]:
        """Nodes whose kernel answers for the VIP now."""
        return [node.number for node in self.nodes if node.holds(self.now)]

    def _multicast(self, sender: Node, priority: int, interval: float, addresses: tuple[bytes, ...]) -> None:
        payload = encode(
            Advertisement(
                virtual_router_id=51,
                priority=priority,
                interval=round(interval * 100),
                addresses=addresses,
                source=sender.source,
            )
        )
        for receiver in self.nodes:
            lost = self._random.random() < self.loss or (sender.number, receiver.number) in self.cuts
            if receiver is sender or lost:
                continue
            at = self.now + self._random.uniform(0.0001, 0.002)
            arrival: Callable[[], None] = partial(self._arrive, receiver, sender.source + payload)
            heapq.heappush(self._queue, (at, next(self._order), arrival))

    def _arrive(self, node: Node, framed: bytes) -> None:
        if node.frozen:
            node.inbox.append(framed)
        elif node.up:
            self._receive(node, framed)

    def _receive(self, node: Node, framed: bytes) -> None:
        advert = decode(framed[4:], source=framed[:4], destination=GROUP_V4, hop_limit=255)
        assert isinstance(advert, Advertisement)
        self.give(node, Received(advert))
