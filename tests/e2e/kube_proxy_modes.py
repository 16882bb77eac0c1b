"""The matrix's core on a real cluster, whatever mode kube-proxy runs in: schedulers, each spread and without a failure.

Not part of the suite, whose cluster has kube-proxy in nftables mode: ``python -m tests.e2e.proxies`` runs it in others.
"""

import json
import os
import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP, serving
from tests.e2e.deaths import places
from tests.load.outage import TIMEOUT, Outage
from tests.load.report import distribution, translated
from tests.rig.layout import EXCLUDING

pytestmark = pytest.mark.e2e
MODE = os.environ.get("LVS_RIG_PROXY") or "nftables"


def test_kube_proxy_runs_in_the_mode_that_was_asked_for(world: World) -> None:
    for node in world.nodes:
        asked = world.cluster.on_node(node, ["curl", "-sm", "3", "http://127.0.0.1:10249/proxyMode"])
        assert asked.strip() == MODE.removesuffix(EXCLUDING), node


@pytest.mark.parametrize("scheduler", ["rr", "wlc", "sh", "mh"])
def test_new_connections_are_spread_with_each_scheduler_and_held_ones_live_on(world: World, scheduler: str) -> None:
    flags = ["sh-port", "sh-fallback"] if scheduler == "sh" else None  # else one client is one pod's
    patch = json.dumps({"spec": {"scheduler": scheduler, "schedulerFlags": flags}})
    world.cluster.kubectl("patch", "lvsvs", "web", "--type=merge", "--patch", patch)
    assert wait_for(lambda: all(scheduler in kinds(world, node) for node in world.cluster.nodes), 30.0)
    assert wait_for(lambda: serving(world), 60.0), world.tables(VIP, 80)
    time.sleep(2.0)  # connections of the last scheduler's load have ended everywhere
    begin = time.monotonic()
    with world.load(TARGET, hold=60, duration=12.0, timeout=TIMEOUT) as load, world.witness(60.0) as witness:
        assert load.wait_until(lambda told: told["held"] == 60, 20.0), load.progress
        report = load.wait(40.0)
    spread = distribution(report.attempts)
    outage = Outage(report, begin, report.ended, places(witness, report), 0.0, "the start")
    print(f"{MODE}, {scheduler}: {outage}; {spread}")
    assert set(spread) == set(world.ready_pods("app=web"))
    assert not outage.late, str(outage)
    assert translated(report) == 0
    assert not outage.lost, outage.lost


def kinds(world: World, node: str) -> str:
    """The line of the service."""
    lines = world.cluster.on_node(node, ["ipvsadm", "-Ln"]).splitlines()
    return next((line for line in lines if line.startswith("TCP") and f"{VIP}:80" in line), "")
