"""Whole elections in virtual time: after every heal there is one Active, whatever happened before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.vrrp.events import State
from tests.sim.fake_lan import FENCE, FIRST_VRID, FakeLan, LogEntry, Node

pytestmark = pytest.mark.sim

DOWN = 0.4
"""Active_Down_Interval at 100 ms, for the lowest priority."""


def broken(log: list[LogEntry]) -> list[str]:
    """What in the log no node may do, whatever the network did."""
    running: dict[int, bool] = {}
    found = []
    for entry in log:
        if entry.what in ("crash", "freeze"):
            running[entry.node] = False
        elif entry.what in ("boot", "thaw"):
            running[entry.node] = True
        if entry.what in ("advert", "announce") and not running.get(entry.node, True):
            found.append(f"{entry.what} of {entry.node} at {entry.at} while it did not run")
    return found


def first_words_after_a_thaw(log: list[LogEntry], node: int) -> list[State | str]:
    words = [entry.what for entry in log if entry.node == node]
    return words[words.index("thaw") + 1 :]


def test_all_powered_on_together_elect_the_highest_within_two_intervals() -> None:
    lan = FakeLan([100, 110, 120])
    lan.run(2 * DOWN)
    assert lan.actives() == lan.holders() == [2]
    lan.run(60)
    assert [entry for entry in lan.log if entry.what is State.ACTIVE and entry.at > 2 * DOWN] == []


def test_equal_priorities_end_with_the_greater_address() -> None:
    lan = FakeLan([100, 100, 100])
    lan.run(2)
    assert lan.actives() == [2]


@pytest.mark.parametrize("seed", range(20))
def test_a_crash_is_noticed_within_the_active_down_interval(seed: int) -> None:
    lan = FakeLan([110, 100], seed=seed)
    lan.run(1 + seed / 97)
    lan.crash(0)
    lan.run(DOWN)
    assert lan.actives()[-1:] == [1]
    assert lan.holders() == [1]


def test_an_orderly_end_is_taken_over_within_the_skew_time() -> None:
    lan = FakeLan([110, 100])
    lan.run(1)
    lan.stop(0)
    lan.run(0.1)
    assert lan.holders() == [1]


def test_the_higher_priority_takes_back_when_it_returns_and_not_without_preemption() -> None:
    for preempt, expected in ((True, [0]), (False, [1])):
        lan = FakeLan([110, 100], preempt=preempt)
        lan.run(1)
        lan.crash(0)
        lan.run(1)
        lan.boot(0)
        lan.run(2)
        assert lan.actives() == expected


def test_a_backup_that_crashes_and_returns_moves_nothing() -> None:
    lan = FakeLan([110, 100, 90])
    lan.run(1)
    before = len([entry for entry in lan.log if isinstance(entry.what, State) and entry.node == 0])
    lan.crash(1)
    lan.run(5)
    lan.boot(1)
    lan.run(5)
    assert len([entry for entry in lan.log if isinstance(entry.what, State) and entry.node == 0]) == before
    assert lan.actives() == [0]


def test_a_frozen_active_is_replaced_and_says_nothing_when_it_wakes_up() -> None:
    lan = FakeLan([110, 100])
    lan.run(1)
    lan.freeze(0)
    lan.run(FENCE + 1)
    assert lan.holders() == [1]
    lan.thaw(0)
    assert first_words_after_a_thaw(lan.log, 0) == [State.BACKUP]
    lan.run(0.25)
    assert lan.holders() == [1]
    lan.run(1)
    assert lan.holders() == [0]


def test_a_split_heals_to_the_better_one_which_announces_again() -> None:
    lan = FakeLan([110, 100])
    lan.run(1)
    lan.cut(0, 1)
    lan.cut(1, 0)
    lan.run(20)
    assert lan.actives() == [0, 1]
    lan.heal()
    healed = lan.now
    lan.run(DOWN)
    assert lan.actives() == [0]
    assert [entry for entry in lan.log if entry.what == "announce" and entry.node == 0 and entry.at >= healed]


def test_a_cut_one_way_heals_too() -> None:
    for sender, receiver in ((0, 1), (1, 0)):
        lan = FakeLan([110, 100])
        lan.run(1)
        lan.cut(sender, receiver)
        lan.run(5)
        lan.heal()
        lan.run(DOWN)
        assert lan.actives() == [0]


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_some_loss_moves_nothing(loss: float) -> None:
    lan = FakeLan([110, 100], seed=7)
    lan.run(1)
    begin = len(lan.log)
    lan.loss = loss
    lan.run(60)
    assert not [entry for entry in lan.log[begin:] if isinstance(entry.what, State)]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["crash", "boot", "freeze", "thaw", "stop", "cut", "cut_both", "loss", "heal"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.floats(0.0, 3.0),
        st.floats(0.0, 0.9),
    ),
    max_size=16,
)
PRIORITIES = st.lists(st.integers(1, 255), min_size=2, max_size=4)


def priority_of(node: Node) -> int:
    return node.machine.parameters.priority


def the_active(lan: FakeLan, number: int) -> int:
    """The one node that is Active in this virtual router, and holds its address alone."""
    actives = lan.actives(number)
    priorities = [priority_of(node) for node in lan.routers[number]]
    assert len(actives) == 1, f"virtual router {number} of priorities {priorities}: Active are {actives}"
    assert lan.holders(number) == actives
    return actives[0]


def settles(lan: FakeLan) -> None:
    """All is whole: before long every virtual router has one Active, and the same one from then on. It is the best one
    as soon as that may take back what another serves: at once, or when it has failed again and again, later."""
    lan.run(4 * DOWN)
    served = [the_active(lan, number) for number in range(len(lan.routers))]
    for number, nodes in enumerate(lan.routers):
        best = max(nodes, key=lambda node: (node.machine.parameters.priority, node.number))
        if not best.machine.parameters.preempt or priority_of(nodes[served[number]]) == priority_of(best):
            continue
        damped = best.machine.damping.wait(lan.now)
        assert damped > 0, f"virtual router {number}: {served[number]} serves, and {best.number} is better"
        lan.run(damped + DOWN)
        assert the_active(lan, number) == best.number
    end = len(lan.log)
    lan.run(3 * DOWN)
    assert not [entry for entry in lan.log[end:] if isinstance(entry.what, State)], "it goes on moving"
    assert broken(lan.log) == []


@settings(deadline=None, max_examples=150)
@given(priorities=PRIORITIES, opposite=st.booleans(), steps=STEPS, seed=st.integers(0, 1000), preempt=st.booleans())
def test_whatever_happened_one_is_active_after_every_heal(
    priorities: list[int],
    opposite: bool,
    steps: list[tuple[str, int, int, float, float]],
    seed: int,
    preempt: bool,
) -> None:
    lan = FakeLan(priorities, *([priorities[::-1]] if opposite else []), seed=seed, preempt=preempt)
    for what, one, other, seconds, loss in steps:
        first, second = one % len(priorities), other % len(priorities)
        match what:
            case "cut":
                lan.cut(first, second)
            case "cut_both":
                lan.cut(first, second)
                lan.cut(second, first)
            case "loss":
                lan.loss = loss
            case "heal":
                lan.heal()
                settles(lan)
            case _:
                getattr(lan, what)(first)
        lan.run(seconds)
    lan.heal()
    settles(lan)


def test_who_fails_again_and_again_takes_back_what_another_serves_the_later_the_oftener_it_failed() -> None:
    lan = FakeLan([1, 1, 2])
    lan.run(1)
    waits = []
    for _ in range(4):
        lan.freeze(2)
        lan.run(1)
        lan.heal()
        since = lan.now
        settles(lan)
        waits.append(max(entry.at for entry in lan.log if entry.what is State.ACTIVE) - since)
    assert [round(wait) for wait in waits] == [0, 5, 10, 20]


@pytest.mark.parametrize("seed", range(10))
def test_two_virtual_routers_share_the_nodes_and_one_that_crashes_costs_each_only_what_it_held(seed: int) -> None:
    lan = FakeLan([110, 100], [100, 110], seed=seed)
    lan.run(1 + seed / 97)
    assert [lan.holders(router) for router in (0, 1)] == [[0], [1]]
    begin = len(lan.log)
    lan.crash(0)
    lan.run(DOWN)
    assert [lan.holders(router) for router in (0, 1)] == [[1], [1]]
    moved = [entry for entry in lan.log[begin:] if isinstance(entry.what, State)]
    assert {(entry.virtual_router_id, entry.node) for entry in moved} == {(FIRST_VRID, 1)}
    lan.heal()
    settles(lan)
    assert [lan.holders(router) for router in (0, 1)] == [[0], [1]]


def test_the_checker_itself_sees_a_node_that_speaks_while_frozen() -> None:
    log = [LogEntry(0.0, 1, State.ACTIVE), LogEntry(1.0, 1, "freeze"), LogEntry(1.1, 1, "advert")]
    assert broken(log) == ["advert of 1 at 1.1 while it did not run"]
