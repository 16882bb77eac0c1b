"""TCP: the connection is accepted. Thousands of times a second, so without a task and with few calls a question.

The handshake is begun and not ended: the last ACK is held back (TCP_QUICKACK off) and the socket closed with a reset
(SO_LINGER 0), as HAProxy does. The backend's kernel has said then that the port listens and has room in its queue, and
forgets us; the program behind it is not woken, accepts nothing and logs no "connection reset by peer" (an orderly close
would wake it each time for nothing, a reset after the whole handshake would look like a client that fails). No
TIME_WAIT stays here: 5,000 checks every 3 s would leave 100,000, with as many entries of conntrack for two minutes.
"""

import errno
import heapq
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

from lvsagent.checks.answer import WELL, Answer, failed, no_answer
from lvsagent.checks.errors import OURS, ours, spoken
from lvsagent.checks.schedule import Question

AT_ONCE: Final = 512
"""Sockets looked at in one turn of the loop."""

_RESET: Final = struct.pack("ii", 1, 0)
_NONBLOCKING: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_BAD: Final = select.EPOLLERR | select.EPOLLHUP


class Connector:
    """Give its ``fileno`` to the loop, and call ``ready`` when it is readable, ``expire`` now and then."""

    def __init__(self, done: Callable[[Question, Answer], None]) -> None:
        self._done = done
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, Question, float]] = {}
        self._deadlines: list[tuple[float, int]] = []

    def fileno(self) -> int:
        """Readable when a connection was accepted or refused."""
        return self._epoll.fileno()

    def ask(self, question: Question, now: float) -> None:
        """Begin. ``done`` may be called at once."""
        family = socket.AF_INET6 if question.target.address.version == 6 else socket.AF_INET
        try:
            opened = socket.socket(family, _NONBLOCKING)
        except OSError as error:
            self._done(question, ours(error))
            return
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            number = opened.connect_ex((question.host, question.port))
        except OSError as error:
            number = error.errno or errno.EINVAL
        if number != errno.EINPROGRESS:
            opened.close()
            self._done(question, self._answer(question, number))
            return
        fd = opened.fileno()
        deadline = now + question.check.timeout_ms / 1000
        self._open[fd] = (opened, question, deadline)
        self._epoll.register(fd, select.EPOLLOUT)
        heapq.heappush(self._deadlines, (deadline, fd))

    def ready(self) -> None:
        """Some were answered."""
        for fd, events in self._epoll.poll(0, AT_ONCE):
            opened, question, _ = self._open.pop(fd)
            number = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _BAD else 0
            opened.close()  # takes it out of the epoll, too
            self._done(question, self._answer(question, number))

    def next_deadline(self) -> float | None:
        """When ``expire`` has something to do."""
        while self._deadlines:
            deadline, fd = self._deadlines[0]
            entry = self._open.get(fd)
            if entry and entry[2] == deadline:
                return deadline
            heapq.heappop(self._deadlines)  # answered; the number may belong to another socket by now
        return None

    def expire(self, now: float) -> None:
        """End what took too long."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            opened, question, _ = self._open.pop(heapq.heappop(self._deadlines)[1])
            opened.close()
            self._done(question, no_answer(question.check, question.target))

    def close(self) -> None:
        """Drop everything."""
        for opened, _, _ in self._open.values():
            opened.close()
        self._open.clear()
        self._epoll.close()

    @staticmethod
    def _answer(question: Question, number: int) -> Answer:
        if number == 0:
            return WELL
        if number in OURS:
            return ours(OSError(number, ""))
        return failed(question.check, question.target, spoken(number))
