"""What happens to interfaces and their addresses: rows 38, 39 and 42 of docs/faults.md."""

import time

import pytest

from lvsagent import ipc
from tests.net.election_host import VIP, await_finding, router
from tests.net.faults import DOWN, LOSSLESS, Directors, scaled

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")

HELD = f"{VIP}/32"


@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_fault_38_a_flap_shorter_than_the_down_interval_moves_nothing(directors: Directors, seconds: float) -> None:
    """The row's 250 ms of outage are the flap's 200 and what follows it."""
    directors.serve(**LOSSLESS)
    before, begin = directors.transitions(), time.monotonic()
    directors.lan.run("switch", ["sh", "-c", f"ip link set dr1 down; sleep {seconds}; ip link set dr1 up"])
    time.sleep(1)
    if directors.standstill(begin) < 0.1:  # then the flap itself was as long as it should be
        assert directors.transitions() == before
        assert directors.holdings.takeovers(begin) == []
    assert directors.probe.gap(begin) <= seconds + 0.05 + directors.slack(begin)


def test_fault_38_a_long_flap_moves_the_address_once_and_back(directors: Directors) -> None:
    """The row's longest flap is 5 s; here 1.2."""
    directors.serve()
    begin = time.monotonic()
    directors.lan.unplug("dr1")
    time.sleep(scaled(1.2, 5))
    directors.lan.heal("dr1")
    directors.dr1.await_holding(timeout=10)
    directors.dr2.await_holding(False, timeout=10)
    time.sleep(0.2)
    assert directors.holdings.takeovers(begin) == ["dr2", "dr1"]
    assert directors.probe.gap(begin) <= DOWN + directors.slack(begin)


def test_fault_38_an_interface_deleted_and_made_anew_serves_again_within_a_second(directors: Directors) -> None:
    lan = directors.lan
    directors.serve()
    begin = time.monotonic()
    lan.run("dr1", ["ip", "link", "delete", "eth0"])
    peer = f"peer name eth0 netns {lan.namespace('dr1')}"
    lan.run("switch", ["sh", "-c", f"ip link add name dr1 type veth {peer}; ip link set dr1 master bridge0 up"])
    lan.run("dr1", ["sh", "-c", "ip link set eth0 up; ip address add 10.0.0.11/24 dev eth0"])
    made = time.monotonic()
    directors.dr1.await_holding(timeout=10)
    directors.dr2.await_holding(False, timeout=10)
    assert time.monotonic() - made <= 1 + directors.slack(begin)
    time.sleep(0.2)
    assert directors.probe.gap(begin) <= DOWN + directors.slack(begin)


def test_fault_38_another_mtu_is_nothing_and_another_name_is_another_interface(directors: Directors) -> None:
    """What the renamed interface still has is in test_election_conflict_net.py."""
    directors.serve()
    before, begin = directors.transitions(), time.monotonic()
    directors.lan.run("dr1", ["ip", "link", "set", "eth0", "mtu", "1400"])
    time.sleep(0.5)
    directors.assert_unmoved(before, begin)
    rename = "ip link set {0} down; ip link set {0} name {1}; ip link set {1} up"
    directors.lan.run("dr1", ["sh", "-c", rename.format("eth0", "lan0")])
    directors.dr2.await_holding(timeout=10)
    directors.lan.run("dr1", ["sh", "-c", rename.format("lan0", "eth0")])
    directors.lan.run("dr1", ["ip", "link", "set", "eth0", "mtu", "1500"])
    directors.dr1.await_holding(timeout=10)
    directors.dr2.await_holding(False, timeout=10)
    assert directors.probe.gap(begin) <= DOWN + directors.slack(begin)


def test_fault_39_a_deleted_address_is_back_at_once(directors: Directors) -> None:
    """The row asks for one a second in 60 s; here 4 in 8 s, because after 5 in 10 s another node serves."""
    directors.serve()
    before, begin = directors.transitions(), time.monotonic()
    for _ in range(round(scaled(4, 24))):
        directors.lan.run("dr1", ["ip", "address", "delete", HELD, "dev", "eth0"])
        time.sleep(scaled(0.5, 2.5))
    assert directors.dr1.holds()
    assert directors.transitions() == before
    assert directors.holdings.longest(0, begin) <= 0.05 + directors.standstill(begin)
    assert directors.probe.gap(begin) <= 0.05 + directors.slack(begin)
    assert directors.dr1.statistics().routers[0].findings == {}


def test_fault_39_a_node_where_somebody_keeps_deleting_hands_over_and_says_why(directors: Directors) -> None:
    """The row asks for 60 s; here 7 deletions, one in 0.6 s."""
    directors.serve()
    begin = time.monotonic()
    for _ in range(round(scaled(7, 60))):
        directors.lan.run("dr1", ["ip", "address", "delete", HELD, "dev", "eth0"], check=False)
        time.sleep(scaled(0.6, 1))
    await_finding(directors.dr1, ipc.Finding.ADDRESS_REMOVED, "eth0", "again and again")
    assert "address_lost" in directors.dr1.transitions()
    assert "dr2" in directors.holdings.takeovers(begin)
    assert directors.holdings.longest(0, begin) <= 0.05 + directors.standstill(begin)
    assert directors.probe.gap(begin) <= 0.05 + directors.slack(begin)


def test_fault_39_without_a_successor_it_stays_where_it_is(directors: Directors) -> None:
    directors.dr1.configure(router(110))
    directors.dr1.await_holding(timeout=10)
    directors.probe.await_answer(timeout=10)
    begin = time.monotonic()
    for _ in range(6):
        directors.lan.run("dr1", ["ip", "address", "delete", HELD, "dev", "eth0"])
        time.sleep(0.1)
    time.sleep(1.5)
    assert directors.dr1.holds()
    assert directors.dr1.statistics().routers[0].state == "Active"
    assert directors.probe.gap(begin) <= 0.05 + directors.slack(begin)


def test_fault_42_a_firewall_in_front_of_adverts_is_named_within_five_seconds(directors: Directors) -> None:
    """Incoming ones, and the same for the input hook, are in test_election_conflict_net.py."""
    directors.serve()
    rules = "table ip faults { chain c { type filter hook output priority 0; ip protocol 112 drop; }; }"
    begin = time.monotonic()
    directors.lan.run("dr1", ["nft", rules])
    try:
        await_finding(directors.dr1, ipc.Finding.ADVERT_BLOCKED, "outgoing", "eth0", timeout=10)
        assert time.monotonic() - begin <= 5 + directors.slack(begin)
    finally:
        directors.lan.run("dr1", ["nft", "delete", "table", "ip", "faults"])
