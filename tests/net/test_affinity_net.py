"""Connections whose place in the table has changed, kept over a takeover: on real kernels, with the real parts."""

import asyncio
import contextlib
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from lvsagent.adapters import connections
from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.netlink import Message, Netlink
from lvsagent.core import affinity, claims, maglev
from lvsagent.core.affinity import STATES, Connection
from lvsagent.core.agent import About
from lvsagent.core.diff import DeleteDestination, Owned, diff
from lvsagent.core.plan import plan
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Service, ServiceKey
from lvsagent.election.keys import Keys
from lvsagent.ipc import PeerNode
from lvsagent.runtime.affinity import Affinity
from lvsagent.runtime.view import View
from lvsapi.model import Protocol, Resolved
from tests.net.lan import Lan
from tests.net.pods import PodLan
from tests.net.test_data_path_net import PORT, VIP, resolved

pytestmark = pytest.mark.net
HELD = 1000
CLIENTS = 10_000


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# -- where the kernel sends a client ---------------------------------------------------------------------------------


def table(address: str, *weights: int, protocol: Protocol = Protocol.TCP) -> Service:
    """A service whose destinations nobody answers for."""
    vip = ip_address(address)
    pods = [ip_address(f"10.244.9.{n}" if vip.version == 4 else f"fd00:9::{n:x}") for n in range(1, len(weights) + 1)]
    return Service(
        key=ServiceKey(address=vip, protocol=protocol, port=80),
        scheduler="mh",
        flags=0x18,
        destinations=tuple(
            Destination(pod, 8000 + n, ForwardMethod.DIRECT_ROUTE, weight)
            for n, (pod, weight) in enumerate(zip(pods, weights, strict=True))
        ),
    )


def datagrams(family: int, address: str, clients: list[tuple[int, int]]) -> list[bytes]:
    """UDP packets of many clients, whole with their IP headers."""
    vip, width = ip_address(address).packed, 4 if family == socket.AF_INET else 16
    found = []
    for client, port in clients:
        udp = struct.pack("!HHHH", port, 80, 8, 0)
        if width == 4:
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, client.to_bytes(4), vip)
        else:
            pseudo = client.to_bytes(16) + vip + struct.pack("!IHBB", 8, 0, 0, 17) + udp
            total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            udp = udp[:6] + struct.pack("!H", ~total & 0xFFFF or 0xFFFF)
            head = struct.pack("!IHBB16s16s", 0x6 << 28, 8, 17, 64, client.to_bytes(16), vip)
        found.append(head + udp)
    return found


@pytest.mark.parametrize("address", ["10.0.0.200", "fd00::200"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1,) * 40, (1, 5, 20, 100), (3, 0, 3, 1)])
def test_every_client_is_placed_as_the_kernel_places_it(address: str, weights: tuple[int, ...]) -> None:
    service = table(address, *weights, protocol=Protocol.UDP)
    started = replace(service, destinations=tuple(replace(d, weight=d.weight or 4) for d in service.destinations))
    tables = affinity.Tables()
    tables.use({service.key: started})
    family = socket.AF_INET if ":" not in address else socket.AF_INET6
    base = int(ip_address("10.0.0.100" if family == socket.AF_INET else "fd00::100"))
    clients = [(base + n % 50, 1024 + n * 5) for n in range(CLIENTS)]
    with Lan() as lan:
        lan.add_host("client", "10.0.0.100/24", "fd00::100/64")
        lan.add_host("node", "10.0.0.21/24", "fd00::21/64")
        lan.run("node", ["ip", "address", "add", address, "dev", "lo"])
        lan.run("client", ["ip", "neigh", "add", address, "lladdr", lan.mac("node"), "dev", "eth0"])
        lan.run("node", ["ip", "route", "add", "10.244.9.0/24", "via", "10.0.0.100"])
        lan.run("node", ["ip", "-6", "route", "add", "fd00:9::/64", "via", "fd00::100"])
        lan.run("client", ["sysctl", "-qw", "net.ipv4.ip_forward=0"])
        with lan.inside("node"), Kernel(node="node", proc_sys=Path("/proc/sys")) as kernel:
            assert kernel.apply(diff(KernelState(services={service.key: started}), KernelState(), Owned()).ops) == ()
            have = KernelState(services={service.key: started})
            assert kernel.apply(diff(KernelState(services={service.key: service}), have, Owned()).ops) == ()
        with lan.inside("client"):
            raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with raw:
            for number, packet in enumerate(datagrams(family, address, clients)):
                raw.sendto(packet, (address, 0))
                if number % 200 == 199:
                    time.sleep(0.005)
        time.sleep(0.2)
        with lan.inside("node"):
            seen = {c.flow[3:]: c.destination for c in connections.read()}
    assert len(seen) == len({*clients}) > CLIENTS * 0.99
    last = {d.key: d.weight for d in started.destinations}
    placed = maglev.Placement(service, last)
    wrong = {client: where for client, where in seen.items() if placed.of(*client) != where}
    assert wrong == {}


# -- writing connections ---------------------------------------------------------------------------------------------


@pytest.fixture
def node() -> Iterator[Lan]:
    """A host ``node`` with the services of ``table`` for both families."""
    with Lan() as lan:
        lan.add_host("node", "10.0.0.21/24")
        with lan.inside("node"), Kernel(node="node", proc_sys=Path("/proc/sys")) as kernel:
            services = [
                table(address, 1, 1, protocol=protocol)
                for address in ("10.0.0.200", "fd00::200")
                for protocol in Protocol
            ]
            want = KernelState(services={service.key: service for service in services})
            assert kernel.apply(diff(want, KernelState(), Owned()).ops) == ()
            yield lan


def held(protocol: Protocol, state: str, client: int = 0, address: str = "10.0.0.200", pod: int = 1) -> Connection:
    service = table(address, 1, 1, protocol=protocol)
    start = int(ip_address("10.1.0.0" if service.key.address.version == 4 else "fd00:1::"))
    return Connection(
        protocol,
        service.key.address,
        80,
        start + client // 50_000,
        1024 + client % 50_000,
        service.destinations[pod].key,
        state,
        50,
    )


def daemons() -> list[bytes]:
    with Netlink(connections.GENERIC) as netlink:
        family = connections._family(netlink)
        return netlink.dump(Message(family, 0, struct.pack("=BBH", connections.GET_DAEMON, 1, 0)))


def test_connections_are_read_as_they_were_written_and_no_daemon_stays(node: Lan) -> None:
    wanted = [
        held(protocol, state, address=address) for protocol, state in STATES for address in ("10.0.0.200", "fd00::200")
    ]
    wanted = [connection._replace(client_port=2000 + number) for number, connection in enumerate(wanted)]
    connections.write(wanted)
    assert daemons() == []
    assert {c._replace(expires=50) for c in connections.read()} == {*wanted}
    assert all(45 <= c.expires <= 50 for c in connections.read())


def test_an_entry_takes_the_forwarding_method_of_its_destination(node: Lan) -> None:
    connections.write([held(Protocol.TCP, "ESTABLISHED")])
    assert "Route   1      1          0" in Path("/proc/thread-self/net/ip_vs").read_text()


def test_an_entry_dies_with_its_destination(node: Lan) -> None:
    node.run("node", ["sysctl", "-qw", "net.ipv4.vs.expire_nodest_conn=1"])
    connections.write([held(Protocol.TCP, "ESTABLISHED", pod=0), held(Protocol.TCP, "ESTABLISHED", 1, pod=1)])
    service = table("10.0.0.200", 1, 1)
    gone, stays = service.destinations
    with Kernel(node="node", proc_sys=Path("/proc/sys")) as kernel:
        assert kernel.apply([DeleteDestination(service.key, gone)]) == ()
    begin = time.monotonic()
    while {c.destination for c in connections.read()} != {stays.key}:
        assert time.monotonic() - begin < 5
        time.sleep(0.05)


def test_a_hundred_thousand_connections_are_written_without_a_loss_and_read(node: Lan) -> None:
    wanted = [held(Protocol.TCP, "ESTABLISHED", client) for client in range(100_000)]
    begin = time.monotonic()
    connections.write(wanted)
    written = time.monotonic()
    found = connections.read()
    print(f"100,000 connections: written in {written - begin:.2f} s, read in {time.monotonic() - written:.2f} s")
    assert {c.flow for c in found} == {c.flow for c in wanted}


def test_a_daemon_that_a_killed_process_left_is_replaced_and_cleaned_up(node: Lan) -> None:
    with Netlink(connections.GENERIC) as netlink:
        connections._start(netlink, connections._family(netlink), IPv4Address("239.1.2.3"), 5000, 7)
    connections.write([held(Protocol.TCP, "ESTABLISHED")])
    assert len(connections.read()) == 1
    with Netlink(connections.GENERIC) as netlink:
        connections._start(netlink, connections._family(netlink), IPv4Address("239.1.2.3"), 5000, 7)
    connections.clean()
    assert daemons() == []


def test_a_daemon_of_somebody_else_is_left_alone_and_named(node: Lan) -> None:
    node.run("node", ["ipvsadm", "--start-daemon", "backup", "--mcast-interface", "eth0", "--syncid", "9"])
    with pytest.raises(connections.Occupied, match="stop-daemon"):
        connections.write([held(Protocol.TCP, "ESTABLISHED")])
    connections.clean()
    assert len(daemons()) == 1


# -- over a takeover -------------------------------------------------------------------------------------------------


class Held:
    """Connections of the client, asked all at once."""

    def __init__(self, pods: PodLan, count: int) -> None:
        self._sockets: list[socket.socket] = []
        for _ in range(count):
            opened = pods.lan.socket("client", socket.AF_INET, socket.SOCK_STREAM)
            opened.settimeout(5)
            opened.connect((VIP, PORT))
            opened.setblocking(False)
            self._sockets.append(opened)
        self.pods = self._ask()
        assert None not in self.pods

    def _ask(self) -> list[str | None]:
        """The pod that answers on each; None: nobody does."""
        waiting = select.epoll()
        answers: dict[int, str | None] = {}
        for opened in self._sockets:
            with contextlib.suppress(OSError):
                opened.send(b"hello\n")
                waiting.register(opened, select.EPOLLIN)
        by_number = {opened.fileno(): opened for opened in self._sockets}
        last = time.monotonic()
        while len(answers) < len(by_number) and time.monotonic() - last < 2:
            for number, _ in waiting.poll(0.1):
                last = time.monotonic()
                waiting.unregister(number)
                with contextlib.suppress(OSError):
                    answers[number] = by_number[number].recv(100).decode().partition(" ")[0] or None
        waiting.close()
        return [answers.get(opened.fileno()) for opened in self._sockets]

    def lost(self) -> dict[str | None, int]:
        """Connections that the same pod no longer answers on, by pod."""
        found: dict[str | None, int] = {}
        for before, now in zip(self.pods, self._ask(), strict=True):
            if before != now:
                found[before] = found.get(before, 0) + 1
        return found

    def close(self) -> None:
        for opened in self._sockets:
            opened.close()


class Agents:
    """The exchange of each node, in threads of their own."""

    def __init__(self, pods: PodLan) -> None:
        self.pods = pods
        self.views = {node: View(node=node, version="test") for node in pods.nodes}
        self.parts: dict[str, Affinity] = {}
        self._stops: list[Callable[[], object]] = []
        self._threads: list[threading.Thread] = []
        nodes = tuple(PeerNode(name=node, addresses=(f"10.0.0.2{k}",)) for k, node in enumerate(pods.nodes, 1))
        for view in self.views.values():
            view.claims.about = About(node=view.node, serving=True, nodes=nodes)

    def start(self, *names: str, keys: Path = Path("/nonexistent")) -> None:
        for node in names:
            self._threads.append(threading.Thread(target=self._run, args=(node, keys), daemon=True))
            self._threads[-1].start()

    def _run(self, node: str, keys: Path) -> None:
        async def run() -> None:
            loop, this = asyncio.get_running_loop(), asyncio.current_task()
            assert this is not None
            self._stops.append(lambda: loop.call_soon_threadsafe(this.cancel))
            part = Affinity(view=self.views[node], call=asyncio.to_thread, keys=Keys(keys, lambda *_, **__: None))
            self.parts[node] = part
            with contextlib.suppress(asyncio.CancelledError):
                await part.run()

        with self.pods.lan.inside(node):
            asyncio.run(run())

    def program(self, what: Resolved) -> None:
        """A pass of every node, and what its agent then knows."""
        for node in self.pods.nodes:
            self.pods.program(node, what)
            with self.pods.kernel(node) as kernel:
                planned = plan(what, kernel.facts(), frozenset())
            self.views[node].resolved, self.views[node].plan = what, planned

    def settle(self, done: Callable[[], bool], seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, {node: (part.counted, part.dropped) for node, part in self.parts.items()}
            time.sleep(0.05)

    def counted(self, what: str) -> int:
        return sum(part.counted[what] for part in self.parts.values())

    def close(self) -> None:
        for stop in self._stops:
            stop()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with Lan() as lan:
        pods = PodLan(lan, 3)
        pods.serve(tmp_path_factory.mktemp("pods"))
        yield pods


@pytest.fixture
def agents(cluster: PodLan) -> Iterator[Agents]:
    found = Agents(cluster)
    found.program(resolved(1, 2, 3))
    for node in cluster.nodes:
        if f"{VIP}/32" in cluster.lan.addresses(node):
            cluster.release(node, VIP)
    cluster.hold("n1", VIP)
    yield found
    found.close()


def move_around(pods: PodLan, connections: Held) -> list[dict[str | None, int]]:
    """The VIP goes to the third node, the second, and back; what was lost after each."""
    found = []
    for old, new in (("n1", "n3"), ("n3", "n2"), ("n2", "n1")):
        pods.release(old, VIP)
        pods.hold(new, VIP)
        found.append(connections.lost())
    return found


CHANGES = {
    "a backend comes": (resolved(1, 2), resolved(1, 2, 3), set[str]()),
    "one drains": (resolved(1, 2, 3), resolved(1, 2, 3, drained=3), set[str]()),
    "one goes": (resolved(1, 2, 3), resolved(1, 2), {"p3"}),
    "one goes and one comes": (resolved(1, 2), resolved(2, 3), {"p1"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_connections_outlive_a_change_of_the_set_and_every_takeover_after_it(agents: Agents, change: str) -> None:
    before, after, gone = CHANGES[change]
    agents.program(before)
    agents.start(*agents.pods.nodes)
    connections = Held(agents.pods, HELD)
    agents.program(after)
    if change != "one goes":
        agents.settle(lambda: agents.counted("written") > 0)
    time.sleep(1.5)  # the second look after a change
    lost = move_around(agents.pods, connections)
    told, written = agents.counted("told"), agents.counted("written")
    print(f"{change}: of {HELD} lost {lost}; told {told}, written {written}")
    connections.close()
    assert all(each.keys() <= gone for each in lost)
    assert sum(part.dropped.total() for part in agents.parts.values()) == 0


def test_without_the_exchange_a_change_of_the_set_costs_connections(agents: Agents) -> None:
    agents.program(resolved(1, 2))
    connections = Held(agents.pods, HELD)
    agents.program(resolved(1, 2, 3))
    lost = move_around(agents.pods, connections)
    print(f"without: of {HELD} lost {lost}")
    connections.close()
    assert sum(lost[0].values()) > HELD / 10


def test_a_node_that_comes_later_asks_and_is_told(agents: Agents) -> None:
    agents.program(resolved(1, 2))
    agents.start("n1", "n2")
    connections = Held(agents.pods, 300)
    agents.program(resolved(1, 2, 3))
    agents.settle(lambda: agents.counted("told") > 0)
    time.sleep(1.5)
    begin = time.monotonic()
    agents.start("n3")
    agents.settle(lambda: "n3" in agents.parts and agents.parts["n3"].counted["written"] > 0)
    print(f"told {time.monotonic() - begin:.2f} s after its start")
    time.sleep(0.5)
    agents.pods.release("n1", VIP)
    agents.pods.hold("n3", VIP)
    lost = connections.lost()
    connections.close()
    assert lost == {}


def test_nobody_without_the_key_is_believed(agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "nodes.hmac.1").write_bytes(b"k" * 32)
    agents.program(resolved(1, 2))
    agents.start("n1", "n2", keys=tmp_path)
    connections = Held(agents.pods, 300)
    agents.program(resolved(1, 2, 3))
    # from the first message that n2 proves nothing else is taken of it
    agents.settle(lambda: "n1" in agents.parts and agents.parts["n1"].counted["heard"] > 0)
    say(agents.pods, "n2", claims.ask("n2"))
    agents.settle(lambda: agents.parts["n1"].dropped["auth_missing"] == 1)
    say(agents.pods, "n2", claims.ask("n2") + bytes(28))
    agents.settle(lambda: agents.parts["n1"].dropped["stale"] == 1)
    say(agents.pods, "n3", claims.ask("n2"))
    agents.settle(lambda: agents.parts["n1"].dropped["source"] == 1)
    say(agents.pods, "n3", b"nonsense" * 4)
    agents.settle(lambda: agents.parts["n1"].dropped["magic"] == 1)
    connections.close()


def say(pods: PodLan, node: str, datagram: bytes) -> None:
    """To n1, from a port of somebody else."""
    with pods.lan.inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.sendto(datagram, ("10.0.0.21", claims.PORT))
