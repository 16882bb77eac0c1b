"""One cluster for all e2e tests, with the product and its example on it."""

import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.demo.nodes import NodeState
from tests.demo.story import DEPLOY, EXAMPLE
from tests.demo.world import SYSTEM, World, wait_for
from tests.e2e.prometheus import Prometheus
from tests.load.report import Report
from tests.rig.cluster import Cluster, cluster
from tests.rig.errors import RigError
from tests.rig.image import archives

VIP, PORT = "192.168.139.123", 80
TARGET = f"{VIP}:{PORT}"
LONELY = "192.168.139.125"
"""A second VirtualService, whose only director is the node that will be crashed."""

# What needs a whole cluster goes first, what leaves a wound later, what takes all away last.
ORDER = (
    "test_main_job",
    "kube_proxy_modes",
    "test_refusals",
    "test_endpoints",
    "test_processes",
    "test_dead_nodes",
    "test_crash",
    "test_prometheus",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return ORDER.index(name) if name in ORDER else len(ORDER)

    mine = [item for item in items if item.path.parent == Path(__file__).parent]
    others = [item for item in items if item not in mine]
    items[:] = [*others, *sorted(mine, key=place)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Logs, objects and tables of the cluster at the first failure of a test, in a folder that stays."""
    report = (yield).get_result()
    running: Cluster | None = item.config.stash.get(RUNNING, None)
    if report.failed and running is not None and not item.config.stash.get(DUMPED, False):
        item.config.stash[DUMPED] = True
        folder = Path(os.environ.get("LVS_DUMP") or tempfile.mkdtemp(prefix="lvs-e2e-"))
        try:
            running.dump(folder)
        except (RigError, OSError) as error:
            report.sections.append(("cluster", f"no dump: {error}"))
        report.sections.append(("cluster", f"logs, objects and tables: {folder}"))


RUNNING = pytest.StashKey[Cluster]()
DUMPED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes with our images, under a name that no other run has."""
    one = cluster(os.environ.get("LVS_RIG_NAME") or f"e2e-{os.getpid()}")
    one.load_images(archives())
    one.up()
    request.config.stash[RUNNING] = one
    try:
        yield one
    finally:
        one.down()


@pytest.fixture(scope="session")
def before(running: Cluster) -> dict[str, NodeState]:
    """The nodes as they were before the product came."""
    return World(running).states(running.nodes)


@pytest.fixture(scope="session")
def world(running: Cluster, before: dict[str, NodeState]) -> World:
    """The product and its example, serving."""
    here = World(running)
    running.kubectl("apply", "-k", str(DEPLOY))
    wait_for(lambda: running.kubectl("apply", "-f", str(EXAMPLE)) or True, 30.0)
    assert wait_for(lambda: serving(here), 120.0, every=1.0), "the VIP is not served by three pods within 120 s"
    return here


def serving(world: World, replicas: int = 3) -> bool:
    """The example is served: every agent ready, every pod in every node's table, one holder."""
    agents = world.items("daemonsets", "--namespace", SYSTEM)
    if not agents or agents[0]["status"].get("numberReady", 0) != len(world.cluster.nodes):
        return False
    if len(world.ready_pods("app=web")) != replicas:
        return False
    tables = [world.destinations(node, VIP, PORT) for node in world.cluster.nodes]
    return all(len(table) == replicas and table == tables[0] for table in tables) and len(world.holders(VIP)) == 1


@dataclass(frozen=True, slots=True)
class Crash:
    """The crash of the Active node under load, with the API server stopped at that moment."""

    node: str
    at: float
    pods: dict[str, str]
    holders: list[str]
    """Of the VIP, ten seconds later."""
    report: Report
    until: float
    """End of what is judged."""
    alerts: dict[str, list[dict[str, str]]]
    """Labels of the alerts that fired, by name."""


@pytest.fixture(scope="session")
def prometheus(world: World) -> Iterator[Prometheus]:
    """Debian's Prometheus on a host of the LAN, scraping every agent and the operator once a second."""
    with Prometheus(world) as one:
        assert wait_for(lambda: one.healthy_targets() >= len(world.cluster.nodes) + 1, 30.0), one.targets()
        yield one


def all_held(world: World) -> bool:
    """Can as many connections as the crash is judged by be opened, each at the first attempt?"""
    with world.load(TARGET, hold=300, duration=60.0) as load:
        held = load.wait_until(lambda told: told["held"] == 300, 20.0)
        load.stop()
    return held


@pytest.fixture(scope="session")
def crash(world: World, prometheus: Prometheus) -> Crash:
    """Crash the Active node under load, watch, and let it return."""
    assert wait_for(lambda: serving(world), 60.0), "not everything is well before the crash"
    running = world.cluster
    node = world.holders(VIP)[0]
    pods = world.ready_pods("app=web")
    world.apply(lonely(node))
    assert wait_for(lambda: world.holders(LONELY) == [node], 20.0), "the second VirtualService is not served"
    assert wait_for(
        lambda: prometheus.value(f'lvs_virtualservice_active{{node="{node}",virtualservice="lonely"}}'), 15.0
    )
    # What other tests did may go on for a moment: a single connection refused now would say nothing about the crash.
    assert wait_for(lambda: all_held(world), 120.0), "300 connections cannot be held"
    with world.load(TARGET, hold=300, duration=200.0) as load:
        assert load.wait_until(lambda told: told["held"] == 300, 20.0), load.progress
        time.sleep(1.5)
        running.freeze_api()
        try:
            at = time.monotonic()
            running.crash(node)
            time.sleep(10.0)
            others = [other for other in running.nodes if other != node]
            holders = world.holders(VIP, others)
        finally:
            running.thaw_api()
        quiet_since = time.monotonic()
        while time.monotonic() < at + 75.0 and time.monotonic() - quiet_since < 3.0:
            if load.progress["failed_last_second"]:
                quiet_since = time.monotonic()
            time.sleep(0.3)
        until = time.monotonic()
        report = load.stop()
    wait_for(lambda: {"LvsVrrpTransition", "LvsNoActive"} <= prometheus.firing().keys(), 45.0, every=1.0)
    alerts = prometheus.firing()
    running.boot(node)
    return Crash(node, at, pods, holders, report, until, alerts)


def lonely(node: str) -> str:
    """A class with one director, and a VirtualService of it."""
    return f"""
apiVersion: lvsdr.io/v1alpha1
kind: VirtualServiceClass
metadata: {{name: lonely}}
spec:
  directors: {{nodes: [{{name: {node}, priority: 100}}]}}
  vrrp: {{virtualRouterIDs: {{first: 77, last: 77}}}}
---
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: lonely, namespace: default}}
spec: {{className: lonely, addresses: [{LONELY}], ports: [{{port: 80}}], serviceRef: {{name: web}}}}
"""


def clock_offset(world: World, node: str) -> float:
    """Seconds by which the node's wall clock is ahead of ours; the best of five looks."""
    looks = []
    for _ in range(5):
        begin = time.time()
        theirs = float(world.cluster.on_node(node, ["bash", "-c", "echo $EPOCHREALTIME"]))
        end = time.time()
        looks.append((end - begin, theirs - (begin + end) / 2))
    return min(looks)[1]


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
