"""Our own processes die on the Active node."""

import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP, serving
from tests.e2e.deaths import places
from tests.e2e.holders import HolderWatch, blind, both, first
from tests.load.outage import TIMEOUT, Outage
from tests.load.report import longest_gap

pytestmark = pytest.mark.e2e

BUSY = 1.0
"""Seconds of standstill that explain that another node is Active."""

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
    with world.load(TARGET, hold=50, duration=60.0, timeout=TIMEOUT) as load, world.witness(60.0) as witness:
        assert load.wait_until(lambda told: told["held"] == 50, 15.0)
        backends = [*world.tables(VIP)[node]]
        agent = find(world, node, "lvs-agent")
        since = time.monotonic()
        world.cluster.on_node(node, ["kill", "-9", str(agent)])
        looks = 0
        while time.monotonic() < since + 6.0:
            tables = world.tables(VIP)
            assert all([*table] == backends for table in tables.values()), (
                tables
            )  # weights are also a matter of suspicion
            looks += 1
            time.sleep(0.1)
        until = time.monotonic()
        report = load.stop()
    stood = witness.stood(since, until, world.cluster.nodes)
    assert looks >= (10 if stood < BUSY else 2)
    outage = Outage(report, since, until, places(witness, report), 0.0, "the kill")
    print(outage)
    assert not outage.late, str(outage)
    assert not outage.lost, outage.lost
    assert world.holders(VIP) == [node] or stood > BUSY, stood
    assert wait_for(lambda: find(world, node, "lvs-agent") != agent, 20.0), "it was not started again"
    assert wait_for(lambda: serving(world), 60.0), "the node does not take part again"


def test_the_election_is_killed_and_somebody_serves_while_two_holders_do_not_last(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    (node,) = world.holders(VIP)
    with world.load(TARGET, hold=100, duration=60.0) as load, world.witness(60.0) as witness:
        assert load.wait_until(lambda told: told["held"] == 100, 15.0)
        election = find(world, node, "lvs-election")
        shim = parent(world, node, election)
        since = time.monotonic()
        # the shim is stopped: a restart would hide what the kernel does by itself
        world.cluster.on_node(node, ["sh", "-c", f"kill -STOP {shim}; kill -9 {election}"])
        with HolderWatch(world, VIP, world.cluster.nodes) as watch:
            time.sleep(since + 6.0 - time.monotonic())
        until = time.monotonic()
        world.cluster.on_node(node, ["kill", "-CONT", str(shim)])
        report = load.stop()
    looks = watch.looks
    gap = longest_gap(report.attempts, since, until)
    others = [one for one in world.cluster.nodes if one != node]
    stood = witness.stood(since, until, world.cluster.nodes)
    print(
        f"another node has it {first(looks, others, since):.2f} s after the kill, two for {both(looks):.2f} s at most,"
        f" longest gap {gap.seconds:.2f} s; {blind(looks, until):.2f} s without a look at worst; the machine stood"
        f" still for {stood:.2f} s"
    )
    assert blind(looks, until) <= 1.0 + stood, looks
    assert first(looks, others, since) <= 3.0 + stood, looks
    assert not any(look.holds for look in looks[node] if look.begin > since + 3.0 + stood), looks[node]
    assert both(looks) <= 3.0 + stood, looks
    assert sum(one[-1].holds for one in looks.values()) == 1, looks
    assert gap.seconds <= 3.0 + stood, gap
    outage = Outage(report, since, until, places(witness, report))
    assert not outage.lost, outage.lost
    assert wait_for(lambda: serving(world), 60.0), "the node does not take part again"
