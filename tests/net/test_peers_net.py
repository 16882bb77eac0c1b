"""Real VRRP routers of others, and our election: each takes over from the other, gives back, and takes leave."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.net import keepalived
from tests.net.election_host import ElectionHost, router
from tests.net.interop import PROFILES
from tests.net.lan import Lan
from tests.net.peers import BETTER, OURS, PEER, SLACK, WORSE, Contest, Profile, Software

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters", "macvlan")


@pytest.mark.parametrize("ours_is_better", [True, False], ids=["ours is better", "the peer is better"])
@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_we_and_the_peer_replace_each_other_within_its_interval_and_ours(
    profile: Profile, ours_is_better: bool, tmp_path: Path
) -> None:
    better, worse = (OURS, PEER) if ours_is_better else (PEER, OURS)
    with Contest(profile, tmp_path, ours_is_better=ours_is_better) as contest:
        # Whoever is up first serves; the better one has its address at last.
        contest.await_active(better, 2 * profile.down(WORSE) + 2.0)

        contest.lan.cut(better)
        contest.await_takeover(worse, profile.down(WORSE) + SLACK)
        contest.lan.heal(better)
        contest.await_active(better, profile.down(BETTER) + SLACK)
        assert not any(contest.dropped().values()), contest.dropped()

        assert contest.release(better) < profile.after_release()
        contest.await_takeover(worse, SLACK)


def test_with_another_password_each_ignores_the_other_and_serves(tmp_path: Path) -> None:
    profile = Profile(software=Software.KEEPALIVED, version=2, password="1111")
    with Contest(profile, tmp_path, ours_is_better=True, our_password="2222") as contest:
        contest.await_takeover(OURS, profile.down(BETTER) + 2.0)
        contest.await_serving(PEER, profile.down(WORSE) + SLACK)
        dropped = {reason: count for reason, count in contest.dropped().items() if count}
        assert list(dropped) == ["password"], dropped
        assert contest.serves(OURS)


def test_keepalived_that_may_not_preempt_waits_for_us_with_the_same_addresses_in_another_order(tmp_path: Path) -> None:
    addresses = tuple(f"10.0.0.{number}/32" for number in (200, 201, 202))
    with Lan() as lan, contextlib.closing(ElectionHost(lan, OURS, "10.0.0.11/24", tmp_path)) as ours:
        lan.add_host(PEER, "10.0.0.12/24")
        ours.start()
        ours.configure(router(WORSE, addresses=addresses))
        ours.await_holding()
        instance = keepalived.Instance(priority=BETTER, virtual_ipaddress=addresses[::-1], nopreempt=True)
        keepalived.run(lan, PEER, tmp_path / "keepalived", instance)
        log = tmp_path / "keepalived" / "keepalived.log"
        await_true(lambda: log.exists() and "Entering BACKUP STATE" in log.read_text(), "keepalived starts", 5.0)
        time.sleep(1.0)  # many of its Active_Down_Intervals
        assert ours.holds()
        assert lan.addresses(PEER) == ["10.0.0.12/24"]
        statistics = ours.statistics()
        assert not any(statistics.dropped.values()), statistics.dropped

        ours.signal(signal.SIGTERM)
        await_true(lambda: set(addresses) <= set(lan.addresses(PEER)), "keepalived takes every address", 2.0)
        await_true(lambda: lan.addresses(OURS) == ["10.0.0.11/24"], "we let go of them", 2.0)


def await_true(condition: Callable[[], bool], what: str, limit: float) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"within {limit} s: {what}"
        time.sleep(0.02)
