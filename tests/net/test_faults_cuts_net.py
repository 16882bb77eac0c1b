"""Faults of the network between directors: rows 27-30, 35 and 57 of docs/faults.md."""

import time

import pytest

from lvsagent import ipc
from tests.net.election_host import DR1, DR2, VIP, await_finding, router
from tests.net.faults import DOWN, LOSSLESS, Directors, scaled

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")

BOTH_WAYS = ("iifname dr1 oifname dr2 drop", "iifname dr2 oifname dr1 drop")
SECOND = "10.0.0.201/32"


def test_fault_27_directors_cut_from_each_other_both_serve_and_heal_to_the_better_one(directors: Directors) -> None:
    """The row asks for a cut of 60 s; here 3. Connections through both are the data path's (docs/faults.md)."""
    directors.serve()
    before, begin = directors.transitions(), time.monotonic()
    directors.rule(*BOTH_WAYS)
    directors.dr2.await_holding(timeout=10)
    time.sleep(scaled(2.5, 60))
    assert directors.dr1.holds()
    healed = time.monotonic()
    directors.unrule()
    directors.dr2.await_holding(False, timeout=10)
    assert directors.await_client_at("dr1") <= 0.3 + directors.slack(begin)
    assert directors.holdings.longest(2, healed) <= DOWN + 0.1 + directors.slack(begin)
    assert directors.probe.gap(begin) <= directors.slack(begin)
    assert directors.transitions() == [before[0], [*before[1], "active_silent", "higher_priority"]]
    time.sleep(1)
    assert directors.client_mac() == directors.lan.mac("dr1")


def test_fault_28_a_backup_that_hears_nothing_is_named_and_costs_no_client_anything(directors: Directors) -> None:
    directors.serve()
    before, begin = directors.transitions(), time.monotonic()
    directors.rule("iifname dr1 oifname dr2 drop")
    directors.dr2.await_holding(timeout=10)
    await_finding(directors.dr1, ipc.Finding.ASYMMETRIC_PEER, DR2, "priority 100", timeout=20)
    assert time.monotonic() - begin <= 5 + DOWN + 1 + directors.slack(begin)  # findings are sent once a second
    assert directors.client_mac() == directors.lan.mac("dr1"), "it answers the other's announcements"
    assert directors.probe.gap(begin) <= directors.slack(begin)
    assert directors.dr1.transitions() == before[0]


def test_fault_28_a_holder_that_hears_nothing_serves_on(directors: Directors) -> None:
    directors.serve()
    before, begin = directors.transitions(), time.monotonic()
    directors.rule("iifname dr2 oifname dr1 drop")
    time.sleep(scaled(1.5, 60))
    directors.assert_unmoved(before, begin)


def test_fault_29_lost_adverts_move_nothing(directors: Directors) -> None:
    """The row asks for 30 min at each rate; here 1.5 s. tests/sim has a million hours."""
    for percent in (1, 5, 10, 20, 30):
        loss = f"numgen random mod 100 < {percent} drop"  # of everything between any two ports
        directors.stand(lambda loss=loss: directors.rules(loss), scaled(1.5, 1800), **LOSSLESS)  # type: ignore[arg-type, misc]


def test_fault_30_bursts_shorter_than_the_down_interval_move_nothing(directors: Directors) -> None:
    """Ten adverts of every forty in a row: gaps of 220 ms, which are 60 % of the down interval."""
    directors.serve(**LOSSLESS)
    before, begin = directors.transitions(), time.monotonic()
    directors.rule("ip protocol 112 numgen inc mod 40 < 10 drop")
    received = directors.dr2.statistics().routers[0].adverts_received
    time.sleep(scaled(3, 60))
    directors.unrule()
    received = directors.dr2.statistics().routers[0].adverts_received - received
    assert received > scaled(3, 60) * 50 * 0.3, "it lost bursts, and heard the rest"
    directors.assert_unmoved(before, begin)


def test_fault_35_unicast_does_not_need_what_the_switch_drops(directors: Directors) -> None:
    """Multicast with its finding is in test_election_conflict_net.py."""
    directors.rule("ip daddr 224.0.0.18 drop")
    directors.dr1.configure(router(110, unicast_peers=(DR2,)))
    directors.dr2.configure(router(100, unicast_peers=(DR1,)))
    directors.dr1.await_holding(timeout=10)
    directors.probe.await_answer(timeout=10)
    time.sleep(0.5)
    assert not directors.dr2.holds()
    begin = time.monotonic()
    directors.lan.unplug("dr1")
    directors.dr2.await_holding(timeout=10)
    directors.probe.await_answer(timeout=10)
    assert directors.probe.gap(begin) <= DOWN + directors.slack(begin)
    # What dr1 says to an address that it cannot resolve waits in its kernel, and is heard in the next test.
    directors.lan.heal("dr1")
    directors.dr2.await_holding(False, timeout=10)


def test_fault_57_an_edited_list_or_priority_never_moves_what_is_served(directors: Directors) -> None:
    """On one director first and then on the other, in both orders: an address more, one less, other priorities."""
    directors.serve()
    before, begin = directors.transitions(), time.monotonic()
    first, second = (directors.dr1, 110), (directors.dr2, 100)
    more = (f"{VIP}/32", SECOND)
    for order in ((first, second), (second, first)):
        for addresses in (more, (f"{VIP}/32",)):
            for host, priority in order:
                host.configure(router(priority, addresses=addresses))
                time.sleep(0.4)
            assert (SECOND in directors.lan.addresses("dr1")) == (addresses == more)
    directors.dr1.configure(router(150))
    directors.dr2.configure(router(140))
    directors.dr2.configure(router(90))
    directors.dr1.configure(router(101))
    time.sleep(DOWN)
    directors.assert_unmoved(before, begin)


def test_fault_57_directors_with_different_lists_are_named(directors: Directors) -> None:
    directors.serve()
    directors.dr1.configure(router(110, addresses=(f"{VIP}/32", SECOND)))
    await_finding(directors.dr2, ipc.Finding.ADDRESS_LIST_DIFFERS, DR1, "10.0.0.201", timeout=3)
    directors.dr2.configure(router(100, addresses=(f"{VIP}/32", SECOND)))
    assert not directors.dr2.holds()
