"""Our own processes die on the Active node."""

import threading
import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP, serving
from tests.load.report import failures, longest_gap

pytestmark = pytest.mark.e2e

# No process is started for a look at each of a node's: that would take seconds.
FIND = """
for file in /proc/[0-9]*/cmdline; do
  mapfile -d '' -t words <"$file" || continue
  pid=${file#/proc/}
  [[ ${words[0]} == *python3 && ${words[1]} == */$1 ]] && echo "${pid%/*}"
done 2>/dev/null
true
"""


def find(world: World, node: str, name: str) -> int:
    """The pid on the node of that process of ours."""
    (pid,) = world.cluster.on_node(node, ["bash", "-c", FIND, "find", name]).split()
    return int(pid)


def parent(world: World, node: str, pid: int) -> int:
    """The pid on the node of its parent: the shim of its pod."""
    status = world.cluster.on_node(node, ["cat", f"/proc/{pid}/status"])
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def test_the_agent_is_killed_and_the_vip_is_served_on(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    (node,) = world.holders(VIP)
    with world.load(TARGET, hold=50, duration=60.0) as load:
        assert load.wait_until(lambda told: told["held"] == 50, 15.0)
        agent = find(world, node, "lvs-agent")
        since = time.monotonic()
        world.cluster.on_node(node, ["kill", "-9", str(agent)])
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
        election = find(world, node, "lvs-election")
        shim = parent(world, node, election)
        since = time.monotonic()
        # the shim is stopped: a restart would hide what the kernel does by itself
        world.cluster.on_node(node, ["sh", "-c", f"kill -STOP {shim}; kill -9 {election}"])
        watches = [HolderWatch(world, one, since + 6.0) for one in world.cluster.nodes]
        for watch in watches:
            watch.join()
        until = time.monotonic()
        world.cluster.on_node(node, ["kill", "-CONT", str(shim)])
        report = load.stop()
    gap = longest_gap(report.attempts, since, until)
    assert gap.seconds <= 3.0, gap
    held = {watch.node: [(begin - since, holds) for begin, holds in watch.seen] for watch in watches}
    assert not any(holds for at, holds in held[node] if at > 3.0), held[node]
    assert len([one for one in held if held[one][-1][1]]) == 1, held
    assert [connection.failure for connection in report.held if connection.failure] == []
    assert wait_for(lambda: serving(world), 60.0), "the node does not take part again"


class HolderWatch(threading.Thread):
    """Looks again and again whether the node's kernel has the VIP on its uplink; (monotonic time, it has)."""

    def __init__(self, world: World, node: str, until: float) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.seen: list[tuple[float, bool]] = []
        self._world = world
        self._until = until
        self.start()

    def run(self) -> None:
        while (begin := time.monotonic()) < self._until:
            self.seen.append((begin, self._world.holds(self.node, VIP)))
