"""One cluster for all e2e tests, with the product and its example on it."""

import contextlib
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.demo.nodes import NodeState
from tests.demo.story import DEPLOY, EXAMPLE
from tests.demo.world import SYSTEM, World, wait_for
from tests.e2e.deaths import RATE, Crash, Death, Return, bring_back, explain, places
from tests.e2e.prometheus import Prometheus
from tests.load.outage import TIMEOUT, Outage
from tests.load.report import Held
from tests.rig.cluster import Cluster, cluster
from tests.rig.errors import RigError
from tests.rig.image import archives

VIP, PORT = "192.168.139.123", 80
TARGET = f"{VIP}:{PORT}"
OPERATOR = "app.kubernetes.io/name=lvs-operator"
LONELY = "192.168.139.125"
"""A second VirtualService, whose only director is the node that will be crashed."""
HELD = 300
"""Connections that are held while the Active node is crashed."""

# What needs a whole cluster goes first. What asks for a Backup that is down stands before what lets it return, and what
# does as well with two nodes stands between them. What takes all away comes last.
ORDER = (
    "test_main_job",
    "kube_proxy_modes",
    "test_endpoints",
    "test_processes",
    "test_links",
    "test_backup_dies",
    "test_refusals",
    "test_real_servers",
    "test_no_active",
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
    if report.failed and RUNNING in item.config.stash and not item.config.stash.get(DUMPED, False):
        item.config.stash[DUMPED] = True
        report.sections.append(("cluster", dumped(item.config.stash[RUNNING], "failure")))


def dumped(running: Cluster, when: str) -> str:
    """Collects the logs, objects and tables of the cluster, and says where."""
    folder = Path(os.environ.get("LVS_DUMP") or tempfile.mkdtemp(prefix="lvs-e2e-")) / when
    try:
        running.dump(folder)
    except (RigError, OSError) as error:
        return f"not all is in {folder}: {error}"
    return f"logs, objects and tables: {folder}"


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


def explained(world: World, node: str, outage: Outage, lost: Sequence[Held] = ()) -> tuple[str, ...]:
    """``explain``, and when there is something to be explained the cluster's logs, objects and tables, while the node
    is still dead."""
    told = explain(world, outage, lost)
    return (*told, dumped(world.cluster, f"{node}-dead")) if told else ()


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
    with (
        world.load(TARGET, hold=0, duration=60.0, rate=RATE, timeout=TIMEOUT) as load,
        world.witness(60.0) as witness,
    ):
        assert load.wait_until(lambda told: told["new"] > 50, 20.0), load.progress
        at = time.monotonic()
        world.crash(node)
        time.sleep(10.0)
        until = time.monotonic()
        report = load.stop()
    outage = Outage(report, at, until, places(witness, report))
    return Death(node, outage, explained(world, node, outage))


@dataclass(frozen=True, slots=True)
class Alerted:
    """What fired while the Backup was down, and its return."""

    alerts: dict[str, list[dict[str, str]]]
    returned: Return


@pytest.fixture(scope="session")
def alerted(world: World, prometheus: Prometheus, backup: Death) -> Alerted:
    """Wait for the alert, and let the Backup return."""
    wait_for(lambda: "LvsNoActive" in prometheus.firing(), max(5.0, backup.outage.at + 60.0 - time.monotonic()))
    alerts = prometheus.firing()
    return Alerted(alerts, bring_back(world, backup.node, TARGET, lambda: serving(world)))


def all_held(world: World) -> bool:
    """Can as many connections as the crash is judged by be opened, each at the first attempt?"""
    with world.load(TARGET, hold=HELD, duration=60.0) as load:
        held = load.wait_until(lambda told: told["held"] == HELD, 20.0)
        load.stop()
    return held


@pytest.fixture(scope="session")
def crash(world: World, prometheus: Prometheus) -> Crash:
    """Crash the Active node under load, watch, and let it return."""
    for down in sorted({*world.cluster.nodes} - {*world.nodes}):
        world.boot(down)  # the Backup, when nothing that was asked for waits for its return
    assert wait_for(lambda: serving(world), 120.0), "not everything is well before the crash"
    spread(world)
    running = world.cluster
    node = world.holders(VIP)[0]
    pods = world.ready_pods("app=web")
    assert wait_for(lambda: scrapes(world, prometheus), 30.0), prometheus.targets()
    # What other tests did may go on for a moment: a single connection refused now would say nothing about the crash.
    assert wait_for(lambda: all_held(world), 120.0), f"{HELD} connections cannot be held"
    with (
        world.load(TARGET, hold=HELD, duration=200.0, rate=RATE, timeout=TIMEOUT) as load,
        world.witness(200.0) as witness,
    ):
        assert load.wait_until(lambda told: told["held"] == HELD, 20.0), load.progress
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
    outage = Outage(report, at, until, places(witness, report))
    lost = tuple(one for one in outage.lost if pods.get(one.server, node) != node)
    told = explained(world, node, outage, lost)
    wait_for(lambda: "LvsVrrpTransition" in prometheus.firing(), 45.0)
    alerts = prometheus.firing()
    returned = bring_back(world, node, TARGET, lambda: serving(world))
    return Crash(node, outage, told, pods, lost, holders, alerts, returned)


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
