"""What a takeover keeps is what the condition ConnectionsSurvive says: with pods, and with the sync daemon."""

import random
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lvsagent.core.diff import Owned, StartSync
from lvsagent.core.state import KernelState, SyncDaemon, SyncRole
from lvsagent.core.sysctl import SYNC_THRESHOLD
from lvsapi.ipvs import Persistence
from lvsapi.model import Node, RealServer, Resolved
from lvsapi.resolve import resolve
from lvsapi.takeover import kept_of, synchronised_class
from tests.gen import assignment, endpoint, endpoint_slice, port, service_class, snapshot, virtual_service
from tests.net.lan import Lan
from tests.net.pods import POD_PORT, SERVER, Connection, PodLan, await_listening

pytestmark = pytest.mark.net
VIP, PORT, COUNT = "10.0.0.200", 80, 24
DIRECTORS = ("n1", "n2")
REAL = {"r1": "10.0.0.31", "r2": "10.0.0.32", "r3": "10.0.0.33"}
ROUTER = frozenset({"sync/51/v4"})
SYNC_LAG = 3.5
"""The kernel's master daemon sends what it has gathered within 2 s."""


class Classic(PodLan):
    """Two directors, three real servers outside the cluster with the VIP on ``lo``, a client."""

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self.nodes = list(DIRECTORS)
        self.owned = {node: Owned() for node in self.nodes}
        lan.add_host("client", "10.0.0.100/24")
        for number, node in enumerate(self.nodes, 1):
            lan.add_host(node, f"10.0.0.{20 + number}/24")
        for name, address in REAL.items():
            lan.add_host(name, f"{address}/24")
            lan.run(name, ["ip", "address", "add", f"{VIP}/32", "dev", "lo"])

    def start(self, folder: Path) -> None:
        """The real servers serve."""
        for name in REAL:
            self.lan.popen(
                name, [sys.executable, "-I", "-S", "-c", SERVER, name, str(PORT)], log=folder / f"{name}.log"
            )
        for name in REAL:
            await_listening(folder / f"{name}.log")

    def become(self, active: str, resolved: Resolved) -> dict[str, KernelState]:
        """As elections and agents do it: the tables stand, the address moves, and then the agents hear of it."""
        standing = f"{VIP}/32" in [one for node in self.nodes for one in self.lan.addresses(node)]
        if not standing:
            for node in self.nodes:
                self.program(node, resolved)
        for node in self.nodes:
            if f"{VIP}/32" in self.lan.addresses(node) and node != active:
                self.release(node, VIP)
        if f"{VIP}/32" not in self.lan.addresses(active):
            self.hold(active, VIP)
        order = [active, *(node for node in self.nodes if node != active)]
        return {node: self.program(node, resolved, ROUTER if node == active else frozenset()) for node in order}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classic]:
    with Lan() as lan:
        found = Classic(lan)
        found.start(tmp_path_factory.mktemp("takeover"))
        yield found


@pytest.fixture
def classic(outside: Classic) -> Classic:
    """Nobody serves, no connection is known."""
    for node in outside.nodes:
        outside.program(node, Resolved(servers=(), routers=(), problems=()))
        outside.lan.run(node, ["ipvsadm", "-C"])
    return outside


def lab(scheduler: str, *, sync: bool = False, persistence: Persistence | None = None) -> Resolved:
    item = virtual_service(
        addresses=[VIP],
        real_servers=[RealServer(address=ip_address(address), weight=COUNT) for address in REAL.values()],
        scheduler=scheduler,
        class_name="sync",
        assigned=assignment(51, {"n1": 100, "n2": 50}),
        persistence=persistence,
    )
    settings = service_class("sync", connection_sync=sync, vrids=(51, 51), interface="eth0")
    return resolve(snapshot(item, classes=[settings], nodes=()))


def claimed(resolved: Resolved) -> bool:
    name, why = synchronised_class(resolved)
    return kept_of(resolved.servers, bool(name), bool(name), why).all


def survivors(connections: list[Connection]) -> list[Connection]:
    """Asked in another order than they were opened in: a scheduler that takes turns would come to the same choices."""
    order = random.Random(1).sample(connections, len(connections))
    return [connection for connection in order if connection.lives()]


def test_with_synchronisation_the_established_survive_there_and_back(classic: Classic) -> None:
    resolved = lab("rr", sync=True)
    assert claimed(resolved)
    states = classic.become("n1", resolved)
    assert {node: {d.role for d in state.daemons} for node, state in states.items()} == {
        "n1": {SyncRole.MASTER},
        "n2": {SyncRole.BACKUP},
    }
    assert {state.sysctls[SYNC_THRESHOLD] for state in states.values()} == {"2 50"}
    connections = [classic.connect(VIP, PORT, timeout=1.0) for _ in range(COUNT)]
    for active in ("n2", "n1"):
        assert all(connection.lives() for connection in connections)
        time.sleep(SYNC_LAG)
        classic.become(active, resolved)
        assert len(survivors(connections)) == COUNT
    classic.become("n1", Resolved(servers=(), routers=resolved.routers, problems=()))
    for node in classic.nodes:
        state = classic.program(node, Resolved(servers=(), routers=(), problems=()))
        assert (state.daemons, state.sysctls[SYNC_THRESHOLD]) == (frozenset(), "3 50")


def test_fault_54_a_daemon_that_stopped_is_started_again_and_a_foreign_one_is_not_believed(classic: Classic) -> None:
    resolved = lab("rr", sync=True)
    classic.become("n1", resolved)
    classic.lan.run("n2", ["ipvsadm", "--stop-daemon", "backup"])
    assert classic.program("n2", resolved).daemons == {SyncDaemon(role=SyncRole.BACKUP, interface="eth0", sync_id=51)}
    # Somebody else's director on the same LAN tells of a connection under another number.
    stranger = SyncDaemon(role=SyncRole.MASTER, interface="eth0", sync_id=99)
    classic.lan.run("n1", ["ipvsadm", "--stop-daemon", "master"])
    with classic.kernel("n1") as kernel:
        assert kernel.apply([StartSync(stranger)]) == ()
        (failure,) = kernel.apply([StartSync(stranger)])
        assert "one of somebody else runs" in failure.message
        assert kernel.read().daemons == {stranger}
    connections = [classic.connect(VIP, PORT, timeout=1.0) for _ in range(4)]
    assert all(connection.lives() for connection in connections)
    time.sleep(SYNC_LAG)
    assert "10.0.0.100" not in classic.lan.run("n2", ["ipvsadm", "-Lnc"])
    classic.lan.run("n1", ["ipvsadm", "--stop-daemon", "master"])


# -- pods ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with Lan() as lan:
        pods = PodLan(lan, 3)
        pods.serve(tmp_path_factory.mktemp("pods"))
        pods.beat_once()
        yield pods


def web(scheduler: str, persistence: Persistence | None, **ports: Any) -> Resolved:
    item = virtual_service(
        addresses=[VIP],
        **ports,
        scheduler=scheduler,
        class_name="sync",
        assigned=assignment(51, {"n1": 100, "n2": 50, "n3": 20}),
        persistence=persistence,
    )
    slices = [
        endpoint_slice([endpoint(f"10.244.{k}.11", f"n{k}") for k in (1, 2, 3)], ports=[("http", POD_PORT, "TCP")])
    ]
    nodes = [Node(name=f"n{k}", labels={}, addresses=(ip_address(f"10.0.0.{20 + k}"),)) for k in (1, 2, 3)]
    return resolve(snapshot(item, slices=slices, classes=[service_class("sync", vrids=(51, 51))], nodes=nodes))


def moved(cluster: PodLan, resolved: Resolved, number: int) -> list[Connection]:
    """Connections that were opened while n1 was Active; now n2 is."""
    for node in cluster.nodes:
        cluster.program(node, Resolved(servers=(), routers=(), problems=()), guarded=True)
        if f"{VIP}/32" in cluster.lan.addresses(node):
            cluster.release(node, VIP)
    for node in cluster.nodes:
        cluster.program(node, resolved, guarded=True)
    cluster.hold("n1", VIP)
    cluster.program("n1", resolved, ROUTER, guarded=True)
    connections = [cluster.connect(VIP, number, timeout=1.0) for _ in range(COUNT)]
    tables = [cluster.lan.run(node, ["ipvsadm", "-Sn"]) for node in cluster.nodes]
    cluster.release("n1", VIP)
    cluster.hold("n2", VIP)
    for node in ("n2", "n1"):  # they hear of it when it is done
        cluster.program(node, resolved, ROUTER if node == "n2" else frozenset(), guarded=True)
    if resolved.servers[0].persistence is None:
        assert tables == [cluster.lan.run(node, ["ipvsadm", "-Sn"]) for node in cluster.nodes]
    return connections


@pytest.mark.parametrize(
    ("scheduler", "persistence"),
    [("mh", None), ("rr", None), ("wlc", None), ("sh", None), ("mh", Persistence(timeout_seconds=60))],
)
def test_with_pods_all_survive_that_are_said_to_and_those_of_the_new_active_always(
    cluster: PodLan, scheduler: str, persistence: Persistence | None
) -> None:
    resolved = web(scheduler, persistence)
    connections = moved(cluster, resolved, PORT)
    kept = survivors(connections)
    here = [connection for connection in connections if connection.pod == "p2"]
    print(f"{scheduler}: {len(kept)} of {COUNT} live on, of {len(here)} on the new Active {len(survivors(here))}")
    assert set(map(id, here)) <= set(map(id, kept))
    assert (len(kept) == COUNT) is claimed(resolved) or not claimed(resolved)
    if scheduler == "rr":
        assert len(kept) < COUNT, "the condition says too little, or this sees nothing"
    if scheduler == "sh":
        assert len(kept) == COUNT, "whole tables choose alike by the client's address"
    assert {cluster.connect(VIP, PORT, timeout=1.0).pod for _ in range(6)} <= {"p1", "p2", "p3"}


@pytest.mark.parametrize("scheduler", ["mh", "rr"])
@pytest.mark.parametrize("ports", [{"ports": [port(8000, end=8100)]}, {"all_ports": True}], ids=["range", "all"])
def test_ports_of_a_range_reach_pods_of_every_node_which_mark_packets_themselves(
    cluster: PodLan, ports: dict[str, Any], scheduler: str
) -> None:
    """A packet that comes by direct routing carries no mark."""
    connections = moved(cluster, web(scheduler, None, **ports), POD_PORT)
    assert {connection.pod for connection in connections} == {"p1", "p2", "p3"}
    kept = survivors(connections)
    assert len(kept) == COUNT or scheduler != "mh"
    assert {connection.pod for connection in kept} >= {"p2"}
    for node in cluster.nodes:
        assert "0x00001000" in cluster.lan.run(node, ["nft", "list", "table", "inet", "lvs-dr"])
        assert cluster.lan.run(node, ["ipvsadm", "-Sn"]).count("-a -f 4096 ") == 3
    found = [cluster.connect(VIP, POD_PORT, timeout=1.0) for _ in range(COUNT)]
    assert {connection.pod for connection in found} == {"p1", "p2", "p3"}
    assert all(began(cluster, node) for node in cluster.nodes), "what n1, and then n2, sent on has another mark"


def began(cluster: PodLan, node: str) -> int:
    """Connections of services for what other nodes sent on."""
    found, marked = 0, False
    for words in map(str.split, cluster.lan.run(node, ["cat", "/proc/net/ip_vs"]).splitlines()):
        marked = words[0] == "FWM" and words[1].startswith("4C56") if words[0] != "->" else marked
        found += sum(map(int, words[-2:])) if marked and words[0] == "->" else 0
    return found
