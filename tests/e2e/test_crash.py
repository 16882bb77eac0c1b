"""The Active node dies while 300 connections are held, 50 new ones come every second, and the API server is stopped."""

import pytest

from tests.demo.world import World
from tests.e2e.conftest import STRAY, Crash
from tests.load.report import failures, longest_gap, survivors, translated

pytestmark = pytest.mark.e2e


def test_new_connections_are_answered_again_at_once(crash: Crash) -> None:
    gap = longest_gap(crash.report.attempts, crash.at - 1.0, crash.at + 9.0)
    assert gap.seconds <= 2.0, gap


def test_every_held_connection_of_a_living_pod_lives_on(crash: Crash) -> None:
    found = survivors(crash.report.held)
    living = {server: s for server, s in found.items() if crash.pods.get(server) != crash.node}
    assert sum(s.of for s in living.values()) > 50  # of 300; Kubernetes may have put two pods of three on that node
    lost = [one for one in crash.report.held if one.failure and one.server in living]
    for one in sorted(lost, key=lambda one: one.ended):  # shown when the test fails
        print(f"{one.local} of {one.server}: {one.failure} {one.ended - crash.at:+.2f} s after the crash")
    assert {server: (s.alive, dict(s.reasons)) for server, s in living.items()} == {
        server: (s.of, {}) for server, s in living.items()
    }
    assert translated(crash.report) == 0


def test_exactly_one_of_the_others_is_active(crash: Crash) -> None:
    assert len(crash.holders) == 1
    assert crash.node not in crash.holders


def test_new_connections_fail_for_a_moment_only_although_kubernetes_cannot_know_of_the_crash(crash: Crash) -> None:
    assert crash.failing <= 2.0, failures(crash.report.attempts, crash.at, crash.until)


def test_the_node_returns_and_takes_part_again(crash: Crash, world: World) -> None:
    print(crash.returned)
    assert crash.returned.back, world.states()


def test_new_connections_do_not_fail_when_the_node_returns(crash: Crash) -> None:
    assert crash.returned.failed.count <= STRAY * crash.returned.failed.of, crash.returned
