"""Interfaces that a router's priority, or its very service, depends on."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.ipc import TrackedInterface
from tests.net.election_host import ElectionHost, Pair, Probe, router
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan",)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        pair = Pair(stack.enter_context(Lan()), tmp_path)
        stack.callback(pair.close)
        add_wan0(pair)
        yield pair


def add_wan0(pair: Pair) -> None:
    """A cable whose other end is plugged in."""
    pair.lan.run("dr1", ["ip", "link", "add", "wan0", "up", "type", "veth", "peer", "name", "beyond"])
    pair.lan.run("dr1", ["ip", "link", "set", "beyond", "up"])


def await_priority(host: ElectionHost, wanted: int) -> None:
    end = time.monotonic() + 3
    while (found := host.statistics().routers[0]).effective_priority != wanted:
        assert time.monotonic() < end, f"{found.effective_priority}; {host.log}"


@pytest.mark.parametrize(("weight", "well", "lost"), [(20, 125, 105), (-10, 105, 95), (200, 254, 105), (-254, 105, 1)])
def test_a_weight_moves_the_priority_within_its_bounds(pair: Pair, weight: int, well: int, lost: int) -> None:
    pair.dr1.configure(router(105, track_interfaces=(TrackedInterface(name="wan0", weight=weight),)))
    await_priority(pair.dr1, well)
    assert pair.dr1.statistics().routers[0].priority == 105
    pair.lan.run("dr1", ["ip", "link", "set", "wan0", "down"])
    await_priority(pair.dr1, lost)


def test_the_owner_never_moves(pair: Pair) -> None:
    pair.dr1.configure(router(255, track_interfaces=(TrackedInterface(name="nowhere", weight=-100),)))
    await_priority(pair.dr1, 255)


def test_a_better_peer_takes_over_when_a_tracked_interface_is_lost_and_gives_back(pair: Pair) -> None:
    pair.dr1.configure(router(110, track_interfaces=(TrackedInterface(name="wan0", weight=-20),)))
    pair.dr2.configure(router(100))
    pair.dr1.await_holding()
    pair.dr2.await_heard("10.0.0.11")
    pair.lan.run("dr1", ["ip", "link", "set", "wan0", "down"])
    pair.dr2.await_holding()
    pair.dr1.await_holding(False)
    pair.lan.run("dr1", ["ip", "link", "set", "wan0", "up"])
    pair.dr1.await_holding()
    pair.dr2.await_holding(False)


def test_an_interface_without_weight_takes_the_router_out_without_a_gap(pair: Pair) -> None:
    pair.dr1.configure(router(110, track_interfaces=(TrackedInterface(name="wan0"),)))
    pair.dr2.configure(router(100))
    pair.dr1.await_holding()
    pair.dr2.await_heard("10.0.0.11")
    probe = Probe(pair.lan, "client")
    with contextlib.closing(probe):
        probe.await_answer()
        begin = time.monotonic()
        pair.lan.run("dr1", ["ip", "link", "delete", "wan0"])
        pair.dr2.await_holding()
        pair.dr1.await_holding(False)
        time.sleep(0.1)
        assert probe.gap(begin) <= 0.3
    assert pair.dr1.transitions() == ["startup", "active_silent", "interface_lost"]
    assert "tracked interface wan0 is missing" in pair.dr1.statistics().routers[0].problem
    add_wan0(pair)
    pair.dr1.await_holding()
