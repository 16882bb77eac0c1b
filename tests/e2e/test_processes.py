"""Our own processes die on the Active node."""

import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP, serving
from tests.load.report import failures, longest_gap

pytestmark = pytest.mark.e2e

FIND = """
for folder in /proc/[0-9]*; do
  tr '\\0' ' ' <"$folder/cmdline" 2>/dev/null | grep -q "^[^ ]*python3 [^ ]*/%s " && echo "${folder#/proc/}"
done; true
"""


def kill(world: World, node: str, name: str) -> int:
    """SIGKILL to that process of ours on the node. Returns the pid it had."""
    (pid,) = world.cluster.on_node(node, ["bash", "-c", FIND % name]).split()
    world.cluster.on_node(node, ["kill", "-9", pid])
    return int(pid)


def test_the_agent_is_killed_and_the_vip_is_served_on(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    (node,) = world.holders(VIP)
    with world.load(TARGET, hold=50, duration=60.0) as load:
        assert load.wait_until(lambda told: told["held"] == 50, 15.0)
        since = time.monotonic()
        kill(world, node, "lvs-agent")
        time.sleep(5.0)
        until = time.monotonic()
        report = load.stop()
    assert failures(report.attempts, since, until - 1.0).count == 0
    assert [connection.failure for connection in report.held if connection.failure] == []
    assert world.holders(VIP) == [node]


def test_the_election_is_killed_and_somebody_serves_while_two_holders_do_not_last(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    (node,) = world.holders(VIP)
    with world.load(TARGET, hold=100, duration=60.0) as load:
        assert load.wait_until(lambda told: told["held"] == 100, 15.0)
        since = time.monotonic()
        # stopped for good for a while: the container's restart would otherwise hide what the kernel does by itself
        pid = kill_for_good(world, node)
        seen: list[tuple[float, list[str]]] = []
        while time.monotonic() < since + 5.0:
            seen.append((time.monotonic() - since, world.holders(VIP)))
        until = time.monotonic()
        world.cluster.on_node(node, ["kill", "-CONT", str(pid)])
        report = load.stop()
    assert longest_gap(report.attempts, since, until).seconds <= 3.0
    late = [holders for at, holders in seen if at > 3.5]
    assert late, seen
    assert all(len(holders) == 1 and node not in holders for holders in late), seen
    assert [connection.failure for connection in report.held if connection.failure] == []
    assert wait_for(lambda: serving(world), 60.0), "the node does not take part again"


def kill_for_good(world: World, node: str) -> int:
    """SIGKILL to the election, with its container's shim stopped so that it is not started again. The shim's pid."""
    (pid,) = world.cluster.on_node(node, ["bash", "-c", FIND % "lvs-election"]).split()
    status = world.cluster.on_node(node, ["cat", f"/proc/{pid}/status"])
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    world.cluster.on_node(node, ["sh", "-c", f"kill -STOP {parent}; kill -9 {pid}"])
    return int(parent)
