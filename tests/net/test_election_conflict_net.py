"""Addresses that foreign hosts have, adverts that a firewall drops, peers that hear nothing."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.vrrp import arp
from tests.net.election_host import (
    CLIENT,
    DR1,
    DR2,
    VIP,
    VIP6,
    ElectionHost,
    Pair,
    Probe,
    await_finding,
    router,
    router6,
)
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")

HELD, SECOND = f"{VIP}/32", "10.0.0.201/32"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        pair = Pair(stack.enter_context(Lan()), tmp_path)
        stack.callback(pair.close)
        yield pair


def await_holding(host: ElectionHost, address: str, timeout: float = 3.0) -> float:
    """Returns the seconds that it took."""
    begin = time.monotonic()
    while not host.holds(address):
        assert time.monotonic() < begin + timeout, host.log
        time.sleep(0.01)
    return time.monotonic() - begin


def test_fault_40_an_address_of_a_foreign_host_is_not_taken_until_that_host_gives_it_up(pair: Pair) -> None:
    pair.lan.run("client", ["ip", "address", "add", HELD, "dev", "eth0"])
    pair.dr1.configure(router(110, addresses=(HELD, SECOND)))
    sniffer = pair.lan.sniff("client")
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CONFLICT, VIP, pair.lan.mac("client"), timeout=3)
    mac = bytes.fromhex(pair.lan.mac("dr1").replace(":", ""))
    claims = [claim for _, frame in sniffer.frames() if (claim := arp.parse(frame)) is not None and claim.mac == mac]
    assert socket.inet_aton(SECOND[:-3]) in {claim.address for claim in claims}
    assert socket.inet_aton(VIP) not in {claim.address for claim in claims}
    assert pair.dr1.statistics().routers[0].state == "Active"
    assert pair.dr1.holds(SECOND)
    assert not pair.dr1.holds(HELD)
    pair.lan.run("client", ["ip", "address", "delete", HELD, "dev", "eth0"])
    await_holding(pair.dr1, HELD, timeout=3)
    assert pair.dr1.statistics().routers[0].findings == {}


def test_fault_40_nor_by_a_better_director_that_begins_while_another_is_active_and_does_without_it(pair: Pair) -> None:
    pair.lan.run("client", ["ip", "address", "add", HELD, "dev", "eth0"])
    pair.dr2.configure(router(100, addresses=(HELD, SECOND), sources=(DR1,)))
    await_finding(pair.dr2, ipc.Finding.ADDRESS_CONFLICT, VIP, timeout=3)
    pair.dr1.configure(router(110, addresses=(HELD, SECOND), sources=(DR2,)))
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CONFLICT, VIP, pair.lan.mac("client"), timeout=4)
    assert pair.dr1.holds(SECOND)
    assert not pair.dr1.holds(HELD)
    assert f"somebody claims the address address={VIP}" not in pair.dr1.log
    pair.lan.run("client", ["ip", "address", "delete", HELD, "dev", "eth0"])
    await_holding(pair.dr1, HELD, timeout=3)


def test_fault_40_what_another_director_serves_is_taken_over_at_once(pair: Pair) -> None:
    """The probes of a director that begins are answered by the one that serves: it is no foreign host."""
    pair.dr2.configure(router(100, addresses=(HELD, SECOND), sources=(DR1,)))
    await_holding(pair.dr2, HELD)
    pair.dr1.configure(router(110, addresses=(HELD, SECOND), sources=(DR2,)))
    await_holding(pair.dr1, SECOND)
    assert await_holding(pair.dr1, HELD) < 0.1
    assert pair.dr1.statistics().routers[0].findings == {}


def test_fault_40_the_same_for_ipv6(pair: Pair) -> None:
    pair.lan.run("client", ["ip", "address", "add", f"{VIP6}/128", "dev", "eth0", "nodad"])
    pair.dr1.configure(router6(110))
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CONFLICT, VIP6, pair.lan.mac("client"), timeout=3)
    assert not pair.dr1.holds(f"{VIP6}/128")
    pair.lan.run("client", ["ip", "address", "delete", f"{VIP6}/128", "dev", "eth0"])
    await_holding(pair.dr1, f"{VIP6}/128", timeout=3)


def test_fault_40_an_address_added_later_is_asked_for_too(pair: Pair) -> None:
    pair.dr1.configure(router(110))
    pair.dr1.await_holding()
    pair.lan.run("client", ["ip", "address", "add", SECOND, "dev", "eth0"])
    pair.dr1.configure(router(110, addresses=(HELD, SECOND)))
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CONFLICT, "10.0.0.201", timeout=3)
    assert pair.dr1.holds()
    assert not pair.dr1.holds(SECOND)


REMEDY = "set net.ipv4.conf.all.arp_ignore=1 and net.ipv4.conf.all.arp_announce=2 there"


def test_fault_41_a_real_server_that_answers_arp_does_not_keep_the_address_from_being_taken(pair: Pair) -> None:
    """And takes no longer than an address that nobody has."""
    pair.lan.run("client", ["sh", "-c", f"sysctl -qw net.ipv4.conf.all.arp_ignore=0; ip address add {HELD} dev lo"])
    pair.dr2.configure(router(100, addresses=(SECOND,), virtual_router_id=52))
    free = await_holding(pair.dr2, SECOND)
    pair.dr1.configure(router(110, real_servers=("10.0.0.77", CLIENT)))
    taken = await_holding(pair.dr1, HELD)
    print(f"held after {taken:.2f} s, one that nobody has after {free:.2f} s")
    assert taken <= free + 0.8
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CLAIMED, f"real server {CLIENT} ({pair.lan.mac('client')})", REMEDY)
    assert ipc.Finding.ADDRESS_CONFLICT not in pair.dr1.statistics().routers[0].findings


def test_fault_41_the_same_for_ipv6(pair: Pair) -> None:
    pair.lan.run("client", ["ip", "address", "add", "fd00::1/64", "dev", "eth0", "nodad"])
    pair.lan.run("client", ["ip", "address", "add", f"{VIP6}/128", "dev", "eth0", "nodad"])
    pair.dr1.configure(router6(110, real_servers=("fd00::1",)))
    await_holding(pair.dr1, f"{VIP6}/128")
    words = (f"real server fd00::1 ({pair.lan.mac('client')})", "no proxy_ndp for it")
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CLAIMED, *words)


def test_fault_41_the_clients_of_a_real_server_that_answers_arp_come_back(pair: Pair) -> None:
    pair.lan.run("client", ["sh", "-c", f"sysctl -qw net.ipv4.conf.all.arp_ignore=0; ip address add {HELD} dev lo"])
    pair.dr1.configure(router(110, real_servers=(CLIENT,)))
    pair.dr1.await_holding()
    time.sleep(1.5)  # beyond the announcements of the take-over
    sniffer = pair.lan.sniff("dr2")
    begin = time.monotonic()
    mac = bytes.fromhex(pair.lan.mac("dr1").replace(":", ""))
    said = []
    while time.monotonic() < begin + 4:
        said += [at for at, frame in sniffer.frames(0.1) if arp.parse(frame) == arp.Claim(socket.inet_aton(VIP), mac)]
    assert len(said) >= 5, "both forms once a second; while nobody else claims it, it is asked for every three seconds"
    sniffer.close()


def test_fault_40_a_foreign_host_is_refused_beside_real_servers_that_answer(pair: Pair) -> None:
    for host in ("client", "dr2"):
        pair.lan.run(host, ["ip", "address", "add", HELD, "dev", "eth0"])
    pair.dr1.configure(router(110, real_servers=(DR2,)))
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CONFLICT, VIP, pair.lan.mac("client"), timeout=4)
    time.sleep(1.5)
    assert not pair.dr1.holds()
    pair.lan.run("client", ["ip", "address", "delete", HELD, "dev", "eth0"])
    await_holding(pair.dr1, HELD, timeout=4)


def test_other_real_servers_disturb_no_election(pair: Pair) -> None:
    pair.dr1.configure(router(110))
    pair.dr1.await_holding()
    time.sleep(1.5)  # beyond the announcements of the take-over
    sniffer = pair.lan.sniff("client")
    for last in range(20, 25):
        pair.dr1.configure(router(110, real_servers=tuple(f"10.0.0.{n}" for n in range(20, last))))
    time.sleep(0.5)
    asked = [frame for _, frame in sniffer.frames() if frame[12:14] == b"\x08\x06" and not any(frame[28:32])]
    assert len(asked) <= 1, "no probe but the one that each Active sends every three seconds"
    assert pair.dr1.transitions() == ["startup", "active_silent"]
    assert pair.dr1.holds()
    sniffer.close()


def test_fault_40_an_active_peer_is_no_foreign_host(pair: Pair) -> None:
    pair.dr2.configure(router(100))
    pair.dr2.await_holding()
    pair.lan.run("client", ["true"])
    probe = Probe(pair.lan, "client")
    with contextlib.closing(probe):
        probe.await_answer()
        begin = time.monotonic()
        pair.dr1.configure(router(110))
        pair.dr1.await_holding()
        pair.dr2.await_holding(False)
        time.sleep(0.2)
        assert probe.gap(begin) <= 0.2
    assert pair.dr1.statistics().routers[0].findings == {}


def test_fault_40_who_claims_or_answers_for_an_address_that_we_hold_is_named(pair: Pair) -> None:
    pair.dr1.configure(router(110, addresses=(HELD, SECOND)))
    await_holding(pair.dr1, SECOND)
    pair.lan.run("client", ["ip", "address", "add", SECOND, "dev", "eth0"])
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CLAIMED, "10.0.0.201", pair.lan.mac("client"))
    thief = pair.lan.sniff("client")._socket
    thief.send(arp.announcement(socket.inet_aton(VIP), bytes.fromhex("0200000000ff")))
    await_finding(pair.dr1, ipc.Finding.ADDRESS_CLAIMED, VIP, "02:00:00:00:00:ff")
    assert pair.dr1.holds(), pair.dr1.log
    assert pair.dr1.holds(SECOND)


def test_fault_28_a_peer_that_hears_nothing_is_named(pair: Pair) -> None:
    pair.dr1.configure(router(110))
    pair.dr2.configure(router(100))
    pair.dr1.await_holding()
    pair.lan.cut("dr2", "to")
    pair.dr2.await_holding()
    await_finding(pair.dr1, ipc.Finding.ASYMMETRIC_PEER, "10.0.0.12", "priority 100")
    assert pair.dr1.transitions() == ["startup", "active_silent"]


@pytest.mark.parametrize("hook", ["output", "input"])
def test_fault_42_a_firewall_that_drops_adverts_is_noticed(pair: Pair, hook: str) -> None:
    pair.dr1.configure(router(110))
    pair.dr2.configure(router(100))
    pair.dr1.await_holding()
    host = pair.dr1 if hook == "output" else pair.dr2
    rules = f"table ip f {{ chain c {{ type filter hook {hook} priority 0; ip protocol 112 drop; }}; }}"
    pair.lan.run(host.name, ["nft", rules])
    word = "outgoing" if hook == "output" else "incoming"
    await_finding(host, ipc.Finding.ADVERT_BLOCKED, word, "eth0")


def test_fault_35_directors_between_which_multicast_is_lost_are_named(pair: Pair) -> None:
    pair.lan.run("switch", ["nft", "add table bridge f; add chain bridge f c { type filter hook forward priority 0; }"])
    pair.lan.run("switch", ["nft", "add", "rule", "bridge", "f", "c", "ip", "daddr", "224.0.0.18", "drop"])
    pair.dr1.configure(router(110, sources=(DR2,)))
    pair.dr1.await_holding()
    pair.dr2.configure(router(100, sources=(DR1,)))
    await_finding(pair.dr2, ipc.Finding.NO_PEERS_HEARD, VIP, DR1, pair.lan.mac("dr1"), timeout=10)
    assert not pair.dr2.holds()  # it asked before it took the address
    pair.lan.cut("dr1")
    await_holding(pair.dr2, HELD)


def test_fault_38_a_short_flap_of_the_interface_changes_nothing(pair: Pair) -> None:
    slow = {"advertisement_interval_ms": 300}  # on a busy machine a flap is not as short as it should be
    pair.dr1.configure(router(110, **slow))
    pair.dr2.configure(router(100, **slow))
    pair.dr1.await_holding()
    pair.lan.unplug("dr1")
    time.sleep(0.1)
    pair.lan.heal("dr1")
    time.sleep(0.5)
    pair.lan.run("dr1", ["sh", "-c", "ip link set eth0 down; ip link set eth0 up"])
    time.sleep(1.2)
    assert pair.dr1.transitions() == ["startup", "active_silent"]
    assert pair.dr2.transitions() == ["startup"]
    assert pair.dr1.holds()


def test_fault_38_an_interface_that_is_deleted_and_made_anew_serves_again(pair: Pair) -> None:
    lan = pair.lan
    pair.dr1.configure(router(110))
    pair.dr1.await_holding()
    lan.run("dr1", ["ip", "link", "delete", "eth0"])
    await_problem(pair.dr1, "interface eth0 is missing")
    peer = ["peer", "name", "eth0", "netns", lan.namespace("dr1")]
    lan.run("switch", ["ip", "link", "add", "name", "dr1", "type", "veth", *peer])
    lan.run("switch", ["ip", "link", "set", "dev", "dr1", "master", "bridge0", "up"])
    lan.run("dr1", ["sh", "-c", "ip link set eth0 up; ip address add 10.0.0.11/24 dev eth0"])
    await_holding(pair.dr1, HELD, timeout=1.5)


def test_fault_38_a_renamed_interface_is_not_the_one_that_was_asked_for(pair: Pair) -> None:
    pair.dr1.configure(router(110))
    pair.dr1.await_holding()
    pair.lan.run("dr1", ["ip", "link", "set", "eth0", "mtu", "1400"])
    rename = "ip link set {0} down; ip link set {0} name {1}; ip link set {1} up"
    pair.lan.run("dr1", ["sh", "-c", rename.format("eth0", "lan0")])
    await_problem(pair.dr1, "interface eth0 is missing")
    assert HELD not in pair.lan.addresses("dr1", "lan0")
    pair.lan.run("dr1", ["sh", "-c", rename.format("lan0", "eth0")])
    await_holding(pair.dr1, HELD)
    assert pair.dr1.transitions() == ["startup", "active_silent", "interface_lost", "startup", "active_silent"]


def await_problem(host: ElectionHost, problem: str) -> None:
    end = time.monotonic() + 3
    while host.statistics().routers[0].problem != problem:
        assert time.monotonic() < end, host.log
