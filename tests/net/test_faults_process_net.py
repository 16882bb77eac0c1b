"""Faults of nodes and processes: rows 1-7, 61 and 62 of docs/faults.md (row 5 needs a whole machine: see there)."""

import signal
import threading
import time

import pytest

from tests.net.election_host import ElectionHost, router
from tests.net.faults import DOWN, FULL, LOSSLESS, Directors, gratuitous, is_advert, scaled
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")


def of(lan: Lan, host: str) -> bytes:
    return bytes.fromhex(lan.mac(host).replace(":", ""))


def test_fault_01_a_holder_that_loses_power_is_replaced_within_the_down_interval(directors: Directors) -> None:
    """The row asks for 100 runs (p99 of 400 ms); here are 2, `make bench` has them and the exact figures."""
    for _ in range(round(scaled(2, 100))):
        directors.serve()
        sniffer = directors.lan.sniff("client")
        begin = time.monotonic()
        directors.lan.unplug("dr1")
        announced = [
            at for at, frame in sniffer.frames(2.2) if gratuitous(frame) and frame[6:12] == of(directors.lan, "dr2")
        ]
        offsets = [at - announced[0] for at in announced]
        for wanted in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0):
            assert any(wanted - 0.02 <= offset <= wanted + directors.slack(begin) for offset in offsets), offsets
        assert directors.dr2.holds()
        assert directors.probe.gap(begin) <= DOWN + directors.slack(begin)
        sniffer.close()
        directors.reset()


def test_fault_02_a_backup_that_loses_power_is_missed_by_nobody(directors: Directors) -> None:
    """The row asks for 60 s; here 3."""
    directors.serve()
    before, begin = directors.transitions(), time.monotonic()
    directors.lan.unplug("dr2")
    time.sleep(scaled(2, 60))
    directors.lan.heal("dr2")
    time.sleep(1)
    directors.assert_unmoved([before[0], directors.dr2.transitions()], begin)


@pytest.mark.parametrize("after", [0.0, 0.05])
def test_fault_03_a_killed_agent_leaves_a_gap_that_no_client_notices(directors: Directors, after: float) -> None:
    """The row asks for 1000 random moments: these are in tests/sim; here are 2."""
    directors.serve()
    begin = time.monotonic()
    time.sleep(after)
    directors.dr1.signal(signal.SIGKILL)
    directors.dr2.await_holding(timeout=10)
    directors.dr1.await_holding(False, timeout=10)
    directors.probe.await_answer(timeout=10)
    assert directors.probe.gap(begin) <= 0.05 + directors.slack(begin)
    assert directors.holdings.longest(2, begin) <= 2.5 + directors.standstill(begin)
    assert directors.holdings.longest(0, begin) <= 0.05 + directors.standstill(begin)


def test_fault_03_a_killed_agent_that_is_started_at_once_adopts_what_it_left(directors: Directors) -> None:
    directors.serve()
    directors.lan.run("dr2", ["ip", "link", "set", "eth0", "down"])
    begin = time.monotonic()
    directors.dr1.signal(signal.SIGKILL)
    directors.dr1.start()
    wait_for_state(directors.dr1, "Active")
    time.sleep(0.3)
    assert directors.probe.gap(begin) <= 0.05 + directors.slack(begin)
    assert directors.holdings.takeovers(begin) == [], "it never went away"
    directors.lan.run("dr2", ["ip", "link", "set", "eth0", "up"])


def wait_for_state(host: ElectionHost, state: str) -> None:
    end = time.monotonic() + 5
    while host.statistics().routers[0].state != state:
        assert time.monotonic() < end, host.log


def test_fault_04_a_frozen_holder_is_replaced_and_says_nothing_stale_when_it_wakes(directors: Directors) -> None:
    directors.serve()
    begin = time.monotonic()
    directors.dr1.signal(signal.SIGSTOP)
    directors.dr2.await_holding(timeout=10)
    directors.dr1.await_holding(False, timeout=10)
    assert directors.holdings.longest(2, begin) <= 2.5 + directors.standstill(begin)
    sniffer = directors.lan.sniff("dr1")
    mac = of(directors.lan, "dr1")
    directors.dr1.signal(signal.SIGCONT)
    time.sleep(0.25)
    frames = [frame for _, frame in sniffer.frames()]
    sniffer.close()
    heard = [index for index, frame in enumerate(frames) if is_advert(frame) and frame[6:12] != mac]
    said = [
        index for index, frame in enumerate(frames) if frame[6:12] == mac and (is_advert(frame) or gratuitous(frame))
    ]
    assert not said or said[0] > heard[1], "it listens first, as a Backup does"
    assert "late_timer" in directors.dr1.transitions()
    directors.dr1.await_holding(timeout=10)  # it has the higher priority, and is well again
    assert directors.probe.gap(begin) <= DOWN + directors.slack(begin)


@pytest.mark.parametrize("loss", [0, 30])
def test_fault_06_an_orderly_end_hands_over_before_it_lets_go(directors: Directors, loss: int) -> None:
    """The row asks for 50 ms, and for 100 ms in 99 of 100 with 30 % loss: tests/sim has the hundred."""
    if loss:
        directors.rule(f"ip protocol 112 numgen random mod 100 < {loss} drop")
    directors.serve(**LOSSLESS)
    begin = time.monotonic()
    directors.dr1.signal(signal.SIGTERM)
    assert directors.dr1.process is not None
    assert directors.dr1.process.wait(3) == 0
    assert directors.dr2.holds()
    time.sleep(0.1)
    assert directors.probe.gap(begin) <= (0.1 if loss else 0.05) + directors.slack(begin)
    assert directors.holdings.longest(0, begin) <= 0.05 + directors.standstill(begin)


def test_fault_61_powered_on_together_they_elect_one(directors: Directors) -> None:
    """The row asks for 20 cold starts; here are 1 of the processes and 3 of the routers. tests/sim has 1000."""
    for attempt in range(round(scaled(4, 20))):
        if attempt < (20 if FULL else 1):
            for host in directors.hosts:
                host.signal(signal.SIGKILL)
                assert host.process is not None
                host.process.wait()
            directors.reset()
        threads = [
            threading.Thread(target=host.configure, args=(router(priority),))
            for host, priority in zip(directors.hosts, (110, 100), strict=True)
        ]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        directors.dr1.await_holding(timeout=10)
        time.sleep(DOWN)
        assert directors.dr1.holds()
        assert not directors.dr2.holds()
        assert directors.holdings.longest(2, begin) <= 0.1 + directors.standstill(begin)
        directors.reset()


def test_fault_62_a_node_that_flaps_is_left_alone(directors: Directors) -> None:
    """The row asks for 10 min of 5 s up and 5 s down: tests/sim has them; here 4 flaps of 0.7 s and 1 s."""
    directors.serve()
    begin = time.monotonic()
    for _ in range(round(scaled(4, 60))):
        directors.lan.unplug("dr1")
        time.sleep(scaled(0.7, 5))
        directors.lan.heal("dr1")
        time.sleep(scaled(1, 5))
    assert len(directors.holdings.takeovers(begin)) <= 4
    assert directors.dr2.holds()
    assert directors.probe.gap(begin) <= DOWN + directors.slack(begin)
