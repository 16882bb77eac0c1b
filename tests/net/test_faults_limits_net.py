"""What a node runs out of, and its clock: rows 11-14 of docs/faults.md (12 has a unit half)."""

import os
import resource
import signal
import socket
import subprocess
import time

import pytest

from lvsagent import ipc
from tests.net.election_host import VIP, router
from tests.net.faults import Directors, cpu_seconds, forged, memory, pid_of, replaced, scaled

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters")

CLOCK = """\
import pathlib, time
_file, _true = pathlib.Path(__file__).with_name("offset"), time.time
time.time = lambda: _true() + float(_file.read_text())
"""

HOUR, TEN_YEARS = 3600.0, 10 * 365.25 * 86400


@pytest.mark.parametrize("keys", [False, True])
def test_fault_11_a_wall_clock_that_jumps_moves_nothing(directors: Directors, keys: bool) -> None:
    """By an hour and ten years, there and back, on dr1 only. Adverts count again at once, not after a window of 5 s."""
    clock = directors.folder / "clock"
    clock.mkdir(exist_ok=True)
    (clock / "sitecustomize.py").write_text(CLOCK)
    (clock / "offset").write_text("0")
    for host in directors.hosts:
        (host.folder / "keys").mkdir(exist_ok=True)
        (host.folder / "keys" / "lab.hmac.1").write_bytes(b"0123456789abcdef0123456789abcdef")
        (host.folder / "keys" / "lab.hmac.1").chmod(0o400)
    path = os.pathsep.join(filter(None, (str(clock), os.environ.get("PYTHONPATH"))))
    replaced(directors.dr1, "env", f"PYTHONPATH={path}")
    replaced(directors.dr2)
    changes: dict[str, object] = {"authentication": ipc.Authentication.HMAC, "key": "lab"} if keys else {}
    directors.serve(**changes)
    before, begin = directors.transitions(), time.monotonic()
    dropped = directors.dropped(directors.dr2)
    for offset in (HOUR, 0.0, -HOUR, 0.0, TEN_YEARS, 0.0, -TEN_YEARS, 0.0):
        (clock / "unfinished").write_text(str(offset))
        (clock / "unfinished").replace(clock / "offset")
        time.sleep(scaled(0.4, 30))
    directors.assert_unmoved(before, begin)
    assert directors.dropped(directors.dr2) == dropped


def test_fault_12_the_process_is_locked_into_memory_and_does_not_grow(directors: Directors) -> None:
    """The row asks for a million adverts: tests/unit has them; here some 3,000 at one socket."""
    directors.serve(sources=("10.0.0.11", "10.0.0.12"))
    host = directors.dr2
    assert host.statistics().memory_locked
    forger = directors.lan.socket("dr1", socket.AF_INET, socket.SOCK_RAW, 112)
    forger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    index = int(directors.lan.run("dr1", ["cat", "/sys/class/net/eth0/ifindex"]))
    forger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + index.to_bytes(4, "little"))
    payload = forged(110, source="10.0.0.11")

    def send(number: int) -> None:
        for _ in range(number):
            forger.sendto(payload, ("224.0.0.18", 0))
            time.sleep(0.0001)

    send(500)
    before, received = memory(pid_of(host)), host.statistics().routers[0].adverts_received
    send(round(scaled(3000, 1_000_000)))
    after = memory(pid_of(host))
    assert host.statistics().routers[0].adverts_received - received > scaled(1500, 500_000)
    assert after["VmRSS"] - before["VmRSS"] <= 1024
    assert after["VmSwap"] == 0
    assert after["VmLck"] >= after["VmRSS"] // 2
    assert not host.holds()
    forger.close()


def test_fault_13_a_full_disk_costs_one_line(directors: Directors) -> None:
    state = directors.folder / "full"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(state)], check=True)
    try:
        (state / "filler").write_bytes(bytes(4096))
        replaced(directors.dr1, state=state)
        directors.serve()
        before, begin = directors.transitions(), time.monotonic()
        for repeat in range(10):
            directors.dr1.configure(router(110, announce_repeat=1 + repeat % 2))
        time.sleep(0.5)
        directors.assert_unmoved(before, begin)
        assert directors.dr1.log.count("the wish could not be kept") == 1
        assert not (state / "election.json").exists()
    finally:
        assert directors.dr1.process is not None
        directors.dr1.signal(signal.SIGKILL)
        directors.dr1.process.wait()
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_fault_14_without_file_descriptors_what_is_served_is_served_on(directors: Directors) -> None:
    directors.lan.run("dr1", ["ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "beyond"])
    directors.lan.run("dr1", ["sh", "-c", "ip link set beyond up; ip address add 10.1.0.11/24 dev eth1"])
    directors.serve()
    pid = pid_of(directors.dr1)
    before, begin = directors.transitions(), time.monotonic()
    free = os.sysconf("SC_OPEN_MAX")
    opened = {int(each) for each in os.listdir(f"/proc/{pid}/fd")}
    lowest = next(number for number in range(free) if number not in opened)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, free))
    new = router(
        100, name="new", virtual_router_id=52, interface="eth1", vip_interface="eth1", addresses=("10.1.0.9/32",)
    )
    directors.dr1.configure(router(110), new, wait=False)
    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
    used = cpu_seconds(pid)
    for client in waiting:
        client.connect(str(directors.dr1.folder / "election.sock"))
    time.sleep(scaled(2, 60))
    assert cpu_seconds(pid) - used <= 0.3 * scaled(2, 60), "it does not run in circles"
    states = {each.router: each.problem for each in directors.dr1.statistics().routers}
    assert states["lab"] == ""
    assert "Too many open files" in states["new"]
    directors.assert_unmoved(before, begin)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, free))
    for client in waiting:
        client.close()
    end = time.monotonic() + 3
    while directors.dr1.statistics().routers[1].problem:
        assert time.monotonic() < end, directors.dr1.log
    directors.lan.run("dr1", ["ip", "link", "delete", "eth1"])
    assert f"{VIP}/32" in directors.lan.addresses("dr1")
