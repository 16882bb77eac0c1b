"""A node dies under 50 new connections a second, and returns: which of them fail, and when."""

import time
from dataclasses import dataclass

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP, serving
from tests.load.report import Failures, failing_until, failures, longest_gap

pytestmark = pytest.mark.e2e

LATEST = 1.0
"""Seconds after the crash until when new connections may fail, in the better of two crashes. The aim is 0.5."""
BUSY = 3.0
"""The same for the other one: a kernel that gets no processor for a second fails its connections too."""
STRAY = 0.1
"""Of the new connections, while a kernel boots beside the others on the same processors."""


@dataclass(frozen=True, slots=True)
class Death:
    """What a crash and the return cost."""

    until: float
    """Seconds after the crash until when more than a few failed."""
    dead: Failures
    returning: Failures


def test_new_connections_fail_for_a_moment_only_and_not_when_the_node_returns(world: World) -> None:
    deaths = [crash_and_return(world, active=active) for active in (False, True)]
    assert min(death.until for death in deaths) <= LATEST
    assert max(death.until for death in deaths) <= BUSY
    for death in deaths:
        assert death.returning.count <= STRAY * death.returning.of, death


def crash_and_return(world: World, *, active: bool) -> Death:
    """The Active node, or another one that has a pod."""
    assert wait_for(lambda: serving(world), 120.0), world.states(world.cluster.nodes)
    (holder,) = world.holders(VIP)
    pods = set(world.ready_pods("app=web").values())
    victim = holder if active else next(node for node in sorted(pods) if node != holder)
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
        attempts = load.stop().attempts
    death = Death(
        until=(failing_until(attempts, at, boot - 1.1) or at) - at,
        dead=failures(attempts, at - 1.1, boot - 1.1),
        returning=failures(attempts, boot - 1.1, until - 1.1),
    )
    print(
        f"{victim} ({'Active' if active else 'Backup'}) dies: {death.dead.count} of {death.dead.of} fail"
        f" {dict(death.dead.reasons)}, until {death.until:.2f} s after the crash; longest gap"
        f" {longest_gap(attempts, at - 1.0, boot).seconds:.2f} s; it serves again {took:.0f} s after its start,"
        f" meanwhile {death.returning.count} of {death.returning.of} fail {dict(death.returning.reasons)}"
    )
    assert back, world.states(world.cluster.nodes)
    return death
