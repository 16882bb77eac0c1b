"""RFC 9568 section 7.1 as the process does it: what is dropped is counted and logged, what differs is reported."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lvsagent import ipc
from lvsagent.election.keys import Credentials, Keys
from lvsagent.election.log import Log
from lvsagent.election.receive import Receiver
from lvsagent.election.router import Router, parameters
from lvsagent.election.sockets import Datagram
from lvsagent.election.wire import Wire
from lvsagent.vrrp import auth
from lvsagent.vrrp.events import State
from lvsagent.vrrp.machine import VirtualRouter
from lvsagent.vrrp.packet import GROUP_V4, Advertisement, encode

pytestmark = pytest.mark.unit

OURS, THEIRS = ip_address("10.0.0.11").packed, ip_address("10.0.0.12").packed
VIP, OTHER = ip_address("10.0.0.200").packed, ip_address("10.0.0.201").packed
LAB = ipc.RouterConfig(
    name="lab",
    virtual_router_id=51,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.200/32",),
    priority=100,
    advertisement_interval_ms=1000,
)


class Socket:
    """What arrived at an interface."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.inbox: list[Datagram] = []

    def fileno(self) -> int:
        return self._number

    def receive(self) -> Iterator[Datagram]:
        while self.inbox:
            yield self.inbox.pop(0)


class Node:
    """Two interfaces, a router on each, VRID 51 on the first and 52 on the second."""

    def __init__(self, **changes: object) -> None:
        lab = replace(LAB, **changes)  # type: ignore[arg-type]
        other = replace(lab, name="other", interface="eth1", virtual_router_id=52, addresses=("10.0.1.200/32",))
        self.routers = {config.name: _router(config) for config in (lab, other)}
        self.sockets = {("eth0", 4): Socket(10), ("eth1", 4): Socket(11)}
        self.heard: list[tuple[str, Advertisement]] = []
        wire = cast(Wire, SimpleNamespace(adverts=self.sockets))
        self._receiver = Receiver(wire, Log(), lambda router, got, _: self.heard.append((router.config.name, got)))

    def hear(self, advert: Advertisement, now: float, *, interface: str = "eth0", hops: int = 255) -> None:
        datagram = Datagram(advert.source, GROUP_V4, hops, encode(advert, destination=GROUP_V4))
        self.sockets[interface, 4].inbox.append(datagram)
        assert self._receiver.read({10, 11}, self.routers.values(), now)

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: count for reason, count in self._receiver.dropped.items() if count}

    def findings(self, now: float) -> dict[str, str]:
        return self.routers["lab"].findings.current(now)


def _router(config: ipc.RouterConfig) -> Router:
    credentials = Credentials(config, Keys(Path("/nonexistent"), Log()), auth.Clock(0.0, 0.0), 0.0)
    router = Router.of(config, None, credentials)
    router.machine = VirtualRouter(parameters(config, OURS))
    return router


def advert(**changes: object) -> Advertisement:
    usual = Advertisement(virtual_router_id=51, priority=200, interval=100, addresses=(VIP,), source=THEIRS)
    return replace(usual, **changes)  # type: ignore[arg-type]


@pytest.mark.clause("C43", "C45", "C46", "C47", "held")
def test_what_breaks_nothing_and_does_not_differ_is_heard_and_nothing_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = Node()
    for second in range(5):
        node.hear(advert(), float(second))
    assert [name for name, _ in node.heard] == ["lab"] * 5
    assert node.dropped == {}
    assert node.findings(5.0) == {}
    assert capsys.readouterr().err == ""


@pytest.mark.clause("C43", "breach")
def test_a_virtual_router_of_another_interface_is_dropped_and_counted() -> None:
    node = Node()
    node.hear(advert(virtual_router_id=52), 1.0)
    node.hear(advert(), 1.0, interface="eth1")
    assert node.heard == []
    assert node.dropped == {"vrid": 2}
    node.hear(advert(virtual_router_id=52), 1.0, interface="eth1")
    assert [name for name, _ in node.heard] == ["other"]


@pytest.mark.clause("C45", "breach")
def test_what_fails_a_check_is_dropped_counted_every_time_and_logged_once_in_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = Node()
    for tenth in range(100):
        node.hear(advert(), tenth / 10, hops=254)
    assert node.heard == []
    assert node.dropped == {"ttl": 100}
    assert capsys.readouterr().err == "an advert was dropped source=10.0.0.12 reason=ttl\n"
    node.hear(advert(), 10.0, hops=254)
    assert capsys.readouterr().err.count("an advert was dropped") == 1


@pytest.mark.clause("C46", "breach")
def test_another_interval_is_reported_and_not_dropped() -> None:
    node = Node()
    for second in range(5):
        node.hear(advert(interval=300), float(second))
    assert len(node.heard) == 5
    assert node.dropped == {}
    assert node.findings(5.0) == {"IntervalDiffers": "10.0.0.12 announces 3000 ms, this node 1000 ms"}


@pytest.mark.clause("C47", "breach")
@pytest.mark.parametrize("addresses", [(OTHER,), (VIP, OTHER)])
def test_other_addresses_are_reported_and_not_dropped(addresses: tuple[bytes, ...]) -> None:
    node = Node()
    for second in range(5):
        node.hear(advert(addresses=addresses), float(second))
    assert len(node.heard) == 5
    assert node.dropped == {}
    listed = " ".join(str(ip_address(address)) for address in addresses)
    assert node.findings(5.0) == {"AddressListDiffers": f"10.0.0.12 has {listed}, this node 10.0.0.200"}


@pytest.mark.clause("V4", "D18", "instead")
def test_other_addresses_are_no_reason_to_drop_in_version_2_either() -> None:
    node = Node(version=2)
    for second in range(5):
        node.hear(advert(version=2, addresses=(VIP, OTHER)), float(second))
    assert len(node.heard) == 5
    assert list(node.findings(5.0)) == ["AddressListDiffers"]


@pytest.mark.clause("V3", "breach")
def test_in_version_2_another_interval_is_dropped_and_counted() -> None:
    node = Node(version=2)
    node.hear(advert(version=2, interval=200), 1.0)
    assert node.heard == []
    assert node.dropped == {"interval": 1}


def test_the_node_of_these_tests_is_a_backup_to_be() -> None:
    assert Node().routers["lab"].machine.state is State.INITIALIZE
