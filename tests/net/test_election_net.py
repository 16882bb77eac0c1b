"""The real election in real namespaces: who answers for the VIP, and how soon."""

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.vrrp import arp, packet
from tests.net import keepalived
from tests.net.election_host import VIP, ElectionHost, Probe, router
from tests.net.lan import CommandFailed, Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")


class Lab:
    """dr1 (priority 110) and dr2 (100) run, dr1 is Active; a client probes the VIP."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.dr1 = ElectionHost(lan, "dr1", "10.0.0.11/24", folder)
        self.dr2 = ElectionHost(lan, "dr2", "10.0.0.12/24", folder)
        lan.add_host("client", "10.0.0.1/24")
        for host, priority in ((self.dr1, 110), (self.dr2, 100)):
            host.start()
            host.configure(router(priority))
        self.dr1.await_holding()
        self.dr2.await_holding(False)
        self.dr2.await_heard("10.0.0.11")
        self.probe = Probe(lan, "client")
        self.probe.await_answer()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        lab = Lab(stack.enter_context(Lan()), tmp_path)
        for end in (lab.dr1.close, lab.dr2.close, lab.probe.close):
            stack.callback(end)
        yield lab


def test_one_of_two_holds_the_address_fenced(lab: Lab) -> None:
    shown = lab.lan.run("dr1", ["ip", "address", "show", "dev", "eth0", "to", VIP])
    assert "noprefixroute" in shown
    assert "valid_lft 2sec" in shown or "valid_lft 1sec" in shown
    assert lab.dr1.statistics().routers[0].addresses_held == (f"{VIP}/32",)
    assert lab.dr2.statistics().routers[0].state == "Backup"
    assert lab.dr2.statistics().routers[0].active_address == "10.0.0.11"


def test_a_node_that_vanishes_is_replaced_within_a_second(lab: Lab) -> None:
    begin = time.monotonic()
    lab.lan.cut("dr1")
    lab.dr2.await_holding(timeout=1)
    lab.probe.await_answer(timeout=1)
    assert lab.probe.gap(begin) <= 1


def test_sigterm_hands_over_without_a_gap_that_a_client_would_notice(lab: Lab) -> None:
    begin = time.monotonic()
    lab.dr1.signal(signal.SIGTERM)
    lab.dr1.await_holding(False)
    assert lab.dr2.holds()
    time.sleep(0.1)
    assert lab.probe.gap(begin) <= 0.3
    assert lab.dr1.process is not None
    assert lab.dr1.process.wait(2) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_kernel_takes_the_address_of_a_process_that_is_killed_or_frozen(lab: Lab, number: signal.Signals) -> None:
    lab.dr1.signal(number)
    lab.dr2.await_holding(timeout=1)
    lab.dr1.await_holding(False, timeout=3)
    lab.probe.await_answer(timeout=0.5)


def test_the_higher_priority_takes_back_what_it_served_when_it_returns(lab: Lab) -> None:
    lab.lan.cut("dr1")
    lab.dr2.await_holding()
    begin = time.monotonic()
    lab.lan.heal("dr1")
    lab.dr2.await_holding(False)
    assert lab.dr1.holds()
    lab.probe.await_answer()
    time.sleep(0.3)
    assert lab.probe.gap(begin) <= 0.5
    assert lab.dr2.transitions() == ["startup", "active_silent", "higher_priority"]


def test_a_restarted_process_waits_its_turn_and_takes_back(lab: Lab) -> None:
    lab.dr1.signal(signal.SIGKILL)
    # dr2 may have asked for the address when it began, and got an answer: then it waits until dr1's kernel drops it
    lab.dr2.await_holding(timeout=5)
    lab.dr1.start()
    lab.dr2.await_holding(False)
    lab.dr1.await_holding()
    assert "runs by the wish kept on disk" in lab.dr1.log


def test_a_frozen_process_that_wakes_up_says_nothing_before_it_has_listened(lab: Lab) -> None:
    lab.dr1.signal(signal.SIGSTOP)
    lab.dr2.await_holding()
    lab.dr1.await_holding(False)
    sniffer = lab.lan.sniff("dr1")
    lab.dr1.signal(signal.SIGCONT)
    mac = bytes.fromhex(lab.lan.mac("dr1").replace(":", ""))
    speakers = [frame[6:12] for _, frame in sniffer.frames(0.8) if frame[23] == packet.PROTOCOL]
    # not by time: a busy machine reads several frames at once
    assert speakers.index(mac) >= 2, "it listened to the other's adverts, one each 100 ms"
    assert "late_timer" in lab.dr1.transitions()


def test_an_address_that_somebody_deletes_is_put_back_at_once(lab: Lab) -> None:
    begin = time.monotonic()
    for _ in range(3):
        lab.lan.run("dr1", ["ip", "address", "delete", f"{VIP}/32", "dev", "eth0"])
        lab.dr1.await_holding(timeout=0.2)
    lab.probe.await_answer()
    assert lab.probe.gap(begin) <= 0.3
    assert lab.dr1.transitions() == ["startup", "active_silent"]


def test_a_claim_of_another_host_is_answered_with_an_announcement(lab: Lab) -> None:
    thief = lab.lan.sniff("client")._socket
    time.sleep(1.5)  # beyond the announcements of the take-over
    before = lab.dr1.statistics().routers[0].announcements_sent
    thief.send(arp.announcement(socket.inet_aton(VIP), bytes.fromhex("0200000000ff")))
    lab.probe.await_answer()
    assert lab.dr1.statistics().routers[0].announcements_sent == before + 1
    assert "somebody claims the address" in lab.dr1.log


def test_a_wish_changes_addresses_in_place_and_leaves_foreign_ones_alone(lab: Lab) -> None:
    lab.lan.run("dr1", ["ip", "address", "add", "10.0.0.77/32", "dev", "eth0"])
    lab.lan.run("dr1", ["ip", "address", "add", "10.0.0.202/32", "dev", "eth0"])
    lab.dr1.configure(router(110, addresses=(f"{VIP}/32", "10.0.0.201/32", "10.0.0.202/32")))
    await_address(lab.dr1, "10.0.0.201/32")
    assert "not ours" in lab.dr1.log
    lab.dr1.configure(router(110, addresses=("10.0.0.201/32",)))
    assert sorted(lab.lan.addresses("dr1")) == ["10.0.0.11/24", "10.0.0.201/32", "10.0.0.202/32", "10.0.0.77/32"]
    lab.dr1.configure()
    assert sorted(lab.lan.addresses("dr1")) == ["10.0.0.11/24", "10.0.0.202/32", "10.0.0.77/32"]
    assert lab.dr1.transitions() == ["startup", "active_silent", "shutdown"]
    lab.dr2.await_holding()


def test_an_address_can_go_from_one_router_to_another(lab: Lab) -> None:
    extra = "10.0.0.201/32"
    lab.dr1.configure(router(110), router(110, name="b", virtual_router_id=52, addresses=(extra,)))
    lab.dr1.await_holding()
    await_address(lab.dr1, extra)
    lab.dr1.configure(
        router(110, addresses=(extra,)), router(110, name="b", virtual_router_id=52, addresses=(f"{VIP}/32",))
    )
    await_address(lab.dr1, extra)
    await_address(lab.dr1, f"{VIP}/32")


def await_address(host: ElectionHost, address: str) -> None:
    end = time.monotonic() + 2
    while not host.holds(address):
        assert time.monotonic() < end, host.log
        time.sleep(0.01)


def test_wrong_adverts_are_counted_by_reason_and_foreign_routers_stay_outside(lab: Lab) -> None:
    forger = lab.lan.socket("client", socket.AF_INET, socket.SOCK_RAW, packet.PROTOCOL)
    good = packet.encode(
        packet.Advertisement(
            virtual_router_id=51,
            priority=200,
            interval=10,
            addresses=(socket.inet_aton(VIP),),
            source=socket.inet_aton("10.0.0.1"),
        )
    )

    def send(payload: bytes, ttl: int = 255) -> None:
        forger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        forger.sendto(payload, ("224.0.0.18", 0))

    lab.lan.run("client", ["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])
    send(good, ttl=254)
    send(b"\x21" + good[1:])
    send(good[:6] + b"\0\0" + good[8:])
    send(good[:7])
    send(good[:1] + b"\x34" + good[2:])
    dropped = {reason: count for reason, count in lab.dr1.statistics().dropped.items() if count}
    assert dropped == {"ttl": 1, "version": 1, "checksum": 1, "truncated": 1}
    assert lab.dr1.transitions() == ["startup", "active_silent"]


def test_a_router_that_is_not_ready_lets_go_and_comes_back_when_it_is(lab: Lab) -> None:
    lab.dr1.configure(router(110, ready=False))
    assert not lab.dr1.holds()
    lab.dr2.await_holding(timeout=0.5)
    lab.dr1.configure(router(110))
    lab.dr1.await_holding()


def test_an_interface_that_vanishes_is_taken_up_again_when_it_returns(lab: Lab) -> None:
    lab.lan.run("dr1", ["ip", "link", "set", "dev", "eth0", "down"])
    lab.dr2.await_holding()
    lab.dr1.await_state("Initialize")
    lab.lan.run("dr1", ["ip", "link", "set", "dev", "eth0", "up"])
    lab.dr1.await_holding()
    lab.dr2.await_holding(False)
    assert "interface_lost" in lab.dr1.transitions()


def test_what_cannot_be_run_is_refused_by_name_and_the_rest_runs(lab: Lab) -> None:
    mixed = router(100, name="mixed", virtual_router_id=52, addresses=("fd00::1/128",))
    twin = router(100, name="twin", addresses=("10.0.0.210/32",))
    lab.dr1.configure(router(110), mixed, twin)
    states = {each.router: (each.state, each.problem) for each in lab.dr1.statistics().routers}
    assert states == {
        "lab": ("Active", ""),
        "mixed": ("Initialize", "addresses: 'fd00::1/128' is no IPv4 address"),
        "twin": ("Initialize", "virtual_router_id 51: taken by lab on eth0"),
    }
    assert "router=mixed reason=addresses: 'fd00::1/128' is no IPv4 address" in lab.dr1.log
    assert "router=twin reason=virtual_router_id 51: taken by lab on eth0" in lab.dr1.log


@pytest.mark.parametrize("capability", ["NET_RAW", "NET_ADMIN"])
def test_without_a_capability_the_process_stays_names_it_and_leaves_the_address_to_others(
    tmp_path: Path, capability: str
) -> None:
    with contextlib.ExitStack() as stack:
        lan = stack.enter_context(Lan())
        poor, good = (ElectionHost(lan, f"dr{n}", f"10.0.0.1{n}/24", tmp_path) for n in (1, 2))
        poor.start("setpriv", f"--bounding-set=-{capability.lower()}")
        good.start()
        for host, priority in ((poor, 110), (good, 100)):
            stack.callback(host.close)
            host.configure(router(priority))
        good.await_holding()
        (told,) = poor.statistics().routers
        assert (told.state, told.addresses_held, told.adverts_sent) == ("Initialize", (), 0)
        assert told.problem.startswith(
            f"lvs-election lacks CAP_{capability}: grant it (securityContext.capabilities.add"
        )
        lines = [line for line in poor.log.splitlines() if f"CAP_{capability}" in line]
        assert len(lines) == 2, "once for all, and once for the router"
        assert "no virtual router can run" in lines[0]
        assert "the router is refused router=lab" in lines[1]
        assert poor.process is not None
        assert poor.process.poll() is None
        assert good.holds()


def test_a_second_process_does_not_start_in_the_same_folder(lab: Lab) -> None:
    argv = [sys.executable, "-m", "lvsagent.election", "--run-dir", str(lab.dr1.folder)]
    with pytest.raises(CommandFailed, match=r"status 1.*another lvs-election runs"):
        lab.lan.run("dr1", [*argv, "--state-dir", str(lab.dr1.folder)])


def test_nonsense_on_the_socket_costs_the_speaker_its_connection_and_nothing_else(lab: Lab) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.connect(str(lab.dr1.folder / "election.sock"))
        other.sendall(b'{"kind": "configured", "generation": 1}\n')
        other.settimeout(2)
        while other.recv(65536):
            pass
    assert lab.dr1.holds()
    assert "was dropped" in lab.dr1.log


@pytest.mark.parametrize("keepalived_priority", [90, 150])
def test_keepalived_and_we_replace_each_other(tmp_path: Path, keepalived_priority: int) -> None:
    with Lan() as lan, contextlib.closing(ElectionHost(lan, "dr1", "10.0.0.11/24", tmp_path)) as dr1:
        lan.add_host("dr2", "10.0.0.12/24")
        lan.add_host("client", "10.0.0.1/24")
        dr1.start()
        dr1.configure(router(110))
        dr1.await_holding()
        keepalived.start(lan, "dr2", tmp_path, priority=keepalived_priority, address=VIP)
        better = keepalived_priority > 110
        wanted = [] if better else [f"{VIP}/32"]
        await_addresses(lan, "dr1", wanted)
        time.sleep(1)
        await_addresses(lan, "dr2", [] if not better else [f"{VIP}/32"])
        assert lan.addresses("dr1")[1:] == wanted
        lan.cut("dr2" if better else "dr1")
        await_addresses(lan, "dr1" if better else "dr2", [f"{VIP}/32"], timeout=1)
        lan.heal("dr2" if better else "dr1")
        await_addresses(lan, "dr1" if better else "dr2", [])
        statistics = dr1.statistics()
        assert statistics.routers[0].adverts_received > 0 or not better
        assert not any(statistics.dropped.values())


def await_addresses(lan: Lan, host: str, virtual: list[str], timeout: float = 5.0) -> None:
    end = time.monotonic() + timeout
    while lan.addresses(host)[1:] != virtual:
        assert time.monotonic() < end, f"{host} has {lan.addresses(host)}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("lifetime", "stays"), [(["valid_lft", "60", "preferred_lft", "60", "noprefixroute"], False), ([], True)]
)
def test_a_leftover_goes_when_another_active_is_heard_but_not_a_foreign_address(
    lab: Lab, lifetime: list[str], stays: bool
) -> None:
    lab.dr2.signal(signal.SIGKILL)
    lab.lan.run("dr2", ["ip", "address", "add", f"{VIP}/32", "dev", "eth0", *lifetime])
    lab.dr2.start()
    lab.dr2.await_holding(stays, timeout=2)
    time.sleep(0.5)
    assert lab.dr2.holds() == stays
    assert lab.dr2.statistics().routers[0].state == "Backup", lab.dr2.log + lab.dr1.log


def test_a_leftover_is_adopted_by_who_becomes_active(lab: Lab) -> None:
    lab.dr2.signal(signal.SIGKILL)
    lab.dr1.signal(signal.SIGKILL)
    begin = time.monotonic()
    lab.dr1.start()
    while lab.dr1.statistics().routers[0].state != "Active":
        assert time.monotonic() < begin + 5
    time.sleep(0.1)
    lab.probe.await_answer()
    assert lab.probe.gap(begin) <= 0.3
