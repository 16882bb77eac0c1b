"""kube-proxy in IPVS mode that is told to leave our addresses alone (``excludeCIDRs``): nothing had to be put back.

Not part of the suite, whose cluster has kube-proxy in nftables mode: ``python -m tests.e2e.proxies ipvs-excluding``
runs it after the core, the crash of the Active node among it.
"""

import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, serving
from tests.e2e.deaths import places
from tests.load.outage import TIMEOUT, Outage

pytestmark = pytest.mark.e2e


def repairs(world: World, node: str) -> float:
    """What the node's agent put back since it began."""
    text = world.cluster.on_node(node, ["curl", "-sfm", "5", "http://127.0.0.1:9479/metrics"])
    lines = [line for line in text.splitlines() if line.startswith("lvs_")]
    assert lines, text
    return sum(float(line.split()[-1]) for line in lines if line.startswith("lvs_repairs_total"))


def test_kube_proxy_leaves_what_it_was_told_to_leave(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    # kube-proxy syncs when a Service changes, and at least every 30 s.
    world.cluster.kubectl("create", "service", "clusterip", "another", "--tcp=80:80")
    try:
        begin = time.monotonic()
        with world.load(TARGET, hold=60, duration=40.0, timeout=TIMEOUT) as load, world.witness(60.0) as witness:
            report = load.wait(60.0)
    finally:
        world.cluster.kubectl("delete", "service", "another")
    outage = Outage(report, begin, report.ended, places(witness, report), 0.0, "the start")
    put_back = world.each(lambda node: repairs(world, node))
    print(f"{outage}; put back: {put_back}")
    assert put_back == dict.fromkeys(world.cluster.nodes, 0.0)
    assert not outage.late, str(outage)
    assert len(report.held) == 60
    assert not outage.lost, outage.lost
    assert wait_for(lambda: world.condition("NodeHealthy").get("status") == "True", 10.0), world.condition(
        "NodeHealthy"
    )
