"""A hundred nodes: how soon a dead one is found, how often a living one is suspected, and what that costs."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.fake_beats import Nodes

pytestmark = pytest.mark.sim

FOUND = 0.35
"""Seconds."""


def test_every_one_of_a_hundred_nodes_finds_a_dead_one_in_time_and_blames_nobody_else() -> None:
    nodes = Nodes(100)
    nodes.run(1.0)
    nodes.crash(42)
    assert nodes.until_all_suspect(42) <= FOUND
    nodes.run(1.0)
    assert nodes.wrong(dead=[42]) == []
    nodes.boot(42)
    nodes.run(0.5)
    assert nodes.who_suspects(42) == 0


def test_each_node_sends_and_hears_ten_packets_a_second_for_each_other_one_and_no_more() -> None:
    nodes = Nodes(100)
    nodes.run(1.0)
    nodes.sent.clear()
    nodes.run(1.0)
    assert nodes.sent["beats"] == pytest.approx(100 * 99 * 10, rel=0.05)
    assert nodes.sent["questions"] == 0


@pytest.mark.parametrize(
    ("loss", "most"), [(0.0, 0.0), (0.01, 0.0), (0.05, 0.0), (0.1, 1e-4), (0.2, 2e-4), (0.3, 2e-3)]
)
def test_lost_packets_make_few_wrong_suspicions_and_delay_no_right_one(loss: float, most: float) -> None:
    nodes = Nodes(100, loss=loss, watched=20, seed=7)
    nodes.run(10.0)
    pair_seconds = 20 * 99 * 10.0
    rate = len(nodes.wrong()) / pair_seconds
    print(f"loss {loss:.0%}: {len(nodes.wrong())} wrong suspicions, {rate:.1e} for each pair and second")
    assert rate <= most
    nodes.crash(99)
    assert nodes.until_all_suspect(99) <= FOUND


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_of_three_nodes_a_dead_one_is_found_although_one_other_alone_tells_that_we_are_not_cut_off(loss: float) -> None:
    took = []
    for seed in range(40):
        nodes = Nodes(3, seed=seed, loss=loss)
        nodes.run(1.0 + seed * 0.0137)
        nodes.crash(2)
        took.append(nodes.until_all_suspect(2))
    assert sorted(took)[20] <= 0.3
    assert max(took) <= (FOUND if loss < 0.3 else 0.5)


def test_a_partition_is_suspicion_on_both_sides_and_nothing_afterwards() -> None:
    nodes = Nodes(30)
    nodes.run(1.0)
    nodes.parts = [frozenset(range(20)), frozenset(range(20, 30))]
    nodes.run(1.0)
    assert [len(machine.suspects) for machine in nodes.machines] == [10] * 20 + [20] * 10
    nodes.parts = []
    nodes.run(0.3)
    assert not any(machine.suspects for machine in nodes.machines)


def test_a_node_that_is_cut_off_suspects_nobody_and_is_taken_back_at_once() -> None:
    nodes = Nodes(30)
    nodes.run(1.0)
    nodes.parts = [frozenset(range(29)), frozenset({29})]
    nodes.run(30.0)
    assert nodes.who_suspects(29) == 29
    assert nodes.machines[29].suspects == frozenset()
    nodes.parts = []
    nodes.run(1.0)
    assert not any(machine.suspects for machine in nodes.machines)
    assert nodes.wrong(dead=[29]) == []


def test_a_slow_observer_blames_nobody_and_is_blamed_by_nobody() -> None:
    nodes = Nodes(30, seed=3)
    stalls = random.Random(3)
    for _ in range(60):
        nodes.stop(5, stalls.choice((0.03, 0.09, 0.11, 0.3, 0.5, 1.5)))
        nodes.run(stalls.uniform(0.1, 0.6))
    nodes.run(2.0)
    assert nodes.wrong() == []


def test_elections_that_are_all_stopped_are_no_dead_nodes() -> None:
    nodes = Nodes(10)
    nodes.run(1.0)
    for number in range(1, 10):
        nodes.stop(number, 20.0)
    nodes.run(25.0)
    assert nodes.wrong() == []


def test_two_nodes_that_die_one_after_the_other_are_both_found() -> None:
    nodes = Nodes(5)
    nodes.run(1.0)
    nodes.crash(1)
    nodes.run(0.15)
    nodes.crash(2)
    assert nodes.until_all_suspect(2) <= FOUND
    assert nodes.who_suspects(1) == 3


# -- what a suspicion, right or wrong, costs -------------------------------------------------------------------------


@given(
    count=st.integers(2, 8),
    seed=st.integers(0, 1000),
    suspected=st.lists(st.sets(st.integers(0, 7)), min_size=8, max_size=8),
)
def test_a_new_connection_finds_a_pod_without_a_loop_whatever_each_node_suspects(
    count: int, seed: int, suspected: list[set[int]]
) -> None:
    """Every node walks the same list of candidates for a connection (``ip_vs_mh_get_fallback``) and takes the first
    that it does not suspect. A node never suspects itself, so whoever gets the packet looks no further than itself:
    the place in the list only goes down."""
    order = list(range(count))
    random.Random(seed).shuffle(order)

    def choice(node: int) -> int:
        good = [pod for pod in order if pod not in suspected[node] - {node}]
        return (good or order)[0]

    for active in range(count):
        path = [active, choice(active)]
        while path[-1] != choice(path[-1]):
            path.append(choice(path[-1]))
            assert len(path) <= count + 1, path
        places = [order.index(node) for node in path[1:]]
        assert all(later < earlier for earlier, later in pairwise(places))
