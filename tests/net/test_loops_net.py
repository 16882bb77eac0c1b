"""Nodes whose tables differ: a new connection that one sends to another is served there, and goes no further."""

import errno
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from itertools import count
from pathlib import Path

import pytest

from lvsagent import node_init
from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.statefile import OWNED
from lvsagent.core.diff import Owned
from lvsagent.core.loops import LoopGuard, loop_guard, ours
from lvsagent.core.state import Destination, ForwardMethod, Service, ServiceKey
from lvsapi.model import Protocol, Resolved
from tests.net.lan import Lan
from tests.net.pods import PodLan
from tests.net.tables import KEY, command
from tests.net.test_affinity_net import Held
from tests.net.test_data_path_net import PORT, VIP, resolved

pytestmark = pytest.mark.net
NUMBER = 80
_moves = count()
METHODS = (ForwardMethod.MASQUERADE, ForwardMethod.DIRECT_ROUTE)

NOTHING = Resolved(servers=(), routers=(), problems=())


def tables(*pods: str, drained: str = "") -> Resolved:
    """``1a`` and ``1b``: the two addresses of the pod on node n1."""
    (server,) = resolved(1).servers
    backends = [
        replace(
            server.backends[0],
            node=f"n{name[0]}",
            address=ip_address(f"10.244.{name[0]}.{11 + (name[1] == 'b')}"),
            weight=int(name != drained),
        )
        for name in sorted(pods)
    ]
    return Resolved(servers=(replace(server, backends=tuple(backends)),), routers=(), problems=())


ALL = ("1a", "1b", "2a", "2b", "3a", "3b")
OLD, NEW = tables("1a", "2a", "3a"), tables(*ALL)
ONE, DRAINED = tables("1a", "2a", "3a"), tables("1a", "2a", "3a", drained="3a")


@contextmanager
def three_nodes(folder: Path) -> Iterator[PodLan]:
    """Each with two pods, of one server."""
    with Lan() as lan:
        pods = PodLan(lan, 3)
        pods.serve(folder)
        for k in (1, 2, 3):
            lan.run(f"p{k}", ["ip", "address", "add", f"10.244.{k}.12/24", "dev", "eth0"])
        pods.beat_once()
        yield pods


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with three_nodes(tmp_path_factory.mktemp("pods")) as found:
        yield found


@pytest.fixture
def pods(cluster: PodLan) -> PodLan:
    clear(cluster)
    return cluster


def clear(pods: PodLan) -> None:
    """No tables, no connections, no address."""
    for node in pods.nodes:
        pods.guard_loops(node, NOTHING)
        pods.lan.run(node, ["ipvsadm", "-C"])
        pods.owned[node] = Owned()
        if f"{VIP}/32" in pods.lan.addresses(node):
            pods.release(node, VIP)


def program(pods: PodLan, *tables: Resolved, guarded: bool) -> None:
    for node, table in zip(pods.nodes, tables, strict=True):
        pods.program(node, table, guarded=guarded)


def hold(pods: PodLan, active: str) -> None:
    for node in pods.nodes:
        if f"{VIP}/32" in pods.lan.addresses(node):
            pods.release(node, VIP)
    pods.hold(active, VIP)
    pods.lan.run("client", ["ip", "neigh", "del", VIP, "dev", "eth0"], check=False)
    # Ports that nobody remembers.
    low = 20000 + 1000 * (next(_moves) % 40)
    pods.lan.run("client", ["sysctl", "-qw", f"net.ipv4.ip_local_port_range={low} {low + 999}"])


def attempts(pods: PodLan, number: int, seconds: float = 0.9) -> Counter[str]:
    """What became of new connections before their first packet is sent again."""
    found: Counter[str] = Counter()
    waiting = {}
    with pods.lan.inside("client"), select.epoll() as ready:
        for place in range(number):
            opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            opened.setblocking(False)
            opened.connect_ex((VIP, PORT))
            waiting[opened.fileno()] = opened
            ready.register(opened, select.EPOLLOUT)
            if place % 25 == 24:
                time.sleep(0.02)
        end = time.monotonic() + seconds
        while waiting and time.monotonic() < end:
            for descriptor, _ in ready.poll(0.1):
                opened = waiting.pop(descriptor)
                code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                found[errno.errorcode.get(code, "served")] += 1
                ready.unregister(descriptor)
                opened.close()
    found["nothing heard"] += len(waiting)
    for opened in waiting.values():
        opened.close()
    return +found


DIFFERING = {
    "a pod's own node hears last of a new one": (NEW, NEW, OLD),
    "only one node has heard of new ones": (OLD, NEW, OLD),
    "a pod's own node drains it first": (ONE, ONE, DRAINED),
    "others drain it first": (ONE, DRAINED, ONE),
    "what was drained is gone on one node": (DRAINED, tables("1a", "2a"), ONE),
    "each node knows others": (tables("1a", "1b", "2a", "3a"), tables("1a", "2a", "2b", "3b"), OLD),
}


@pytest.mark.parametrize("differing", DIFFERING.values(), ids=DIFFERING)
def test_new_connections_are_served_whatever_each_node_believes(
    pods: PodLan, differing: tuple[Resolved, Resolved, Resolved]
) -> None:
    program(pods, *differing, guarded=True)
    for active in pods.nodes:
        hold(pods, active)
        assert attempts(pods, NUMBER) == {"served": NUMBER}, active


def test_without_the_guard_they_go_to_and_fro_until_their_ttl_ends(pods: PodLan) -> None:
    program(pods, *DIFFERING["a pod's own node drains it first"], guarded=False)
    hold(pods, "n3")
    found = attempts(pods, NUMBER)
    print(f"without the guard: {dict(found)}")
    assert found["served"] < NUMBER * 0.9
    assert found["EHOSTUNREACH"] > 0


def test_where_nodes_agree_both_services_choose_the_same_pod_and_connections_survive_every_takeover(
    pods: PodLan,
) -> None:
    program(pods, NEW, NEW, NEW, guarded=True)
    hold(pods, "n1")
    connections = Held(pods, 150)
    assert set(connections.pods) == {"p1", "p2", "p3"}
    for active in ("n2", "n3", "n1"):
        hold(pods, active)
        assert connections.lost() == {}
    # Those that the guard of n3 began live on when there is nothing left to be guarded.
    program(pods, NEW, NEW, tables("3a", "3b"), guarded=True)
    assert "FWM" in pods.lan.run("n3", ["ipvsadm", "-Ln"])
    assert connections.lost() == {}
    connections.close()


def test_only_what_other_nodes_send_is_marked(pods: PodLan) -> None:
    program(pods, NEW, NEW, NEW, guarded=True)
    listing = pods.lan.run("n1", ["nft", "list", "table", "inet", "lvs-dr-loops"])
    for node in ("n2", "n3"):
        assert pods.lan.mac(node) in listing
    assert pods.lan.mac("n1") not in listing
    assert pods.lan.mac("client") not in listing
    hold(pods, "n1")
    assert attempts(pods, 50) == {"served": 50}

    def began(node: str) -> int:
        """Connections of services with a firewall mark."""
        found, marked = 0, False
        for row in pods.lan.run(node, ["cat", "/proc/net/ip_vs"]).splitlines():
            marked = row.startswith("FWM") if not row.startswith("  ->") else marked
            found += sum(map(int, row.split()[-2:])) if marked and row.startswith("  ->") else 0
        return found

    assert began("n1") == 0
    assert 0 < began("n2") + began("n3") < 50


def test_a_gateway_is_no_node_even_where_a_node_is_the_gateway(pods: PodLan) -> None:
    pods.lan.run("n1", ["ip", "route", "add", "default", "via", "10.0.0.23"])
    try:
        program(pods, NEW, NEW, NEW, guarded=True)
        listing = pods.lan.run("n1", ["nft", "list", "table", "inet", "lvs-dr-loops"])
        assert pods.lan.mac("n2") in listing
        assert pods.lan.mac("n3") not in listing
    finally:
        pods.lan.run("n1", ["ip", "route", "del", "default"])


def test_a_second_time_nothing_is_written_what_is_taken_is_put_back_and_all_of_it_goes_without_a_trace(
    pods: PodLan,
) -> None:
    run = pods.lan.run
    run("n1", ["ipvsadm", "-A", "-f", "7", "-s", "rr"])
    run("n1", ["nft", "add table inet lvs-dr-loops-of-somebody"])

    def everything() -> list[str]:
        return [run("n1", ["ipvsadm", "-Sn"]), run("n1", ["nft", "list", "ruleset"])]

    pods.program("n1", NEW)
    before = everything()
    assert pods.guard_loops("n1", NEW).changes > 0
    guarded = everything()
    assert pods.guard_loops("n1", NEW).changes == 0
    mark = next(line.split()[2] for line in run("n1", ["ipvsadm", "-Sn"]).splitlines() if "-A -f 1280" in line)
    for harm in (["nft", "delete table inet lvs-dr-loops"], ["ipvsadm", "-D", "-f", mark]):
        run("n1", harm)
        assert everything() != guarded
        assert pods.guard_loops("n1", NEW).changes > 0
        assert everything() == guarded
    pods.guard_loops("n1", NOTHING)
    assert everything() == before
    run("n1", ["nft", "delete table inet lvs-dr-loops-of-somebody"])


@pytest.mark.parametrize(("scheduler", "longest"), [("mh", 10.0), ("rr", 4.0)])
def test_a_thousand_services_are_guarded_in_little_time_and_then_nothing_is_written(
    kernel: Kernel, scheduler: str, longest: float
) -> None:
    keys = [ServiceKey(ip_address(f"10.77.{n // 250}.{n % 250 + 1}"), Protocol.TCP, 80) for n in range(1000)]
    backends = [Destination(ip_address(f"10.244.0.{n + 1}"), 8080, METHODS[n % 2], 1) for n in range(10)]
    flags = 0x18 if scheduler == "mh" else 0
    tables = {key: Service(key=key, scheduler=scheduler, flags=flags, destinations=tuple(backends)) for key in keys}
    apart = keys if scheduler != "mh" else ()
    peers = frozenset({ip_address("10.0.0.22")})
    before = memory()
    begin = time.monotonic()
    wish = loop_guard(tables, (), peers, (), apart)
    planned = time.monotonic() - begin
    done = kernel.guard_loops(wish, {})
    seconds = time.monotonic() - begin
    print(f"{scheduler}: {done.changes} changes in {seconds:.2f} s, {planned:.3f} s to plan, {memory() - before} kB")
    assert done.errors == ()
    assert planned <= 3
    assert seconds <= longest
    assert kernel.guard_loops(loop_guard(tables, (), peers, done.there.keys(), apart), done.there).changes == 0
    assert ours(kernel.read().services.values()) == wish.services
    assert kernel.guard_loops(LoopGuard(), done.there).there == {}
    assert kernel.read().services == {}


def memory() -> int:
    """kB that the kernel has given away."""
    found = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    return found["MemTotal"] - found["MemFree"]


def test_services_of_ipv6_and_udp_have_marks_too(kernel: Kernel) -> None:
    key = ServiceKey(ip_address("fd00::200"), Protocol.UDP, 53)
    backends = [Destination(ip_address(f"fd00:{k}::11"), 8053, METHODS[k - 1], 1) for k in (1, 2)]
    table = Service(key=key, scheduler="mh", flags=0x18, destinations=tuple(backends))
    command("ip", "neigh", "add", "fd00::22", "lladdr", "02:00:00:00:00:22", "dev", "eth0")
    wish = loop_guard({key: table}, (), frozenset({ip_address("fd00::22")}), ())
    assert kernel.guard_loops(wish, {}).errors == ()
    listing = command("nft", "list", "table", "inet", "lvs-dr-loops")
    assert "fd00::200 . udp . 53 : 0x" in listing
    assert "elements = { 02:00:00:00:00:22 }" in listing
    assert ours(kernel.read().services.values()) == wish.services


@pytest.mark.parametrize("record", ["", "cut in the mid"])
def test_what_is_left_of_it_goes_with_undo_whatever_is_recorded(kernel: Kernel, tmp_path: Path, record: str) -> None:
    command("ipvsadm", "-A", "-f", "7", "-s", "rr")
    command("ip", "neigh", "add", "10.0.0.22", "lladdr", "02:00:00:00:00:22", "dev", "eth0")
    before = command("ipvsadm", "-Sn")
    backends = [Destination(ip_address(f"10.244.{k}.11"), 8080, METHODS[k - 1], 1) for k in (1, 2)]
    table = Service(key=KEY, scheduler="mh", flags=0x18, destinations=tuple(backends))
    wish = loop_guard({KEY: table}, (), frozenset({ip_address("10.0.0.22")}), ())
    assert kernel.guard_loops(wish, {}).changes > 0
    if record:
        (tmp_path / OWNED).write_text(record)
    assert node_init.main(["--undo", "--state-dir", str(tmp_path)]) == 0
    assert command("ipvsadm", "-Sn") == before
    assert command("nft", "list", "ruleset") == ""
