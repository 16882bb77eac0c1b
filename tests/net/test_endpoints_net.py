"""Endpoints that stop being ready, terminate or are local, on real kernels: what becomes of connections."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from lvsagent.core.drains import Drains
from lvsapi.ipvs import Persistence
from lvsapi.model import Endpoint, Resolved
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint, endpoint_slice, node, service, snapshot, virtual_service
from tests.net.lan import Lan
from tests.net.pods import POD_PORT, Connection, PodLan
from tests.net.test_data_path_net import PORT, VIP

pytestmark = pytest.mark.net
LEAVING = {"ready": False, "serving": True, "terminating": True}
FAILING = {"ready": False, "serving": False, "terminating": False}
ENDING = {"ready": False, "serving": False, "terminating": True}
NEW = 40


def pod(k: int, state: dict[str, bool] | None = None) -> Endpoint:
    return endpoint(f"10.244.{k}.11", f"n{k}", **(state or {}))


def objects(*endpoints: Endpoint, policy: str = "Cluster", **ipvs: Any) -> Resolved:
    """What every agent makes of such endpoints."""
    directors = assignment(200, {"n1": 250, "n2": 240, "n3": 230})
    item = virtual_service(addresses=[VIP], ports=[PORT], assigned=directors, **ipvs)
    part = endpoint_slice(endpoints, ports=[("http", POD_PORT, "TCP")])
    nodes = [node(f"n{k}", f"10.0.0.2{k}") for k in (1, 2, 3)]
    return resolve(snapshot(item, services=[service(policy=policy)], slices=[part], nodes=nodes))


def program(pods: PodLan, what: Resolved) -> None:
    """Every node, n1 as the Active one."""
    for name in pods.nodes:
        active = frozenset(router.name for router in what.routers) if name == "n1" else frozenset[str]()
        pods.program(name, what, active)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with Lan() as lan:
        pods = PodLan(lan, 3)
        pods.serve(tmp_path_factory.mktemp("pods"))
        yield pods


@pytest.fixture
def pods(cluster: PodLan) -> PodLan:
    """All three endpoints ready, n1 holds the VIP."""
    program(cluster, objects(pod(1), pod(2), pod(3)))
    for name in cluster.nodes:
        if f"{VIP}/32" in cluster.lan.addresses(name):
            cluster.release(name, VIP)
    cluster.hold("n1", VIP)
    return cluster


def opened(pods: PodLan) -> list[Connection]:
    return [pods.connect(VIP, PORT) for _ in range(NEW)]


def reached(pods: PodLan) -> set[str]:
    return {connection.pod for connection in opened(pods)}


@pytest.mark.parametrize("state", [LEAVING, FAILING, ENDING], ids=["terminates", "fails its probe", "both"])
def test_who_is_not_ready_any_more_keeps_its_connections_and_gets_no_others(
    pods: PodLan, state: dict[str, bool]
) -> None:
    held = opened(pods)
    mine = Counter(connection.pod for connection in held)
    assert mine.keys() == {"p1", "p2", "p3"}
    for changed in (3, 1):
        program(pods, objects(*(pod(k, state if k == changed else None) for k in (1, 2, 3))))
        assert reached(pods) == {"p1", "p2", "p3"} - {f"p{changed}"}
        assert all(connection.lives() for connection in held)
    program(pods, objects(pod(1), pod(2), pod(3)))
    assert reached(pods) == {"p1", "p2", "p3"}
    assert all(connection.lives() for connection in held), mine


def test_who_never_was_ready_is_in_no_table(pods: PodLan) -> None:
    program(pods, objects(pod(1), pod(2)))
    program(pods, objects(pod(1), pod(2), pod(3, FAILING)))
    for name in pods.nodes:
        with pods.kernel(name) as kernel:
            (table,) = kernel.read().services.values()
        assert [str(d.address) for d in table.destinations] == ["10.244.1.11", "10.244.2.11"]


def test_where_all_terminate_those_that_serve_get_the_new_connections(pods: PodLan) -> None:
    held = opened(pods)
    program(pods, objects(pod(1, ENDING), pod(2, LEAVING), pod(3, LEAVING)))
    assert reached(pods) == {"p2", "p3"}
    assert all(connection.lives() for connection in held)


def test_with_external_traffic_policy_local_a_node_gives_connections_to_its_own_pods_only(pods: PodLan) -> None:
    program(pods, objects(pod(1), pod(2), pod(3), policy="Local"))
    connections = opened(pods)
    assert {(connection.pod, connection.seen_client) for connection in connections} == {("p1", "10.0.0.100")}
    pods.release("n1", VIP)
    pods.hold("n2", VIP)
    assert reached(pods) == {"p2"}
    program(pods, objects(pod(1), pod(2, LEAVING), pod(3), policy="Local"))
    assert reached(pods) == {"p2"}, "it has nobody better"


def test_a_client_with_persistence_leaves_a_backend_that_drains(pods: PodLan) -> None:
    sticky: dict[str, Any] = {"persistence": Persistence(timeout_seconds=300), "scheduler": "rr"}
    program(pods, objects(pod(1), pod(2), pod(3), **sticky))
    first = opened(pods)
    (mine,) = {connection.pod for connection in first}
    program(pods, objects(*(pod(k, LEAVING if f"p{k}" == mine else None) for k in (1, 2, 3)), **sticky))
    later = reached(pods)
    assert len(later) == 1
    assert later != {mine}
    assert all(connection.lives() for connection in first)
    program(pods, objects(pod(1), pod(2), pod(3)))
    assert pods.lan.run("n1", ["cat", "/proc/sys/net/ipv4/vs/expire_quiescent_template"]).strip() == "0"


def test_who_has_drained_for_long_enough_goes_on_every_node_and_its_clients_know(pods: PodLan) -> None:
    held = [connection for connection in opened(pods) if connection.pod == "p3"]
    what = objects(pod(1), pod(2), pod(3, LEAVING), drain_seconds=10)
    drains = {name: Drains() for name in pods.nodes}
    for now, lives in ((100.0, True), (109.0, True), (110.0, False)):
        for name in pods.nodes:
            with pods.kernel(name) as kernel:
                tables = kernel.read().services
            pods.program(name, drains[name].over(what, now, tables))
        assert {connection.lives() for connection in held} == {lives}
    # An agent that was started anew does not count anew.
    with pods.kernel("n1") as kernel:
        assert len(Drains().over(what, 111.0, kernel.read().services).servers[0].backends) == 2
