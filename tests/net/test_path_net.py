"""The path's check against real hosts: who takes the virtual address, who lacks it, who answers ARP for it."""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.adapters.kernel import Kernel
from lvsagent.checks.answer import Answer
from lvsagent.checks.messages import Target
from lvsagent.checks.path import Paths
from lvsapi.health import CheckType, HealthCheck
from lvsapi.ipvs import Forwarding, Tunnel, TunnelType
from lvsapi.model import IPAddress, Protocol
from tests.net.lan import Lan
from tests.net.pods import await_listening
from tests.net.tables import VIP, VIP6, make, pod, service, wanted

pytestmark = pytest.mark.net

CHECK = HealthCheck(type=CheckType.PATH, timeout_ms=2000)
DR1, DR2, WEB = ip_address("10.0.0.21"), ip_address("10.0.0.22"), ip_address("10.0.0.31")
WEB6 = ip_address("fd00::31")
SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("listening", flush=True)
while True:
    opened, peer = listener.accept()
    print("accepted", peer[0], flush=True)
    opened.close()
"""
UDP_SERVER = """
import socket, sys
opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
opened.bind((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    data, peer = opened.recvfrom(2048)
    opened.sendto(b"well " + data, peer)
"""


class World:
    """Directors dr1 (Active, asks) and dr2 with the address on ``lo``, and web1, a real server, as it should be."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        self.logs: list[Path] = []
        for host, last in (("dr1", 21), ("dr2", 22), ("web1", 31)):
            lan.add_host(host, f"10.0.0.{last}/24", f"fd00::{last}/64")
            self.on_lo(host)

    def on_lo(self, host: str) -> None:
        """The virtual addresses, as ``lvs-node-init --real-server`` puts them."""
        self.lan.run(host, ["ip", "address", "replace", f"{VIP}/32", "dev", "lo"])
        self.lan.run(host, ["ip", "address", "replace", f"{VIP6}/128", "dev", "lo", "nodad"])
        # An IPv6 address is there before the kernel takes packets for it: its route is made by a worker.
        end = time.monotonic() + 5.0
        while not self.lan.run(host, ["ip", "-6", "route", "show", "table", "local", str(VIP6)]):
            assert time.monotonic() < end, f"{VIP6} is not local on {host}"
            time.sleep(0.02)

    def off_lo(self, host: str) -> None:
        self.lan.run(host, ["ip", "address", "delete", f"{VIP}/32", "dev", "lo"], check=False)
        self.lan.run(host, ["ip", "address", "delete", f"{VIP6}/128", "dev", "lo"], check=False)

    def serve(self, host: str, *argv: str, code: str = SERVER) -> Path:
        """A server; returns its log."""
        log = self.folder / f"{host}-{'-'.join(argv)}-{time.monotonic_ns()}.log"
        self.lan.popen(host, [sys.executable, "-I", "-S", "-c", code, *argv], log=log)
        await_listening(log)
        return log

    def ask(self, target: Target, check: HealthCheck = CHECK, host: str = "dr1") -> Answer:
        return self.ask_all([target], check, host)[0]

    def ask_all(self, targets: list[Target], check: HealthCheck = CHECK, host: str = "dr1") -> list[Answer]:
        async def asked() -> list[Answer]:
            paths = Paths()
            try:
                return await asyncio.gather(*(paths.check(check, target) for target in targets))
            finally:
                paths.close()

        with self.lan.inside(host):
            return asyncio.run(asked())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Lan() as lan:
        world = World(lan, tmp_path_factory.mktemp("path"))
        world.logs = [world.serve("web1", "0.0.0.0", "80"), world.serve("web1", "::", "80")]
        world.serve("web1", str(WEB), "8080")
        world.serve("web1", str(VIP), "53", code=UDP_SERVER)
        world.serve("web1", "0.0.0.0", "55", code=UDP_SERVER)
        yield world


@pytest.fixture
def world(shared: World) -> World:
    """Everything is as it should be."""
    shared.on_lo("web1")
    shared.lan.run("web1", ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.ip_forward=1"])
    shared.lan.run("web1", ["nft", "flush", "ruleset"])
    return shared


def target(address: IPAddress = WEB, port: int = 80, protocol: Protocol = Protocol.TCP, **more: object) -> Target:
    """web1 by direct routing, unless told otherwise."""
    virtual = VIP if address.version == 4 else VIP6
    fields: dict[str, object] = {"virtual_address": virtual, "virtual_port": port, **more}
    return Target(name="web", address=address, port=port, protocol=protocol, checks=(CHECK,), **fields)  # type: ignore[arg-type]


def half_open(world: World, host: str = "web1") -> str:
    return world.lan.run(host, ["ss", "-Htan", "state", "syn-recv"])


@pytest.mark.parametrize("address", [WEB, WEB6])
def test_a_real_server_that_has_the_address_and_listens_accepts_and_keeps_nothing(
    world: World, address: IPAddress
) -> None:
    assert world.ask(target(address)) == Answer(ok=True)
    assert half_open(world) == ""
    assert [log.read_text() for log in world.logs] == ["listening\n"] * 2, "the server itself notices nothing"


@pytest.mark.parametrize("accept_local", ["0", "1"])
def test_the_active_director_with_its_table_and_the_address_on_the_uplink_asks_past_its_own_ipvs(
    world: World, accept_local: str
) -> None:
    """The table knows nobody: whoever asks through it is refused."""
    lan = world.lan
    lan.run("dr1", ["ip", "address", "add", f"{VIP}/32", "dev", "eth0"])
    lan.run("dr1", ["sysctl", "-qw", f"net.ipv4.conf.eth0.accept_local={accept_local}"])
    try:
        with lan.inside("dr1"), Kernel(node="dr1", proc_sys=Path("/proc/sys")) as kernel:
            make(kernel, wanted(service()))
            assert world.ask(target()) == Answer(ok=True)
            make(kernel, replace(kernel.read(), services={}))
    finally:
        lan.run("dr1", ["ip", "address", "delete", f"{VIP}/32", "dev", "eth0"])
        lan.run("dr1", ["sysctl", "-qw", "net.ipv4.conf.eth0.accept_local=0"])


@pytest.mark.parametrize(
    ("address", "forwards", "said"), [(WEB, "1", "routes it on"), (WEB, "0", "nothing answers"), (WEB6, "0", "nothing")]
)
def test_a_real_server_that_lacks_the_address_is_told_to_put_it_on_lo(
    world: World, address: IPAddress, forwards: str, said: str
) -> None:
    world.off_lo("web1")
    world.lan.run("web1", ["sysctl", "-qw", f"net.ipv4.ip_forward={forwards}"])
    answer = world.ask(target(address))
    virtual = VIP if address.version == 4 else VIP6
    assert not answer.ok
    assert said in answer.reason
    assert f"put {virtual} on its lo (lvs-node-init --real-server --vip {virtual})" in answer.reason
    world.on_lo("web1")
    assert world.ask(target(address)) == Answer(ok=True), "mended"


@pytest.mark.parametrize(("port", "address"), [(81, WEB), (8080, WEB), (81, WEB6)])
def test_a_port_at_which_nothing_listens_there_is_refused_by_name(world: World, port: int, address: IPAddress) -> None:
    """At 8080 a server listens on its host's own address only."""
    answer = world.ask(target(address, port))
    assert not answer.ok
    shown = f"{VIP}:{port}" if address.version == 4 else f"[{VIP6}]:{port}"
    assert f"it refuses {shown}/TCP" in answer.reason
    assert "keeps the port" in answer.reason


def test_a_firewall_that_drops_or_rejects_is_told_from_an_address_that_is_missing(world: World) -> None:
    lan = world.lan
    lan.run("web1", ["nft", "add table ip t; add chain ip t in { type filter hook input priority 0; }"])
    lan.run("web1", ["nft", "add rule ip t in tcp dport 80 drop"])
    assert "has 10.0.0.200, but nothing answers 10.0.0.200:80/TCP" in world.ask(target()).reason
    lan.run(
        "web1", ["nft", "flush chain ip t in; add rule ip t in ip daddr 10.0.0.200 reject with icmp admin-prohibited"]
    )
    assert "by ICMP: a firewall there" in world.ask(target()).reason


def test_a_host_that_is_not_there_and_a_network_that_is_not_are_named(world: World) -> None:
    assert "nobody answers ARP for 10.0.0.99 on eth0" in world.ask(target(ip_address("10.0.0.99"))).reason
    assert "no route to 192.0.2.1: network is unreachable" in world.ask(target(ip_address("192.0.2.1"))).reason


def test_a_backend_that_answers_arp_is_named_unless_it_is_a_director(world: World) -> None:
    world.lan.run("web1", ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0"])
    mac = world.lan.mac("web1")
    reason = world.ask(target()).reason
    assert f"it ({mac}) answers ARP for {VIP} on eth0: set net.ipv4.conf.all.arp_ignore=1" in reason
    assert "arp_announce=2 there (lvs-node-init does it)" in reason
    assert world.ask(target(director=True)) == Answer(ok=True)
    assert "eth0" in world.lan.run("dr1", ["ip", "neigh", "show", str(WEB)])
    assert world.lan.run("web1", ["ip", "neigh", "show", str(VIP)]) == "", "the question changed nobody's table"


def test_a_backend_that_answers_neighbour_solicitations_is_named(world: World) -> None:
    world.lan.run("web1", ["ip", "address", "add", f"{VIP6}/128", "dev", "eth0", "nodad"])
    try:
        reason = world.ask(target(WEB6)).reason
        assert f"({world.lan.mac('web1')}) answers neighbour solicitations for {VIP6} on eth0" in reason
    finally:
        world.lan.run("web1", ["ip", "address", "delete", f"{VIP6}/128", "dev", "eth0"])


def test_one_that_answers_arp_is_found_and_let_in_again_within_the_next_question(world: World) -> None:
    """In one process, with questions a second apart, at last three: the first round was clean."""

    async def asked() -> tuple[float, float]:
        paths, clock = Paths(), asyncio.get_running_loop().time
        try:
            assert (await paths.check(CHECK, target())).ok
            await asyncio.to_thread(world.lan.run, "web1", ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0"])
            begin = clock()
            while (await paths.check(CHECK, target())).ok:
                assert clock() - begin < 12, "row 41"
                await asyncio.sleep(1)
            found = clock() - begin
            await asyncio.to_thread(world.lan.run, "web1", ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"])
            await asyncio.sleep(2.5)  # nearly the check's interval
            begin = clock()
            assert (await paths.check(CHECK, target())).ok
            return found, clock() - begin
        finally:
            paths.close()

    with world.lan.inside("dr1"):
        found, mended = asyncio.run(asked())
    print(f"found after {found:.1f} s, mended: let in after {mended:.2f} s of a question")
    assert mended < 0.6, "it was asked between the questions, and does not have to be silent for 0.8 s in this one"


# -- nodes with tables of their own ----------------------------------------------------------------------------------


def test_a_node_is_asked_for_the_address_and_its_pod_for_the_port(world: World) -> None:
    """Its table refuses everybody, as it does while none of its pods was let in yet."""
    lan = world.lan
    with lan.inside("dr2"), Kernel(node="dr2", proc_sys=Path("/proc/sys")) as kernel:
        make(kernel, wanted(service()))
    world.serve("dr2", str(DR2), "9090")
    behind = target(DR2, 9090, virtual_port=80, through="n2")
    assert world.ask_all([behind] * 5) == [Answer(ok=True)] * 5
    assert "nothing listens at 10.0.0.22:9091/TCP: name the port" in world.ask(replace(behind, port=9091)).reason
    world.off_lo("dr2")
    answer = world.ask(behind)
    assert not answer.ok
    assert (
        "node n2 does not accept 10.0.0.200, but routes it on: the agent there puts the address on lo" in answer.reason
    )
    world.on_lo("dr2")
    assert world.ask(behind) == Answer(ok=True)


def test_a_director_that_is_a_real_server_hands_on_by_its_own_table_and_is_asked_itself(world: World) -> None:
    lan = world.lan
    world.serve("dr2", "0.0.0.0", "80")
    with lan.inside("dr2"), Kernel(node="dr2", proc_sys=Path("/proc/sys")) as kernel:
        elsewhere = replace(pod(1, port=80), address=WEB)
        make(kernel, wanted(service(elsewhere)))
        assert world.ask(target(DR2)) == Answer(ok=True)
        make(kernel, replace(kernel.read(), services={}))
        assert world.ask(target(DR2)) == Answer(ok=True)


def test_the_director_itself_as_a_real_server_must_listen_at_the_address(world: World) -> None:
    world.serve("dr1", str(DR1), "82")
    world.serve("dr1", "0.0.0.0", "83")
    assert "nothing listens at 10.0.0.200:82/TCP on this node" in world.ask(target(DR1, 82)).reason
    assert world.ask(target(DR1, 83)) == Answer(ok=True)


# -- other ways ------------------------------------------------------------------------------------------------------


def test_masquerading_is_an_ordinary_connection(world: World) -> None:
    world.off_lo("web1")
    masqueraded = target(WEB, 8080, virtual_port=80, forwarding=Forwarding.MASQUERADE)
    assert world.ask(masqueraded) == Answer(ok=True)
    assert "nothing listens at 10.0.0.31:81/TCP" in world.ask(replace(masqueraded, port=81)).reason


TUNNELS = {
    TunnelType.IPIP: ["ip link add tun9 type ipip local 10.0.0.31 remote any"],
    TunnelType.GRE: ["ip link add tun9 type gre local 10.0.0.31 remote any"],
    TunnelType.GUE: [
        "ip fou add port 6080 gue",
        "ip link add tun9 type ipip local 10.0.0.31 remote any encap gue encap-sport auto encap-dport 6080",
    ],
}


@pytest.mark.parametrize("kind", list(TunnelType))
def test_a_tunnel_is_asked_as_the_kernel_would_send(world: World, kind: TunnelType) -> None:
    tunnel = Tunnel(type=kind, port=6080 if kind is TunnelType.GUE else 0)
    asked = target(forwarding=Forwarding.TUNNEL, tunnel=tunnel)
    answer = world.ask(asked)
    assert not answer.ok, "nothing there takes it apart"
    assert f"{kind} tunnel" in answer.reason, answer.reason

    for command in TUNNELS[kind]:
        world.lan.run("web1", command.split())
    try:
        world.lan.run("web1", ["sysctl", "-qw", "net.ipv4.conf.tun9.rp_filter=0"])
        world.lan.run("web1", ["ip", "link", "set", "tun9", "up"])
        assert world.ask(asked) == Answer(ok=True)
        assert half_open(world) == ""
    finally:
        world.lan.run("web1", ["ip", "link", "delete", "tun9"])


def test_datagrams_are_answered_refused_or_not_understood(world: World) -> None:
    check = replace(CHECK, payload=b"hello", expect=b"well hello")
    udp = target(port=53, protocol=Protocol.UDP)
    assert world.ask(udp, check) == Answer(ok=True)
    assert "not with what expect says" in world.ask(udp, replace(check, expect=b"ill")).reason
    assert "refuses 10.0.0.200:54/UDP" in world.ask(replace(udp, virtual_port=54), check).reason
    assert "from another address, so that no client knows" in world.ask(replace(udp, virtual_port=55), check).reason
    assert world.ask(udp, CHECK) == Answer(ok=True), "without a payload a ping of the address is all"
    world.off_lo("web1")
    assert "does not accept 10.0.0.200" in world.ask(udp, check).reason


WITHOUT = """
import asyncio
from tests.net.test_path_net import CHECK, target
from lvsagent.checks.path import Paths
print(asyncio.run(Paths().check(CHECK, target())))
"""


def test_without_the_capability_nothing_is_said_about_the_backend(world: World) -> None:
    bare = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", WITHOUT]
    said = world.lan.run("dr1", bare)
    assert "ok=False" in said
    assert "ours=True" in said
    assert "give lvs-agent the capability NET_RAW" in said
