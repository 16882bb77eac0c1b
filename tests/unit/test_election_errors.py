"""What the kernel does not give the election at some moment: it lives without, and asks again."""

import _thread
import errno
import os
import resource
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lvsagent import ipc
from lvsagent.election import beats as module
from lvsagent.election import macvlan, netlink, wire
from lvsagent.election.beats import RETRY, Beats
from lvsagent.election.netlink import Address, Link, NetlinkError
from lvsagent.election.server import Server
from lvsagent.election.wire import Wire
from lvsagent.vrrp import auth

pytestmark = pytest.mark.unit

ETH0 = Link(index=2, name="eth0", mac=bytes(6), up=True, running=True)
OWN = Address(index=2, address=bytes((10, 0, 0, 11)), prefix_length=24, scope=0, flags=netlink.IFA_F_PERMANENT)
FENCED = Address(index=2, address=bytes((10, 0, 0, 200)), prefix_length=32, scope=0, flags=netlink.IFA_F_NOPREFIXROUTE)
PLACE = ("eth0", 4)


def no(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Lines(list[str]):
    def __call__(self, sentence: str, **_fields: object) -> None:
        self.append(sentence)


@dataclass
class Kernel:
    """Answers, or fails with these errors first."""

    errors: list[OSError] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    """Kinds of requests."""
    port: int = 0

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def links(self) -> list[Link]:
        self._fail()
        return [ETH0]

    def addresses(self) -> list[Address]:
        return [OWN, FENCED]

    def request(self, kind: int, _flags: int, _body: bytes) -> None:
        self.asked.append(kind)
        if len(self.asked) > 1:
            self._fail()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def epoll() -> Iterator[select.epoll]:
    with select.epoll() as opened:
        yield opened


@pytest.fixture
def opened(kernel: Kernel, epoll: select.epoll) -> Iterator[Wire]:
    found = Wire(kernel, epoll)  # type: ignore[arg-type]
    yield found
    found.close()


def test_links_and_addresses_that_cannot_be_read_stay_as_they_were(opened: Wire, kernel: Kernel) -> None:
    kernel.errors = [no(errno.ENOBUFS)]
    opened.watch([PLACE], [PLACE])
    assert (opened.link("eth0"), opened.trouble) == (None, str(no(errno.ENOBUFS)))
    opened.refresh()
    assert (opened.link("eth0"), opened.trouble) == (ETH0, "")
    kernel.errors = [TimeoutError("timed out")]
    opened.refresh()
    assert opened.link("eth0") == ETH0
    assert opened.trouble
    assert opened.source(PLACE, frozenset(), b"", link_local=False) == OWN.address
    assert opened.foreign(2) == [OWN]
    assert opened.fenced == {(2, FENCED.address, 32)}


class Opened:
    """A socket of whatever kind."""

    def __init__(self, *_arguments: object) -> None:
        self._one, self._other = socket.socketpair()
        self.index, self.mac, self.source = 2, bytes(6), OWN.address
        self.closed = False

    def fileno(self) -> int:
        return self._one.fileno()

    def close(self) -> None:
        self.closed = True
        self._one.close()
        self._other.close()


class Full:
    """An epoll that takes no more."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self.full = True

    def register(self, *arguments: Any) -> None:
        if self.full:
            raise no(errno.ENOSPC)
        self._epoll.register(*arguments)

    def unregister(self, number: int) -> None:
        self._epoll.unregister(number)


def test_a_socket_that_nobody_would_be_woken_up_for_does_not_count_as_open(
    opened: Wire, epoll: select.epoll, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Opened] = []

    def make(*arguments: object) -> Opened:
        made.append(Opened(*arguments))
        return made[-1]

    for kind in ("AdvertSocket", "ArpSocket"):
        monkeypatch.setattr(wire, kind, make)
    full = Full(epoll)
    opened._epoll = full  # type: ignore[assignment]
    for attempt in (lambda: opened.open_adverts(PLACE, 2, b""), lambda: opened.open_neighbors(PLACE, ETH0)):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            attempt()
    assert all(each.closed for each in made)
    assert (opened.adverts, opened.neighbors) == ({}, {})
    full.full = False
    assert opened.open_adverts(PLACE, 2, OWN.address) is made[-1]  # type: ignore[comparison-overlap]
    assert opened.open_adverts(PLACE, 2, OWN.address) is made[-1]  # type: ignore[comparison-overlap]


def test_a_tap_is_closed_here_where_no_thread_can_be_started(opened: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    tap = Opened()
    opened.register(tap)
    monkeypatch.setattr(_thread, "start_new_thread", fail)
    opened.unregister(tap)
    assert tap.closed


def test_a_macvlan_that_was_half_made_is_taken_away(kernel: Kernel) -> None:
    """Found again it would be used without its settings: it would answer ARP for every address of the node."""
    kernel.errors = [NetlinkError(errno.ENOMEM, os.strerror(errno.ENOMEM))]
    with pytest.raises(NetlinkError):
        macvlan.make(kernel, "vrrp4.51", 2, bytes(6))  # type: ignore[arg-type]
    assert kernel.asked == [netlink.RTM_NEWLINK, netlink.RTM_NEWLINK, netlink.RTM_DELLINK]


def test_a_macvlan_that_is_gone_at_once_is_an_error_of_the_kernel(opened: Wire) -> None:
    opened.watch([PLACE], [PLACE], ["vrrp4.51"])
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        opened.macvlan("vrrp4.51", ETH0, bytes(6))


def test_without_a_descriptor_to_turn_a_client_away_with_the_socket_is_stuck_and_nothing_ends(tmp_path: Path) -> None:
    """The spare one went to somebody else in the moment in which it was free."""
    log = Lines()
    server = Server(tmp_path / "election.sock", log)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        client.connect(str(tmp_path / "election.sock"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # below the spare one: it cannot be had back
        assert server.accept() is None
        assert server.accept() is None
        assert server.stuck
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert server.accept() is not None
        assert not server.accept()
        assert not server.stuck
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
        server.close()


def test_kernels_are_asked_as_soon_as_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor at the first attempt. The sockets that could be opened stay meanwhile."""
    log, errors = Lines(), [no(errno.EMFILE)] * 2

    class Echo:
        def __init__(self) -> None:
            if errors:
                raise errors.pop()

        def answers(self) -> Iterator[tuple[bytes, str]]:
            return iter(())

        def close(self) -> None:
            pass

    monkeypatch.setattr(module, "Echo", Echo)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    found = Beats(rings=lambda _key: None, clock=auth.Clock(0.0, 0.0), log=log, port=port)
    nodes = (
        ipc.PeerNode(name="n1", addresses=("127.0.0.1",)),
        ipc.PeerNode(name="n2", addresses=("127.0.0.2",)),
    )
    found.configure(ipc.Configure(generation=1, routers=(), node="n1", nodes=nodes), 100.0)
    sockets = dict(found._sockets)
    assert found._echo is None
    found.turn(100.0 + RETRY)
    found.turn(100.0 + 2 * RETRY)
    assert found._echo is not None
    assert found._sockets == sockets
    assert len([line for line in log if "cannot be asked" in line]) == 1
    found.close(111.0)
