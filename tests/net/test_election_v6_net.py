"""The real election for IPv6: the same promises as for IPv4, and what is IPv6's own."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.vrrp import ndp, packet
from tests.net.election_host import VIP6, ElectionHost, Probe, router, router6
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")

HELD = f"{VIP6}/128"
VIRTUAL_LINK_LOCAL = "fe80::5e00:2:0:33"


class Lab6:
    """dr1 (priority 110) and dr2 (100) run for IPv6, dr1 is Active; a client probes the VIP."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.dr1 = ElectionHost(lan, "dr1", "10.0.0.11/24", folder, "fe80::11/64", "fd00::11/64")
        self.dr2 = ElectionHost(lan, "dr2", "10.0.0.12/24", folder, "fe80::12/64", "fd00::12/64")
        lan.add_host("client", "10.0.0.1/24", "fd00::1/64")
        for host, priority in ((self.dr1, 110), (self.dr2, 100)):
            host.start()
            host.configure(router6(priority))
        await_holding(self.dr1)
        await_holding(self.dr2, False)
        self.dr2.await_heard("fe80::11")
        self.probe = Probe(lan, "client", VIP6)
        self.probe.await_answer()

    def mac_of_vip(self) -> str:
        """Where the client believes that the VIP is."""
        words = self.lan.run("client", ["ip", "-6", "neighbour", "show", "to", VIP6]).split()
        return words[words.index("lladdr") + 1]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab6]:
    with contextlib.ExitStack() as stack:
        lab = Lab6(stack.enter_context(Lan()), tmp_path)
        for end in (lab.dr1.close, lab.dr2.close, lab.probe.close):
            stack.callback(end)
        yield lab


def await_holding(host: ElectionHost, expected: bool = True, *, timeout: float = 3.0) -> None:
    begin = time.monotonic()
    while host.holds(HELD) != expected:
        assert time.monotonic() - begin < timeout, f"{host.name} holds={not expected}; log: {host.log}"
        time.sleep(0.01)


def test_the_address_is_fenced_answers_at_once_and_is_nobodys_source(lab: Lab6) -> None:
    shown = lab.lan.run("dr1", ["ip", "-6", "address", "show", "dev", "eth0", "to", HELD])
    assert {"nodad", "noprefixroute", "deprecated"} <= set(shown.split())
    assert "valid_lft 2sec preferred_lft 0sec" in shown or "valid_lft 1sec preferred_lft 0sec" in shown
    statistics = lab.dr1.statistics().routers[0]
    assert (statistics.state, statistics.family, statistics.addresses_held) == ("Active", 6, (HELD,))
    assert statistics.active_address == "fe80::11"
    assert lab.dr2.statistics().routers[0].active_address == "fe80::11"
    assert "src fd00::11" in lab.lan.run("dr1", ["ip", "-6", "route", "get", "fd00::1"])


def test_adverts_list_a_link_local_address_first_and_leave_with_hop_limit_255(lab: Lab6) -> None:
    sniffer = lab.lan.sniff("client")
    advert = next(frame for _, frame in sniffer.frames(0.5) if frame[12:14] == b"\x86\xdd" and frame[20] == 112)
    assert advert[:6] == bytes.fromhex("333300000012")
    assert (advert[14] & 0x0F) << 4 | advert[15] >> 4 == 0xC0
    assert advert[21] == 255
    source, destination, payload = advert[22:38], advert[38:54], advert[54:]
    assert (source, destination) == (socket.inet_pton(socket.AF_INET6, "fe80::11"), packet.GROUP_V6)
    decoded = packet.decode(payload, source=source, destination=destination, hop_limit=255)
    assert isinstance(decoded, packet.Advertisement)
    assert [socket.inet_ntop(socket.AF_INET6, each) for each in decoded.addresses] == [VIRTUAL_LINK_LOCAL, VIP6]
    shown = lab.lan.run("dr1", ["ip", "-6", "address", "show", "dev", "eth0"])
    assert f"{VIRTUAL_LINK_LOCAL}/128" in shown


def test_a_node_that_vanishes_is_replaced_and_the_client_learns_the_new_mac(lab: Lab6) -> None:
    assert lab.mac_of_vip() == lab.lan.mac("dr1")
    begin = time.monotonic()
    lab.lan.cut("dr1")
    await_holding(lab.dr2, timeout=1)
    lab.probe.await_answer(timeout=1)
    assert lab.probe.gap(begin) <= 1
    assert lab.mac_of_vip() == lab.lan.mac("dr2")


def test_sigterm_hands_over_without_a_gap_that_a_client_would_notice(lab: Lab6) -> None:
    begin = time.monotonic()
    lab.dr1.signal(signal.SIGTERM)
    await_holding(lab.dr1, False)
    assert lab.dr2.holds(HELD), lab.dr1.log + lab.dr2.log
    time.sleep(0.1)
    assert lab.probe.gap(begin) <= 0.2


def test_the_kernel_takes_the_address_of_a_process_that_is_killed(lab: Lab6) -> None:
    lab.dr1.signal(signal.SIGKILL)
    await_holding(lab.dr2, timeout=1)
    await_holding(lab.dr1, False, timeout=3.5)
    lab.probe.await_answer(timeout=0.5)


def test_an_address_that_somebody_deletes_is_put_back_at_once(lab: Lab6) -> None:
    begin = time.monotonic()
    lab.lan.run("dr1", ["ip", "-6", "address", "delete", HELD, "dev", "eth0"])
    await_holding(lab.dr1, timeout=0.2)
    lab.probe.await_answer()
    assert lab.probe.gap(begin) <= 0.15
    assert lab.dr1.transitions() == ["startup", "active_silent"]


def test_a_claim_of_another_host_is_answered_with_an_announcement(lab: Lab6) -> None:
    thief = lab.lan.sniff("client")._socket
    time.sleep(1.5)  # beyond the announcements of the take-over
    before = lab.dr1.statistics().routers[0].announcements_sent
    mac = bytes.fromhex("0200000000ff")
    thief.send(ndp.announcement(socket.inet_pton(socket.AF_INET6, VIP6), mac, forwards=False))
    lab.probe.await_answer()
    assert lab.dr1.statistics().routers[0].announcements_sent == before + 2  # both addresses
    assert "somebody claims the address" in lab.dr1.log
    assert lab.mac_of_vip() == lab.lan.mac("dr1")


def test_wrong_adverts_are_counted_and_families_are_independent(lab: Lab6) -> None:
    lab.dr1.configure(router6(110), router(110))
    lab.dr1.await_holding()
    forger = lab.lan.socket("client", socket.AF_INET6, socket.SOCK_RAW, packet.PROTOCOL)
    index = int(lab.lan.run("client", ["cat", "/sys/class/net/eth0/ifindex"]))
    forger.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)

    def send(vrid: int, first: str, hops: int) -> None:
        forger.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
        payload = bytes((0x31, vrid, 200, 1, 0, 10, 0, 0)) + socket.inet_pton(socket.AF_INET6, first)
        forger.sendto(payload, ("ff02::12", 0, 0, index))

    send(51, VIP6, 255)
    send(51, VIRTUAL_LINK_LOCAL, 254)
    send(52, VIRTUAL_LINK_LOCAL, 255)
    dropped = {reason: count for reason, count in lab.dr1.statistics().dropped.items() if count}
    assert dropped == {"link_local": 1, "ttl": 1}
    assert lab.dr1.transitions() == ["startup", "active_silent", "startup", "active_silent"]


KEEPALIVED = """
global_defs {{ vrrp_version 3 }}
vrrp_instance lab6 {{
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.1
    virtual_ipaddress {{
        {first}/128 dev eth0
        {vip}/128 dev eth0
    }}
}}
"""


@pytest.mark.parametrize("priority", [90, 150])
def test_keepalived_and_we_replace_each_other(tmp_path: Path, priority: int) -> None:
    with Lan() as lan, contextlib.closing(ElectionHost(lan, "dr1", "fe80::11/64", tmp_path)) as dr1:
        lan.add_host("dr2", "fe80::12/64")
        dr1.start()
        dr1.configure(router6(110))
        await_holding(dr1)
        configuration = tmp_path / "keepalived.conf"
        configuration.write_text(KEEPALIVED.format(priority=priority, first=VIRTUAL_LINK_LOCAL, vip=VIP6))
        argv = ["keepalived", "--vrrp", "--dont-fork", "--log-console", "--use-file", str(configuration)]
        argv += ["--pid", str(tmp_path / "keepalived.pid"), "--vrrp_pid", str(tmp_path / "vrrp.pid")]
        lan.popen("dr2", argv, log=tmp_path / "keepalived.log")
        better, worse = ("dr2", "dr1") if priority > 110 else ("dr1", "dr2")
        await_addresses(lan, worse, [])
        await_addresses(lan, better, [HELD])
        time.sleep(1)
        assert (lan.addresses(better), lan.addresses(worse)) == ([HELD], [])
        lan.cut(better)
        await_addresses(lan, worse, [HELD], timeout=1)
        lan.heal(better)
        await_addresses(lan, worse, [])
        assert not any(dr1.statistics().dropped.values())


def await_addresses(lan: Lan, host: str, wanted: list[str], timeout: float = 5.0) -> None:
    end = time.monotonic() + timeout
    while lan.addresses(host) != wanted:
        assert time.monotonic() < end, f"{host} has {lan.addresses(host)}"
        time.sleep(0.02)
