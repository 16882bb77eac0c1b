"""A node dies under 50 new connections a second, and returns: which of them fail, and when."""

import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP, serving
from tests.load.report import failing_until, failures, longest_gap

pytestmark = pytest.mark.e2e

LATEST = 1.0
"""Seconds after the crash until when new connections may fail. The aim is 0.5; this machine may be busy."""
STRAY = 0.05
"""Of the new connections, while a kernel boots beside the others on the same processors."""


@pytest.mark.parametrize("which", ["Backup", "Active"])
def test_new_connections_fail_for_a_moment_only_and_not_when_the_node_returns(world: World, which: str) -> None:
    assert wait_for(lambda: serving(world), 120.0), world.states(world.cluster.nodes)
    (active,) = world.holders(VIP)
    pods = set(world.ready_pods("app=web").values())
    victim = active if which == "Active" else next(node for node in sorted(pods) if node != active)
    with world.load(TARGET, hold=0, duration=300.0) as load:
        time.sleep(2.0)
        at = time.monotonic()
        world.cluster.crash(victim)
        time.sleep(12.0)
        boot = time.monotonic()
        world.cluster.boot(victim)
        back = wait_for(lambda: serving(world), 120.0, every=1.0)
        took = time.monotonic() - boot
        time.sleep(3.0)
        until = time.monotonic()
        report = load.stop()
    attempts = report.attempts
    dead, returning = failures(attempts, at - 1.1, boot - 1.1), failures(attempts, boot - 1.1, until - 1.1)
    last = (failing_until(attempts, at, boot - 1.1) or at) - at
    gap = longest_gap(attempts, at - 1.0, boot)
    print(
        f"{victim} ({which}) dies: {dead.count} of {dead.of} fail {dict(dead.reasons)}, until {last:.2f} s after the"
        f" crash; longest gap {gap.seconds:.2f} s; it serves again {took:.0f} s after its start, meanwhile"
        f" {returning.count} of {returning.of} fail {dict(returning.reasons)}"
    )
    assert back, world.states(world.cluster.nodes)
    assert last <= LATEST
    assert returning.count <= STRAY * returning.of
