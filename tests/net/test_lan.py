"""The namespaces' LAN itself: a cut that cuts nothing would make every test above it green."""

import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.net import quick
from tests.net.lan import CommandFailed, Direction, Lan

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")


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


def test_what_is_done_without_the_command_is_what_the_command_does_and_its_refusals_are_the_commands_own(
    lan: Lan,
) -> None:
    for line in (
        "ip link add cni0 type bridge",
        "ip address add 10.9.0.1/24 dev cni0",
        "ip address add fd00:9::1/64 dev cni0 nodad",
        "ip address replace 10.9.0.1/24 dev cni0",
        "ip link set dev cni0 up",
        "ip route add 10.8.0.0/24 via 10.0.0.2",
        "sysctl -qw net.ipv4.conf.cni0.rp_filter=2",
        "nft add table ip t; add chain ip t c { type filter hook output priority 0; }",
        "nft add rule ip t c tcp dport 9 drop",
    ):
        with lan.inside("a"):
            assert quick.done(line.split()) == "", line
    seen = ["-n", lan.namespace("a"), "-o"]
    addresses = ip(*seen, "address", "show", "dev", "cni0")
    assert "inet 10.9.0.1/24 scope global cni0" in addresses
    assert "inet6 fd00:9::1/64 scope global" in addresses
    assert "UP" in ip(*seen, "link", "show", "dev", "cni0", "type", "bridge")
    assert ip(*seen, "route", "show", "10.8.0.0/24").split() == ["10.8.0.0/24", "via", "10.0.0.2", "dev", "eth0"]
    assert lan.run("a", ["sysctl", "-n", "net.ipv4.conf.cni0.rp_filter"]) == "2\n"
    rules = ip("netns", "exec", lan.namespace("a"), "nft", "list", "ruleset")
    assert "tcp dport 9 drop" in rules
    assert lan.run("a", ["nft", "list", "ruleset"]) == rules
    lan.run("a", ["ip", "address", "del", "10.9.0.1/24", "dev", "cni0"])
    assert "10.9.0.1" not in ip(*seen, "address")
    for refused, words in (
        (["ip", "address", "add", "10.0.0.1/24", "dev", "eth0"], "eth0: status 2"),
        (["nft", "delete", "table", "ip", "nowhere"], "No such file or directory"),
        (["sysctl", "-qw", "net.ipv4.conf.nowhere.rp_filter=1"], "nowhere"),
    ):
        with pytest.raises(CommandFailed, match=words):
            lan.run("a", refused)


def ip(*words: str) -> str:
    """What ip(8) itself says."""
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
