"""``lvs-node-init`` on a real kernel: it sets, verifies and undoes."""

import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent import node_init
from lvsagent.adapters.addresses import Addresses
from lvsagent.adapters.procfs import Sysctls
from lvsagent.core.sysctl import REQUIRED
from tests.net.lan import Lan

pytestmark = pytest.mark.net
VIP, VIP6 = ip_address("10.0.0.200"), ip_address("fd00::200")


@pytest.fixture(autouse=True)
def host() -> Iterator[None]:
    """This thread is in a fresh host."""
    with Lan() as lan:
        lan.add_host("n1", "10.0.0.21/24")
        with lan.inside("n1"):
            yield


def command(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def loopback() -> frozenset[object]:
    addresses = Addresses()
    try:
        return frozenset(addresses.loopback())
    finally:
        addresses.close()


def settings() -> str:
    return command("sysctl", "-a", "--pattern", r"^net\.ipv[46]\.(conf|vs|ip_forward|neigh)")


def test_node_init_sets_verifies_and_undoes_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0", "net.ipv4.conf.all.arp_announce=0")
    command("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.all.accept_redirects=0")
    command("sysctl", "-qw", "net.ipv4.conf.eth0.forwarding=1", "net.ipv4.conf.lo.forwarding=0")
    before = settings()
    arguments = ["--state-dir", str(tmp_path / "state")]
    assert node_init.main([*arguments, "--check"]) == 1
    assert "net.ipv4.conf.all.arp_ignore is 0, needs 1" in capsys.readouterr().err
    assert settings() == before
    assert node_init.main(arguments) == 0
    assert node_init.main(arguments) == 0
    assert node_init.main([*arguments, "--check"]) == 0
    assert Sysctls(Path("/proc/sys")).read(REQUIRED) == dict(REQUIRED)
    assert node_init.main([*arguments, "--undo"]) == 0
    assert settings() == before
    assert list((tmp_path / "state").iterdir()) == []


def test_node_init_makes_a_real_server_outside_of_the_cluster_and_undoes_it(tmp_path: Path) -> None:
    command("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0", "net.ipv4.conf.all.arp_announce=0")
    before = settings(), command("ip", "address")
    arguments = ["--state-dir", str(tmp_path), "--real-server"]
    for _ in range(2):
        assert node_init.main([*arguments, "--vip", str(VIP), "--vip", str(VIP6)]) == 0
    assert loopback() == {VIP, VIP6}
    assert Sysctls(Path("/proc/sys")).read(["net/ipv4/vs/sloppy_tcp"]) == {"net/ipv4/vs/sloppy_tcp": "0"}
    assert node_init.main([*arguments, "--undo"]) == 0
    assert (settings(), command("ip", "address")) == before
