"""The process around the engine: one thread that waits for the wire, the agent, a signal or the next deadline."""

import contextlib
import math
import select
import socket
import time
from pathlib import Path
from typing import Final

from lvsagent import ipc
from lvsagent.election import handoff, permission
from lvsagent.election.beats import Beats
from lvsagent.election.engine import Engine
from lvsagent.election.fence import Fence
from lvsagent.election.keys import Keys
from lvsagent.election.log import Log
from lvsagent.election.netlink import Rtnetlink
from lvsagent.election.server import Server
from lvsagent.election.wire import Wire
from lvsagent.election.wish import Keeper, WishStore
from lvsagent.vrrp import auth

FLOOD: Final = 1000.0
"""Refused adverts and claims of addresses a second that are served one by one."""
HOT: Final = 50.0
"""Those beyond, until they are let gather."""
GATHER: Final = 0.002
"""Seconds; a good advert is heard so much later then."""
STATISTICS: Final = 1.0
"""Seconds between Statistics."""
LATE: Final = 0.25
"""Of the advertisement interval; a timer that fires later than this is counted."""
NOTICE: Final = 0.03
"""Seconds in which the notices of a restart leave."""
FAREWELL: Final = 1.1
"""Seconds for which an orderly end goes on serving until a successor is heard."""
KEEPING: Final = 0.5
"""Seconds for which the last wish may still be on its way to the disk."""


def clock() -> float:
    """Seconds; never set, and counts while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Loop:
    """The process, minus its command line."""

    def __init__(
        self,
        *,
        server: Server,
        store: WishStore,
        keys: Keys,
        run_folder: Path,
        log: Log,
        realtime: bool,
        memory_locked: bool,
        beat_port: int,
    ) -> None:
        self._server = server
        self._store = store
        self._keeper = Keeper(store)
        self._run_folder = run_folder
        self._log = log
        self._realtime = realtime
        self._memory_locked = memory_locked
        self._started = time.time()
        self._epoll = select.epoll()
        self._epoll.register(server.fileno(), select.EPOLLIN)
        self._netlink = Rtnetlink()
        self._wire = Wire(self._netlink, self._epoll)
        wall = auth.Clock(time.time(), clock())
        if lacking := permission.lacking(self._netlink):
            log("no virtual router can run", reason=lacking)
        self._beats = Beats(rings=keys.ring, clock=wall, log=log, port=beat_port)
        self._engine = Engine(
            wire=self._wire,
            fence=Fence(self._netlink, log),
            keys=keys,
            clock=wall,
            log=log,
            report=server.send,
            failures=handoff.started(run_folder, clock(), log),
            lacking=lacking,
        )
        self._turned_off = False
        """The server's socket wakes nobody up: it is stuck."""
        self._generation = -1
        self._confirmed = True
        self._unasked = 0
        self._heat = 0.0
        self._cooled = 0.0
        self._late_timers = 0
        self._lateness = 0.0
        self._next_statistics = 0.0

    def run(self, wakeup: socket.socket) -> None:
        """Until a byte arrives at ``wakeup`` (a signal), and orderly afterwards."""
        self._epoll.register(wakeup.fileno(), select.EPOLLIN)
        self._engine.resume(handoff.take(self._run_folder, clock(), self._log))
        if (kept := self._store.load()) is not None:
            self._log("runs by the wish kept on disk", routers=len(kept.routers))
            self._engine.configure(kept, clock())
            self._beats.configure(kept, clock())
        while wakeup.fileno() not in self._turn():
            pass
        self._epoll.unregister(wakeup.fileno())
        self._beats.leave(clock())
        suspended = self._engine.suspend(clock())
        self._log("ends; the addresses are handed over", restarts=len(suspended))
        self._engine.end(clock(), suspended)
        notice, end = clock() + NOTICE, clock() + FAREWELL
        while (suspended and clock() < notice) or (self._engine.serving_on and clock() < end):
            self._turn(notice if clock() < notice else end)
        self._engine.close(clock(), suspended)
        self._beats.close(clock())
        handoff.ended(self._run_folder)
        if suspended:
            handoff.leave(self._run_folder, suspended, self._log)
        self._keeper.wait(KEEPING)
        self._server.close()
        self._wire.close()
        self._netlink.close()
        self._epoll.close()

    def _turn(self, end: float | None = None) -> set[int]:
        """Wait for the next thing to do and do it. Returns the file descriptors that were ready."""
        moments = [self._engine.deadline, self._beats.deadline, self._next_statistics]
        deadline = min(*moments, end if end is not None else math.inf)
        # epoll waits for whole milliseconds, rounded up.
        ready = {number for number, _ in self._epoll.poll(max(0.0, deadline - clock()))}
        now = clock()
        self._count_lateness(now)
        self._engine.turn(ready, now)
        self._say(self._beats.turn(now))
        self._let_gather(now)
        self._serve(ready, now)
        if not self._confirmed and self._engine.in_force:
            self._confirmed = True
            self._server.send(ipc.Configured(generation=self._generation))
        if now >= self._next_statistics:
            self._next_statistics = now + STATISTICS
            if self._server.clients:
                self._server.send(self._statistics())
            self._lateness = 0.0
            self._server.stuck = False
        if self._server.stuck is not self._turned_off:
            with contextlib.suppress(OSError):
                self._epoll.modify(self._server.fileno(), 0 if self._server.stuck else select.EPOLLIN)
                self._turned_off = self._server.stuck
        for client in self._server.clients:
            try:
                self._epoll.modify(client.fileno(), select.EPOLLIN | (select.EPOLLOUT if client.unsent else 0))
            except OSError:
                self._server.drop(client)
        return ready

    def _let_gather(self, now: float) -> None:
        """In a flood of adverts that are refused, or of claims, do not wake up for each: they gather while we sleep."""
        fresh, self._unasked = self._engine.unasked - self._unasked, self._engine.unasked
        self._heat = max(0.0, self._heat - FLOOD * (now - self._cooled)) + fresh
        self._cooled = now
        if self._heat > HOT:
            self._heat = HOT
            time.sleep(max(0.0, min(GATHER, self._engine.deadline - clock())))

    def _serve(self, ready: set[int], now: float) -> None:
        if self._server.fileno() in ready and (fresh := self._server.accept()) is not None:
            try:
                self._epoll.register(fresh.fileno(), select.EPOLLIN)
            except OSError:  # nobody would be woken up for it; it will come again
                self._server.drop(fresh)
            else:
                self._server.send(self._statistics(), (fresh,))
                self._server.send(self._beats.liveness, (fresh,))
        for client in self._server.clients:
            if client.fileno() not in ready:
                continue
            self._server.flush(client)
            for wish in self._server.receive(client):
                self._engine.configure(wish, now)
                self._say(self._beats.configure(wish, now))
                self._keeper.save(wish)
                self._generation = wish.generation
                self._confirmed = False

    def _say(self, liveness: ipc.Liveness | None) -> None:
        if liveness is not None:
            self._server.send(liveness)

    def _statistics(self) -> ipc.Statistics:
        return ipc.Statistics(
            started=self._started,
            generation=self._generation,
            routers=self._engine.statistics(clock()),
            dropped=dict(self._engine.dropped),
            late_timers=self._late_timers,
            lateness_max_ms=round(self._lateness * 1000, 3),
            realtime=self._realtime,
            memory_locked=self._memory_locked,
            beats_sent=self._beats.sent,
            beats_received=self._beats.received,
            beats_dropped=dict(self._beats.dropped),
            beat_errors=self._beats.errors,
            nodes_mute=self._beats.mute,
            sockets=self._wire.inodes(),
        )

    def _count_lateness(self, now: float) -> None:
        for router in self._engine.routers.values():
            if (deadline := router.machine.deadline) is not None and now > deadline:
                self._lateness = max(self._lateness, now - deadline)
                self._late_timers += now - deadline > LATE * router.machine.parameters.interval
