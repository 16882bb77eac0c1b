"""The Active node's cable is cut and put back, and the whole node stops for a while, as a paused virtual machine."""

import math
import time
from collections.abc import Callable

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP, serving
from tests.e2e.holders import HolderWatch, alone_from, blind, first

pytestmark = pytest.mark.e2e

HELD = 100
LATEST = 3.0
"""Seconds until another node holds, and for which it is looked at least whether one holds alone again."""
ABSENCE = 1.0
"""Seconds for which the node is away, or until another one holds."""
DOUBT = 2.0
"""Seconds for which connections to the pods of a suspected node are kept for it (docs/decisions/0010). After that they
are reset."""


class Absence:
    """The Active node is away for a moment: what was seen of it."""

    def __init__(self, world: World, leave: Callable[[str], None], back: Callable[[str], None], seen: bool) -> None:
        """``seen``: its kernel can be looked at while it is away."""
        (self.node,) = world.holders(VIP)
        others = [node for node in world.cluster.nodes if node != self.node]
        with world.witness(60.0) as witness:
            with HolderWatch(world, VIP, world.cluster.nodes if seen else others) as away:
                begin = time.monotonic()
                leave(self.node)
                try:
                    while first(away.looks, others, begin) > LATEST and time.monotonic() < begin + LATEST:
                        time.sleep(0.02)
                    time.sleep(max(0.0, begin + ABSENCE - time.monotonic()))
                finally:
                    end = time.monotonic()
                    back(self.node)
            with HolderWatch(world, VIP, world.cluster.nodes) as after:
                time.sleep(LATEST)
                while alone_from(after.looks) == math.inf and time.monotonic() < end + 5 * LATEST:
                    time.sleep(0.1)
                until = time.monotonic()
        self.seconds = end - begin
        self.stood = witness.stood(begin, until, world.cluster.nodes if seen else others)
        self.taken = first(away.looks, others, begin)
        self.alone = alone_from(after.looks) - end
        self.blind = max(blind(away.looks, end), blind(after.looks, until))
        self.away = away.looks

    def __str__(self) -> str:
        return (
            f"{self.node} is away for {self.seconds:.2f} s: another holds after {self.taken:.2f} s; back, one holds"
            f" alone after {self.alone:.2f} s; {self.blind:.2f} s without a look at worst; the machine stood still"
            f" for {self.stood:.2f} s"
        )


def test_another_node_holds_while_the_active_one_is_cut_off_or_frozen_and_no_held_connection_is_lost(
    world: World,
) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    cluster, pods = world.cluster, world.ready_pods("app=web")
    with world.load(TARGET, hold=HELD, duration=120.0) as load:
        assert load.wait_until(lambda told: told["held"] == HELD, 20.0), load.progress
        cut = Absence(world, cluster.cut, cluster.heal, seen=True)
        print(f"cut off: {cut}")
        assert wait_for(lambda: serving(world), 30.0), "not everything is well after the cut"
        frozen = Absence(world, cluster.freeze, cluster.thaw, seen=False)
        print(f"frozen: {frozen}")
        assert wait_for(lambda: serving(world), 30.0), "not everything is well after the freeze"
        time.sleep(1.5)  # each held connection is asked once more
        report = load.stop()
    for absence in (cut, frozen):
        assert absence.blind <= 1.0 + absence.stood, str(absence)
        assert absence.taken <= 1.0 + absence.stood, str(absence)
        assert absence.alone <= 1.0 + absence.stood, str(absence)
    assert any(look.holds for look in cut.away[cut.node][-3:]), "it knows of nobody else"
    # Those of a node that is away for longer than it has the benefit of the doubt are reset, as they should be.
    doubted = {absence.node for absence in (cut, frozen) if absence.seconds > DOUBT}
    lost = [one for one in report.held if one.failure]
    told = "; ".join(f"{one.local} of {one.server} on {pods.get(one.server)}: {one.failure}" for one in lost)
    print(f"{len(lost)} of {HELD} held connections are lost; {told}")
    assert len(report.held) == HELD
    assert all(pods.get(one.server) in doubted for one in lost), told
