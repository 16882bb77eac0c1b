"""Where the real kernel sends clients, and its connections read and written."""

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from lvsagent.adapters import connections
from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.netlink import Message, Netlink
from lvsagent.core import affinity, maglev
from lvsagent.core.affinity import STATES, Connection
from lvsagent.core.diff import DeleteDestination, Owned, diff
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Service, ServiceKey
from lvsapi.model import Protocol
from tests.net.lan import Lan

pytestmark = pytest.mark.net
CLIENTS = 10_000


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
            seen = {c.flow[3:]: c.destination for c in connections.Listing()}
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
    assert {c._replace(expires=50) for c in connections.Listing()} == {*wanted}
    assert all(45 <= c.expires <= 50 for c in connections.Listing())


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
    while {c.destination for c in connections.Listing()} != {stays.key}:
        assert time.monotonic() - begin < 5
        time.sleep(0.05)


def test_a_hundred_thousand_connections_are_written_without_a_loss_and_read(node: Lan) -> None:
    wanted = [held(Protocol.TCP, "ESTABLISHED", client) for client in range(100_000)]
    begin = time.monotonic()
    connections.write(wanted)
    written = time.monotonic()
    found = list(connections.Listing())
    print(f"100,000 connections: written in {written - begin:.2f} s, read in {time.monotonic() - written:.2f} s")
    assert {c.flow for c in found} == {c.flow for c in wanted}


def test_a_daemon_that_a_killed_process_left_is_replaced_and_cleaned_up(node: Lan) -> None:
    with Netlink(connections.GENERIC) as netlink:
        connections._start(netlink, connections._family(netlink), IPv4Address("239.1.2.3"), 5000, 7)
    connections.write([held(Protocol.TCP, "ESTABLISHED")])
    assert len(list(connections.Listing())) == 1
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
