"""Parts of fault rows (docs/faults.md) that need no network: rows 9, 10, 12, 13, 14, 31 and 39."""

import errno
import gc
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election.keys import Credentials, Keys
from lvsagent.election.router import REMOVALS, REMOVALS_WITHIN, Router
from lvsagent.election.server import Server
from lvsagent.election.wish import WishStore
from lvsagent.vrrp import auth, packet
from lvsagent.vrrp.events import Parameters, Received, Startup
from lvsagent.vrrp.machine import VirtualRouter
from lvsoperator.core.manifests import agent_daemonset
from lvsoperator.settings import Settings

pytestmark = pytest.mark.unit

ADVERTS = 1_000_000 if os.environ.get("LVS_FAULTS") == "full" else 100_000
VIP = bytes((10, 0, 0, 200))
CONFIG = ipc.RouterConfig(
    name="lab",
    virtual_router_id=51,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.200/32",),
    priority=100,
)


class Lines(list[str]):
    def __call__(self, sentence: str, **fields: object) -> None:
        self.append(sentence)


def resident() -> int:
    """KiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_fault_09_the_election_has_no_processor_limit_in_the_pods_that_we_make() -> None:
    pod = agent_daemonset(Settings(agent_image="registry.example/lvs-dr-agent:7"), None)["spec"]["template"]["spec"]
    election = next(each for each in pod["containers"] if each["name"] == "election")
    assert "cpu" not in election["resources"]["limits"]
    assert "SYS_NICE" in election["securityContext"]["capabilities"]["add"]


def test_fault_10_nothing_that_reads_large_objects_is_in_the_elections_process() -> None:
    """Its heap is frozen and nothing is collected, so that no other part could stop its timers either."""
    code = "import sys, lvsagent.election.__main__; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert not modules & {"aiohttp", "asyncio", "kubernetes", "kopf", "yaml", "scapy", "lvsapi"}
    assert not [name for name in done.stdout.split() if name.startswith("lvsagent.runtime")]
    source = Path(sys.modules[Router.__module__].__file__ or "").with_name("__main__.py").read_text()
    assert source.index("gc.freeze()") < source.index("gc.disable()") < source.index("loop.run(")


@pytest.mark.no_cover  # measuring takes twice as long as what is measured, and has a memory of its own
def test_fault_12_a_hundred_thousand_adverts_leave_nothing_in_memory() -> None:
    """The row asks for a million: LVS_FAULTS=full."""
    ring = auth.KeyRing({1: bytes(32)})
    clock = auth.Clock(0.0, 0.0)
    verifier = auth.Verifier(ring, clock)
    policy = packet.Policy({51: packet.Expectation(verifier=verifier)})
    signer = auth.Signer(ring, clock)
    mine = Parameters(virtual_router_id=51, priority=100, interval=0.1, addresses=(VIP,), source=bytes((10, 0, 0, 11)))
    router = VirtualRouter(mine)
    router.handle(Startup(), 0.0)

    def hear(number: int, at: float) -> None:
        source = bytes((10, 1, number >> 8 & 0xFF, number & 0xFF | 1))  # of ever other senders
        said = packet.Advertisement(virtual_router_id=51, priority=110, interval=10, addresses=(VIP,), source=source)
        payload = packet.encode(said, trailer=signer.sign(packet.encode(said), source, at, at))
        advert = packet.decode(
            payload, source=source, destination=packet.GROUP_V4, hop_limit=255, policy=policy, wall=at, monotonic=at
        )
        assert isinstance(advert, packet.Advertisement)
        router.handle(Received(advert), at)

    was_enabled = gc.isenabled()
    gc.disable()  # as in the process: nothing may depend on a collection
    try:
        for number in range(2000):
            hear(number, number / 1000)
        before = resident()
        for number in range(2000, ADVERTS):
            hear(number, number / 1000)
        assert resident() - before <= 1024
    finally:
        if was_enabled:
            gc.enable()


def test_fault_13_a_full_disk_is_said_once_and_again_after_it_was_well(tmp_path: Path) -> None:
    boot, log = tmp_path / "boot_id", Lines()
    boot.write_text("one\n")
    store = WishStore(tmp_path / "state", log, boot)
    wishes = [ipc.Configure(generation=number, routers=(CONFIG,) * number) for number in range(1, 5)]
    (tmp_path / "state").write_text("a file in the place of the folder")
    store.save(wishes[0])
    store.save(wishes[1])
    assert len(log) == 1
    (tmp_path / "state").unlink()
    store.save(wishes[2])
    assert len(log) == 1
    (tmp_path / "state" / "election.json").unlink()
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("again")
    store.save(wishes[3])
    assert len(log) == 2


def test_fault_14_a_client_for_whom_no_descriptor_is_left_is_turned_away(tmp_path: Path) -> None:
    """Else it would wait in the queue, and the process would be woken up for it for ever."""
    log = Lines()
    server = Server(tmp_path / "election.sock", log)
    clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for client in clients:
            client.connect(str(tmp_path / "election.sock"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 1, hard))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            socket.socket()
        assert server.accept() is None
        assert clients[0].recv(1) == b"", "hung up"
        assert log == ["no file descriptor is left for a client of the election socket; it was turned away"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert server.accept() is not None, "the next one is served"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for client in clients:
            client.close()
        server.close()


def test_fault_39_five_deletions_in_ten_seconds_are_too_many_and_four_are_not(tmp_path: Path) -> None:
    keys = Keys(tmp_path, Lines())
    router = Router.of(CONFIG, None, Credentials(CONFIG, keys, auth.Clock(0.0, 0.0), 0.0))
    slowly = REMOVALS_WITHIN / (REMOVALS - 1) + 0.1
    assert not any(router.removed(100.0 + slowly * number) for number in range(20))
    assert [router.removed(1000.0 + number) for number in range(REMOVALS)] == [False] * (REMOVALS - 1) + [True]
    assert "again and again" in router.findings.current(1000.0 + REMOVALS)["AddressRemoved"]
    assert not router.removed(1000.0 + REMOVALS + 1), "it counts anew"
