"""The whole data path: three nodes, a pod on each, a client; the VIP moves and connections do not notice."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.adapters.kernel import Kernel
from lvsagent.core.diff import ReinsertDestination, SetSysctl
from lvsagent.core.sysctl import EXPIRE_NODEST_CONN
from lvsapi.model import Backend, Forwarding, ObjectKey, Protocol, Resolved, Scheduler, VirtualServer
from tests.net.lan import Lan
from tests.net.pods import POD_PORT, PodLan
from tests.net.tables import command

pytestmark = pytest.mark.net
VIP, PORT = "10.0.0.200", 80
EVERYBODY = {"p1", "p2", "p3"}


def resolved(*pods: int, drained: int = 0) -> Resolved:
    backends = tuple(
        Backend(address=ip_address(f"10.244.{k}.11"), port=POD_PORT, weight=int(k != drained), node=f"n{k}")
        for k in pods
    )
    server = VirtualServer(
        owner=ObjectKey("default", "web"),
        address=ip_address(VIP),
        protocol=Protocol.TCP,
        port=PORT,
        scheduler=Scheduler.MH,
        forwarding=Forwarding.DIRECT_ROUTING,
        backends=backends,
    )
    return Resolved(servers=(server,), routers=(), problems=())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with Lan() as lan:
        pods = PodLan(lan, 3)
        pods.serve(tmp_path_factory.mktemp("pods"))
        yield pods


@pytest.fixture
def pods(cluster: PodLan) -> PodLan:
    """Every node programmed, n1 holds the VIP, the client knows nothing yet."""
    for node in cluster.nodes:
        cluster.program(node, resolved(1, 2, 3))
        if f"{VIP}/32" in cluster.lan.addresses(node):
            cluster.release(node, VIP)
    cluster.hold("n1", VIP)
    cluster.lan.run("client", ["ip", "neigh", "del", VIP, "dev", "eth0"], check=False)
    return cluster


def arp_answers(pods: PodLan) -> set[str]:
    """Hardware addresses that answer the client's ARP request for the VIP."""
    pods.lan.run("client", ["ip", "neigh", "del", VIP, "dev", "eth0"], check=False)
    sniffer = pods.lan.sniff("client")
    pods.lan.socket("client", socket.AF_INET, socket.SOCK_DGRAM).sendto(b"who has it?", (VIP, 9))
    frames = [frame for _, frame in sniffer.frames(0.5)]
    vip = bytes(map(int, VIP.split(".")))
    return {f[22:28].hex(":") for f in frames if f[12:14] == b"\x08\x06" and f[20:22] == b"\0\2" and f[28:32] == vip}


def stick_to(pods: PodLan, node: str) -> None:
    """The client sends packets for the VIP to this node, whoever answers ARP."""
    mac = pods.lan.mac(node)
    pods.lan.run("client", ["ip", "neigh", "replace", VIP, "lladdr", mac, "dev", "eth0", "nud", "permanent"])


@pytest.mark.clause("C58", "D4", "instead")
def test_pods_of_every_node_answer_on_another_port_and_see_the_client(pods: PodLan) -> None:
    connections = [pods.connect(VIP, PORT) for _ in range(30)]
    assert {c.pod for c in connections} == EVERYBODY
    assert {c.seen_client for c in connections} == {"10.0.0.100"}


def test_established_connections_survive_the_move_of_the_vip_and_back(pods: PodLan) -> None:
    connections = [pods.connect(VIP, PORT) for _ in range(60)]
    print("connections by pod:", Counter(c.pod for c in connections))
    assert {c.pod for c in connections} == EVERYBODY
    for old, new in (("n1", "n2"), ("n2", "n1")):
        pods.release(old, VIP)
        pods.hold(new, VIP)
        assert arp_answers(pods) == {pods.lan.mac(new)}
        assert [c.pod for c in connections if not c.lives()] == []
        assert {pods.connect(VIP, PORT).pod for _ in range(20)} == EVERYBODY


def test_with_the_vip_on_lo_everywhere_only_the_active_answers_arp(pods: PodLan) -> None:
    for node in pods.nodes:
        assert f"{VIP}/32" in pods.lan.addresses(node, "lo")
    assert arp_answers(pods) == {pods.lan.mac("n1")}
    pods.release("n1", VIP)
    assert arp_answers(pods) == set()


def test_packets_on_the_way_are_served_after_the_uplink_address_was_removed(pods: PodLan) -> None:
    connections = [pods.connect(VIP, PORT) for _ in range(20)]
    stick_to(pods, "n1")
    pods.release("n1", VIP)
    assert all(c.lives() for c in connections)
    assert {pods.connect(VIP, PORT).pod for _ in range(20)} == EVERYBODY


def test_packets_on_the_way_are_served_after_the_kernel_expired_the_uplink_address(pods: PodLan) -> None:
    pods.release("n1", VIP)
    pods.hold("n1", VIP, lifetime=2)
    connections = [pods.connect(VIP, PORT) for _ in range(20)]
    stick_to(pods, "n1")
    begin = time.monotonic()
    while f"{VIP}/32" in pods.lan.addresses("n1"):
        assert time.monotonic() - begin < 5
        time.sleep(0.05)
    print(f"the kernel removed the address after {time.monotonic() - begin:.2f} s")
    assert f"{VIP}/32" in pods.lan.addresses("n1", "lo")
    assert all(c.lives() for c in connections)
    assert {pods.connect(VIP, PORT).pod for _ in range(20)} == EVERYBODY


def test_a_fenced_vip_on_the_uplink_is_no_address_of_the_node_itself(pods: PodLan) -> None:
    pods.release("n1", VIP)
    pods.hold("n1", VIP, lifetime=2)
    with pods.kernel("n1") as kernel:
        eth0 = next(i for i in kernel.facts().interfaces if i.name == "eth0")
    assert [str(a) for a in eth0.addresses if a.version == 4] == ["10.0.0.21/24"]


def test_an_address_of_a_lease_that_ends_soon_is_the_nodes_own(pods: PodLan) -> None:
    """As NetworkManager and networkd write it: dynamic, noprefixroute."""
    lease = ["10.0.0.77/24", "dev", "eth0"]
    soon = ["valid_lft", "250", "preferred_lft", "250", "noprefixroute"]
    pods.lan.run("n1", ["ip", "address", "add", *lease, *soon])
    try:
        with pods.kernel("n1") as kernel:
            eth0 = next(i for i in kernel.facts().interfaces if i.name == "eth0")
        assert "10.0.0.77/24" in map(str, eth0.addresses)
    finally:
        pods.lan.run("n1", ["ip", "address", "del", *lease])


def test_a_drained_pod_keeps_its_connections_and_gets_no_new_ones(pods: PodLan) -> None:
    connections = [pods.connect(VIP, PORT) for _ in range(30)]
    for node in pods.nodes:
        pods.program(node, resolved(1, 2, 3, drained=3))
    assert all(c.lives() for c in connections)
    assert {pods.connect(VIP, PORT).pod for _ in range(30)} == {"p1", "p2"}


def test_connections_live_on_while_destinations_are_reordered(pods: PodLan) -> None:
    """Pod 1 leaves and returns: it belongs before the others, which are taken out and put back under it."""
    for node in pods.nodes:
        pods.program(node, resolved(2, 3))
    connections = [pods.connect(VIP, PORT) for _ in range(30)]
    assert {c.pod for c in connections} == {"p2", "p3"}
    for node in pods.nodes:
        state = pods.program(node, resolved(1, 2, 3))
        (service,) = state.services.values()
        assert [str(d.address) for d in service.destinations] == [f"10.244.{k}.11" for k in (1, 2, 3)]
        assert state.sysctls[EXPIRE_NODEST_CONN] == "1"
    assert [c.pod for c in connections if not c.lives()] == []


def test_connections_live_on_under_traffic_while_destinations_are_reordered_again_and_again(pods: PodLan) -> None:
    connections = [pods.connect(VIP, PORT) for _ in range(30)]
    with pods.kernel("n1") as kernel:
        (service,) = kernel.read().services.values()
        moves = [ReinsertDestination(service.key, d) for d in service.destinations] * 20
        off, on = SetSysctl(EXPIRE_NODEST_CONN, "0"), SetSysctl(EXPIRE_NODEST_CONN, "1")
        for connection in connections * 3:
            assert kernel.apply([off, *moves, on]) == ()
            assert connection.lives()


def test_what_ipvs_counted_is_read_as_ipvsadm_shows_it(pods: PodLan) -> None:
    held = [pods.connect(VIP, PORT) for _ in range(20)]
    with pods.lan.inside("n1"), Kernel(node="n1", proc_sys=Path("/proc/sys")) as kernel:
        for _ in range(100):  # the kernel sums every 2 s, and packets of the tests before may be on their way
            kernel.read()
            shown = statistics(command("ipvsadm", "-Ln", "--stats", "--exact"))
            found = {str(at[1][0] if at[1] else at[0].address): reading for at, reading in kernel.readings.items()}
            alike = all(tuple(found[name].counters) == numbers for name, numbers in shown.items() if name in found)
            if alike and shown["10.244.1.11"][3]:
                break
            time.sleep(0.1)
        connections = command("ipvsadm", "-Ln")
    assert shown.keys() == {VIP, "10.244.1.11", "10.244.2.11", "10.244.3.11"}
    assert {name: tuple(found[name].counters) for name in shown} == shown
    assert shown["10.244.1.11"][3] > 0, "octets of clients"
    for pod in ("10.244.1.11", "10.244.2.11", "10.244.3.11"):
        (words,) = (line.split() for line in connections.splitlines() if f"-> {pod}:" in line)
        assert [found[pod].active, found[pod].inactive] == [int(words[4]), int(words[5])], pod
    assert sum(found[pod].active for pod in found if pod != VIP) >= len(held)


def statistics(text: str) -> dict[str, tuple[int, ...]]:
    """ipvsadm's statistics: address -> connections, packets in and out, octets in and out. Of marked services none."""
    found, named = {}, False
    for line in text.splitlines():
        words = line.replace("->", "").split()
        named = words[:1] == ["TCP"] if "->" not in line else named
        if named:
            place = words[1] if words[0] == "TCP" else words[0]
            found[place.partition(":")[0]] = tuple(map(int, words[-5:]))
    return found
