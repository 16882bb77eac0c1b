"""The clauses of RFC 9568 that a kernel keeps: two real directors, IPv4 and IPv6, watched by a client of theirs.

dr2 was Active first, dr1 has taken over: so dr2 is a Backup that has held the addresses. Both are real servers too,
with the addresses on ``lo``. One LAN serves all tests; each leaves it as it was.
"""

import contextlib
import itertools
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent import ipc
from tests.clauses import frames, questions
from tests.clauses.questions import Host
from tests.contract.layers import ARP, Ether, ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6, VRRPv3
from tests.net.election_host import VIP, VIP6, ElectionHost, await_finding, router, router6
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "macvlan")

VIRTUAL_MAC = bytes.fromhex("00005e000133")
LISTS = {4: (VIP,), 6: ("fe80::5e00:2:0:33", VIP6)}
SOURCES = {"dr1": {4: "10.0.0.11", 6: "fe80::11"}, "dr2": {4: "10.0.0.12", 6: "fe80::12"}}
ANSWER = 0.4
"""Seconds within which who wants to answer does."""


class Scene:
    """The LAN and everything that was seen on it from the first advert on."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.dr1 = ElectionHost(lan, "dr1", "10.0.0.11/24", folder, "fe80::11/64", "fd00::11/64")
        self.dr2 = ElectionHost(lan, "dr2", "10.0.0.12/24", folder, "fe80::12/64", "fd00::12/64")
        lan.add_host("client", "10.0.0.1/24", "fe80::1/64", "fd00::1/64")
        self._second_network()
        self.macs = {name: bytes.fromhex(lan.mac(name).replace(":", "")) for name in ("dr1", "dr2", "client")}
        self.client = Host(self.macs["client"], ip_address("10.0.0.1").packed)
        self.client6 = Host(self.macs["client"], ip_address("fe80::1").packed)
        self._sniffer = lan.sniff("client")
        self._numbers = itertools.count(1)
        for director in (self.dr1, self.dr2):
            self._make_real_server(director.name, folder / "state" / director.name)
        self.start(self.dr2, 100)
        self.start(self.dr1, 110)
        self.dr2.await_holding(False)
        self.await_state(lambda: not self.dr2.holds(f"{VIP6}/128"))
        self._sniffer.frames(0.3)

    def start(self, director: ElectionHost, priority: int) -> None:
        """Run it, until it holds the addresses of both families."""
        director.start()
        director.configure(router(priority), router6(priority))
        director.await_holding(timeout=10)
        self.await_state(lambda: director.holds(f"{VIP6}/128"))

    def await_state(self, reached: Callable[[], bool], timeout: float = 5.0) -> None:
        end = time.monotonic() + timeout
        while not reached():
            assert time.monotonic() < end, self.dr1.log + self.dr2.log
            time.sleep(0.02)

    @property
    def seen(self) -> list[bytes]:
        """Every frame that the client saw."""
        self._sniffer.frames()
        return [frame for _, frame in self._sniffer.seen]

    def ask(self, frame: bytes) -> list[bytes]:
        """Frames that come after this one was sent by the client."""
        self._sniffer.frames()
        self._sniffer._socket.send(frame)
        return [answer for _, answer in self._sniffer.frames(ANSWER)]

    def who_answers_arp(self) -> set[bytes]:
        return questions.arp_answers(self.ask(questions.arp_request(self.client, VIP)), VIP)

    def who_answers_ns(self) -> dict[bytes, int]:
        return questions.advertisements(self.ask(questions.solicitation(self.client6, VIP6)), VIP6)

    def who_takes(self, mac: bytes) -> set[bytes]:
        """Who answers a packet to the VIP that is sent to that MAC?"""
        number = next(self._numbers)
        return questions.echo_answers(self.ask(questions.echo(self.client, mac, VIP, number)), number)

    def _second_network(self) -> None:
        """dr1 is a router between the LAN and the client's other interface."""
        client = self.lan.namespace("client")
        add = ["ip", "link", "add", "name", "eth1", "type", "veth", "peer", "name", "far", "netns", client]
        self.lan.run("dr1", add)
        self.lan.run("dr1", ["ip", "link", "set", "eth1", "up"])
        self.lan.run("client", ["ip", "link", "set", "far", "up"])
        self.lan.run("dr1", ["ip", "address", "add", "10.0.1.1/24", "dev", "eth1"])
        self.lan.run("client", ["ip", "address", "add", "10.0.1.2/24", "dev", "far"])
        self.lan.run("dr1", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
        self.far = self.lan.socket("client", socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.far.bind(("far", 0x0003))
        self.far.setblocking(False)

    def _make_real_server(self, host: str, state: Path) -> None:
        self.lan.run(host, ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0"])
        command = [sys.executable, "-m", "lvsagent.node_init", "--state-dir", str(state), "--real-server"]
        self.lan.run(host, [*command, "--vip", VIP, "--vip", VIP6])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        scene = Scene(stack.enter_context(Lan()), tmp_path_factory.mktemp("scene"))
        stack.callback(scene.dr1.close)
        stack.callback(scene.dr2.close)
        yield scene


@contextlib.contextmanager
def address(scene: Scene, host: str, text: str) -> Iterator[None]:
    """Somebody gives the host this address by hand."""
    scene.lan.run(host, ["ip", "address", "add", text, "dev", "eth0", *(["nodad"] if ":" in text else [])])
    try:
        yield
    finally:
        scene.lan.run(host, ["ip", "address", "delete", text, "dev", "eth0"])


@pytest.mark.clause("C1", "C3", "C8", "C10", "C11", "C13", "C14", "C16", "C48", "held")
@pytest.mark.clause("D1", "instead")
def test_the_judge_finds_nothing_in_what_both_said_so_far(scene: Scene) -> None:
    said = [advert for frame in scene.seen if (advert := frames.advert(frame)) is not None]
    for name in ("dr1", "dr2"):
        for family in (4, 6):
            ours = [each for each in said if each.source_mac == scene.macs[name] and each.family == family]
            assert ours, f"{name} said nothing over IPv{family}"
            for each in ours:
                broken = frames.broken(
                    each, virtual_router_id=51, source=SOURCES[name][family], addresses=LISTS[family]
                )
                assert broken == set(), (name, each)
    assert {each.source_mac for each in said} == {scene.macs["dr1"], scene.macs["dr2"]}


def test_scapy_reads_the_takeover_off_the_clients_cable_field_by_field(scene: Scene) -> None:
    mac, to_all = scene.lan.mac("dr1"), "ff:ff:ff:ff:ff:ff"
    said = [Ether(frame) for frame in scene.seen if frame[6:12] == scene.macs["dr1"]]
    for packet in (one for one in said if VRRPv3 in one):
        whole, outer, advert = bytes(packet), packet.payload, packet[VRRPv3]
        if outer.version == 4:
            assert (packet.dst, packet.type) == ("01:00:5e:00:00:12", 0x0800)
            assert (outer.ihl, outer.tos, outer.frag, outer.ttl, outer.proto) == (5, 0xC0, 0, 255, 112)
            assert (outer.src, outer.dst) == ("10.0.0.11", "224.0.0.18")
            del outer.chksum
        else:
            assert (packet.dst, packet.type) == ("33:33:00:00:00:12", 0x86DD)
            assert (outer.version, outer.tc, outer.hlim, outer.nh) == (6, 0xC0, 255, 112)
            assert (outer.src, outer.dst) == ("fe80::11", "ff02::12")
        fields = (advert.version, advert.type, advert.vrid, advert.priority, advert.res, advert.adv)
        assert fields == (3, 1, 51, 110, 0, 10)
        assert tuple(advert.addrlist) == LISTS[outer.version]
        assert advert.ipcount == len(LISTS[outer.version])
        del advert.chksum  # scapy computes them anew
        assert bytes(packet) == whole
    claims = [one for one in said if ARP in one and VIP == one[ARP].psrc == one[ARP].pdst]
    forms = {(p.dst, p[ARP].op, p[ARP].hwsrc, p[ARP].hwdst, p[ARP].hwlen, p[ARP].plen) for p in claims}
    assert forms == {(to_all, 1, mac, to_all, 6, 4), (to_all, 2, mac, mac, 6, 4)}
    claims6 = [one for one in said if ICMPv6ND_NA in one and one[IPv6].dst == "ff02::1" and one[IPv6].src in LISTS[6]]
    assert {one[ICMPv6ND_NA].tgt for one in claims6} == set(LISTS[6])
    for one in claims6:
        neighbour = one[ICMPv6ND_NA]
        assert (one.dst, one[IPv6].hlim, one[IPv6].src) == ("33:33:00:00:00:01", 255, neighbour.tgt)
        assert (neighbour.R, neighbour.S, neighbour.O) == (1, 0, 1), "dr1 forwards, and nobody asked it"
        assert one[ICMPv6NDOptDstLLAddr].lladdr == mac
    for family, announced in ((4, claims), (6, claims6)):
        first = next(place for place, one in enumerate(said) if VRRPv3 in one and one.payload.version == family)
        assert first < said.index(announced[0]), "the advert comes first"


@pytest.mark.clause("C5", "held")
def test_a_director_that_forwards_forwards_no_advert(scene: Scene) -> None:
    number = next(scene._numbers)
    scene.lan.run("client", ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0", "net.ipv4.icmp_echo_ignore_all=1"])
    scene.ask(questions.echo(scene.client, scene.macs["dr1"], "10.0.1.2", number))
    passed = []
    with contextlib.suppress(BlockingIOError):
        while True:
            passed.append(scene.far.recv(2048))
    assert [frame for frame in passed if frame[12:14] == b"\x08\x00" and frame[23] == 1], "it forwards other packets"
    assert [frame for frame in passed if frames.advert(frame)] == []


@pytest.mark.clause("C19", "C29", "held")
@pytest.mark.clause("C50", "D1", "instead")
def test_only_the_active_answers_arp_with_its_own_mac(scene: Scene) -> None:
    assert scene.who_answers_arp() == {scene.macs["dr1"]}


@pytest.mark.clause("C20", "C31", "held")
@pytest.mark.clause("C50", "C53", "D1", "instead")
def test_only_the_active_answers_neighbour_solicitations_and_says_whether_it_routes(scene: Scene) -> None:
    flags = questions.ROUTER_FLAG | questions.SOLICITED_FLAG
    answers = scene.who_answers_ns()
    assert answers.keys() == {scene.macs["dr1"]}
    assert answers[scene.macs["dr1"]] & flags == flags


@pytest.mark.clause("C19", "C29", "breach")
def test_a_backup_that_answers_arp_is_noticed_by_the_active(scene: Scene) -> None:
    with address(scene, "dr2", f"{VIP}/32"):
        assert scene.who_answers_arp() == {scene.macs["dr1"], scene.macs["dr2"]}
        await_finding(scene.dr1, ipc.Finding.ADDRESS_CLAIMED, VIP, scene.lan.mac("dr2"), timeout=8)
    assert scene.who_answers_arp() == {scene.macs["dr1"]}


@pytest.mark.clause("C20", "C31", "breach")
def test_a_backup_that_answers_neighbour_solicitations_is_noticed_by_the_active(scene: Scene) -> None:
    with address(scene, "dr2", f"{VIP6}/128"):
        # A worker of the kernel joins the solicited-node group a moment later (net/ipv6/addrconf.c).
        scene.await_state(lambda: scene.who_answers_ns().keys() == {scene.macs["dr1"], scene.macs["dr2"]})
        scene.await_state(lambda: f"claims the address address={VIP6}" in scene.dr1.log, timeout=8)
    assert scene.who_answers_ns().keys() == {scene.macs["dr1"]}


@pytest.mark.clause("C21", "held")
@pytest.mark.clause("C32", "D5", "instead")
def test_nobody_sends_router_advertisements(scene: Scene) -> None:
    assert questions.announced(scene.seen, scene.macs["dr2"]) >= {VIP, VIP6}, "it was Active, and announced"
    assert questions.router_advertisements(scene.seen) == set()


@pytest.mark.clause("C55", "D1", "instead")
def test_every_arp_and_nd_of_a_director_has_the_mac_of_its_interface(scene: Scene) -> None:
    ours = {scene.macs["dr1"], scene.macs["dr2"]}
    said = [frame for frame in scene.seen if frame[6:12] in ours and frame[12:20] == questions.ARP]
    assert said
    assert all(frame[22:28] == frame[6:12] for frame in said)
    assert not [frame for frame in scene.seen if frame[6:11] == VIRTUAL_MAC[:5]]


@pytest.mark.clause("C22", "held")
def test_a_backup_does_not_take_what_is_sent_to_the_virtual_mac(scene: Scene) -> None:
    assert scene.who_takes(VIRTUAL_MAC) == set()


@pytest.mark.clause("C22", "breach")
def test_a_backup_that_has_the_virtual_mac_is_noticed_by_its_answer(scene: Scene) -> None:
    link = ["ip", "link", "add", "link", "eth0", "name", "vrrp51", "address", VIRTUAL_MAC.hex(":")]
    scene.lan.run("dr2", [*link, "type", "macvlan", "mode", "private"])
    try:
        scene.lan.run("dr2", ["ip", "link", "set", "vrrp51", "up"])
        assert scene.who_takes(VIRTUAL_MAC) == {scene.macs["dr2"]}
    finally:
        scene.lan.run("dr2", ["ip", "link", "delete", "vrrp51"])


@pytest.mark.clause("C23", "D3", "instead")
def test_a_backup_takes_packets_to_the_address_as_a_real_server(scene: Scene) -> None:
    assert scene.who_takes(scene.macs["dr2"]) == {scene.macs["dr2"]}


@pytest.mark.clause("C33", "C34", "D1", "D2", "instead")
def test_the_active_takes_packets_to_the_address_behind_its_own_mac(scene: Scene) -> None:
    assert scene.who_takes(scene.macs["dr1"]) == {scene.macs["dr1"]}


def in_solicited_node_group(scene: Scene, host: str) -> bool:
    lines = scene.lan.run(host, ["cat", "/proc/net/igmp6"]).splitlines()
    return any(line.split()[1:3] == ["eth0", "ff0200000000000000000001ff000200"] for line in lines)


@pytest.mark.clause("C30", "held")
def test_the_active_is_in_the_solicited_node_group_and_the_backup_is_not(scene: Scene) -> None:
    assert in_solicited_node_group(scene, "dr1")
    assert not in_solicited_node_group(scene, "dr2")


@pytest.mark.clause("C29", "C30", "breach")
def test_an_active_that_lost_its_addresses_and_groups_notices_and_has_them_back_at_once(scene: Scene) -> None:
    before = [each.address_errors for each in scene.dr1.statistics().routers]
    scene.lan.run("dr1", ["ip", "address", "delete", f"{VIP}/32", "dev", "eth0"])
    scene.lan.run("dr1", ["ip", "address", "delete", f"{VIP6}/128", "dev", "eth0"])
    scene.await_state(lambda: scene.dr1.holds() and in_solicited_node_group(scene, "dr1"), timeout=1)
    assert [each.address_errors for each in scene.dr1.statistics().routers] == [errors + 1 for errors in before]
    assert "somebody deleted the address; put back" in scene.dr1.log


@pytest.mark.clause("C51", "held")
def test_what_a_foreign_host_has_is_not_announced(scene: Scene) -> None:
    foreign = "10.0.0.201"
    with address(scene, "client", f"{foreign}/32"):
        scene.dr1.configure(router(110, addresses=(f"{VIP}/32", f"{foreign}/32")), router6(110))
        await_finding(scene.dr1, ipc.Finding.ADDRESS_CONFLICT, foreign)
        assert foreign not in questions.announced(scene.seen, scene.macs["dr1"])
    scene.dr1.configure(router(110), router6(110))


def neighbor(scene: Scene, host: str) -> str:
    """Where the host believes the client's address to be."""
    words = scene.lan.run(host, ["ip", "-6", "neighbour", "show", "to", "fd00::1", "dev", "eth0"]).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def told(scene: Scene, host: str, mac: str) -> bool:
    """Does the host believe an unsolicited advertisement of the client's that its address is at this MAC?"""
    own = scene.lan.mac("client")
    scene.lan.run(host, ["ip", "-6", "neighbour", "replace", "fd00::1", "lladdr", own, "dev", "eth0", "nud", "stale"])
    scene.ask(questions.unsolicited(scene.client6, "fd00::1", bytes.fromhex(mac.replace(":", ""))))
    return neighbor(scene, host) == mac


@pytest.mark.clause("C57", "held")
@pytest.mark.parametrize("host", ["dr1", "dr2"], ids=["Active", "Backup"])
def test_an_unsolicited_neighbour_advertisement_is_believed_in_both_states(scene: Scene, host: str) -> None:
    assert told(scene, host, "02:00:00:00:00:77")


@pytest.mark.clause("C57", "breach")
def test_a_host_that_drops_unsolicited_neighbour_advertisements_keeps_the_old_entry(scene: Scene) -> None:
    key = "net.ipv6.conf.eth0.drop_unsolicited_na"
    scene.lan.run("dr2", ["sysctl", "-qw", f"{key}=1"])
    try:
        assert not told(scene, "dr2", "02:00:00:00:00:78")
    finally:
        scene.lan.run("dr2", ["sysctl", "-qw", f"{key}=0"])


@pytest.mark.clause("C60", "held")
def test_a_router_that_is_too_late_for_its_interval_logs_the_change_with_its_cause(scene: Scene) -> None:
    scene.dr1.signal(signal.SIGSTOP)
    scene.dr2.await_holding(timeout=3)
    time.sleep(0.5)  # longer than everybody waits
    scene.dr1.signal(signal.SIGCONT)
    scene.await_state(lambda: "late_timer" in scene.dr1.transitions())
    assert "state router=lab previous=Active state=Backup cause=late_timer" in scene.dr1.log
    scene.dr1.await_holding()
    scene.dr2.await_holding(False)
