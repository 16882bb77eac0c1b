"""Who is heard and who is told: unicast, known directors, foreign ones, and what is noticed about them."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent import ipc
from tests.net.election_host import CLIENT, DR1, DR2, VIP, VIP6, ElectionHost, Pair, await_finding, router, router6
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        pair = Pair(stack.enter_context(Lan()), tmp_path)
        stack.callback(pair.close)
        yield pair


def of(host: ElectionHost) -> ipc.RouterStatistics:
    return host.statistics().routers[0]


def test_unicast_adverts_reach_the_peers_and_nobody_else(pair: Pair) -> None:
    sniffer = pair.lan.sniff("client")
    pair.dr1.configure(router(110, unicast_peers=(DR2,)))
    pair.dr2.configure(router(100, unicast_peers=(DR1,)))
    pair.dr1.await_holding()
    pair.dr2.await_holding(False)
    time.sleep(0.5)
    assert of(pair.dr2).active_address == DR1
    adverts = [frame for _, frame in sniffer.frames(0.0) if frame[12:14] == b"\x08\0" and frame[23] == 112]
    assert {frame[30:34] for frame in adverts} <= {socket.inet_aton(DR1), socket.inet_aton(DR2)}
    pair.lan.cut("dr1")
    pair.dr2.await_holding(timeout=1)


def test_unicast_hears_peers_only(pair: Pair) -> None:
    pair.dr1.configure(router(110, unicast_peers=(DR2,)))
    pair.dr1.await_holding()
    pair.forge(200)
    pair.forge(200, to=DR1)
    await_finding(pair.dr1, ipc.Finding.FOREIGN_ROUTER, CLIENT, "priority 200")
    assert pair.dr1.statistics().dropped["source"] == 2
    assert pair.dr1.transitions() == ["startup", "active_silent"]


def test_a_router_without_peers_does_not_run_and_says_so(pair: Pair) -> None:
    pair.dr1.configure(router(110, unicast_peers=()))
    assert "unicast_peers: none" in of(pair.dr1).problem
    time.sleep(0.5)
    assert not pair.dr1.holds()
    pair.dr1.configure(
        router(110, unicast_peers=(DR2,)), router(90, name="b", virtual_router_id=52, addresses=("10.0.0.210/32",))
    )
    pair.dr1.await_holding()
    assert [each.state for each in pair.dr1.statistics().routers] == ["Active", "Active"]


@pytest.mark.parametrize(("one", "other"), [("fe80::11", "fe80::12"), ("fd00::11", "fd00::12")])
def test_unicast_for_ipv6_comes_from_the_kind_of_address_that_the_peers_have(pair: Pair, one: str, other: str) -> None:
    pair.dr1.configure(router6(110, unicast_peers=(other,)))
    pair.dr2.configure(router6(100, unicast_peers=(one,)))
    end = time.monotonic() + 3
    while of(pair.dr2).active_address != one:
        assert time.monotonic() < end, pair.dr2.log
    assert pair.dr1.holds(f"{VIP6}/128")
    assert not any(pair.dr2.statistics().dropped.values())


def test_adverts_of_others_than_the_directors_are_foreign(pair: Pair) -> None:
    pair.dr1.configure(router(110, sources=(DR2,)))
    pair.dr2.configure(router(100, sources=(DR1,)))
    pair.dr1.await_holding()
    pair.forge(255)
    await_finding(pair.dr1, ipc.Finding.FOREIGN_ROUTER, CLIENT, "priority 255")
    await_finding(pair.dr2, ipc.Finding.FOREIGN_ROUTER, CLIENT, "priority 255")
    assert pair.dr1.transitions() == ["startup", "active_silent"]
    assert pair.dr2.transitions() == ["startup"]


def test_another_list_and_another_interval_are_taken_and_named(pair: Pair) -> None:
    pair.dr1.configure(router(110, addresses=(f"{VIP}/32", "10.0.0.201/32"), advertisement_interval_ms=200))
    pair.dr2.configure(router(100))
    pair.dr1.await_holding()
    await_finding(pair.dr2, ipc.Finding.ADDRESS_LIST_DIFFERS, f"{DR1} has {VIP} 10.0.0.201, this node {VIP}")
    await_finding(pair.dr2, ipc.Finding.INTERVAL_DIFFERS, f"{DR1} announces 200 ms, this node 100 ms")
    assert not pair.dr2.holds()
    assert of(pair.dr1).findings == {}
