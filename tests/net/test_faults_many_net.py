"""Many addresses on one interface, and a kernel that refuses them: rows 1 and 39 of docs/faults.md, and beyond."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election.frames import ArpSocket
from lvsagent.election.netlink import Rtnetlink
from lvsagent.vrrp import arp, ndp
from tests.net.election_host import VIP6, Pair, await_finding, router, router6
from tests.net.lan import Lan, Sniffer

pytestmark = pytest.mark.net
NEEDS = ("lan",)

ROUTERS, EACH = 10, 60
HELD6 = f"{VIP6}/128"
DISABLE = "net.ipv6.conf.eth1.disable_ipv6={}"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        pair = Pair(stack.enter_context(Lan()), tmp_path)
        stack.callback(pair.close)
        yield pair


def routers(first: int, second: int) -> list[ipc.RouterConfig]:
    """Half of them with the first priority, half with the second."""
    return [
        router(
            first if number < ROUTERS // 2 else second,
            name=f"many{number}",
            virtual_router_id=60 + number,
            addresses=tuple(f"10.0.{10 + number}.{at}/32" for at in range(1, EACH + 1)),
        )
        for number in range(ROUTERS)
    ]


def count(pair: Pair, host: str) -> int:
    return sum(address.endswith("/32") for address in pair.lan.addresses(host))


def await_count(pair: Pair, host: str, number: int) -> None:
    end = time.monotonic() + 10
    while count(pair, host) != number:
        assert time.monotonic() < end, f"{host} has {count(pair, host)} of {number} addresses"
        time.sleep(0.05)


def test_fault_01_who_inherits_six_hundred_addresses_keeps_them(pair: Pair) -> None:
    """With 257 the first renewal ended the process, and so its successors, one after another."""
    half = ROUTERS * EACH // 2
    pair.dr1.configure(*routers(110, 100))
    pair.dr2.configure(*routers(100, 110))
    await_count(pair, "dr1", half)
    await_count(pair, "dr2", half)
    pair.dr1.signal(signal.SIGKILL)
    await_count(pair, "dr2", 2 * half)
    until = time.monotonic() + 3  # longer than what is not renewed lives
    while time.monotonic() < until:
        assert count(pair, "dr2") == 2 * half, pair.dr2.log
        time.sleep(0.1)
    said = pair.dr2.statistics()
    assert {each.state for each in said.routers} == {"Active"}
    assert sum(len(each.addresses_held) for each in said.routers) == 2 * half
    assert sum(each.address_errors for each in said.routers) == 0
    pair.dr2.configure()
    assert count(pair, "dr2") == 0


def test_six_hundred_addresses_are_held_and_dropped_by_one_request(pair: Pair) -> None:
    addresses = tuple(bytes((10, 1, at >> 8, at & 0xFF)) for at in range(600))
    with pair.lan.inside("client"):
        link = Rtnetlink()
        index = next(each.index for each in link.links() if each.name == "eth0")
        assert link.hold(index, addresses, 60, {}) == {}
        assert {each.address for each in link.addresses() if each.fenced} == set(addresses)
        assert link.drop(index, addresses, {}) == {}
        assert not [each for each in link.addresses() if each.fenced]
        link.close()


def test_five_thousand_addresses_are_listened_for_and_no_others(pair: Pair) -> None:
    """More than a filter of the kernel can name: it lets all of ARP pass."""
    wanted = [bytes((10, 9, at >> 8, at & 0xFF)) for at in range(5000)]
    with pair.lan.inside("dr1"):
        index = socket.if_nametoindex("eth0")
        opened = ArpSocket("eth0", index, bytes(6))
    sender = pair.lan.socket("client", socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind(("eth0", 0))
    mac = bytes.fromhex(pair.lan.mac("client").replace(":", ""))
    for addresses in (wanted[:3], wanted, wanted[-3:]):
        assert opened.listen_for(addresses)
        for address in (wanted[0], wanted[-1], bytes((10, 0, 0, 77))):
            sender.send(arp.announcement(address, mac))
        time.sleep(0.05)
        heard = {claim.address for claim in opened.claims()}
        assert heard == {wanted[0], wanted[-1]} & set(addresses)
    opened.close()


def announced(sniffer: Sniffer) -> set[bytes]:
    return {claim.address for _, frame in sniffer.frames() if (claim := ndp.parse(frame)) is not None}


def test_fault_39_what_the_kernel_refuses_is_tried_again_not_announced_and_given_to_who_can(pair: Pair) -> None:
    """IPv6 is switched off on the interface that has the addresses, not on the one of the adverts."""
    for host in ("dr1", "dr2"):
        pair.lan.run(host, ["ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "beyond"])
        pair.lan.run(host, ["ip", "link", "set", "beyond", "up"])
    pair.lan.run("dr1", ["sysctl", "-qw", DISABLE.format(1)])
    opened = pair.lan.socket("dr1", socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.bind(("beyond", 3))
    sniffer = Sniffer(opened)
    vip = socket.inet_pton(socket.AF_INET6, VIP6)

    pair.dr1.configure(router6(110, vip_interface="eth1"))
    await_finding(pair.dr1, ipc.Finding.ADDRESS_REFUSED, "eth1", VIP6, "Permission denied", DISABLE.format(0))
    time.sleep(1.2)
    said = pair.dr1.statistics().routers[0]
    assert (said.state, said.addresses_held, said.address_errors) == ("Active", (), 2), "nobody else is there"
    assert vip not in announced(sniffer)
    pair.lan.run("dr1", ["sysctl", "-qw", DISABLE.format(0)])
    begin = time.monotonic()
    while HELD6 not in pair.lan.addresses("dr1", "eth1"):
        assert time.monotonic() < begin + 5, pair.dr1.log
        time.sleep(0.01)
    print(f"held {time.monotonic() - begin:.2f} s after the kernel would take it")
    while vip not in announced(sniffer):
        assert time.monotonic() < begin + 5
        time.sleep(0.05)
    assert ipc.Finding.ADDRESS_REFUSED not in pair.dr1.statistics().routers[0].findings

    pair.dr2.configure(router6(100, vip_interface="eth1"))
    pair.dr2.await_heard("fe80::11")
    pair.lan.run("dr1", ["sysctl", "-qw", DISABLE.format(1)])
    begin = time.monotonic()
    while HELD6 not in pair.lan.addresses("dr2", "eth1"):
        assert time.monotonic() < begin + 5, pair.dr1.log
        time.sleep(0.01)
    print(f"served by the other one {time.monotonic() - begin:.2f} s after the kernel refused it")
    assert "address_lost" in pair.dr1.transitions()
    assert pair.dr1.log.count("the kernel refuses addresses") <= 3
