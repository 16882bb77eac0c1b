"""Faults of docs/faults.md with the row's own numbers, in virtual time: rows 1-6, 27-30, 39, 61 and 62."""

import random

import pytest

from lvsagent.vrrp.events import Cause, Received, Resign, Shutdown, Startup, State, StateChanged, Tick
from tests.sim.fake_lan import FENCE, FakeLan
from tests.sim.test_loss_sim import FAST, HOURS, SAFE, Profile, false_takeovers

pytestmark = pytest.mark.sim


def lan_of(profile: Profile, seed: int, *priorities: int) -> FakeLan:
    """A LAN that has come to rest, at a moment that the seed chooses."""
    lan = FakeLan(list(priorities), seed=seed, interval=profile.interval, send_interval=profile.spacing)
    lan.run(2 + random.Random(seed).random())
    assert lan.holders() == [0]
    return lan


def watch(lan: FakeLan, seconds: float, step: float = 0.001) -> tuple[float, float]:
    """Seconds of the longest time in which nobody held the VIP, and in which several did, meanwhile."""
    longest, current = [0.0, 0.0], [0.0, 0.0]
    for _ in range(round(seconds / step)):
        lan.run(step)
        holders = len(lan.holders())
        for index, broken in enumerate((holders == 0, holders > 1)):
            current[index] = current[index] + step if broken else 0.0
            longest[index] = max(longest[index], current[index])
    return longest[0], longest[1]


def changes(lan: FakeLan, since: int) -> list[tuple[int, State | str]]:
    return [(entry.node, entry.what) for entry in lan.log[since:] if isinstance(entry.what, State)]


@pytest.mark.parametrize(("profile", "limit"), [(SAFE, 0.4), (FAST, 0.27)])
def test_fault_01_a_hundred_power_cuts_cost_no_more_than_the_down_interval_each(profile: Profile, limit: float) -> None:
    for seed in range(100):
        lan = lan_of(profile, seed, 254, profile.priority)
        lan.crash(0)
        nobody, several = watch(lan, 0.5)
        assert nobody <= min(limit, profile.down + 0.002)
        assert several == 0
        assert lan.holders() == [1]


def test_fault_02_a_backup_that_loses_power_moves_nothing_for_a_minute() -> None:
    lan = lan_of(SAFE, 1, 110, 100)
    since = len(lan.log)
    lan.crash(1)
    lan.run(60)
    assert changes(lan, since) == []


def test_fault_03_a_thousand_kills_at_random_moments_leave_no_gap_and_no_second_holder_for_long() -> None:
    for seed in range(1000):
        lan = lan_of(SAFE, seed, 110, 100)
        lan.freeze(0)  # the process; its kernel keeps the address until its lifetime ends
        killed, nobody, takeover = lan.now, 0.0, 0.0
        while lan.now < killed + 3:
            lan.run(0.02)
            nobody += 0.02 * (lan.holders() == [])
            takeover = takeover or (lan.now if 1 in lan.holders() else 0.0)
        assert nobody == 0
        assert takeover - killed <= SAFE.down + 0.02
        assert lan.holders() == [1], "the kernel took the address within FENCE"
    assert FENCE <= 2.5


@pytest.mark.parametrize("seconds", [0.5, 1, 6, 30])
def test_fault_04_a_thawed_process_listens_before_it_says_anything(seconds: float) -> None:
    for seed in range(50):
        lan = lan_of(SAFE, seed, 110, 100)
        lan.freeze(0)
        lan.run(seconds)
        since = len(lan.log)
        lan.thaw(0)
        said = [entry for entry in lan.log[since:] if entry.node == 0]
        assert [entry.what for entry in said] == ["thaw", State.BACKUP], "no advert, no announcement"
        lan.run(3 * SAFE.interval)
        assert not [entry for entry in lan.log[since:] if entry.node == 0 and entry.what in ("advert", "announce")]


@pytest.mark.parametrize("seconds", [1, 5, 30])
def test_fault_05_a_machine_that_was_paused_gives_way_before_it_says_anything(seconds: float) -> None:
    """Its kernel was paused too, so that it still has the address when it wakes: until its election runs."""
    for seed in range(50):
        lan = lan_of(SAFE, seed, 110, 100)
        node = lan.nodes[0]
        lan.freeze(0)
        lan.run(seconds)
        assert lan.holders() == [1] or seconds < FENCE
        node.held_until = lan.now + FENCE
        node.inbox.clear()  # what came meanwhile reached nobody
        since = len(lan.log)
        assert lan.holders() == [0, 1]
        lan.thaw(0)
        assert lan.holders() == [1]
        assert [entry.what for entry in lan.log[since:] if entry.node == 0] == ["thaw", State.BACKUP]


@pytest.mark.parametrize(("loss", "allowed"), [(0.0, 0), (0.3, 1)])
def test_fault_06_of_a_hundred_orderly_ends_none_is_noticed(loss: float, allowed: int) -> None:
    """50 ms; at 30 % loss 100 ms in 99 of 100."""
    slow = 0
    for seed in range(100):
        lan = lan_of(SAFE, seed, 110, 100)
        lan.loss = loss
        lan.leave(0)
        nobody, _ = watch(lan, 1.5, 0.005)
        slow += nobody > (0.1 if loss else 0.05)
        assert 1 in lan.holders()
    assert slow <= allowed


def test_fault_27_after_a_minute_apart_the_better_one_serves_alone() -> None:
    for seed in range(20):
        lan = lan_of(SAFE, seed, 110, 100)
        lan.cut(0, 1)
        lan.cut(1, 0)
        lan.run(60)
        assert lan.holders() == [0, 1]
        healed = lan.now
        lan.heal()
        _, several = watch(lan, 1.0)
        assert several <= SAFE.down + 0.1
        words = [entry.node for entry in lan.log if entry.what == "announce" and healed <= entry.at <= healed + 0.3]
        assert words, "clients of the loser learn of it"
        assert words[-1] == 0, "the winner has the last word"


@pytest.mark.parametrize(("sender", "receiver", "holders"), [(0, 1, [0, 1]), (1, 0, [0])])
def test_fault_28_a_cut_one_way_never_leaves_the_clients_alone(sender: int, receiver: int, holders: list[int]) -> None:
    lan = lan_of(SAFE, 1, 110, 100)
    lan.cut(sender, receiver)
    nobody, _ = watch(lan, 60, 0.01)
    assert nobody == 0
    assert lan.holders() == holders
    lan.heal()
    lan.run(1)
    assert lan.holders() == [0]


@pytest.mark.parametrize("percent", [1, 5, 10, 20, 30])
def test_fault_29_half_an_hour_at_each_rate_of_loss_moves_nothing(percent: int) -> None:
    lan = lan_of(SAFE, percent, 110, 100)
    lan.loss = percent / 100
    since = len(lan.log)
    lan.run(1800)
    assert changes(lan, since) == []


@pytest.mark.parametrize("profile", [SAFE, FAST])
def test_fault_29_a_million_hours_at_30_percent_move_it_less_than_once_in_a_thousand(profile: Profile) -> None:
    """More of it in test_loss_sim.py."""
    assert false_takeovers(profile, HOURS, random.Random(29)) / HOURS <= 1e-3


@pytest.mark.parametrize("profile", [SAFE, FAST])
def test_fault_30_bursts_jitter_and_duplicates_below_the_down_interval_move_nothing(profile: Profile) -> None:
    """An hour: gaps of up to 60 % of the down interval, delays of 0-40 ms that reorder, a tenth twice."""
    dice = random.Random(30)
    machine, advert = profile.listener(), profile.advert
    arrivals, sent = [], 0.0
    while sent < 3600:
        sent += profile.spacing + (dice.uniform(0.1, 0.6 * profile.down) if dice.random() < 0.01 else 0.0)
        arrivals += [sent + dice.uniform(0, 0.04) for _ in range(2 if dice.random() < 0.1 else 1)]
    for arrival in sorted(arrivals):
        assert machine.deadline is not None
        assert machine.deadline > arrival, f"it would have taken over at {machine.deadline}"
        machine.handle(Received(advert), arrival)
    assert machine.state is State.BACKUP
    silent = machine.deadline
    assert silent is not None
    outputs = machine.handle(Tick(), silent)
    assert StateChanged(State.BACKUP, State.ACTIVE, Cause.ACTIVE_SILENT) in outputs


def test_fault_61_a_thousand_cold_starts_elect_one() -> None:
    for seed in range(1000):
        dice = random.Random(seed)
        lan = FakeLan([110, 100, 90], seed=seed)
        for node in lan.nodes:
            lan.crash(node.number)
        for number in dice.sample(range(3), 3):
            lan.run(dice.uniform(0, 0.1))
            lan.boot(number)
        started = len(lan.log)
        _, several = watch(lan, 2 * SAFE.down, 0.01)
        assert lan.holders() == [0]
        assert several <= 0.1
        assert changes(lan, started).count((0, State.ACTIVE)) == 1


def test_fault_62_a_node_that_flaps_for_ten_minutes_moves_the_address_four_times_at_most() -> None:
    lan = lan_of(SAFE, 62, 110, 100)
    since = len(lan.log)
    flapping = lan.nodes[0]
    for _ in range(60):
        lan.give(flapping, Shutdown(Cause.INTERFACE_LOST))
        lan.cut(0, 1)
        lan.cut(1, 0)
        lan.run(5)
        lan.cuts.clear()
        lan.give(flapping, Startup())
        lan.run(5)
    takeovers = [node for node, what in changes(lan, since) if what is State.ACTIVE]
    assert len(takeovers) <= 4, takeovers
    assert lan.holders() == [1]
    lan.run(301)
    assert lan.holders() == [0], "it returns when it is well for long"


def test_fault_39_an_active_whose_addresses_are_taken_hands_over_and_waits_longer_each_time() -> None:
    lan = lan_of(SAFE, 39, 110, 100)
    for wait in (0.0, 5.0, 10.0):
        lan.give(lan.nodes[0], Resign(Cause.ADDRESS_LOST))
        nobody, _ = watch(lan, 0.3)
        assert nobody == 0
        assert lan.holders() == [1]
        if wait:
            lan.run(wait - 0.5)
            assert lan.holders() == [1]
        lan.run(1.5)
        assert lan.holders() == [0]
