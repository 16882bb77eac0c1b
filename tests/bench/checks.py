"""Health checks: 5,000 by TCP every 3 s, and the time from a backend's death to the verdict, beside keepalived.

keepalived's checkers want IPVS. Where this kernel has none, ours is measured here, and both in a guest kernel, one
after the other: ``python -m tests.bench.checks SECONDS`` is that run, and prints what it found.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from lvsagent.checks.limits import NICE
from lvsagent.checks.lines import TargetsWriter, decode
from lvsagent.checks.messages import Target, Targets, Verdict
from lvsapi.health import CheckType, HealthCheck
from lvsapi.model import Protocol
from tests.bench.context import Context
from tests.bench.figures import Figure, Summary
from tests.bench.sides import BenchError
from tests.net.lan import Lan

TARGETS: Final = 5000
INTERVAL: Final = 3.0
FIRST: Final = IPv4Address("10.1.0.1")
WEB: Final = "10.0.0.50"
PORT: Final = 8080
DYING: Final = 20
FIRST_DYING_PORT: Final = 9001
DEATH_INTERVAL: Final = 1.0
FALLS: Final = (1, 3)
SETTLE_SECONDS: Final = 25.0
"""keepalived logs two lines a backend while it starts."""
GUEST_SECONDS: Final = 420.0
RESULT: Final = "RESULT "
SLEEPER: Final = """
import sys, time
due, end = time.monotonic(), time.monotonic() + float(sys.argv[1])
while due < end:
    due += 0.01
    time.sleep(max(0, due - time.monotonic()))
    print(max(0, 1000 * (time.monotonic() - due)))
"""

NGINX: Final = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 1024; multi_accept on; }}
http {{ access_log off; server {{ listen {port} backlog=4096; return 204; }} }}
"""


@dataclass(slots=True)
class Load:
    """Of one program that asks TARGETS backends."""

    cpu_percent: float
    resident_mib: float
    late_ms: list[float]
    """By how much a question came later than an interval after the one before, at the backend."""
    asked_per_second: float
    idle_late_ms: list[float]
    """Of a process that only sleeps, meanwhile: what this machine does to any of that niceness."""


@dataclass(slots=True)
class Found:
    """Of one kernel."""

    kernel: str
    load: dict[str, Load] = field(default_factory=dict)
    deaths_ms: dict[str, list[float]] = field(default_factory=dict)
    """From a backend's death to the verdict, by ``program fall``."""


class Program:
    """One that checks, in the host ``director``. What it says of a backend that is down is heard with its time."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", down: Callable[[bytes], int | None]) -> None:
        self.name = name
        self.process = process
        self.deaths: dict[int, float] = {}
        """Port of the backend, and when it was called down."""
        self._down = down
        threading.Thread(target=self._listen, daemon=True).start()

    def pids(self) -> list[int]:
        """With its children; not every kernel lists those (CONFIG_PROC_CHILDREN)."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        return [self.process.pid, *(pid for pid, parent in parents.items() if parent == self.process.pid)]

    def cpu_seconds(self) -> float:
        """On a processor so far, by the processes' own clocks (clock_getcpuclockid(3))."""
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self.pids())

    def resident_mib(self) -> float:
        lines = [line for pid in self.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.terminate()
        self.process.wait(20)

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            port = self._down(line)
            if port is not None:
                self.deaths.setdefault(port, time.monotonic())


def start_ours(lan: Lan, targets: tuple[Target, ...]) -> Program:
    """``lvs-checks``."""
    argv = ["ip", "netns", "exec", lan.namespace("director"), sys.executable, "-m", "lvsagent.checks"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(TargetsWriter().encode(Targets(generation=1, targets=targets)))
    process.stdin.flush()

    def down(line: bytes) -> int | None:
        said = decode(line)
        return int(said.name) if isinstance(said, Verdict) and said.known and not said.up else None

    return Program("lvs-checks", process, down)


def start_keepalived(lan: Lan, folder: Path, servers: str) -> Program:
    """Its checkers, logging to a pipe: it says nothing while nothing changes."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "keepalived.conf"
    configuration.write_text(servers)
    argv = ["keepalived", "--check", "--dont-fork", "--log-console", "--use-file", str(configuration)]
    argv += ["--pid", str(folder / "keepalived.pid"), "--checkers_pid", str(folder / "checkers.pid")]
    inside = ["ip", "netns", "exec", lan.namespace("director"), *argv]
    process = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def down(line: bytes) -> int | None:
        found = re.search(rb"(?:Removing|Disabling) service .*?\[?" + WEB.encode() + rb"\]?:(?:tcp:)?(\d+)", line)
        return int(found[1]) if found else None

    return Program("keepalived", process, down)


def tcp_check(interval: float, fall: int) -> HealthCheck:
    return HealthCheck(type=CheckType.TCP, interval_ms=int(interval * 1000), timeout_ms=int(interval * 1000), fall=fall)


def target(name: str, address: str, port: int, check: HealthCheck) -> Target:
    about = ip_address(address)
    return Target(name=name, address=about, port=port, protocol=Protocol.TCP, checks=(check,), up=True)


def virtual_server(servers: list[tuple[str, int]], interval: float, fall: int) -> str:
    """The same in keepalived.conf(5)."""
    settings = (f"connect_timeout {interval:g}", f"retry {fall - 1}", f"delay_before_retry {interval:g}")
    check = "TCP_CHECK {\n" + "".join(f"      {line}\n" for line in settings) + "    }"
    blocks = "".join(f"  real_server {address} {port} {{\n    {check}\n  }}\n" for address, port in servers)
    head = f"delay_loop {interval:g}\n  lvs_sched rr\n  lvs_method NAT\n  protocol TCP\n"
    return f"virtual_server 10.9.9.9 80 {{\n  {head}{blocks}}}\n"


@contextmanager
def place() -> Iterator[tuple[Lan, Path]]:
    """A director, and a host that has all addresses of all backends and an nginx behind them."""
    with Lan() as lan, tempfile.TemporaryDirectory(prefix="lvs-bench-checks-") as name:
        folder = Path(name)
        lan.add_host("director", "10.0.0.11/16")
        lan.add_host("web", f"{WEB}/16")
        lan.run("director", ["ip", "route", "add", "10.1.0.0/16", "via", WEB])
        lan.run("web", ["ip", "route", "add", "local", "10.1.0.0/16", "dev", "lo"])
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=folder, port=PORT))
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        lan.popen("web", [nginx, "-c", str(configuration), "-p", str(folder)], log=folder / "nginx.log")
        yield lan, folder


def load(lan: Lan, folder: Path, start: Callable[[], Program], seconds: float) -> Load:
    """One program at work."""
    program = start()
    try:
        time.sleep(SETTLE_SECONDS)
        if program.process.poll() is not None:
            raise BenchError(f"{program.name} ended with status {program.process.returncode}")
        capture = folder / "syn.pcap"
        syn = f"tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn and dst port {PORT}"
        argv = ["tcpdump", "-i", "eth0", "-n", "-s", "64", "-B", "65536", "-Z", "root", "-w", str(capture), syn]
        tcpdump = lan.popen("web", argv, log=folder / "tcpdump.log")
        sleeping = [sys.executable, "-c", SLEEPER, str(seconds)]
        sleeper = subprocess.Popen(sleeping, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(NICE) and None)
        time.sleep(1.0)
        begin, used = time.monotonic(), program.cpu_seconds()
        time.sleep(seconds)
        took, used = time.monotonic() - begin, program.cpu_seconds() - used
        resident = program.resident_mib()
        idle = [float(word) for word in sleeper.communicate(timeout=60)[0].split()]
        tcpdump.terminate()
        tcpdump.wait(20)
    finally:
        program.close()
    moments = syn_times(capture.read_bytes())
    gaps = [later - earlier for times in moments.values() for earlier, later in pairwise(times)]
    late = [max(0.0, 1000 * (gap - INTERVAL)) for gap in gaps]
    if len(moments) < TARGETS * 0.95 or not late:
        raise BenchError(f"{len(moments)} of {TARGETS} backends were asked")
    asked = sorted(moment for times in moments.values() for moment in times)
    return Load(100 * used / took, resident, late, len(asked) / (asked[-1] - asked[0]), idle)


def syn_times(data: bytes) -> dict[bytes, list[float]]:
    """By destination, from a pcap file of Ethernet frames with IPv4 (microseconds, this machine's byte order)."""
    found: dict[bytes, list[float]] = {}
    at = 24
    while at + 16 <= len(data):
        seconds, micro, size = (int.from_bytes(data[at + n : at + n + 4], sys.byteorder) for n in (0, 4, 8))
        frame = data[at + 16 : at + 16 + size]
        found.setdefault(frame[30:34], []).append(seconds + micro / 1e6)
        at += 16 + size
    return found


def deaths(lan: Lan, start: Callable[[int], Program], fall: int) -> list[float]:
    """DYING backends die one after the other, evenly over the interval. Milliseconds to the verdict."""
    ports = [FIRST_DYING_PORT + number for number in range(DYING)]
    with ExitStack() as stack:
        servers = {}
        with lan.inside("web"):
            for port in ports:
                server = stack.enter_context(socket.socket())
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind((WEB, port))
                server.listen(4096)
                servers[port] = server
        program = start(fall)
        try:
            time.sleep(5 * DEATH_INTERVAL)
            if program.deaths:
                raise BenchError(f"down before they died: {sorted(program.deaths)}")
            died = {}
            for port in ports:
                died[port] = time.monotonic()
                servers[port].close()
                time.sleep(DEATH_INTERVAL / DYING)
            end = time.monotonic() + DEATH_INTERVAL * fall + 10
            while len(program.deaths) < DYING and time.monotonic() < end:
                time.sleep(0.02)
        finally:
            program.close()
    missing = set(ports) - set(program.deaths)
    if missing:
        raise BenchError(f"{program.name}: never called down: {sorted(missing)}")
    return [1000 * (program.deaths[port] - died[port]) for port in ports]


def measure(seconds: float, *, keepalived: bool) -> Found:
    """On this kernel."""
    machine = os.uname()
    found = Found(kernel=f"{machine.sysname} {machine.release} {machine.machine}")
    addresses = [(str(FIRST + number), PORT) for number in range(TARGETS)]
    dying = [(WEB, FIRST_DYING_PORT + number) for number in range(DYING)]
    every = tcp_check(INTERVAL, 1)
    many = tuple(target(address, address, port, every) for address, port in addresses)

    def ours_few(fall: int) -> Program:
        check = tcp_check(DEATH_INTERVAL, fall)
        return start_ours(lan, tuple(target(str(port), address, port, check) for address, port in dying))

    def theirs_few(fall: int) -> Program:
        return start_keepalived(lan, folder / "few", virtual_server(dying, DEATH_INTERVAL, fall))

    with place() as (lan, folder):
        found.load["ours"] = load(lan, folder, lambda: start_ours(lan, many), seconds)
        if keepalived:
            text = virtual_server(addresses, INTERVAL, 1)
            found.load["keepalived"] = load(lan, folder, lambda: start_keepalived(lan, folder / "many", text), seconds)
        for fall in FALLS:
            found.deaths_ms[f"ours {fall}"] = deaths(lan, ours_few, fall)
            if keepalived:
                found.deaths_ms[f"keepalived {fall}"] = deaths(lan, theirs_few, fall)
    return found


def in_guest(seconds: float) -> Found:
    """The same in a kernel with ip_vs."""
    from tests.rig import guest
    from tests.rig.build_kernel import kernel

    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "tests.bench.checks", str(seconds)]
        status = guest.run(
            kernel() / "linux", command, memory="2G", stdout=output, stderr=output, timeout=GUEST_SECONDS
        )
        output.seek(0)
        said = output.read().decode(errors="replace")
    result = next((line for line in said.splitlines() if line.startswith(RESULT)), None)
    if status or result is None:
        raise BenchError(f"in the guest: status {status}: {said[-1000:]}")
    return read(json.loads(result.removeprefix(RESULT)))


def read(data: dict[str, Any]) -> Found:
    """Of ``asdict``."""
    loads = {name: Load(**each) for name, each in data["load"].items()}
    return Found(kernel=data["kernel"], load=loads, deaths_ms=data["deaths_ms"])


def checks(context: Context) -> list[Figure]:
    """The scenario."""
    _install()
    seconds = max(2.5 * INTERVAL, context.window / 2)
    here = Path("/proc/net/ip_vs").exists()
    found = measure(seconds, keepalived=here)
    figures = list(_figures(found, context, "", whole=True))
    if not here:
        figures += _figures(in_guest(seconds), context, "-guest", whole=False)
    return figures


def _figures(found: Found, context: Context, suffix: str, *, whole: bool) -> Iterator[Figure]:
    """``whole``: the limits hold. In a guest, whose system calls cost ten times as much, only the comparison does."""
    about = f"{TARGETS} TCP checks every {INTERVAL:g} s"
    ours, theirs = found.load["ours"], found.load.get("keepalived")
    who = f"keepalived {context.version}"

    def figure(name: str, title: str, unit: str, of: Callable[[Load], list[float]], **more: Any) -> Figure:
        anchor = Summary(who, tuple(of(theirs))) if theirs else None
        idle = Summary("sleeping", tuple(ours.idle_late_ms))
        return Figure(
            name=f"checks-{name}{suffix}",
            title=f"{about}: {title}",
            unit=unit,
            ours=Summary("ours", tuple(of(ours))),
            anchor=anchor,
            notes=f"{found.kernel}; questions a second {ours.asked_per_second:.0f}"
            + (f", keepalived {theirs.asked_per_second:.0f}" if theirs else "")
            + f"; beside ours a process that only sleeps was late by {idle.p99:.0f} ms (p99), {idle.max:.0f} ms (max)",
            **more,
        )

    cpu: dict[str, Any] = {"limits": {"max": 25}} if whole else {}
    late: dict[str, Any] = {"limits": {"p99": 100}} if whole else {}
    yield figure("cpu", "processor", "% of a core", lambda each: [each.cpu_percent], beside=theirs is not None, **cpu)
    yield figure("late", "later than due", "ms", lambda each: each.late_ms, compared="p99", **late)
    yield figure("memory", "resident memory", "MiB", lambda each: [each.resident_mib])
    for fall in FALLS:
        anchor = found.deaths_ms.get(f"keepalived {fall}")
        yield Figure(
            name=f"checks-death-fall{fall}{suffix}",
            title=f"backend's death to verdict, asked every {DEATH_INTERVAL:g} s, fall {fall}",
            unit="ms",
            ours=Summary("ours", tuple(found.deaths_ms[f"ours {fall}"])),
            anchor=Summary(who, tuple(anchor)) if anchor else None,
            limits={"max": 1000 * DEATH_INTERVAL * fall + 100},
            beside=anchor is not None,
            resolution=1000 * DEATH_INTERVAL / 4,
            notes=found.kernel,
        )


def _install() -> None:
    from tests.rig import apt

    apt.install(("keepalived", "iproute2", "nftables", "nginx-light", "tcpdump"))


if __name__ == "__main__":
    print(
        RESULT + json.dumps(asdict(measure(float(sys.argv[1]), keepalived=Path("/proc/net/ip_vs").exists()))),
        flush=True,
    )
