"""Faults made for real on a LAN with two directors, and what is measured while they last. docs/faults.md lists them.

One pair of directors serves all tests of a module; each test begins with running processes that have no wish.
Exact times are the benchmark's: here a machine may be busy, so that every bound is the row's figure and BUSY.
"""

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from lvsagent.election.monitor import Monitor
from lvsagent.election.netlink import AddressEvent
from lvsagent.vrrp import packet
from tests.net.election_host import CLIENT, DR1, DR2, VIP, ElectionHost, Probe, router
from tests.net.lan import SWITCH, Lan

FULL = os.environ.get("LVS_FAULTS") == "full"
"""The row's own durations and numbers, for somebody who has the time."""
BUSY = 0.3
"""Seconds by which a busy machine may be late."""
STANDSTILL = 0.1
"""Seconds for which the machine runs nobody, and after which a change of state says nothing about the election."""
DOWN = 3 * 0.1 + (256 - 100) * 0.1 / 256
"""Active_Down_Interval of dr2, seconds: 0.361."""
LOSSLESS = {"send_interval_ms": 20}
"""Five adverts an interval: what the project recommends where frames are lost."""
CALM_CLIENT = (
    "net.ipv4.neigh.eth0.base_reachable_time_ms=3600000",
    "net.ipv4.neigh.eth0.delay_first_probe_time=3600",
    "net.ipv4.neigh.eth0.gc_stale_time=3600",
)
"""A client that never looks for the VIP again by itself."""


Fault = Callable[[], contextlib.AbstractContextManager[object]]


def scaled(here: float, asked: float) -> float:
    """The figure of the row, or what is enough here."""
    return asked if FULL else here


class Holdings:
    """When each director's kernel had the VIP, from its own notices."""

    def __init__(self, lan: Lan, hosts: tuple[str, ...]) -> None:
        self._monitors: dict[str, Monitor] = {}
        for host in hosts:
            with lan.inside(host):
                self._monitors[host] = Monitor()
        self.changes: list[tuple[float, str, bool]] = []
        """Monotonic time, host, has it from now on."""
        self._has = dict.fromkeys(hosts, False)
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def close(self) -> None:
        os.close(self._wake)
        self._thread.join()
        os.close(self._stop)
        for monitor in self._monitors.values():
            monitor.close()

    def await_holder(self, host: str) -> None:
        """Until this host alone has the VIP by the notices that came: what is asked of ``takeovers`` begins then."""
        end = time.monotonic() + 5.0
        while [name for name, held in self._has.items() if held] != [host]:
            assert time.monotonic() < end, self._has
            time.sleep(0.005)

    def _work(self) -> None:
        has = self._has
        while True:
            waiting: list[Any] = [self._stop, *self._monitors.values()]
            ready = select.select(waiting, [], [])[0]
            if self._stop in ready:
                return
            now = time.monotonic()
            for host, monitor in self._monitors.items():
                for event in monitor.read() if monitor in ready else ():
                    if isinstance(event, AddressEvent) and event.address.address == socket.inet_aton(VIP):
                        if has[host] == event.gone:
                            self.changes.append((now, host, not event.gone))
                        has[host] = not event.gone

    def longest(self, holders: int, since: float) -> float:
        """Seconds of the longest time since then during which exactly so many had the VIP."""
        time.sleep(0.05)
        holding: set[str] = set()
        longest, begun = 0.0, since
        for at, host, held in [*self.changes, (time.monotonic(), "", False)]:
            if len(holding) == holders and at > begun:
                longest = max(longest, at - begun)
            (holding.add if held else holding.discard)(host)
            begun = max(at, since)
        return longest

    def takeovers(self, since: float) -> list[str]:
        """Who got the VIP since then, in order."""
        time.sleep(0.05)
        return [host for at, host, held in self.changes if held and at >= since]


class Witness:
    """A process with real-time priority above the election's that wants to run every 5 ms: how late does it get to?

    When it comes late the whole machine stood still (other guests, a test next door), and no process could be on time.
    """

    WORK = """
import os, time
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(50))
following = time.monotonic()
while True:
    following = max(following + 0.005, time.monotonic())
    time.sleep(max(0.0, following - time.monotonic()))
    if (late := time.monotonic() - following) > 0.02:
        print(time.monotonic(), late, flush=True)
"""

    def __init__(self, ordinary: bool = False) -> None:
        """``ordinary``: with no priority. What it is kept waiting, any other process is, an agent too."""
        work = self.WORK.replace("os.sched_setscheduler", "0 and os.sched_setscheduler") if ordinary else self.WORK
        self._process = subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._text = ""
        self._stops: list[tuple[float, float]] = []

    def standstill(self, since: float) -> float:
        """Seconds in all for which nothing ran since then (monotonic)."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._output, 65536):
                self._text += data.decode()
        *lines, self._text = self._text.split("\n")
        self._stops += [(float(at), float(late)) for at, late in map(str.split, lines)]
        return sum(late for at, late in self._stops if at > since)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Directors:
    """dr1 (priority 110), dr2 (100) and a client on one switch."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        self.dr1 = ElectionHost(lan, "dr1", f"{DR1}/24", folder)
        self.dr2 = ElectionHost(lan, "dr2", f"{DR2}/24", folder)
        self.hosts = (self.dr1, self.dr2)
        lan.add_host("client", f"{CLIENT}/24")
        lan.run("client", ["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])
        lan.run("client", ["sysctl", "-qw", *CALM_CLIENT])
        lan.run(SWITCH, ["nft", "add table bridge faults"])
        lan.run(SWITCH, ["nft", "add chain bridge faults c { type filter hook forward priority 0; }"])
        self.holdings = Holdings(lan, ("dr1", "dr2"))
        self._witness = Witness()
        self._probe: Probe | None = None
        self._spare: list[subprocess.Popen[bytes]] = []
        self._clean: dict[str, int] = {}

    @property
    def probe(self) -> Probe:
        """A client that asks the VIP all the time."""
        if self._probe is None:
            self._probe = Probe(self.lan, "client")
        return self._probe

    def serve(self, **changes: object) -> None:
        """Give both the lab's router with these settings, and wait until dr1 serves and the client is answered."""
        self.dr1.configure(router(110, **changes))
        self.dr2.configure(router(100, **changes))
        self.dr1.await_holding(timeout=10)
        self.dr2.await_holding(False, timeout=10)
        self.dr2.await_heard("10.0.0.11")
        self.probe.await_answer(timeout=10)
        self.holdings.await_holder("dr1")

    def transitions(self) -> list[list[str]]:
        return [host.transitions() for host in self.hosts]

    def dropped(self, host: ElectionHost) -> dict[str, int]:
        return host.statistics().dropped

    def rule(self, *rules: str) -> None:
        """Something that the switch does to frames between its ports: nft rules of the bridge family."""
        for text in rules:
            self.lan.run(SWITCH, ["nft", "add rule bridge faults c " + text])

    @contextlib.contextmanager
    def rules(self, *rules: str) -> Iterator[None]:
        """The same for a while."""
        self.rule(*rules)
        yield
        self.unrule()

    def unrule(self) -> None:
        """None of ``rule`` any more."""
        self.lan.run(SWITCH, ["nft", "flush chain bridge faults c"])

    def client_mac(self) -> str:
        """Where the client believes that the VIP is; empty: it does not know."""
        with self.lan.inside("client"):
            lines = Path("/proc/thread-self/net/arp").read_text().splitlines()
        return next((line.split()[3] for line in lines if line.startswith(f"{VIP} ")), "")

    def await_client_at(self, host: str) -> float:
        """Until the client sends what is for the VIP to that host. Returns the seconds it took."""
        begin, mac = time.monotonic(), self.lan.mac(host)
        while self.client_mac() != mac:
            assert time.monotonic() - begin < 30, f"the client is not at {host}"
            time.sleep(0.005)
        return time.monotonic() - begin

    def slack(self, since: float) -> float:
        """Seconds that anything may take longer than it should on this machine, since then."""
        return BUSY + self.standstill(since)

    def standstill(self, since: float) -> float:
        """Seconds for which the machine ran nobody since then."""
        return self._witness.standstill(since)

    def assert_unmoved(self, before: list[list[str]], since: float) -> None:
        """No router changed its state, nobody got the VIP, and the client was answered all the time since then."""
        time.sleep(0.05)
        stopped = self._witness.standstill(since)
        moved = self.transitions() != before or self.holdings.takeovers(since) != []
        assert not moved, f"{before} became {self.transitions()}; the machine stood still for {stopped:.3f} s of it"
        assert self.probe.gap(since) <= BUSY + stopped

    def stand(self, fault: Fault, seconds: float, prepare: Callable[[], None] = lambda: None, **wish: object) -> None:
        """With this wish, and this fault for so long, nothing changes.

        If something did although the machine stood still meanwhile, it is tried again; three times in all.
        """
        for last in (False, False, True):
            prepare()
            self.serve(**wish)
            before, begin = self.transitions(), time.monotonic()
            with fault():
                time.sleep(seconds)
            try:
                return self.assert_unmoved(before, begin)
            except AssertionError:
                if last or self.standstill(begin) <= STANDSTILL:
                    raise
            self.reset()

    def run_aside(self, host: str, argv: list[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        """A process that ends with the test."""
        self._spare.append(self.lan.popen(host, argv, log=log))
        return self._spare[-1]

    def reset(self) -> None:
        """Nothing is broken, nobody holds anything, nothing is remembered."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        for process in self._spare:
            process.kill()
            process.wait()
        self._spare.clear()
        self.unrule()
        for host in self.hosts:
            self.lan.heal(host.name)
            self.lan.run(host.name, ["ip", "link", "set", "eth0", "up"])
            self._renew(host)
            host.configure()
            host.messages.clear()
            host.await_holding(False, timeout=10)
        self.lan.run("client", ["ip", "neighbour", "flush", "dev", "eth0"])

    def _renew(self, host: ElectionHost) -> None:
        """A process of which nothing is known, unless the last test left its own alone."""
        process = host.process
        if process is not None:
            process.send_signal(signal.SIGCONT)
            if process.poll() is None and self._clean.get(host.name) == process.pid:
                return
            process.kill()
            process.wait()
        for name in ("election.json", "election.starts", "election.handoff"):
            (host.folder / name).unlink(missing_ok=True)
        host.start()
        assert host.process is not None
        self._clean[host.name] = host.process.pid

    def close(self) -> None:
        if self._probe is not None:
            self._probe.close()
        self.holdings.close()
        self._witness.close()
        for host in self.hosts:
            host.close()


def forged(
    priority: int, *, interval: int = 10, addresses: tuple[str, ...] = (VIP,), source: str = CLIENT, vrid: int = 51
) -> bytes:
    """The payload of an advert that nobody sent."""
    return packet.encode(
        packet.Advertisement(
            virtual_router_id=vrid,
            priority=priority,
            interval=interval,
            addresses=tuple(map(socket.inet_aton, addresses)),
            source=socket.inet_aton(source),
        )
    )


def gratuitous(frame: bytes) -> int:
    """The operation of a gratuitous ARP for the VIP: 1 request, 2 reply; 0: it is something else."""
    if frame[12:14] != b"\x08\x06" or not frame[28:32] == frame[38:42] == socket.inet_aton(VIP):
        return 0
    return int.from_bytes(frame[20:22])


def is_advert(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\0" and frame[23] == packet.PROTOCOL


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, int]:
    """KiB of the process: ``VmRSS``, ``VmLck``, ``VmSwap``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name[:2] == "Vm"}


@contextlib.contextmanager
def hogs(number: int, seconds: float) -> Iterator[list[int]]:
    """Processes that do nothing but compute, for so long at most. Yields their ids."""
    work = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    running = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(number)]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def spacing(times: list[float]) -> list[float]:
    """Seconds from each to the next."""
    return [after - before for before, after in itertools.pairwise(times)]


def replaced(host: ElectionHost, *prefix: str, state: Path | None = None) -> None:
    """Another process in the place of the host's."""
    assert host.process is not None
    host.signal(signal.SIGTERM)
    host.process.wait(3)
    host.start(*prefix, state=state)


def pid_of(host: ElectionHost) -> int:
    assert host.process is not None
    return host.process.pid
