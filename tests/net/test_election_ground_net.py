"""What a router stands on and what others do to it: leases, MTU, MAC addresses, sync groups, other versions of VRRP."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election.beats import RETRY
from lvsagent.liveness.beat import PORT
from lvsagent.vrrp import arp, ndp
from tests.net.election_host import DR1, DR2, VIP, VIP6, ElectionHost, Pair, await_finding, router, router6
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan",)

HELD6, V6 = f"{VIP6}/128", socket.inet_pton(socket.AF_INET6, VIP6)
CONTESTED = {ipc.Finding.ADDRESS_CONFLICT, ipc.Finding.ADDRESS_CLAIMED}
LEASE = ("valid_lft", "3600", "preferred_lft", "3600", "noprefixroute")
"""As NetworkManager adds an address that it got by DHCP."""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as lan:
        yield lan


@pytest.fixture
def pair(lan: Lan, tmp_path: Path) -> Iterator[Pair]:
    with contextlib.closing(Pair(lan, tmp_path)) as pair:
        yield pair


def until(host: ElectionHost, holds: bool, address: str = f"{VIP}/32", timeout: float = 5.0) -> None:
    end = time.monotonic() + timeout
    while host.holds(address) != holds:
        assert time.monotonic() < end, f"{host.name} holds={not holds}; log: {host.log}"
        time.sleep(0.01)


def test_a_node_serves_whose_own_address_is_a_lease_of_networkmanager(lan: Lan, tmp_path: Path) -> None:
    host = ElectionHost(lan, "dr1", f"{DR1}/24", tmp_path)
    lan.run("dr1", ["ip", "address", "del", f"{DR1}/24", "dev", "eth0"])
    lan.run("dr1", ["ip", "address", "add", f"{DR1}/24", "dev", "eth0", *LEASE])
    with contextlib.closing(host):
        host.start()
        host.configure(router(100))
        until(host, True)
        assert host.statistics().routers[0].active_address == DR1
        # Renewed, as every few hours; and in its last minute, because the server of leases is down.
        for left in ("3600", "30"):
            lifetime = ["valid_lft", left, "preferred_lft", left, "noprefixroute"]
            lan.run("dr1", ["ip", "address", "replace", f"{DR1}/24", "dev", "eth0", *lifetime])
            time.sleep(0.5)
        assert len(host.transitions()) == 2, host.transitions()


def test_fault_38_who_was_without_ipv6_for_a_moment_hears_the_other_director_again(lan: Lan, tmp_path: Path) -> None:
    """Below 1280 the kernel gives up IPv6 on an interface, and the groups that sockets had joined there."""
    hosts = [ElectionHost(lan, f"dr{k}", f"10.0.0.1{k}/24", tmp_path, f"fe80::1{k}/64") for k in (1, 2)]
    with contextlib.ExitStack() as stack:
        for host, priority in zip(hosts, (110, 100), strict=True):
            stack.callback(host.close)
            host.start()
            host.configure(router6(priority))
        until(hosts[0], True, HELD6)
        until(hosts[1], False, HELD6)
        hosts[1].await_heard("fe80::11")
        lan.run("dr2", ["ip", "link", "set", "eth0", "mtu", "1200"])
        hosts[1].await_state("Initialize")
        lan.run("dr2", ["ip", "link", "set", "eth0", "mtu", "1500"])
        lan.run("dr2", ["ip", "address", "replace", "fe80::12/64", "dev", "eth0", "nodad"])
        hosts[1].await_state("Backup")
        time.sleep(1.0)
        assert not hosts[1].holds(HELD6), hosts[1].log
        assert hosts[1].statistics().routers[0].state == "Backup"


def test_fault_38_the_address_is_announced_where_it_is_when_the_interface_has_another_mac(pair: Pair) -> None:
    pair.dr1.configure(router(110, announce_refresh_ms=0))
    until(pair.dr1, True)
    time.sleep(1.5)  # the rounds after the take-over
    lan = pair.lan
    lan.run("client", ["ip", "neighbour", "replace", VIP, "lladdr", lan.mac("dr1"), "dev", "eth0", "nud", "stale"])
    lan.run("dr1", ["ip", "link", "set", "eth0", "address", "02:00:00:00:12:34"])
    end = time.monotonic() + 3
    while "02:00:00:00:12:34" not in (known := lan.run("client", ["ip", "neighbour", "show", "to", VIP])):
        assert time.monotonic() < end, known
        time.sleep(0.05)


@pytest.mark.parametrize("vlan", [b"", b"\x81\0\0\x4d"])
def test_fault_40_who_has_the_address_in_another_vlan_is_no_foreign_host(pair: Pair, vlan: bytes) -> None:
    """A trunk, and a card that lets all of it through: the kernel shows the frame without its tag."""
    stop = threading.Event()

    def speak(mac: bytes = b"\2\0\0\0\0\7") -> None:
        with contextlib.closing(pair.lan.socket("client", socket.AF_PACKET, socket.SOCK_RAW)) as raw:
            raw.bind(("eth0", 0))
            frames = [arp.announcement(socket.inet_aton(VIP), mac), ndp.announcement(V6, mac, forwards=False)]
            while not stop.wait(0.05):
                for frame in frames:
                    raw.send(frame[:12] + vlan + frame[12:])

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        pair.dr1.configure(router(110), router6(110))
        if vlan:
            until(pair.dr1, True)
            until(pair.dr1, True, HELD6)
            time.sleep(1.0)
        else:
            await_finding(pair.dr1, ipc.Finding.ADDRESS_CONFLICT)
        found = [each.findings.keys() & CONTESTED for each in pair.dr1.statistics().routers]
        assert found == [set() if vlan else {"AddressConflict"}] * 2, pair.dr1.log
    finally:
        stop.set()
        speaker.join()


def test_routers_that_wait_for_their_group_serve_when_it_is_given_up(pair: Pair) -> None:
    """The other router of the group can run nowhere."""
    broken = router(100, name="broken", virtual_router_id=52, interface="none0", addresses=("10.0.0.202/32",))
    for host, priority in zip((pair.dr1, pair.dr2), (110, 100), strict=True):
        host.configure(router(priority, sync_group="both"), replace(broken, sync_group="both"))
    time.sleep(1.0)
    assert not any(host.holds() for host in (pair.dr1, pair.dr2))
    for host, priority in zip((pair.dr1, pair.dr2), (110, 100), strict=True):
        host.configure(router(priority), broken)
    until(pair.dr1, True)
    until(pair.dr2, False)


def test_a_director_that_speaks_another_version_is_named_with_the_remedy(pair: Pair) -> None:
    """keepalived speaks version 2 for IPv4 unless it is told otherwise."""
    pair.dr1.configure(router(110, sources=(DR2,)))
    pair.dr2.configure(router(100, sources=(DR1,), version=2, advertisement_interval_ms=1000))
    for host, other in ((pair.dr1, DR2), (pair.dr2, DR1)):
        await_finding(host, ipc.Finding.NO_PEERS_HEARD, other, "refused", "give both the same version", timeout=10)


def test_beats_come_from_the_nodes_own_address_as_soon_as_it_is_there(lan: Lan, tmp_path: Path) -> None:
    """The election was there before it (a lease, Duplicate Address Detection). Others believe no other source."""
    nodes = (ipc.PeerNode(name="dr1", addresses=(DR1,)), ipc.PeerNode(name="dr2", addresses=(DR2,)))
    wishes = [ipc.Configure(generation=1, routers=(), node=node.name, nodes=nodes) for node in nodes]
    early = ElectionHost(lan, "dr1", "10.0.0.31/24", tmp_path)
    other = ElectionHost(lan, "dr2", f"{DR2}/24", tmp_path)
    with contextlib.closing(early), contextlib.closing(other):
        for host, wish in zip((early, other), wishes, strict=True):
            host.start()
            host.send(wish)
        time.sleep(1.5)
        refused = other.statistics()
        assert (refused.beats_received, refused.beats_dropped["source"] > 0) == (0, True)
        lan.run("dr1", ["ip", "address", "add", f"{DR1}/24", "dev", "eth0"])
        end = time.monotonic() + 10
        while not other.statistics().beats_received:
            assert time.monotonic() < end, other.statistics()


def test_a_port_that_is_taken_is_said_once_and_used_as_soon_as_it_is_free(lan: Lan, tmp_path: Path) -> None:
    nodes = (ipc.PeerNode(name="dr1", addresses=(DR1,)), ipc.PeerNode(name="dr2", addresses=(DR2,)))
    host = ElectionHost(lan, "dr1", f"{DR1}/24", tmp_path)
    with contextlib.closing(host):
        with lan.socket("dr1", socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("", PORT))
            host.start()
            host.send(ipc.Configure(generation=1, routers=(), node="dr1", nodes=nodes))
            time.sleep(2.2 * RETRY)
            assert host.log.count("heartbeats cannot be heard") == 1
            assert host.statistics().beats_sent == 0
        end = time.monotonic() + 2 * RETRY
        while not host.statistics().beats_sent:
            assert time.monotonic() < end
