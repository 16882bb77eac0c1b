"""One VirtualService with an IPv4 and an IPv6 address: the LAN's clients, takeovers, and clients inside the cluster."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.adapters.clients import Clients, Made
from lvsagent.adapters.procfs import Originals, Sysctls
from lvsagent.core.clients import ClientPaths, client_paths
from lvsapi.model import Resolved
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint, endpoint_slice, node, service, snapshot, virtual_service
from tests.net.lan import Lan
from tests.net.pods import POD_PORT, PodLan, virtual

pytestmark = pytest.mark.net
VIPS = {4: "10.0.0.200", 6: "fd00::200"}
CLIENTS = {4: "10.0.0.100", 6: "fd00::100"}
PORT = 80
INSIDE = ("p1", "p2", "p3", "n1", "n2", "n3")
KUBE_PROXY = (
    "table ip6 kube-proxy {\n chain c {\n type filter hook forward priority 0;\n ct state invalid drop\n }\n}\n"
)
CNI = """table ip6 cni {
 chain c {
  type nat hook postrouting priority srcnat;
  ip6 saddr fd00:244:%d::/64 ip6 daddr != { fd00:244:1::/64, fd00:244:2::/64, fd00:244:3::/64 } masquerade
 }
}
"""
ASKED = 9
ASK = f"""
import socket, sys
for _ in range({ASKED}):
    try:
        with socket.create_connection((sys.argv[1], {PORT}), 2.0) as one:
            one.sendall(b"x\\n")
            print(*one.recv(200).decode().split()[:2])
    except OSError as error:
        print("nobody", type(error).__name__)
"""


def objects() -> Resolved:
    """What every agent makes of a VirtualService with both addresses, whose Service has both families."""
    item = virtual_service(
        addresses=VIPS.values(), ports=[PORT], assigned=assignment(200, {"n1": 250, "n2": 240, "n3": 230})
    )
    slices = [
        endpoint_slice(
            [endpoint(pattern.format(k), f"n{k}") for k in (1, 2, 3)], name=pattern, ports=[("http", POD_PORT, "TCP")]
        )
        for pattern in ("10.244.{}.11", "fd00:244:{}::11")
    ]
    nodes = [node(f"n{k}", f"10.0.0.2{k}", f"fd00::2{k}") for k in (1, 2, 3)]
    return resolve(snapshot(item, services=[service()], slices=slices, nodes=nodes))


class DualLan(PodLan):
    """With fd00::/64 beside 10.0.0.0/24, and pods in fd00:244:K::/64 of node K."""

    def __init__(self, lan: Lan, nodes: int) -> None:
        super().__init__(lan, nodes)
        self._address("client", "fd00::100/64", "eth0")
        for k, name in enumerate(self.nodes, 1):
            lan.run(name, ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
            self._address(name, f"fd00::2{k}/64", "eth0")
            self._address(name, f"fd00:244:{k}::1/64", "cni0")
            self._address(f"p{k}", f"fd00:244:{k}::11/64", "eth0")
            lan.run(f"p{k}", ["ip", "route", "add", "default", "via", f"fd00:244:{k}::1"])
            lan.run(name, ["ip", "link", "set", f"p{k}", "type", "bridge_slave", "hairpin", "on"])
            for other in range(1, nodes + 1):
                if other != k:
                    lan.run(name, ["ip", "route", "add", f"fd00:244:{other}::/64", "via", f"fd00::2{other}"])

    def _address(self, host: str, address: str, interface: str) -> None:
        self.lan.run(host, ["ip", "address", "add", address, "dev", interface, "nodad"])

    def move(self, old: str | None, new: str) -> None:
        """Both addresses, as the election does; the client forgets where they were."""
        for vip in VIPS.values():
            length, more = (128, ["nodad"]) if ":" in vip else (32, [])
            if old is not None:
                self.lan.run(old, ["ip", "address", "del", f"{vip}/{length}", "dev", "eth0"])
            fenced = ["valid_lft", "250", "preferred_lft", "250", "noprefixroute", *more]
            self.lan.run(new, ["ip", "address", "add", f"{vip}/{length}", "dev", "eth0", *fenced])
            self.lan.run("client", ["ip", "neigh", "del", vip, "dev", "eth0"], check=False)

    def guard(self, name: str) -> None:
        """A process of IPv6 is seen by the next node with another source than by its own: the two may choose
        differently, and the loop guard makes the next node take one of its own pods."""
        self.beat_once()
        assert self.guard_loops(name, objects()).errors == ()

    def make(self, name: str, folder: Path) -> Made:
        """What clients on the node need."""
        with self.kernel(name) as kernel:
            paths = client_paths(kernel.read().loopback, objects(), kernel.facts(virtual(objects())), ())
            clients = Clients(Sysctls(Path("/proc/sys")), Originals(folder / name))
            try:
                return clients.make(paths)
            finally:
                clients.close()

    def ask(self, host: str, address: str) -> Counter[tuple[str, str]]:
        command = [sys.executable, "-I", "-S", "-c", ASK, address]
        lines = self.lan.run(host, command, timeout=60.0).splitlines()
        return Counter((name, seen) for name, seen in map(str.split, lines))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DualLan]:
    with Lan() as lan:
        pods = DualLan(lan, 3)
        pods.serve(tmp_path)
        for k, name in enumerate(pods.nodes, 1):
            pods.program(name, objects())
            pods.guard(name)
            for rules in (KUBE_PROXY, CNI % k):
                (tmp_path / "rules").write_text(rules)
                pods.lan.run(name, ["nft", "-f", str(tmp_path / "rules")])
        pods.move(None, "n1")
        yield pods


def test_both_addresses_lead_to_all_pods_and_connections_outlive_every_takeover(cluster: DualLan) -> None:
    held = [cluster.connect(vip, PORT) for vip in VIPS.values() for _ in range(30)]
    for family, some in ((4, held[:30]), (6, held[30:])):
        assert {connection.pod for connection in some} == {"p1", "p2", "p3"}
        assert {connection.seen_client for connection in some} == {CLIENTS[family]}
    for old, new in (("n1", "n3"), ("n3", "n2"), ("n2", "n1")):
        cluster.move(old, new)
        assert sum(connection.lives() for connection in held) == len(held)
    (four, six) = (router for router in objects().routers)
    assert (four.family, six.family, four.virtual_router_id) == (4, 6, six.virtual_router_id)


def test_pods_and_processes_of_every_node_reach_both_addresses_beside_kube_proxy_and_a_cni(
    cluster: DualLan, tmp_path: Path
) -> None:
    # A route, the settings of interfaces, and a table for each family.
    assert [cluster.make(name, tmp_path) for name in cluster.nodes] == [Made(changes=4)] * 3
    assert [cluster.make(name, tmp_path) for name in cluster.nodes] == [Made()] * 3
    for holder, other in (("n1", "n2"), ("n2", "n1")):
        for host in INSIDE:
            answers = cluster.ask(host, VIPS[6])
            print(f"VIP on {holder}, {host}: {dict(answers)}")
            assert sum(number for (name, _), number in answers.items() if name != "nobody") == ASKED, (host, answers)
            if host[0] == "p":
                k = host[1:]
                # Only a pod that is given to its own node is seen as that.
                wanted = {name: f"fd00:244:{k}::{1 if name == host else 11}" for name, _ in answers}
                assert dict(answers.keys()) == wanted, (host, answers)
        assert "nobody" not in {name for name, _ in cluster.ask("p1", VIPS[4])}
        cluster.move(holder, other)


def test_the_rules_are_as_nft_would_write_them_and_go_without_a_trace(cluster: DualLan, tmp_path: Path) -> None:
    before = cluster.lan.run("n1", ["nft", "list", "ruleset"])
    cluster.make("n1", tmp_path)
    listing = cluster.lan.run("n1", ["nft", "list", "table", "ip6", "lvs-dr-clients"])
    for line in (
        "ct original ip6 daddr @addresses ip6 saddr fd00:244:1::/64 ip6 daddr fd00:244:1::/64 masquerade",
        "ip6 saddr @addresses ip6 daddr @addresses snat to fd00::21",
        "ip6 daddr @addresses snat to ip6 saddr",
        "elements = { fd00::200 }",
    ):
        assert line in listing, listing
    with cluster.kernel("n1"):
        clients = Clients(Sysctls(Path("/proc/sys")), Originals(tmp_path / "n1"))
        try:
            assert clients.make(ClientPaths()) == Made(changes=3)
        finally:
            clients.close()
    assert cluster.lan.run("n1", ["nft", "list", "ruleset"]) == before
