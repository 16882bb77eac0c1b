"""A flood of connections that only begin: directors stay, other addresses answer, and it is seen in a metric."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.faults import scaled
from tests.net.lan import Lan
from tests.net.test_agent_net import SERVICE, Lab, _end_elections

pytestmark = pytest.mark.net
FLOODED, PORT = "10.0.0.101", 7000
"""A second VirtualService, whose servers have nobody on the port."""
HALF_OPEN = int(scaled(20_000, 100_000))
FLOOD = """
import random, socket, struct, sys, time
address, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
seen = random.sample(range(1 << 30), number)
for count, one in enumerate(seen):
    source = bytes((203, 0, 113, one & 255))
    segment = struct.pack("!HHIIBBHHH", 1024 + (one >> 8) % 60000, port, one, 0, 5 << 4, 2, 8192, 0, 0)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, source, socket.inet_aton(address))
    out.sendto(head + segment, (address, 0))
    if count % 200 == 199:
        time.sleep(0.02)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        for host in ("w1", "w2"):
            lan.run(host, ["ip", "address", "add", f"{FLOODED}/32", "dev", "lo"])
        manifest = SERVICE.replace("name: web", "name: flooded").replace("port: 80", f"port: {PORT}") % FLOODED
        (made.manifests / "flooded.yaml").write_text(manifest)
        yield made
        _end_elections(tmp_path)


def counted(lab: Lab, host: str, metric: str, label: str) -> float:
    """The sum of the metric's lines with that label."""
    lines = lab.lan.get(host, "http://127.0.0.1:9479/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{metric}{{") and label in line)


def takeovers(lab: Lab) -> float:
    """Becoming Active, on both directors."""
    return sum(counted(lab, host, "lvs_vrrp_transitions_total", 'to="Active"') for host in ("d1", "d2"))


def actives(lab: Lab, host: str) -> float:
    """Routers of which the agent there knows that they are Active."""
    return counted(lab, host, "lvs_vrrp_state", 'state="Active"')


def test_fault_51_half_open_connections_move_no_address_and_are_counted(lab: Lab) -> None:
    lab.both()
    lab.until("the second is served", lambda: lab.holds("d1", FLOODED))
    # The Backup may have been Active for a moment before the better one was there.
    lab.until("each router has one Active", lambda: [actives(lab, host) for host in ("d1", "d2")] == [2, 0])
    before = takeovers(lab)
    flood = lab.lan.popen("client", [sys.executable, "-I", "-S", "-c", FLOOD, FLOODED, str(PORT), str(HALF_OPEN)])
    begin, asked = time.monotonic(), 0
    while flood.poll() is None:
        assert time.monotonic() - begin < 300.0
        assert lab.ask() in ("w1", "w2")
        asked += 1
        time.sleep(0.2)
    seconds = time.monotonic() - begin
    half_open = 'lvs_ipvs_connections{state="active"}'
    # Those of the first minute go again.
    share = min(1.0, 50.0 / seconds)
    lab.until("they are counted", lambda: lab.metric("d1", half_open) > 0.8 * share * HALF_OPEN, 20.0)
    print(f"{HALF_OPEN} in {seconds:.1f} s; {lab.metric('d1', half_open):.0f} in the table, {asked} answers meanwhile")
    assert takeovers(lab) == before
    assert lab.holds("d1")
    assert lab.holds("d1", FLOODED)
    assert not lab.holds("d2")
