"""A quorum between its two bounds, and an agent that starts anew in that moment: the table says what it was."""

from ipaddress import ip_address
from typing import Any

import pytest

from lvsagent.core.state import Destination, ForwardMethod, Service
from lvsapi.health import WhenEmpty
from lvsapi.model import RealServer, Resolved
from tests.unit.test_health import FIRST, KEY, SECOND, SORRY, THIRD, Rig, asking, facts

pytestmark = pytest.mark.unit

NAMES = (FIRST, SECOND, THIRD)


def between(**more: Any) -> Resolved:
    """Up from 3 that live, down below 1."""
    server = RealServer(address=ip_address(SORRY))
    return asking(*NAMES, sorry_server=server, when_empty=WhenEmpty.SORRY, quorum=2, hysteresis=1, **more)


def table(**weights: int) -> dict[Any, Service]:
    """By the last number of the address."""
    destinations = tuple(
        Destination(ip_address(f"192.168.139.{name[1:]}"), 80, ForwardMethod.DIRECT_ROUTE, weight)
        for name, weight in weights.items()
    )
    return {KEY: Service(key=KEY, scheduler="mh", flags=0, destinations=destinations)}


def test_an_agent_that_starts_anew_between_the_bounds_leaves_clients_with_those_who_live() -> None:
    rig = Rig(between(), have=table(_201=1, _202=0, _203=0))
    assert rig.weights() == {FIRST: 1, SECOND: 0, THIRD: 0}
    rig.hear(FIRST, True)
    rig.hear(SECOND, False, reason="refused")
    assert rig.weights() == {FIRST: 1, SECOND: 0, THIRD: 0}
    assert rig.watch.changes() == ()
    rig.hear(FIRST, False, reason="refused")
    assert rig.weights() == {FIRST: 0, SECOND: 0, THIRD: 0, SORRY: 1}
    assert [change.up for change in rig.watch.changes()] == [False]


def test_an_agent_that_starts_anew_leaves_clients_with_the_sorry_server_until_enough_live() -> None:
    rig = Rig(between(), have=table(_201=0, _202=0, _203=0, _210=1))
    for name in (FIRST, SECOND):
        assert rig.weights() == {FIRST: 0, SECOND: 0, THIRD: 0, SORRY: 1}
        rig.hear(name, True)
    assert rig.weights() == {FIRST: 0, SECOND: 0, THIRD: 0, SORRY: 1}
    rig.hear(THIRD, True)
    assert rig.weights() == {FIRST: 1, SECOND: 1, THIRD: 1}


def test_what_is_new_is_up_from_its_quorum_on() -> None:
    rig = Rig(between(initially_up=True))
    assert rig.weights() == {FIRST: 1, SECOND: 1, THIRD: 1}
    rig = Rig(between())
    rig.hear(FIRST, True)
    assert rig.weights() == {FIRST: 0, SECOND: 0, THIRD: 0, SORRY: 1}


def test_a_table_that_does_not_tell_is_not_believed() -> None:
    """A node that is not Active gives its own backend weight whatever the quorum says; and a sorry server may be one of
    the backends."""
    here = facts("node1", f"{FIRST}/24")
    rig = Rig(between(), here, active=False, have=table(_201=1, _202=0, _203=0))
    rig.weights()
    rig.active.add(KEY.address)
    assert rig.weights() == {FIRST: 0, SECOND: 0, THIRD: 0, SORRY: 1}
    server = RealServer(address=ip_address(FIRST))
    both = asking(*NAMES, sorry_server=server, when_empty=WhenEmpty.SORRY, quorum=2, hysteresis=1)
    rig = Rig(both, have=table(_201=1, _202=0, _203=0))
    rig.hear(SECOND, True)
    assert rig.weights() == {FIRST: 1, SECOND: 1, THIRD: 0}
