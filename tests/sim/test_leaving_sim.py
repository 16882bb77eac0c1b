"""Drains and orderly ends in virtual time: somebody serves at every moment, whatever else goes wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.vrrp.events import State
from tests.sim.fake_lan import FakeLan

pytestmark = pytest.mark.sim

DOWN = 0.4
STEP = 0.001


def unserved(lan: FakeLan, seconds: float) -> float:
    """Let time pass; how long nobody's kernel answered, in seconds, to the millisecond."""
    gap = 0.0
    for _ in range(round(seconds / STEP)):
        lan.run(STEP)
        gap += STEP * (not lan.holders())
    return gap


@pytest.mark.parametrize("loss", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(10))
def test_an_orderly_end_leaves_no_moment_unserved(seed: int, loss: float) -> None:
    lan = FakeLan([110, 100, 90], seed=seed)
    lan.run(1)
    lan.loss = loss
    lan.leave(0)
    assert unserved(lan, 1.2) == 0.0
    lan.loss = 0.0
    lan.run(1)
    assert lan.holders() == [1]
    assert lan.nodes[0].machine.state is State.INITIALIZE


@pytest.mark.parametrize("seed", range(10))
def test_a_drained_node_hands_over_and_takes_back_with_no_moment_unserved(seed: int) -> None:
    lan = FakeLan([110, 100], seed=seed)
    lan.run(1)
    lan.stand_by(0)
    assert unserved(lan, 1) == 0.0
    assert lan.holders() == [1]
    lan.stand_by(0, standby=False)
    assert unserved(lan, 1) == 0.0
    assert lan.holders() == [0]


def test_when_all_are_drained_the_last_serves_on() -> None:
    lan = FakeLan([110, 100])
    lan.run(1)
    lan.stand_by(0)
    lan.run(1)
    lan.stand_by(1)
    assert unserved(lan, 5) == 0.0
    assert len(lan.holders()) == 1


def test_a_node_that_serves_again_relieves_a_drained_one_also_without_preemption() -> None:
    lan = FakeLan([120, 110, 100], preempt=False)
    lan.run(1)
    for node in (0, 1, 2):
        lan.stand_by(node)
        lan.run(1)
    assert lan.nodes[lan.holders()[0]].machine.parameters.standby
    lan.stand_by(1, standby=False)
    assert unserved(lan, 1) == 0.0
    assert lan.holders() == [1]
    lan.stand_by(0, standby=False)
    assert unserved(lan, 5) == 0.0
    assert lan.holders() == [1], "it stands by no more than the other"


STEPS = st.lists(
    st.tuples(st.sampled_from(["drain", "serve", "loss", "whole"]), st.integers(0, 2), st.floats(0.0, 2.0)), max_size=8
)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS, seed=st.integers(0, 1000), preempt=st.booleans())
def test_whoever_is_drained_when_somebody_serves_and_it_settles(
    steps: list[tuple[str, int, float]], seed: int, preempt: bool
) -> None:
    lan = FakeLan([120, 110, 100], seed=seed, preempt=preempt)
    lan.run(1)
    drained = set()
    for what, node, seconds in steps:
        match what:
            case "drain":
                lan.stand_by(node)
                drained.add(node)
            case "serve":
                lan.stand_by(node, standby=False)
                drained.discard(node)
            case "loss":
                lan.loss = 0.2
            case "whole":
                lan.loss = 0.0
        lan.run(seconds)
        assert lan.holders(), "no moment unserved"
    lan.loss = 0.0
    lan.run(3)
    end = len(lan.log)
    lan.run(3)
    assert not [entry for entry in lan.log[end:] if isinstance(entry.what, State)]
    assert len(lan.holders()) == 1
    if len(drained) < 3:
        assert lan.holders()[0] not in drained
