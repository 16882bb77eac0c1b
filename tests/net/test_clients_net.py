"""Clients inside the cluster: pods and processes of every node, also of the one that holds the VIP, and a pod given to
itself; beside kube-proxy's rules and a CNI that masquerades."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent.adapters.clients import Clients, Made
from lvsagent.adapters.procfs import Originals, Sysctls
from lvsagent.core.clients import ClientPaths, client_paths
from lvsapi.ipvs import Scheduler
from lvsapi.model import Resolved
from tests.net.lan import Lan
from tests.net.pods import PodLan, virtual
from tests.net.test_data_path_net import PORT, VIP, resolved

pytestmark = pytest.mark.net

ASKED = 9
ASK = f"""
import socket
for _ in range({ASKED}):
    with socket.socket() as one:
        one.settimeout(2.0)
        try:
            one.connect(("{VIP}", {PORT}))
            one.sendall(b"x\\n")
            print(*one.recv(200).decode().split()[:2])
        except OSError as error:
            print("nobody", type(error).__name__)
"""
KUBE_PROXY = "table ip kube-proxy {\n chain c {\n type filter hook forward priority 0;\n ct state invalid drop\n }\n}\n"
CNI = """table ip cni {
 chain c {
  type nat hook postrouting priority srcnat;
  ip saddr 10.244.%d.0/24 ip daddr != 10.244.0.0/16 masquerade
 }
}
"""
INSIDE = ("p1", "p2", "p3", "n1", "n2", "n3")


class Inside:
    """Three nodes with a pod each, and what clients on them need."""

    def __init__(self, pods: PodLan, folder: Path, tables: Resolved) -> None:
        self.pods = pods
        self.folder = folder
        self.tables = tables
        pods.beat_once()
        for k, node in enumerate(pods.nodes, 1):
            pods.program(node, tables, guarded=True)
            pods.lan.run(node, ["ip", "link", "set", f"p{k}", "type", "bridge_slave", "hairpin", "on"])
            for rules in (KUBE_PROXY, CNI % k):
                (folder / "rules").write_text(rules)
                pods.lan.run(node, ["nft", "-f", str(folder / "rules")])
        pods.hold("n1", VIP)

    def paths(self, node: str) -> ClientPaths:
        with self.pods.kernel(node) as kernel:
            state = kernel.read()
            return client_paths(state.loopback, self.tables, kernel.facts(virtual(self.tables)), ())

    def make(self, node: str, paths: ClientPaths) -> Made:
        with self.pods.lan.inside(node):
            clients = Clients(Sysctls(Path("/proc/sys")), Originals(self.folder / node))
            try:
                return clients.make(paths)
            finally:
                clients.close()

    def ask(self, host: str) -> Counter[tuple[str, str]]:
        lines = self.pods.lan.run(host, [sys.executable, "-I", "-S", "-c", ASK], timeout=60.0).splitlines()
        return Counter((name, seen) for name, seen in map(str.split, lines))


@contextmanager
def nodes(folder: Path, tables: Resolved) -> Iterator[Inside]:
    with Lan() as lan:
        pods = PodLan(lan, 3)
        pods.serve(folder)
        yield Inside(pods, folder, tables)


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    with nodes(tmp_path, resolved(1, 2, 3)) as found:
        yield found


def test_pods_and_processes_of_every_node_reach_the_vip_wherever_it_is(inside: Inside) -> None:
    for node in inside.pods.nodes:
        assert inside.make(node, inside.paths(node)) == Made(changes=3)
    for holder, other in (("n1", "n2"), ("n2", "n1")):
        for host in (*INSIDE, "client"):
            answers = inside.ask(host)
            print(f"VIP on {holder}, {host}: {dict(answers)}")
            assert sum(number for (name, _), number in answers.items() if name != "nobody") == ASKED, (host, answers)
            for name, seen in answers:
                number = host[1:]
                mine = {"p": f"10.244.{number}.11", "n": f"10.0.0.2{number}", "c": "10.0.0.100"}[host[0]]
                # Only a pod that is given to its own node is seen as that.
                assert seen == (f"10.244.{number}.1" if name == host else mine), (host, answers)
        inside.pods.release(holder, VIP)
        inside.pods.hold(other, VIP)


def test_where_every_node_chooses_for_itself_clients_reach_the_pods_of_all_nodes_from_one_that_has_none(
    tmp_path: Path,
) -> None:
    (server,) = resolved(2, 3).servers
    tables = Resolved(servers=(replace(server, scheduler=Scheduler.RR),), routers=(), problems=())
    with nodes(tmp_path, tables) as inside:
        for node in inside.pods.nodes:
            inside.make(node, inside.paths(node))
        for holder in ("n2", "n1"):
            if holder == "n2":
                inside.pods.release("n1", VIP)
                inside.pods.hold("n2", VIP)
            else:
                inside.pods.release("n2", VIP)
                inside.pods.hold("n1", VIP)
            for host in (*INSIDE, "client"):
                answers = inside.ask(host)
                print(f"VIP on {holder}, {host}: {dict(answers)}")
                assert {name for name, _ in answers} == {"p2", "p3"}, (host, answers)
                assert sum(answers.values()) == ASKED


def test_a_second_time_nothing_is_written_and_what_somebody_took_is_put_back(inside: Inside) -> None:
    paths = inside.paths("n1")
    assert paths.pods
    assert inside.make("n1", paths).changes == 3
    assert inside.make("n1", paths) == Made()
    run = inside.pods.lan.run
    run("n1", ["nft", "delete", "table", "ip", "lvs-dr-clients"])
    run("n1", ["ip", "route", "del", "local", VIP, "dev", "lo", "table", "local", "proto", "112"])
    run("n1", ["sysctl", "-qw", "net.ipv4.conf.eth0.accept_local=0"])
    assert inside.make("n1", paths) == Made(changes=3)
    listing = run("n1", ["nft", "list", "table", "ip", "lvs-dr-clients"])
    assert "ct original ip daddr @addresses ip saddr 10.244.1.0/24 ip daddr 10.244.1.0/24 masquerade" in listing
    assert "ip daddr @addresses snat to ip saddr" in listing
    assert f"elements = {{ {VIP} }}" in listing
    assert "clients of virtual addresses inside the cluster" in listing


def test_it_goes_without_a_trace_and_foreign_routes_and_rules_stay(inside: Inside) -> None:
    run = inside.pods.lan.run
    run("n1", ["ip", "route", "add", "local", "10.9.9.9", "dev", "lo", "table", "local", "proto", "99"])

    def everything() -> list[str]:
        found = [run("n1", ["ip", "route", "show", "table", "local"]), run("n1", ["nft", "list", "ruleset"])]
        return [*found, run("n1", ["sysctl", "-a", "--pattern", r"accept_local"])]

    before = everything()
    inside.make("n1", inside.paths("n1"))
    assert everything() != before
    assert inside.make("n1", ClientPaths()) == Made(changes=2)
    run("n1", ["sysctl", "-qw", "net.ipv4.conf.eth0.accept_local=0"])
    assert everything() == before
    assert inside.make("n1", ClientPaths()) == Made()


def test_without_pods_there_are_no_rules_and_no_connection_tracking(inside: Inside) -> None:
    paths = inside.paths("n2")
    bare = ClientPaths(sources=paths.sources, interfaces=paths.interfaces)
    assert inside.make("n2", bare) == Made(changes=2)
    assert "lvs-dr-clients" not in inside.pods.lan.run("n2", ["nft", "list", "ruleset"])
