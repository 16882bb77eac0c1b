"""The engine on a kernel that refuses: what it says, what it announces, what it costs."""

import errno
import gc
import ipaddress
import os
import select
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election import blocked, macs, netlink, wire
from lvsagent.election.engine import RETRY, Engine
from lvsagent.election.fence import LIFETIME, Fence
from lvsagent.election.keys import Keys
from lvsagent.election.log import Log
from lvsagent.election.netlink import Address, Link, NetlinkError
from lvsagent.election.wire import Wire
from lvsagent.vrrp import arp, auth, events

pytestmark = pytest.mark.unit

VIP, OTHER = bytes((10, 0, 0, 200)), bytes((10, 0, 0, 201))
CONFIG = ipc.RouterConfig(
    name="lab",
    virtual_router_id=51,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.200/32", "10.0.0.201/32"),
    priority=100,
)
ETH0 = Link(index=2, name="eth0", mac=bytes(6), up=True, running=True)
OWN = Address(index=2, address=bytes((10, 0, 0, 11)), prefix_length=24, scope=0, flags=netlink.IFA_F_PERMANENT)


@dataclass
class Kernel:
    """Of one interface."""

    denied: set[bytes] = field(default_factory=set)
    blind: bool = False
    """Links cannot be read."""
    lifetimes: dict[bytes, int] = field(default_factory=dict)
    """Of what it holds, as last asked for."""
    port: int = 0

    def links(self) -> list[Link]:
        if self.blind:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return [ETH0]

    def addresses(self) -> list[Address]:
        return [OWN]

    def hold(
        self, _index: int, addresses: tuple[bytes, ...], seconds: int, _prefixes: Mapping[bytes, int]
    ) -> dict[bytes, NetlinkError]:
        self.lifetimes |= {address: seconds for address in addresses if address not in self.denied}
        refused = [address for address in addresses if address in self.denied]
        return {address: NetlinkError(errno.ENOMEM, os.strerror(errno.ENOMEM)) for address in refused}

    def drop(
        self, _index: int, addresses: tuple[bytes, ...], _prefixes: Mapping[bytes, int]
    ) -> dict[bytes, NetlinkError]:
        for address in addresses:
            self.lifetimes.pop(address, None)
        return {}


class Opened:
    """A socket of the election on eth0: remembers what left, hears nothing."""

    def __init__(self) -> None:
        self.index, self.mac, self.source = ETH0.index, ETH0.mac, OWN.address
        self.sent: list[bytes] = []
        self.heard: list[arp.Claim] = []
        self.refuses = 0
        """With this error, each time a new one."""
        self._pipe = os.pipe()

    def fileno(self) -> int:
        return self._pipe[0]

    def close(self) -> None:
        for each in self._pipe:
            os.close(each)

    def listen_for(self, _wanted: Iterable[object]) -> bool:
        return True

    def send(self, data: bytes, *_where: bytes) -> None:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        self.sent.append(data)

    def claims(self) -> list[arp.Claim]:
        heard, self.heard = self.heard, []
        return heard

    def announcements(self, address: bytes, _virtual: bytes | None) -> tuple[bytes, ...]:
        return (address,)

    def probe(self, _address: bytes) -> bytes:
        return b""

    def priorities(self) -> list[int]:
        """Of the adverts since the last call."""
        found = [advert[2] for advert in self.sent]
        self.sent.clear()
        return found


def no_tap(*_arguments: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Scene:
    def __init__(self, folder: Path, epoll: select.epoll, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel = Kernel()
        self.adverts, self.neighbors = Opened(), Opened()
        monkeypatch.setattr(wire, "AdvertSocket", lambda *_: self.adverts)
        monkeypatch.setattr(wire, "ArpSocket", lambda *_: self.neighbors)
        monkeypatch.setattr(blocked, "Tap", no_tap)
        self.wire = Wire(self.kernel, epoll)  # type: ignore[arg-type]
        self.said: list[ipc.StateChanged] = []
        log = Log()
        self.engine = Engine(
            wire=self.wire,
            fence=Fence(self.kernel, log),  # type: ignore[arg-type]
            keys=Keys(folder, log),
            clock=auth.Clock(0.0, 0.0),
            log=log,
            report=self.said.append,
        )
        self.now = 100.0

    def wish(self, *configs: ipc.RouterConfig) -> None:
        self.engine.configure(ipc.Configure(generation=1, routers=configs), self.now)

    def run(self, seconds: float) -> None:
        """Every 10 ms: nothing arrives."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.01
            self.engine.turn(set(), self.now)

    def claim(self, *claims: arp.Claim) -> None:
        self.neighbors.heard += claims
        self.now += 0.001
        self.engine.turn({self.neighbors.fileno()}, self.now)

    @property
    def router(self) -> ipc.RouterStatistics:
        return self.engine.statistics(self.now)[0]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with select.epoll() as epoll:
        scene = Scene(tmp_path / "keys", epoll, monkeypatch)
        yield scene
        scene.wire.close()


def test_only_what_is_held_is_announced_and_the_rest_as_soon_as_the_kernel_takes_it(scene: Scene) -> None:
    scene.kernel.denied = {OTHER}
    scene.wish(CONFIG)
    scene.run(1.2)
    assert (scene.router.state, scene.router.addresses_held) == ("Active", ("10.0.0.200/32",))
    assert set(scene.neighbors.sent) - {b""} == {VIP}
    assert scene.router.address_errors == 1
    assert "10.0.0.201 on eth0 (Cannot allocate memory)" in scene.router.findings[ipc.Finding.ADDRESS_REFUSED]
    scene.kernel.denied = set()
    scene.neighbors.sent.clear()
    scene.run(1.5)
    assert scene.router.addresses_held == CONFIG.addresses
    assert OTHER in scene.neighbors.sent
    assert scene.router.findings == {}


def test_an_active_that_lacks_addresses_asks_for_a_successor_and_serves_on_without_one(scene: Scene) -> None:
    scene.wish(CONFIG)
    scene.run(1.0)
    scene.kernel.denied = {OTHER}
    scene.adverts.priorities()
    scene.run(0.9)
    assert 0 not in scene.adverts.priorities(), "it may pass"
    scene.run(1.0)
    assert 0 in scene.adverts.priorities()
    scene.run(1.5)
    assert scene.router.state == "Active"
    scene.adverts.priorities()
    scene.run(5.0)
    assert set(scene.adverts.priorities()) == {100}, "not all the time"
    assert scene.router.addresses_held == ("10.0.0.200/32",)


def test_what_is_left_for_the_next_process_keeps_its_long_life(scene: Scene) -> None:
    scene.wish(replace(CONFIG, graceful_restart_ms=5000))
    scene.run(1.0)
    suspended = scene.engine.suspend(scene.now)
    scene.engine.end(scene.now, suspended)
    scene.wish(replace(CONFIG, graceful_restart_ms=5000))  # or whatever makes it look again
    scene.run(0.1)
    assert set(scene.kernel.lifetimes.values()) == {5}, f"not {LIFETIME}"


def test_an_interface_that_cannot_be_looked_at_is_looked_at_again(scene: Scene) -> None:
    scene.kernel.blind = True
    scene.wish(CONFIG)
    scene.run(2 * RETRY)
    assert scene.router.problem == "interface eth0 is missing"
    scene.kernel.blind = False
    scene.run(1.0)
    assert scene.router.state == "Active"
    scene.kernel.blind = True
    scene.wish(CONFIG)
    scene.run(1.0)
    assert (scene.router.state, scene.router.problem) == ("Active", ""), "what was known stays"


def test_adverts_that_cannot_be_sent_leave_nothing_behind(scene: Scene) -> None:
    """An exception that is kept and the frame that keeps it refer to each other: 1.2 kB each time, never collected."""
    scene.wish(CONFIG)
    scene.run(1.0)
    scene.adverts.refuses = errno.EPERM
    scene.run(1.0)
    gc.disable()
    tracemalloc.start()
    try:
        scene.run(5.0)
        gc.collect()  # it empties the lists of free objects, too
        before, _ = tracemalloc.get_traced_memory()
        scene.run(30.0)
        assert gc.collect() == 0
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < 5_000, "300 adverts"
    assert scene.router.findings.keys() == {ipc.Finding.ADVERT_BLOCKED}


def mac(number: int) -> bytes:
    return b"\2\1" + number.to_bytes(4)


def test_a_flood_of_claims_by_ever_other_macs_is_counted_and_forgotten(scene: Scene) -> None:
    """Each was remembered, and a director for ever."""
    director, server = bytes((10, 0, 0, 12)), bytes((10, 0, 0, 31))
    scene.wish(replace(CONFIG, sources=("10.0.0.11", "10.0.0.12"), real_servers=("10.0.0.31",)))
    scene.run(1.0)
    before = scene.engine.unasked
    for first in range(0, 5000, 50):
        scene.claim(*(arp.Claim(a, mac(at)) for at in range(first, first + 50) for a in (director, server, VIP)))
    assert scene.engine.unasked - before == 15_000
    (known,) = scene.engine._conflicts._macs.values()
    assert len(known) == 2 * macs.MOST


def test_who_claimed_a_directors_address_once_is_a_stranger_some_minutes_later(scene: Scene) -> None:
    scene.wish(replace(CONFIG, sources=("10.0.0.11", "10.0.0.12")))
    scene.run(1.0)
    scene.claim(arp.Claim(bytes((10, 0, 0, 12)), mac(1)), arp.Claim(VIP, mac(1)))
    assert scene.router.findings.keys() == {ipc.Finding.NO_PEERS_HEARD}
    scene.now += macs.MEMORY + 60
    scene.run(1.5)
    scene.claim(arp.Claim(VIP, mac(1)))
    assert scene.router.findings.keys() == {ipc.Finding.ADDRESS_CLAIMED}


def test_a_wish_is_parsed_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared by pairs, and parsed each time, 100 routers of 60 addresses took 3.3 s for every wish."""
    parsed = 0
    real = ipaddress.ip_interface

    def count(text: str) -> object:
        nonlocal parsed
        parsed += 1
        return real(text)

    configs = tuple(
        replace(
            CONFIG,
            name=f"r{number}",
            virtual_router_id=1 + number,
            addresses=tuple(f"10.{number}.9.{last}/32" for last in range(1, 61)),
        )
        for number in range(255)
    )
    monkeypatch.setattr(ipaddress, "ip_interface", count)
    scene.wish(*configs)
    assert {each.problem for each in scene.engine.statistics(scene.now)} == {""}
    assert parsed == 255 * 60
    scene.wish(*(replace(config, priority=99) for config in configs))
    scene.engine.statistics(scene.now)
    assert parsed == 255 * 60


def test_a_turn_judges_no_router_of_which_nothing_is_to_be_judged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 250 Actives was, at each of the 2,500 turns of their adverts in a second: more than a processor."""
    configs = tuple(
        replace(CONFIG, name=f"r{number}", virtual_router_id=1 + number, addresses=(f"10.0.9.{number}/32",))
        for number in range(100)
    )
    scene.wish(*configs)
    scene.run(3.0)
    judged = waited = 0

    def judge(*_arguments: object) -> None:
        nonlocal judged
        judged += 1

    def active_down(self: events.Parameters, interval: float) -> float:
        nonlocal waited
        waited += 1
        return 3 * interval + self.skew(interval)

    monkeypatch.setattr(scene.engine._conflicts, "_report", judge)
    monkeypatch.setattr(events.Parameters, "active_down", active_down)
    scene.run(0.5)  # fifty turns, five adverts of each
    assert judged <= 100
    assert waited <= 1500
