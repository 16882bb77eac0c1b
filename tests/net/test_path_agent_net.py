"""Agents that ask for the path of their real servers: who is not fit for it never gets a connection, and is named."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.net.checked import PORT, SERVER, CheckedLab, manifest
from tests.net.faults import BUSY
from tests.net.lan import Lan
from tests.net.test_agent_net import VIP, _end_elections

pytestmark = pytest.mark.net

INTERVAL = 1.0
ARP = "net.ipv4.conf.all.arp_ignore"
BOTH = manifest(interval=int(1000 * INTERVAL)).replace("type: TCP", "type: Path")
ELSEWHERE = SERVER.replace('("", int', '("10.0.0.11", int')


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CheckedLab]:
    with Lan() as lan:
        made = CheckedLab(lan, tmp_path)
        made.slow_adverts()  # a busy machine must not move the address
        made.want(BOTH)
        yield made
        _end_elections(tmp_path)


def pin(lab: CheckedLab) -> None:
    """The client sends packets for the address to d1, whoever answers ARP."""
    mac = lab.lan.mac("d1")
    lab.lan.run("client", ["ip", "neigh", "replace", VIP, "lladdr", mac, "dev", "eth0", "nud", "permanent"])


def accepted(lab: CheckedLab, host: str) -> int:
    """Connections that the host's kernel has accepted since it began."""
    names, values = (
        line.split() for line in lab.lan.run(host, ["cat", "/proc/net/snmp"]).splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("PassiveOpens")])


def test_fault_41_a_backend_that_answers_arp_loses_its_weight_and_is_named(lab: CheckedLab) -> None:
    lab.both_up()
    pin(lab)
    assert lab.answers() == {"w1", "w2"}
    lab.lan.run("w1", ["sysctl", "-qw", f"{ARP}=0"])
    found = lab.until("it is found", lambda: "answers ARP for" in lab.log("d1"), 12 + BUSY)
    weightless = lab.until("its weight is 0", lambda: lab.weights("d1")["10.0.0.11"] == 0, 1 + BUSY)
    print(f"found after {found:.1f} s, weight 0 after {weightless:.2f} s more")
    said = f"it ({lab.lan.mac('w1')}) answers ARP for {VIP} on eth0: set {ARP}=1 and"
    assert said in lab.log("d1")
    lab.until("the other director knows it, too", lambda: lab.weigh(w1=0, w2=1), 12 + BUSY)
    before = accepted(lab, "w1")
    assert lab.answers() == {"w2"}
    assert accepted(lab, "w1") == before
    lab.lan.run("w1", ["sysctl", "-qw", f"{ARP}=1"])
    back = lab.until("it is in service again", lambda: lab.weights("d1")["10.0.0.11"] == 1, INTERVAL + 2 * BUSY)
    print(f"back after {back:.1f} s")
    assert lab.holds("d1")
    assert lab.takeovers() == 1


def answers_arp(lab: CheckedLab) -> Callable[[], None]:
    lab.lan.run("w1", ["sysctl", "-qw", f"{ARP}=0"])
    lab.serve("w1")
    return lambda: print(lab.lan.run("w1", ["sysctl", "-qw", f"{ARP}=1"]))


def lacks_the_address(lab: CheckedLab) -> Callable[[], None]:
    lab.lan.run("w1", ["ip", "address", "delete", f"{VIP}/32", "dev", "lo"])
    lab.serve("w1")
    return lambda: print(lab.lan.run("w1", ["ip", "address", "add", f"{VIP}/32", "dev", "lo"]))


def listens_elsewhere(lab: CheckedLab) -> Callable[[], None]:
    command = [sys.executable, "-I", "-S", "-c", ELSEWHERE, "w1", str(PORT)]
    process = lab.lan.popen("w1", command)

    def mend() -> None:
        process.kill()
        process.wait()
        lab.serve("w1")

    return mend


@pytest.mark.parametrize(
    ("broken", "named", "remedy"),
    [
        (lacks_the_address, f"it does not accept {VIP}", f"lvs-node-init --real-server --vip {VIP}"),
        (answers_arp, f"answers ARP for {VIP}", "arp_announce=2 there (lvs-node-init does it)"),
        (listens_elsewhere, f"it refuses {VIP}:{PORT}/TCP", f"let the server listen on port {PORT}"),
    ],
    ids=["lacks the address", "answers ARP", "listens elsewhere"],
)
def test_a_real_server_whose_path_is_not_proved_never_gets_a_connection_until_it_is_mended(
    lab: CheckedLab, broken: Callable[[CheckedLab], Callable[[], None]], named: str, remedy: str
) -> None:
    mend = broken(lab)
    lab.serve("w2")
    for host in ("d1", "d2"):
        lab.start(host)
    lab.until("d1 serves with w2", lambda: lab.weigh(w1=0, w2=1) and lab.holds("d1"))
    pin(lab)
    assert "used on eth0 by a host that is no director" not in lab.log("d1")
    prove(lab, mend, named, remedy)


def prove(lab: CheckedLab, mend: Callable[[], None], named: str, remedy: str) -> None:
    """w1 gets no connection and is named, and gets some when it is mended."""
    lab.until("it says why", lambda: named in lab.log("d1"))
    (line,) = {line for line in lab.log("d1").splitlines() if named in line and "10.0.0.11" in line}
    assert remedy in line
    end = time.monotonic() + 3 * INTERVAL
    while time.monotonic() < end:
        assert lab.answers(5) == {"w2"}
    assert lab.weigh(w1=0, w2=1)
    assert accepted(lab, "w1") == 0
    mend()
    seconds = lab.until("it is in service", lambda: lab.weights("d1")["10.0.0.11"] == 1, INTERVAL + 2 * BUSY)
    print(f"in service after {seconds:.1f} s")
    lab.until("it gets connections", lambda: "w1" in lab.answers(5), 5)
