"""Runs last: everything is taken away."""

import pytest

from tests.demo.nodes import NodeState, differences
from tests.demo.story import DEPLOY, EXAMPLE
from tests.demo.world import World, wait_for
from tests.e2e.conftest import LONELY, VIP

pytestmark = pytest.mark.e2e


def ours(state: NodeState) -> list[str]:
    return [address for address in (*state.addresses, *state.tables) if VIP in address or LONELY in address]


def test_deleting_the_objects_takes_tables_and_addresses_away(world: World) -> None:
    world.cluster.kubectl("delete", "lvsvs", "--all")
    # At once, or after a minute when tests deleted others within the last ten seconds (docs/decisions/0012).
    assert wait_for(lambda: not any(ours(s) for s in world.states().values()), 80.0)
    world.cluster.kubectl("delete", "--wait=false", "--ignore-not-found", "-f", str(EXAMPLE))


def test_uninstalling_leaves_the_nodes_as_they_were(world: World, before: dict[str, NodeState]) -> None:
    world.cluster.kubectl("delete", "--wait=false", "-k", str(DEPLOY))
    assert wait_for(lambda: not world.agent_pods(), 60.0)

    def left() -> dict[str, list[str]]:
        after = world.states()
        return {node: found for node in after if (found := differences(before[node], after[node]))}

    assert wait_for(lambda: not left(), 10.0), left()
