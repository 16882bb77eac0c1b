"""The Active node dies while 300 connections are held, 50 new ones come every second, and the API server is stopped."""

import pytest

from tests.demo.world import World
from tests.e2e.conftest import HELD
from tests.e2e.deaths import Crash
from tests.load.outage import STRAY
from tests.load.report import survivors, translated

pytestmark = pytest.mark.e2e


def test_new_connections_are_answered_again_at_once(crash: Crash) -> None:
    print(crash)
    assert crash.outage.answered_in_time, str(crash)


def test_every_held_connection_of_a_living_pod_lives_on(crash: Crash) -> None:
    report = crash.outage.report
    found = survivors(report.held)
    living = {server: one for server, one in found.items() if crash.pods.get(server, crash.node) != crash.node}
    assert sum(one.of for one in living.values()) >= HELD // 2, found  # two pods of three
    print({server: (one.alive, one.of, dict(one.reasons)) for server, one in living.items()})
    assert not crash.lost, str(crash)
    assert translated(report) == 0


def test_exactly_one_of_the_others_is_active(crash: Crash) -> None:
    assert len(crash.holders) == 1
    assert crash.node not in crash.holders


def test_none_fails_that_began_half_a_second_later_although_kubernetes_cannot_know_of_the_crash(crash: Crash) -> None:
    assert not crash.outage.late, str(crash)


def test_the_node_returns_and_takes_part_again(crash: Crash, world: World) -> None:
    print(crash.returned)
    assert crash.returned.back, world.states()


def test_new_connections_do_not_fail_when_the_node_returns(crash: Crash) -> None:
    assert crash.returned.outage.strays <= STRAY, str(crash.returned)


def test_no_held_connection_is_lost_when_the_node_returns(crash: Crash) -> None:
    assert not crash.returned.lost, str(crash.returned)
