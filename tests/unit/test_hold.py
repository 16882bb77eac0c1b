"""A node that comes back offers nothing before the others have told it of connections, for a second at most."""

import pytest

from lvsagent import ipc
from lvsagent.core.affinity import suspected, unsuspected
from lvsagent.core.hold import LONGEST, Hold
from lvsagent.core.liveness import Overlay, Suspects
from lvsagent.core.plan import plan
from lvsapi.resolve import resolve
from tests.fakes.kernel import FakeKernel
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service
from tests.unit.test_agent_core import statistics
from tests.unit.test_agent_loop import SERVED, Rig, Story, story

pytestmark = pytest.mark.unit
__all__ = ["story"]


def test_it_ends_when_everybody_has_told() -> None:
    hold = Hold()
    assert not hold.told("b"), "it has not begun"
    assert hold.holds(5.0, ["b", "c"], False)
    for node in ("b", "b", "stranger"):
        assert not hold.told(node)
    assert hold.holds(5.1, [], True)
    assert hold.told("c")
    assert not hold.holds(5.2, ["b", "c"], False)
    assert hold.done
    assert not hold.told("c")


def test_it_ends_after_a_second_and_does_not_begin_again() -> None:
    hold = Hold()
    assert hold.holds(5.0, ["b"], False)
    assert hold.holds(5.0 + LONGEST - 0.01, ["b"], False)
    assert not hold.holds(5.0 + LONGEST, ["b"], False)
    assert not hold.holds(6.5, ["b"], False)


@pytest.mark.parametrize(("others", "taking_part"), [([], False), (["b"], True)])
def test_without_others_and_while_the_election_goes_on_nothing_is_waited_for(
    others: list[str], taking_part: bool
) -> None:
    hold = Hold()
    assert not hold.holds(5.0, others, taking_part)
    assert hold.done


def test_the_election_hears_of_the_node_at_once_and_of_its_readiness_when_it_has_heard(story: Story) -> None:
    async def act(rig: Rig) -> None:
        hold = rig.loop.view.hold = Hold()
        await rig.turn()
        (wish,) = rig.election.wishes
        assert ([r.ready for r in wish.routers], wish.serving) == ([False], True)
        await rig.turn()
        assert len(rig.election.wishes) == 1
        assert not hold.told("node2")
        assert hold.told("node3")
        await rig.turn()
        assert [r.ready for r in rig.election.wishes[-1].routers] == [True]
        await rig.turn()
        assert len(rig.election.wishes) == 2

    story(act)


def test_nobody_answers_and_it_is_ready_after_a_second(story: Story) -> None:
    async def act(rig: Rig) -> None:
        rig.loop.view.hold = Hold()
        await rig.turn()
        assert rig.loop.view.hold.until == rig.now + LONGEST
        await rig.turn(LONGEST)
        assert [r.ready for r in rig.election.wishes[-1].routers] == [True]

    story(act)


def test_an_agent_that_is_started_anew_beside_its_election_takes_nothing_back(story: Story) -> None:
    async def act(rig: Rig) -> None:
        rig.loop.view.hold = Hold()
        rig.loop.heard(statistics("Backup"))
        await rig.turn()
        assert [r.ready for r in rig.election.wishes[-1].routers] == [True]

    story(act)


def test_who_is_silent_and_schedulers_that_tell_nothing_are_not_waited_for(story: Story) -> None:
    async def act(rig: Rig) -> None:
        rig.loop.view.hold = Hold()
        rig.source.current = snapshot(virtual_service(scheduler="rr", assigned=assignment()))
        await rig.turn()
        assert [r.ready for r in rig.election.wishes[-1].routers] == [True]
        rig.source.current = SERVED
        rig.loop.heard(ipc.Liveness(silent=("node2", "node3")))
        await rig.turn()
        assert rig.loop.view.hold.done

    story(act)


def test_a_suspicion_is_told_from_what_the_objects_say() -> None:
    parts = [endpoint_slice([endpoint("10.244.1.2", "node1"), endpoint("10.244.2.2", "node2")])]
    meant = resolve(snapshot(virtual_service(assigned=assignment()), slices=parts))
    laid = Overlay().over(meant, Suspects(names=frozenset({"node2"})))
    kernel = FakeKernel()
    tables = plan(laid, kernel.facts(), frozenset()).state.services
    assert [suspected(tables, meant, node) for node in ("node1", "node2", "node3")] == [False, True, False]
    assert unsuspected(tables, meant) == plan(meant, kernel.facts(), frozenset()).state.services
    assert not suspected(unsuspected(tables, meant), meant, "node2")
