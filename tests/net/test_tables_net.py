"""Every node holds the whole table, whatever the scheduler: a takeover by real agents and elections moves only the
address."""

import errno
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.net.beating import PORT, VIP, Beating, manifests
from tests.net.lan import Lan

pytestmark = pytest.mark.net
PACE = 50
"""New connections a second."""
LIMIT = 2.0
"""Seconds for what is put back; a look comes every half second, and this machine may be busy."""
PATIENCE = 0.9
"""Seconds; less than the kernel's until it sends a first packet again."""


class Client(threading.Thread):
    """New connections at a pace: when each was begun, and what became of it."""

    def __init__(self, lan: Lan) -> None:
        super().__init__(daemon=True)
        self._lan = lan
        self._end = threading.Event()
        self.seen: list[tuple[float, str]] = []
        """(monotonic time of the beginning, pod that answered or what was heard instead)"""
        self.start()

    def run(self) -> None:
        busy: dict[int, tuple[socket.socket, float]] = {}

        def over(descriptor: int, what: str) -> None:
            opened, begun = busy.pop(descriptor)
            self.seen.append((begun, what))
            opened.close()

        with self._lan.inside("client"), select.epoll() as ready:
            start, number = time.monotonic(), 0
            while not self._end.is_set() or busy:
                while not self._end.is_set() and number < (time.monotonic() - start) * PACE:
                    number += 1
                    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    busy[opened.fileno()] = opened, time.monotonic()
                    opened.connect_ex((VIP, PORT))
                    ready.register(opened.fileno(), select.EPOLLOUT)
                for descriptor, events in ready.poll(0.005):
                    try:
                        if code := busy[descriptor][0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                            over(descriptor, errno.errorcode[code])
                        elif events & select.EPOLLOUT:
                            busy[descriptor][0].send(b"x\n")
                            ready.modify(descriptor, select.EPOLLIN)
                        else:
                            over(descriptor, busy[descriptor][0].recv(64).decode().partition(" ")[0] or "closed")
                    except OSError as error:
                        over(descriptor, type(error).__name__)
                for descriptor, (_, begun) in list(busy.items()):
                    if time.monotonic() - begun > PATIENCE:
                        over(descriptor, "nothing")

    def stop(self) -> None:
        self._end.set()
        self.join()

    def between(self, since: float, until: float = float("inf")) -> Counter[str]:
        """What became of those that were begun then."""
        return Counter(what for begun, what in self.seen if since <= begun < until)


@contextmanager
def agents(folder: Path, scheduler: str, *pods: int) -> Iterator[Beating]:
    """n1 and n2 may hold the address."""
    objects = manifests(3, pods=pods, directors=(1, 2), spec=f", scheduler: {scheduler}")
    with Lan() as lan:
        made = Beating(lan, folder, objects=objects)
        try:
            for node in made.nodes:
                made.start(node)
            made.until("n1 serves", lambda: made.holds("n1"))
            made.await_tables(made.nodes, {f"n{k}": 1 for k in pods})
            yield made
        finally:
            made.close()


@pytest.fixture(params=["rr", "wlc"])
def beating(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Beating]:
    """n3 alone has a pod."""
    with agents(tmp_path, request.param, 3) as made:
        yield made


def test_what_the_guard_needs_is_put_back_and_a_new_agent_finds_it_as_it_was(tmp_path: Path) -> None:
    with agents(tmp_path, "rr", 1, 2, 3) as beating:

        def state() -> list[str]:
            commands = (["ipvsadm", "-Sn"], ["nft", "list", "table", "inet", "lvs-dr-loops"])
            return [beating.lan.run("n2", command, check=False) for command in commands]

        macs = [beating.lan.mac(node) for node in ("n1", "n3")]
        beating.until("n2 guards", lambda: all(mac in state()[1] for mac in macs))
        before, client = state(), Client(beating.lan)
        beating.lan.run("n2", ["nft", "flush", "ruleset"])
        took = beating.until("the marks are back", lambda: state() == before, 5.0)
        print(f"back after {took:.2f} s")
        assert took < LIMIT
        beating.agents["n2"].kill()
        beating.agents["n2"].wait()
        beating.start("n2")
        metric = "lvs_kernel_operations_total"
        beating.until("the agent is ready again", lambda: beating.metric("n2", "lvs_tables_in_place") == 1)
        time.sleep(1.0)
        client.stop()
        assert state() == before
        assert beating.metric("n2", metric) == 0
        seen = client.between(0.0)
        print(f"meanwhile: {dict(seen)}")
        assert set(seen) >= {"p1", "p2", "p3"}


def test_directors_without_pods_refuse_nobody_when_the_active_crashes_returns_and_hands_over(beating: Beating) -> None:
    client = Client(beating.lan)
    time.sleep(1.0)
    crashed = beating.crash("n1")
    beating.until("n2 has taken over", lambda: beating.holds("n2"), 5.0)
    taken = time.monotonic()
    time.sleep(1.0)
    beating.reboot("n1")
    beating.start("n1")
    beating.until("n1 returns", lambda: beating.holds("n1") and not beating.holds("n2"))
    time.sleep(1.0)
    handed = time.monotonic()
    beating.agents["n1"].send_signal(signal.SIGTERM)
    beating.until("n2 holds the address", lambda: beating.holds("n2") and not beating.holds("n1"), 5.0)
    time.sleep(1.0)
    client.stop()
    gap = client.between(crashed - 0.1, taken + 0.1)
    print(f"takeover after {taken - crashed:.2f} s, of what was begun meanwhile: {dict(gap)}")
    print(f"after it: {dict(client.between(taken + 0.1))}; hand-over: {dict(client.between(handed - 0.1))}")
    assert set(gap) <= {"p3", "nothing"}, "while nobody has the address nobody answers; then nobody is refused"
    assert set(client.between(0.0, crashed - PATIENCE)) == {"p3"}
    assert set(client.between(taken + 0.1)) == {"p3"}
