"""Endpoints come and go; every node's table follows."""

import contextlib
import functools
import http.client
import itertools
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.demo.api import connection
from tests.demo.witness import clock_offset
from tests.demo.world import World, wait_for
from tests.e2e.conftest import VIP, serving

pytestmark = pytest.mark.e2e

Ready = frozenset[str]
"""``address:port`` of the destinations that get new connections."""

# Prints the wall clock and the destinations with their weights whenever they change, until the file of that name is
# there. No process is started in the loop.
POLL = """
exec 9<> <(:); last=; end=$((SECONDS + $1))
while [ $SECONDS -lt $end ] && [ ! -e "$3" ]; do
  now=; mine=
  while read -r what address method weight _; do
    if [ "$what" != "->" ]; then mine=$address; fi
    if [ "$what" = "->" ] && [ "$mine" = "$2" ]; then now+=" $address=$weight"; fi
  done </proc/net/ip_vs
  if [ "$now" != "$last" ]; then echo "$EPOCHREALTIME$now"; last=$now; fi
  read -rt 0.02 -u 9
done
rm -f "$3"
"""
SECONDS = 100
"""At most."""
OVER = "/run/lvs-poll-is-over"
SHORT = 1.0
"""Seconds that a set of endpoints may last without being seen in a table."""
MEDIAN, WORST = 0.1, 1.0
"""Seconds in which the machine ran, until a node's table has what the API server told. A look comes every 20 ms."""
WALL = time.time() - time.monotonic()
"""What this machine's wall clock is ahead of the clock of standstills."""


class SliceWatch(threading.Thread):
    """Notes when the API server tells of a change of the example's endpoints (wall clock of this machine)."""

    def __init__(self, kubeconfig: Path, seconds: float) -> None:
        super().__init__(daemon=True)
        self._connection = connection(kubeconfig, seconds + 10.0)
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        query = f"watch=1&labelSelector=kubernetes.io/service-name%3Dweb&timeoutSeconds={int(seconds)}"
        self._connection.request("GET", f"{path}?{query}")
        self.events: list[tuple[float, Ready]] = []

    def run(self) -> None:
        """Until the time is over, or the cluster is gone."""
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(self._connection),
            self._connection.getresponse() as answer,
        ):
            for line in answer:
                at = time.time()
                endpoints = json.loads(line)["object"]["endpoints"] or ()
                ready = frozenset(
                    f"{e['addresses'][0]}:8080"
                    for e in endpoints
                    if e["conditions"].get("ready") and not e["conditions"].get("terminating")
                )
                if not self.events or self.events[-1][1] != ready:
                    self.events.append((at, ready))


def poll(world: World, node: str, seen: dict[str, list[tuple[float, Ready]]]) -> None:
    """The node's table over time, by the clock of this machine."""
    offset = clock_offset(world.cluster, node)
    key = "".join(f"{int(part):02X}" for part in VIP.split(".")) + ":0050"
    text = world.cluster.on_node(node, ["bash", "-c", POLL, "poll", str(SECONDS), key, OVER], timeout=SECONDS + 20.0)
    for line in text.splitlines():
        at, *destinations = line.split()
        ready = frozenset(plain(one.partition("=")[0]) for one in destinations if not one.endswith("=0"))
        seen.setdefault(node, []).append((float(at) - offset, ready))


def followed(
    events: Sequence[tuple[float, Ready]],
    table: Sequence[tuple[float, Ready]],
    stood: Callable[[float, float], float],
) -> list[tuple[float, float]]:
    """When the API server told of a set of endpoints, and when it was in the node's table first. Raises AssertionError
    for one that never was, although it lasted for more than ``SHORT`` seconds in which the machine ran."""
    found = []
    for (told, ready), (until, _) in itertools.pairwise([*events, (math.inf, Ready())]):
        seen = next((at for at, had in table if had == ready and at > told - 0.1), math.inf)
        if seen <= until and seen < math.inf:
            found.append((told, seen))
        else:  # seen after the next change it is another time of the same set
            assert until - told - stood(told, until) <= SHORT, (
                f"never in the table: {sorted(ready)}, told at {told:.3f}; {table}"
            )
    return found


def plain(destination: str) -> str:
    """``0AF40103:1F90`` is ``10.244.1.3:8080``."""
    address, port = destination.split(":")
    return ".".join(str(byte) for byte in bytes.fromhex(address)) + f":{int(port, 16)}"


def test_every_nodes_table_follows_the_endpoints(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    cluster = world.cluster
    tables: dict[str, list[tuple[float, Ready]]] = {}
    pollers = [threading.Thread(target=poll, args=(world, node, tables)) for node in cluster.nodes]
    watch = SliceWatch(cluster.kubeconfig, SECONDS)
    watch.start()
    with world.witness(SECONDS) as witness:
        for poller in pollers:
            poller.start()
        cluster.kubectl("scale", "deployment", "web", "--replicas=6")
        assert wait_for(lambda: serving(world, 6), 30.0), world.states()
        gone = sorted(world.ready_pods("app=web"))[0]
        cluster.kubectl("delete", "pod", gone, "--wait=false")
        assert wait_for(lambda: gone not in world.ready_pods("app=web") and serving(world, 6), 30.0)
        cluster.kubectl("scale", "deployment", "web", "--replicas=3")
        assert wait_for(lambda: serving(world, 3), 30.0), world.states()
        time.sleep(SHORT)  # for what is on its way
        world.each(lambda node: cluster.on_node(node, ["touch", OVER]))
        for poller in pollers:
            poller.join()
    # The watch goes on. Its first event is what was there.
    events = [(at - WALL, ready) for at, ready in watch.events[1:]]
    assert len(events) >= 3, events
    for node in cluster.nodes:
        stood = functools.partial(witness.stood, nodes=[node])
        changes = followed(events, [(at - WALL, ready) for at, ready in tables[node]], stood)
        ran = [seen - told - stood(told, seen) for told, seen in changes]
        took = [seen - told for told, seen in changes]
        print(
            f"{node}: {len(took)} changes: median {statistics.median(took) * 1000:.0f} ms, worst"
            f" {max(took) * 1000:.0f} ms; without the time for which the machine stood still"
            f" {statistics.median(ran) * 1000:.0f} and {max(ran) * 1000:.0f} ms"
        )
        assert len(ran) >= 2, (events, tables[node])
        assert statistics.median(ran) <= MEDIAN, (node, took, ran)
        assert max(ran) <= WORST, (node, took, ran)
