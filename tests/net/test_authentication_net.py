"""Who may speak: HMAC keys and passwords between real processes, and a forger on the LAN (reliability rows 32-33)."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.vrrp import packet
from tests.net.election_host import VIP, ElectionHost, Probe, router
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan",)

HMAC = {"authentication": ipc.Authentication.HMAC, "key": "lab"}
KEY = b"0123456789abcdef0123456789abcdef"


class Pair:
    """dr1 (priority 110) and dr2 (100), each with a keys folder of its own."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.hosts = [ElectionHost(lan, f"dr{n}", f"10.0.0.1{n}/24", folder) for n in (1, 2)]
        self.dr1, self.dr2 = self.hosts
        lan.add_host("client", "10.0.0.1/24")
        lan.run("client", ["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])
        self.probe = Probe(lan, "client")

    def start(self, name: str, content: bytes = KEY) -> None:
        for host in self.hosts:
            put(host, name, content)
            host.start()

    def configure(self, **changes: object) -> None:
        self.dr1.configure(router(110, **changes))
        self.dr2.configure(router(100, **changes))

    def await_one(self) -> None:
        self.dr1.await_holding()
        self.dr2.await_holding(False)
        self.dr2.await_heard("10.0.0.11")
        self.probe.await_answer()


def put(host: ElectionHost, name: str, content: bytes) -> None:
    keys = host.folder / "keys"
    keys.mkdir(exist_ok=True)
    (keys / name).write_bytes(content)
    (keys / name).chmod(0o400)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        pair = Pair(stack.enter_context(Lan()), tmp_path)
        for end in (pair.dr1.close, pair.dr2.close, pair.probe.close):
            stack.callback(end)
        yield pair


def forged(priority: int, interval: int = 10) -> bytes:
    source = socket.inet_aton("10.0.0.1")
    return packet.encode(
        packet.Advertisement(
            virtual_router_id=51,
            priority=priority,
            interval=interval,
            addresses=(socket.inet_aton(VIP),),
            source=source,
        )
    )


def test_fault_32_and_33_with_keys_forged_and_replayed_adverts_move_nothing(pair: Pair) -> None:
    pair.start("lab.hmac.1")
    sniffer = pair.lan.sniff("client")
    pair.configure(**HMAC)
    pair.await_one()
    recorded = [frame[34:] for _, frame in sniffer.frames(0.3) if frame[23] == packet.PROTOCOL]
    assert all(len(each) == 8 + 4 + 28 for each in recorded)
    before = [host.transitions() for host in pair.hosts]
    forger = pair.lan.socket("client", socket.AF_INET, socket.SOCK_RAW, packet.PROTOCOL)
    forger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    begin = time.monotonic()
    for _ in range(150):
        for payload in (forged(255), forged(0), forged(255, 4095), recorded[0], recorded[-1]):
            forger.sendto(payload, ("224.0.0.18", 0))
        time.sleep(0.005)
    assert pair.probe.gap(begin) <= 0.3
    assert [host.transitions() for host in pair.hosts] == before
    dropped = pair.dr2.statistics().dropped
    # replayed from another source the trailer is wrong: the source is signed too
    assert dropped["auth_missing"] > 100
    assert dropped["auth_hmac"] + dropped["checksum"] + dropped["stale"] > 50


def test_a_password_of_version_2_keeps_strangers_out(pair: Pair) -> None:
    pair.start("lab.password", b"1111\n")
    pair.configure(
        version=2, advertisement_interval_ms=1000, authentication=ipc.Authentication.PASSWORD, key="lab",
        initially_active=True,
    )  # fmt: skip
    pair.dr1.await_holding(timeout=6)
    pair.dr2.await_holding(False, timeout=3)
    sniffer = pair.lan.sniff("client")
    advert = next(frame[34:] for _, frame in sniffer.frames(1.5) if frame[23] == packet.PROTOCOL)
    assert (advert[0], advert[4], advert[-8:]) == (0x21, 1, b"1111\0\0\0\0")
    assert "PasswordInsecure" in pair.dr1.statistics().routers[0].findings


def test_without_its_key_a_router_does_not_run_and_takes_part_when_it_comes(pair: Pair) -> None:
    pair.start("other.hmac.1")
    pair.configure(**HMAC)
    time.sleep(0.6)
    statistics = pair.dr1.statistics().routers[0]
    assert statistics.state == "Initialize"
    assert "put it into lab.hmac.1" in statistics.problem
    assert "KeyMissing" in statistics.findings
    for host in pair.hosts:
        put(host, "lab.hmac.1", KEY)
    pair.dr1.await_holding(timeout=5)
    pair.dr2.await_holding(False, timeout=5)


def test_fault_59_keys_are_rotated_without_a_refused_advert(pair: Pair) -> None:
    pair.start("lab.hmac.1")
    pair.configure(**HMAC)
    pair.await_one()
    begin = time.monotonic()
    before = [host.transitions() for host in pair.hosts]
    for host in pair.hosts:  # as a kubelet does it: not at one moment
        put(host, "lab.hmac.2", KEY[::-1])
        time.sleep(1.5)
    time.sleep(2.5)
    assert pair.probe.gap(begin) <= 0.3
    assert [host.transitions() for host in pair.hosts] == before
    for host in pair.hosts:
        assert not any(host.statistics().dropped.values())


def test_a_roll_out_over_receive_only_and_permissive_never_has_two_actives(pair: Pair) -> None:
    pair.start("lab.hmac.1")
    pair.configure()
    pair.await_one()
    before = [host.transitions() for host in pair.hosts]
    for mode in ipc.AuthenticationMode:
        for host, priority in zip(pair.hosts, (110, 100), strict=True):
            host.configure(router(priority, authentication_mode=mode, **HMAC))
            time.sleep(0.6)
            assert not pair.dr2.holds()
    assert [host.transitions() for host in pair.hosts] == before
    assert pair.dr2.statistics().dropped["auth_missing"] == 0
