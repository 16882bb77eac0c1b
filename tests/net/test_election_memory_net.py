"""What an election keeps of what it went through: nothing. Its heap is never collected (row 12 of docs/faults.md)."""

import contextlib
import gc
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election.keys import Keys
from lvsagent.election.log import Log
from lvsagent.election.loop import Loop
from lvsagent.election.server import Server
from lvsagent.election.wish import WishStore
from lvsagent.liveness.beat import Beat, encode, node_id
from lvsagent.vrrp import arp, ndp, packet
from tests.net.election_host import CLIENT, VIP, VIP6, router, router6
from tests.net.faults import forged
from tests.net.lan import Lan
from tests.net.rtnetlink import change_address, set_up

pytestmark = pytest.mark.net
NEEDS = ("lan", "macvlan", "filters")

PORT = 9480
BLOCK = "table inet blocked {{ chain c {{ type filter hook {hook} priority 0; {what} drop; }}; }}"


class Inside:
    """The whole process but its command line, in this thread, on the host ``dr1``."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        (folder / "keys").mkdir()
        log = Log()
        with lan.inside("dr1"):
            self.loop = Loop(
                server=Server(folder / "election.sock", log),
                store=WishStore(folder, log),
                keys=Keys(folder / "keys", log),
                run_folder=folder,
                log=log,
                realtime=False,
                memory_locked=False,
                beat_port=PORT,
            )
        self.agent = self.connect()
        self.adverts = self._raw(socket.AF_INET)
        self.frames = lan.socket("client", socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.frames.bind(("eth0", 0))
        self.beats = lan.socket("client", socket.AF_INET, socket.SOCK_DGRAM)
        self.generation = 0

    def _raw(self, family: int) -> socket.socket:
        opened = self.lan.socket("client", family, socket.SOCK_RAW, packet.PROTOCOL)
        index = int(self.lan.run("client", ["cat", "/sys/class/net/eth0/ifindex"]))
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("@4s4si", bytes(4), bytes(4), index))
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        return opened

    def connect(self) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.connect(str(self.folder / "election.sock"))
        opened.setblocking(False)
        return opened

    def turn(self, seconds: float) -> None:
        """Let it run for so long."""
        end = time.monotonic() + seconds
        with self.lan.inside("dr1"):
            while time.monotonic() < end:
                self.loop._turn(time.clock_gettime(time.CLOCK_BOOTTIME) + 0.01)
                with contextlib.suppress(OSError):
                    while self.agent.recv(1 << 20):
                        pass

    def until(self, reached: Callable[[], bool], seconds: float = 5.0) -> None:
        """Let it run until that is so."""
        end = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < end, self.router
            self.turn(0.02)

    def close(self) -> None:
        """As a signal ends it."""
        wakeup, signalled = socket.socketpair()
        with wakeup, signalled, self.lan.inside("dr1"):
            signalled.send(b"\0")
            self.loop.run(wakeup)
        self.agent.close()

    def found(self, finding: ipc.Finding) -> bool:
        """Of the first router."""
        return finding in self.router.findings

    def wish(self, *routers: ipc.RouterConfig, **more: object) -> None:
        self.generation += 1
        nodes = (ipc.PeerNode(name="dr1", addresses=("10.0.0.11",)), ipc.PeerNode(name="n2", addresses=(CLIENT,)))
        fields: dict[str, object] = {"node": "dr1", "nodes": nodes, "serving": True, **more}
        wish = ipc.Configure(generation=self.generation, routers=routers, **fields)  # type: ignore[arg-type]
        self.agent.sendall(ipc.encode(wish))

    def hear(self, payload: bytes) -> None:
        self.adverts.sendto(payload, ("224.0.0.18", 0))

    @property
    def router(self) -> ipc.RouterStatistics:
        """The first one."""
        return self.loop._engine.statistics(time.clock_gettime(time.CLOCK_BOOTTIME))[0]

    @property
    def last(self) -> ipc.RouterStatistics:
        """The last one."""
        return self.loop._engine.statistics(time.clock_gettime(time.CLOCK_BOOTTIME))[-1]


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    with Lan() as lan:
        lan.add_host("dr1", "10.0.0.11/24", "fd00::11/64", "fe80::11/64")
        lan.add_host("client", f"{CLIENT}/24", "fe80::1/64")
        lan.run("client", ["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])
        lan.run("dr1", ["ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "beyond"])
        lan.run("dr1", ["ip", "link", "set", "beyond", "up"])
        inside = Inside(lan, tmp_path)
        yield inside
        inside.close()


def adverts(it: Inside) -> None:
    good = forged(90)
    for payload in (
        good,
        forged(90, addresses=("10.0.0.210",)),
        forged(90, interval=50),
        forged(0),
        good[:6],
        good[:-2],
        b"\x51" + good[1:],
        good[:6] + b"\0\0" + good[8:],
        forged(90, vrid=77),
    ):
        for _ in range(5):
            it.hear(payload)
        it.turn(0.02)
    it.adverts.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 64)
    it.hear(good)
    it.adverts.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    it.turn(0.1)


def takeovers(it: Inside) -> None:
    """It gives way to a better router, and takes over again."""
    for _ in range(3):
        it.hear(forged(200))
        it.turn(0.1)
    assert it.router.state == "Backup"
    it.hear(forged(0))
    it.until(lambda: it.router.state == "Active")


def neighbors(it: Inside) -> None:
    """Claims of our addresses, also by ever other MACs."""
    for number in range(50):
        mac = bytes((2, 0, 0, 1, 0, number))
        it.frames.send(arp.announcement(socket.inet_aton(VIP), mac))
        it.frames.send(ndp.announcement(socket.inet_pton(socket.AF_INET6, VIP6), mac, forwards=False))
        it.frames.send(arp.announcement(socket.inet_aton("10.0.0.12"), mac))
        it.frames.send(arp.announcement(socket.inet_aton("10.0.0.31"), mac)[:30])
    it.until(lambda: it.found(ipc.Finding.ADDRESS_CLAIMED))
    it.turn(0.1)


def foreign_host(it: Inside) -> None:
    """An address that is to be added belongs to somebody."""
    with it.lan.inside("client"):
        change_address("10.0.0.201/32", "eth0")
    it.wish(router(110, addresses=(f"{VIP}/32", "10.0.0.201/32"), real_servers=("10.0.0.31",)), router6(110))
    it.until(lambda: it.found(ipc.Finding.ADDRESS_CONFLICT))
    with it.lan.inside("client"):
        change_address("10.0.0.201/32", "eth0", gone=True)


def beats(it: Inside) -> None:
    for number in range(1, 20):
        beat = encode(Beat(node_id("n2"), 1, number, 0.1, True))
        for payload in (beat, beat, beat[:20], b"x" * 32, encode(Beat(node_id("n9"), 1, number, 0.1, True))):
            it.beats.sendto(payload, ("10.0.0.11", PORT))
        it.turn(0.02)
    it.until(lambda: it.loop._beats.mute == ("n2",))  # no more of them, and its kernel answers


def clients(it: Inside) -> None:
    for line in (
        b"{}\n",
        b"[1]\n",
        b"nonsense\n",
        ipc.encode(ipc.Configured(generation=1)),
        b'{"kind":"configure"}\n',
        b"",
    ):
        client = it.connect()
        it.turn(0.02)
        with contextlib.suppress(OSError):
            client.sendall(line)
        it.turn(0.02)
        client.close()
        it.turn(0.02)
    many = []
    for _ in range(20):  # more than it takes
        many.append(it.connect())
        it.turn(0.02)
    for client in many:
        client.close()
    it.turn(0.1)


def wishes(it: Inside) -> None:
    """Other ones each time, kept on disk; refused ones among them."""
    bad = router(110, name="bad", virtual_router_id=52, addresses=("10.0.0.999/32",))
    locked = router(110, name="locked", virtual_router_id=53, addresses=("10.0.0.203/32",))
    locked = replace(locked, authentication=ipc.Authentication.HMAC, key="none")
    for number in range(10):
        mine = router(110 + number % 2, announce_repeat=1 + number % 2)
        it.wish(mine, router6(110), bad, locked, router(90, name="twin"), healthy=number)
        it.turn(0.03)
    (it.folder / "election.json").unlink()
    (it.folder / "election.json").mkdir()  # nothing can be kept
    it.wish(router(110), router6(110), healthy=77)
    it.turn(0.05)
    (it.folder / "election.json").rmdir()


def macvlans(it: Inside) -> None:
    """A virtual MAC, and an interface that is missing."""
    it.wish(
        router(110),
        router6(110),
        router(110, name="mac", virtual_router_id=54, addresses=("10.0.0.204/32",), virtual_mac=True),
        router(110, name="nowhere", virtual_router_id=55, addresses=("10.0.0.205/32",), interface="eth9"),
    )
    it.turn(0.8)
    it.wish(router(110), router6(110))
    it.turn(0.1)


def refused(it: Inside) -> None:
    """The kernel takes an address no more, and takes it again."""
    there = router6(110, name="there", virtual_router_id=57, addresses=("fd00::57/128",), vip_interface="eth1")
    it.wish(router(110), router6(110), there)
    it.turn(0.05)
    it.until(lambda: it.last.addresses_held != ())
    it.lan.run("dr1", ["sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1"])
    it.until(lambda: ipc.Finding.ADDRESS_REFUSED in it.last.findings)
    it.turn(1.5)  # it hands over, and nobody comes
    it.lan.run("dr1", ["sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0"])
    it.until(lambda: it.last.addresses_held != ())
    it.wish(router(110), router6(110))
    it.turn(0.1)


def links(it: Inside) -> None:
    """The address is deleted, the link goes down and up, an interface comes and goes."""
    with it.lan.inside("dr1"):
        change_address(f"{VIP}/32", "eth0", gone=True)
    it.turn(0.1)
    for up in (False, True):
        with it.lan.inside("dr1"):
            set_up("eth0", up)
        it.turn(0.4)
    with it.lan.inside("dr1"):
        for address in ("fd00::11/64", "fe80::11/64"):
            change_address(address, "eth0", nodad=True)
    it.until(lambda: it.last.state == "Active")


def firewall(it: Inside) -> None:
    """Adverts, questions and beats cannot be sent; what comes in is dropped before the socket, and looked for."""
    it.lan.run("dr1", ["nft", BLOCK.format(hook="output", what="meta l4proto { 112, udp, icmp }")])
    it.until(lambda: it.found(ipc.Finding.ADVERT_BLOCKED))
    it.turn(0.3)
    it.lan.run("dr1", ["nft", "delete table inet blocked"])


def keys(it: Inside) -> None:
    """Good ones, bad ones, and none any more."""
    folder = it.folder / "keys"
    for name, content in (
        ("a.hmac.1", b"short"),
        ("b.hmac.1", b"k" * 32),
        ("c.password", b""),
        ("d.hmac.999", b"k" * 32),
    ):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o400)
    for number in range(3):
        it.loop._engine._keys._looked = -100.0
        it.turn(0.05)
        (folder / "b.hmac.1").unlink() if number == 0 else (folder / "b.hmac.1").write_bytes(bytes((64 + number,)) * 32)


def descriptors(it: Inside) -> None:
    """None is left."""
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    it.wish(
        router(110), router6(110), router(110, name="new", virtual_router_id=58, interface="eth1", vip_interface="eth1")
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
    try:
        waiting.connect(str(it.folder / "election.sock"))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            it.loop._turn(time.clock_gettime(time.CLOCK_BOOTTIME) + 0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.close()
    it.wish(router(110), router6(110))
    it.turn(0.1)


STAGES: tuple[Callable[[Inside], None], ...] = (
    neighbors, adverts, takeovers, foreign_host, beats, clients, wishes, macvlans, refused, links, firewall, keys,
    descriptors,
)  # fmt: skip


def test_fault_12_nothing_that_happens_leaves_a_cycle(inside: Inside) -> None:
    """A cycle is never freed where nothing collects: an advert that could not be sent left 1.2 kB, 12 kB a second."""
    inside.wish(router(110), router6(110))
    inside.turn(0.1)
    inside.until(lambda: inside.router.addresses_held != () != inside.last.addresses_held)
    gc.disable()
    try:
        left: dict[str, list[str]] = {}
        for stage in STAGES:
            gc.collect()
            gc.freeze()
            gc.set_debug(gc.DEBUG_SAVEALL)
            stage(inside)
            gc.collect()
            gc.set_debug(0)
            if gc.garbage:
                left[stage.__name__] = [f"{type(each).__name__}: {str(each)[:80]}" for each in gc.garbage[:12]]
            gc.garbage.clear()
        for name, things in left.items():
            print(name, *things, sep="\n    ")
        assert not left
    finally:
        gc.unfreeze()
        gc.enable()
