"""A hundred nodes that beat for one another, in virtual time: every detector is the real one, every packet a coin."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from lvsagent.liveness.beat import Beat, node_id
from lvsagent.liveness.detector import Detector, Standing

TICK = 0.02
SLOTS = 5
INTERVAL = TICK * SLOTS


@dataclass(slots=True)
class Machine:
    """One node. Its kernel answers while it is up, its election runs while it is not stopped."""

    number: int
    name: str
    detector: Detector
    phase: float
    up: bool = True
    stopped_until: float = 0.0
    incarnation: int = 1
    sequence: int = 0
    ticks: int = 0
    inbox: list[tuple[int, Beat | None]] = field(default_factory=list)
    """Sender and its beat; None: an answer of its kernel."""
    suspects: frozenset[str] = frozenset()


class Nodes:
    """Nodes on a LAN that loses packets, with times in seconds."""

    def __init__(self, count: int, *, seed: int = 1, loss: float = 0.0, watched: int | None = None) -> None:
        """``watched``: only so many of them listen (all of them beat); None: all."""
        self._random = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        names = [f"node{number}" for number in range(count)]
        self.machines = [
            Machine(number, name, Detector(), self._random.uniform(0.0, INTERVAL)) for number, name in enumerate(names)
        ]
        self.listening = self.machines[: watched or count]
        for machine in self.listening:
            machine.detector.configure(name for name in names if name != machine.name)
        self.parts: list[frozenset[int]] = []
        """Who reaches whom; empty: everybody everybody."""
        self._order = itertools.count()
        self._events: list[tuple[float, int, int, Beat | None, int]] = []
        """Time, order, receiver (-1: a tick of the sender), beat, sender."""
        self.sent: Counter[str] = Counter()
        self.suspicions: list[tuple[float, str, str]] = []
        """When, who, whom; only the beginnings."""
        for machine in self.machines:
            self._push(machine.phase, -1, None, machine.number)

    def run(self, seconds: float) -> None:
        """Until then."""
        end = self.now + seconds
        while self._events[0][0] < end:
            self.now, _, receiver, beat, sender = heapq.heappop(self._events)
            if receiver < 0:
                self._tick(self.machines[sender])
            elif self.machines[receiver].up:
                self.machines[receiver].inbox.append((sender, beat))
        self.now = end

    def crash(self, number: int) -> None:
        self.machines[number].up = False
        self.machines[number].inbox.clear()

    def boot(self, number: int) -> None:
        """It comes back and serves at once; it knows nothing."""
        machine = self.machines[number]
        machine.up, machine.sequence = True, 0
        machine.incarnation += 1
        machine.detector = Detector()
        machine.detector.configure(other.name for other in self.machines if other is not machine)
        machine.suspects = frozenset()

    def stop(self, number: int, seconds: float) -> None:
        """Its election does not run for so long; its kernel keeps what arrives, and answers."""
        self.machines[number].stopped_until = self.now + seconds

    def who_suspects(self, number: int) -> int:
        """How many listeners that are up."""
        name = self.machines[number].name
        return sum(name in machine.suspects for machine in self.listening if machine.up)

    def until_all_suspect(self, number: int, limit: float = 5.0) -> float:
        begin = self.now
        others = sum(machine.up for machine in self.listening if machine.number != number)
        while self.who_suspects(number) < others:
            assert self.now - begin < limit, f"{self.who_suspects(number)} of {others}"
            self.run(0.005)
        return self.now - begin

    def wrong(self, dead: Iterable[int] = ()) -> list[tuple[float, str, str]]:
        """Suspicions of nodes that were alive."""
        names = {self.machines[number].name for number in dead}
        return [one for one in self.suspicions if one[2] not in names]

    def _tick(self, machine: Machine) -> None:
        self._push(self.now + TICK, -1, None, machine.number)
        if not machine.up or self.now < machine.stopped_until:
            return
        listens = machine.number < len(self.listening)
        if listens:
            machine.detector.wake(self.now)
            inbox, machine.inbox = machine.inbox, []
            for sender, beat in inbox:
                name = self.machines[sender].name
                if beat is None:
                    machine.detector.answered(name, self.now)
                else:
                    machine.detector.beat(name, beat, self.now)
            machine.detector.judge(self.now)
            self._note(machine)
            for name in machine.detector.to_ask(self.now)[:32]:
                self._ask(machine, self.machines[int(name.removeprefix("node"))])
        self._beat(machine)

    def _beat(self, machine: Machine) -> None:
        machine.sequence += 1
        machine.ticks += 1
        beat = Beat(node_id(machine.name), machine.incarnation, machine.sequence, INTERVAL, True)
        for other in self.listening[machine.ticks % SLOTS :: SLOTS]:
            if other is not machine:
                self.sent["beats"] += 1
                if self._arrives(machine.number, other.number):
                    self._push(self.now + self._delay(), other.number, beat, machine.number)

    def _ask(self, machine: Machine, other: Machine) -> None:
        self.sent["questions"] += 1
        there_and_back = self._arrives(machine.number, other.number) and self._arrives(other.number, machine.number)
        if other.up and there_and_back:
            self._push(self.now + self._delay() + self._delay(), machine.number, None, other.number)

    def _note(self, machine: Machine) -> None:
        now = frozenset(name for name, standing in machine.detector.standings().items() if standing is Standing.SILENT)
        self.suspicions += [(self.now, machine.name, name) for name in now - machine.suspects]
        machine.suspects = now

    def _arrives(self, sender: int, receiver: int) -> bool:
        reaches = not self.parts or any({sender, receiver} <= part for part in self.parts)
        return reaches and self._random.random() >= self.loss

    def _delay(self) -> float:
        return self._random.uniform(0.0001, 0.002)

    def _push(self, at: float, receiver: int, beat: Beat | None, sender: int) -> None:
        heapq.heappush(self._events, (at, next(self._order), receiver, beat, sender))
