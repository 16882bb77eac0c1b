"""One cluster for all e2e tests, with the product and its example on it."""

import contextlib
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
from tests.load.report import Failures, Report, failing_until, failures, longest_gap
from tests.rig.cluster import Cluster, cluster
from tests.rig.errors import RigError
from tests.rig.image import archives

VIP, PORT = "192.168.139.123", 80
TARGET = f"{VIP}:{PORT}"
OPERATOR = "app.kubernetes.io/name=lvs-operator"
LONELY = "192.168.139.125"
"""A second VirtualService, whose only director is the node that will be crashed."""
BUSY = 3.0
"""Seconds after a crash until when new connections may fail at worst: a kernel that gets no processor for a second
fails its connections too."""
STRAY = 0.1
"""Of the new connections, while a kernel boots beside the others on the same processors."""

# What needs a whole cluster goes first. What asks for a Backup that is down stands before what lets it return, and what
# does as well with two nodes stands between them. What takes all away comes last.
ORDER = (
    "test_main_job",
    "kube_proxy_modes",
    "test_endpoints",
    "test_processes",
    "test_backup_dies",
    "test_refusals",
    "test_real_servers",
    "test_no_active",
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
    return World(running).states()


@pytest.fixture(scope="session")
def world(running: Cluster, before: dict[str, NodeState]) -> Iterator[World]:
    """The product and its example, serving."""
    here = World(running)
    running.kubectl("apply", "-k", str(DEPLOY))
    wait_for(lambda: running.kubectl("apply", "-f", str(EXAMPLE)) or True, 30.0)
    with contextlib.closing(here.api):
        assert wait_for(lambda: serving(here), 120.0), "the VIP is not served by three pods within 120 s"
        yield here


def serving(world: World, replicas: int = 3) -> bool:
    """The example is served: every agent ready, every pod in every node's table, one holder."""
    if world.agents_ready()[0] != len(world.cluster.nodes) or len(world.ready_pods("app=web")) != replicas:
        return False
    tables = list(world.tables(VIP, PORT).values())
    return all(len(table) == replicas and table == tables[0] for table in tables) and len(world.holders(VIP)) == 1


def spread(world: World) -> None:
    """A pod on each node. New ones are placed so, but fewer replicas may leave two on one node."""
    for _ in range(3):
        pods = world.ready_pods("app=web")
        twice = next((name for name, node in sorted(pods.items()) if list(pods.values()).count(node) > 1), None)
        if twice is None:
            return
        world.cluster.kubectl("delete", "pod", twice, "--wait=false")
        assert wait_for(lambda gone=twice: gone not in world.ready_pods("app=web") and serving(world), 60.0)  # type: ignore[misc]
    raise AssertionError(f"the pods cannot be spread: {world.ready_pods('app=web')}")


@pytest.fixture(scope="session")
def prometheus(world: World) -> Iterator[Prometheus]:
    """Debian's Prometheus on a host of the LAN, scraping every agent and the operator once a second."""
    with Prometheus(world) as one:
        yield one


def scrapes(world: World, prometheus: Prometheus) -> bool:
    """Every agent that runs, and the operator."""
    return prometheus.healthy_targets() >= len(world.nodes) + 1


@dataclass(frozen=True, slots=True)
class Death:
    """The crash of a node while 50 new connections come every second."""

    node: str
    at: float
    report: Report
    until: float
    """End of what is judged."""

    @property
    def failing(self) -> float:
        """Seconds after the crash until when more than a few new connections failed."""
        return (failing_until(self.report.attempts, self.at, self.until - 1.1) or self.at) - self.at

    def __str__(self) -> str:
        dead = failures(self.report.attempts, self.at - 1.1, self.until - 1.1)
        gap = longest_gap(self.report.attempts, self.at - 1.0, self.until).seconds
        return (
            f"{self.node} dies: {dead.count} of {dead.of} fail {dict(dead.reasons)}, until {self.failing:.2f} s"
            f" after the crash; longest gap {gap:.2f} s"
        )


@dataclass(frozen=True, slots=True)
class Return:
    """The start of a node that had crashed, while 50 new connections come every second."""

    node: str
    back: bool
    """It takes part as before."""
    seconds: float
    """Until then."""
    failed: Failures

    def __str__(self) -> str:
        return (
            f"{self.node} serves again {self.seconds:.0f} s after its start, meanwhile {self.failed.count} of"
            f" {self.failed.of} fail {dict(self.failed.reasons)}"
        )


def bring_back(world: World, node: str) -> Return:
    """Boot it, and look at the new connections of all."""
    with world.load(TARGET, hold=0, duration=300.0) as load:
        assert load.wait_until(lambda told: told["new"] > 0, 20.0), load.progress
        begin = time.monotonic()
        world.boot(node)
        back = wait_for(lambda: serving(world), 120.0)
        seconds = time.monotonic() - begin
        time.sleep(3.0)
        until = time.monotonic()
        attempts = load.stop().attempts
    return Return(node, back, seconds, failures(attempts, begin, until - 1.1))


@pytest.fixture(scope="session")
def backup(world: World, prometheus: Prometheus) -> Death:
    """Crash a node that is not Active, has a pod, and alone serves a second VirtualService. It stays down."""
    assert wait_for(lambda: serving(world), 60.0), "not everything is well before the crash"
    spread(world)
    (holder,) = world.holders(VIP)
    # The operator is asked for things while the node is down, and Kubernetes would take minutes to move it.
    needed = {holder, *world.ready_pods(OPERATOR, SYSTEM).values()}
    node = next(node for node in sorted(world.ready_pods("app=web").values()) if node not in needed)
    world.apply(lonely(node))
    assert wait_for(lambda: world.holders(LONELY) == [node], 20.0), "the second VirtualService is not served"
    assert wait_for(lambda: scrapes(world, prometheus), 30.0), prometheus.targets()
    assert wait_for(
        lambda: prometheus.value(f'lvs_virtualservice_active{{node="{node}",virtualservice="lonely"}}'), 15.0
    )
    with world.load(TARGET, hold=0, duration=60.0) as load:
        assert load.wait_until(lambda told: told["new"] > 50, 20.0), load.progress
        at = time.monotonic()
        world.crash(node)
        time.sleep(10.0)
        until = time.monotonic()
        report = load.stop()
    return Death(node, at, report, until)


@dataclass(frozen=True, slots=True)
class Alerted:
    """What fired while the Backup was down, and its return."""

    alerts: dict[str, list[dict[str, str]]]
    returned: Return


@pytest.fixture(scope="session")
def alerted(world: World, prometheus: Prometheus, backup: Death) -> Alerted:
    """Wait for the alert, and let the Backup return."""
    wait_for(lambda: "LvsNoActive" in prometheus.firing(), max(5.0, backup.at + 60.0 - time.monotonic()))
    alerts = prometheus.firing()
    return Alerted(alerts, bring_back(world, backup.node))


@dataclass(frozen=True, slots=True)
class Crash(Death):
    """The crash of the Active node under load, with the API server stopped at that moment, and its return."""

    pods: dict[str, str]
    holders: list[str]
    """Of the VIP, ten seconds later."""
    alerts: dict[str, list[dict[str, str]]]
    """Labels of the alerts that fired, by name."""
    returned: Return


def all_held(world: World) -> bool:
    """Can as many connections as the crash is judged by be opened, each at the first attempt?"""
    with world.load(TARGET, hold=300, duration=60.0) as load:
        held = load.wait_until(lambda told: told["held"] == 300, 20.0)
        load.stop()
    return held


@pytest.fixture(scope="session")
def crash(world: World, prometheus: Prometheus) -> Crash:
    """Crash the Active node under load, watch, and let it return."""
    for down in sorted({*world.cluster.nodes} - {*world.nodes}):
        world.boot(down)  # the Backup, when nothing that was asked for waits for its return
    assert wait_for(lambda: serving(world), 120.0), "not everything is well before the crash"
    running = world.cluster
    node = world.holders(VIP)[0]
    pods = world.ready_pods("app=web")
    assert wait_for(lambda: scrapes(world, prometheus), 30.0), prometheus.targets()
    # What other tests did may go on for a moment: a single connection refused now would say nothing about the crash.
    assert wait_for(lambda: all_held(world), 120.0), "300 connections cannot be held"
    with world.load(TARGET, hold=300, duration=200.0) as load:
        assert load.wait_until(lambda told: told["held"] == 300, 20.0), load.progress
        time.sleep(1.5)
        running.freeze_api()
        try:
            at = time.monotonic()
            world.crash(node)
            time.sleep(10.0)
            holders = world.holders(VIP)
        finally:
            running.thaw_api()
        quiet_since = time.monotonic()
        while time.monotonic() < at + 75.0 and time.monotonic() - quiet_since < 3.0:
            if load.progress["failed_last_second"]:
                quiet_since = time.monotonic()
            time.sleep(0.3)
        until = time.monotonic()
        report = load.stop()
    wait_for(lambda: "LvsVrrpTransition" in prometheus.firing(), 45.0)
    alerts = prometheus.firing()
    return Crash(node, at, report, until, pods, holders, alerts, bring_back(world, node))


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
