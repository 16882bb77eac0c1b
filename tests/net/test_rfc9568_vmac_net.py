"""The clauses of RFC 9568 about the virtual MAC, where a class asks for it: two real directors, watched by a client."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from tests.clauses import questions
from tests.clauses.questions import Host
from tests.net.election_host import VIP, VIP6, Pair, router, router6
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "macvlan")

MACS = {4: bytes.fromhex("00005e000133"), 6: bytes.fromhex("00005e000233")}
CARRIERS = {4: "vrrp4.51", 6: "vrrp6.51"}
ANSWER = 0.4
"""Seconds within which who wants to answer does."""


class Scene:
    """dr1 is Active, dr2 was and is Backup, both with virtual MACs for both families."""

    def __init__(self, pair: Pair) -> None:
        self.lan, self.dr1, self.dr2 = pair.lan, pair.dr1, pair.dr2
        mac = bytes.fromhex(self.lan.mac("client").replace(":", ""))
        self.client = Host(mac, ip_address("10.0.0.1").packed)
        self.client6 = Host(mac, ip_address("fe80::1").packed)
        self._sniffer = self.lan.sniff("client")
        self._number = 0
        for director, priority in ((self.dr2, 100), (self.dr1, 110)):
            director.configure(router(priority, virtual_mac=True), router6(priority, virtual_mac=True))
            self.await_state(functools.partial(self.holds_both, director.name))
        self.await_state(lambda: not self.holds("dr2", 4) and not self.holds("dr2", 6))

    def holds(self, host: str, family: int) -> bool:
        return (f"{VIP}/32" if family == 4 else f"{VIP6}/128") in self.lan.addresses(host, CARRIERS[family])

    def holds_both(self, host: str) -> bool:
        return self.holds(host, 4) and self.holds(host, 6)

    def await_state(self, reached: Callable[[], bool], timeout: float = 15.0) -> None:
        """A router that failed twice waits before it preempts."""
        end = time.monotonic() + timeout
        while not reached():
            assert time.monotonic() < end, self.dr1.log + self.dr2.log
            time.sleep(0.02)

    def ask(self, frame: bytes) -> list[bytes]:
        """Frames that come after this one was sent by the client."""
        self._sniffer.frames()
        self._sniffer._socket.send(frame)
        return [answer for _, answer in self._sniffer.frames(ANSWER)]

    def who_answers_arp(self) -> set[bytes]:
        return questions.arp_answers(self.ask(questions.arp_request(self.client, VIP)), VIP)

    def who_answers_ns(self) -> set[bytes]:
        return set(questions.advertisements(self.ask(questions.solicitation(self.client6, VIP6)), VIP6))

    def answers_at(self, mac: bytes) -> int:
        """Answers to a packet to the VIP that is sent to that MAC."""
        self._number += 1
        return len(questions.echo_answers(self.ask(questions.echo(self.client, mac, VIP, self._number)), self._number))

    def own_addresses(self) -> list[str]:
        """IPv6 addresses of the carrier that nobody asked for."""
        lines = self.lan.run("dr1", ["ip", "-6", "-oneline", "address", "show", "dev", CARRIERS[6]]).splitlines()
        wished = (f"{VIP6}/128", "fe80::5e00:2:0:33/128")
        return [line.split()[3] for line in lines if line.split()[3] not in wished]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        pair = Pair(stack.enter_context(Lan()), tmp_path_factory.mktemp("pair"))
        stack.callback(pair.close)
        yield Scene(pair)


@pytest.mark.clause("C29", "C31", "C50", "held")
def test_arp_and_solicitations_are_answered_with_the_virtual_mac_and_no_other(scene: Scene) -> None:
    assert scene.who_answers_arp() == {MACS[4]}
    assert scene.who_answers_ns() == {MACS[6]}


@pytest.mark.clause("C50", "breach")
def test_an_active_that_answers_with_its_physical_mac_is_noticed_by_its_answer(scene: Scene) -> None:
    scene.lan.run("dr1", ["ip", "address", "add", f"{VIP}/32", "dev", "eth0"])
    try:
        assert bytes.fromhex(scene.lan.mac("dr1").replace(":", "")) in scene.who_answers_arp()
    finally:
        scene.lan.run("dr1", ["ip", "address", "delete", f"{VIP}/32", "dev", "eth0"])


@pytest.mark.clause("C22", "C33", "held")
def test_the_active_and_nobody_else_takes_what_is_sent_to_the_virtual_mac(scene: Scene) -> None:
    assert scene.answers_at(MACS[4]) == 1
    assert all("state DOWN" in scene.lan.run("dr2", ["ip", "link", "show", name]) for name in CARRIERS.values())
    scene.lan.cut("dr1", "to")
    try:
        assert scene.answers_at(MACS[4]) == 0
    finally:
        scene.lan.heal("dr1")
        scene.await_state(lambda: not scene.holds("dr2", 4) and not scene.holds("dr2", 6))


@pytest.mark.clause("C33", "breach")
def test_an_active_whose_virtual_mac_somebody_took_away_notices_and_has_it_back(scene: Scene) -> None:
    scene.lan.run("dr1", ["ip", "link", "delete", CARRIERS[4]])
    scene.await_state(lambda: scene.holds("dr1", 4))
    assert scene.answers_at(MACS[4]) == 1
    assert "interface_lost" in scene.dr1.transitions()


@pytest.mark.clause("C49", "held")
def test_the_interface_with_the_virtual_mac_gives_itself_no_address(scene: Scene) -> None:
    assert scene.own_addresses() == []


@pytest.mark.clause("C49", "breach")
def test_an_address_made_of_the_virtual_mac_is_noticed(scene: Scene) -> None:
    made = "fe80::200:5eff:fe00:233/64"
    mode = f"net.ipv6.conf.{CARRIERS[6].replace('.', '/')}.addr_gen_mode"
    scene.lan.run("dr1", ["sysctl", "-qw", f"{mode}=0"])
    try:
        scene.await_state(lambda: scene.own_addresses() == [made])
    finally:
        scene.lan.run("dr1", ["sysctl", "-qw", f"{mode}=1"])
        scene.lan.run("dr1", ["ip", "address", "delete", made, "dev", CARRIERS[6]])
