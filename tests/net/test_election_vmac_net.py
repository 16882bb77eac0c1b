"""Addresses at the virtual router's own MAC."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.election_host import VIP, VIP6, ElectionHost, Pair, Probe, router, router6
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "macvlan", "filters")

HELD, HELD6 = f"{VIP}/32", f"{VIP6}/128"
CARRIER, MAC = "vrrp4.51", "00:00:5e:00:01:33"
CARRIER6, MAC6 = "vrrp6.51", "00:00:5e:00:02:33"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        pair = Pair(stack.enter_context(Lan()), tmp_path)
        stack.callback(pair.close)
        yield pair


def await_holding(host: ElectionHost, address: str, carrier: str, expected: bool = True, timeout: float = 3.0) -> None:
    end = time.monotonic() + timeout
    while (address in host.lan.addresses(host.name, carrier)) != expected:
        assert time.monotonic() < end, host.log
        time.sleep(0.01)


def mac_of(lan: Lan, address: str) -> str:
    words = lan.run("client", ["ip", "neighbour", "show", "to", address]).split()
    return words[words.index("lladdr") + 1]


@pytest.mark.parametrize(
    ("wish", "address", "carrier", "mac"), [(router, HELD, CARRIER, MAC), (router6, HELD6, CARRIER6, MAC6)]
)
def test_the_address_keeps_its_mac_when_it_moves(pair: Pair, wish: type, address: str, carrier: str, mac: str) -> None:
    lan = pair.lan
    pair.dr1.configure(wish(110, virtual_mac=True))
    pair.dr2.configure(wish(100, virtual_mac=True))
    await_holding(pair.dr1, address, carrier)
    sniffer = lan.sniff("dr2")
    pair.dr2.await_heard("10.0.0.11" if wish is router else "fe80::11")
    lan.run("client", ["ip", "address", "add", "fd00::1/64", "dev", "eth0", "nodad"])
    probe = Probe(lan, "client", address.partition("/")[0])
    with contextlib.closing(probe):
        probe.await_answer()
        assert mac_of(lan, address) == mac
        sent = [frame for _, frame in sniffer.frames() if frame[6:12] == bytes.fromhex(lan.mac("dr1").replace(":", ""))]
        assert any(112 in (frame[20], frame[23]) for frame in sent)  # adverts keep the interface's MAC
        assert "state DOWN" in lan.run("dr2", ["ip", "link", "show", carrier])
        begin = time.monotonic()
        pair.dr1.signal(signal.SIGTERM)
        await_holding(pair.dr2, address, carrier)
        time.sleep(0.2)
        probe.await_answer()
        assert probe.gap(begin) <= 0.3
        assert mac_of(lan, address) == mac
    assert pair.dr1.process is not None
    assert pair.dr1.process.wait(3) == 0
    assert carrier not in lan.run("dr1", ["ip", "link"])
    assert address not in lan.addresses("dr2")


def test_it_is_made_anew_when_somebody_deletes_it_and_goes_with_the_router(pair: Pair) -> None:
    pair.dr1.configure(router(110, virtual_mac=True))
    await_holding(pair.dr1, HELD, CARRIER)
    for setting, value in (("arp_ignore", "1"), ("rp_filter", "0"), ("accept_local", "1")):
        assert pair.lan.run("dr1", ["cat", f"/proc/sys/net/ipv4/conf/{CARRIER}/{setting}"]).strip() == value
    pair.lan.run("dr1", ["ip", "link", "delete", CARRIER])
    await_holding(pair.dr1, HELD, CARRIER)
    pair.dr1.configure(router(110))
    await_holding(pair.dr1, HELD, "eth0")
    assert CARRIER not in pair.lan.run("dr1", ["ip", "link"])


def test_a_process_that_is_killed_leaves_no_address_there_and_the_next_one_takes_it_up(pair: Pair) -> None:
    pair.dr1.configure(router(110, virtual_mac=True))
    await_holding(pair.dr1, HELD, CARRIER)
    pair.dr1.signal(signal.SIGKILL)
    await_holding(pair.dr1, HELD, CARRIER, expected=False, timeout=3.5)
    pair.dr1.start()
    await_holding(pair.dr1, HELD, CARRIER)


@pytest.mark.parametrize("pause", [0.3, 3.5])
def test_a_backup_that_was_killed_as_active_takes_nothing_sent_to_the_virtual_mac(pair: Pair, pause: float) -> None:
    """What it left is there yet, or has ended."""
    pair.dr1.configure(router(110, virtual_mac=True))
    pair.dr2.configure(router(100, virtual_mac=True))
    await_holding(pair.dr1, HELD, CARRIER)
    pair.dr2.await_heard("10.0.0.11")
    pair.dr1.signal(signal.SIGKILL)
    await_holding(pair.dr2, HELD, CARRIER)
    time.sleep(pause)
    pair.dr1.start()
    pair.dr1.configure(router(90, virtual_mac=True))
    pair.dr1.await_heard("10.0.0.12")
    end = time.monotonic() + 5
    while "state DOWN" not in (shown := pair.lan.run("dr1", ["ip", "link", "show", CARRIER])):
        assert time.monotonic() < end, shown
        time.sleep(0.05)
