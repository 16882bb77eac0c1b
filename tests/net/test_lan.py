"""The namespaces' LAN itself: a cut that cuts nothing would make every test above it green."""

import socket
from collections.abc import Iterator

import pytest

from tests.net.lan import Direction, Lan

pytestmark = pytest.mark.net
NEEDS = ("lan",)


class Echo:
    """A datagram from a to b and back."""

    def __init__(self, lan: Lan) -> None:
        self.a, self.b = (lan.socket(host, socket.AF_INET, socket.SOCK_DGRAM) for host in "ab")
        self.b.bind(("10.0.0.2", 7))
        self.a.bind(("10.0.0.1", 7))
        for end in (self.a, self.b):
            end.settimeout(0.3)

    def ways(self) -> int:
        """0: the request is lost; 1: the answer; 2: none."""
        ways = 0
        try:
            self.a.sendto(b"request", ("10.0.0.2", 7))
            self.b.recv(16)
            ways = 1
            self.b.sendto(b"answer", ("10.0.0.1", 7))
            self.a.recv(16)
            return 2
        except TimeoutError:
            return ways


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as lan:
        lan.add_host("a", "10.0.0.1/24")
        lan.add_host("b", "10.0.0.2/24")
        yield lan


def test_hosts_reach_one_another(lan: Lan) -> None:
    assert Echo(lan).ways() == 2


@pytest.mark.parametrize(("direction", "ways"), [("both", 0), ("from", 1), ("to", 0)])
def test_a_cut_cable_carries_nothing_until_it_is_healed(lan: Lan, direction: Direction, ways: int) -> None:
    echo = Echo(lan)
    assert echo.ways() == 2
    sniffer = lan.sniff("b")
    lan.cut("b", direction)
    assert echo.ways() == ways
    assert any(b"request" in frame for _, frame in sniffer.frames()) == (direction == "from")
    lan.heal("b")
    assert echo.ways() == 2


def test_an_unplugged_host_sees_its_carrier_go(lan: Lan) -> None:
    lan.unplug("b")
    assert lan.run("b", ["cat", "/sys/class/net/eth0/carrier"]).strip() == "0"


def test_closing_leaves_nothing_behind() -> None:
    lan = Lan()
    lan.add_host("c", "10.0.0.3/24")
    process = lan.popen("c", ["sleep", "60"])
    namespaces = [lan.namespace("c"), lan.namespace("switch")]
    lan.close()
    assert process.returncode == -9
    left = lan._command("ip", "netns", "list")
    assert not [name for name in namespaces if name in left]
