"""The two programs that are compared, each as a pair of directors with one client on a LAN of their own."""

import contextlib
import itertools
import re
import signal
import statistics
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lvsagent import ipc
from tests.bench.capture import AddressWatch, Capture, Poller
from tests.bench.trace import spacings
from tests.net.election_host import VIP, ElectionHost, router
from tests.net.lan import SWITCH, Lan

PRIORITIES: Final = (250, 238)
"""What the operator gives to the first two directors of a virtual router; keepalived gets the same."""
DIRECTORS: Final = ("dr1", "dr2")
SOURCES: Final = {"dr1": "10.0.0.11", "dr2": "10.0.0.12"}


class BenchError(AssertionError):
    """A run that could not be measured; the text says what was waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A program with its settings."""

    who: str
    program: str
    """``ours`` or ``keepalived``."""
    interval_ms: int
    """What adverts announce."""
    send_ms: int = 0
    """How often they are sent, when that is more often."""
    silent_adverts: int = 3
    """keepalived's ``down_timer_adverts``."""
    realtime: bool = False
    """keepalived's ``vrrp_rt_priority`` and ``vrrp_no_swap``; ours asks for both by itself."""
    routers: int = 1

    @property
    def interval(self) -> float:
        """Seconds between adverts on the wire."""
        return (self.send_ms or self.interval_ms) / 1000

    @property
    def down(self) -> float:
        """How long the second director waits, seconds: RFC 9568's Active_Down_Interval.

        With another ``down_timer_adverts`` than 3 it is so many intervals (keepalived.conf(5)).
        """
        skew = (256 - PRIORITIES[1]) / 256 if self.silent_adverts == 3 else 0.0
        return (self.silent_adverts + skew) * self.interval_ms / 1000

    def address(self, number: int) -> str:
        """Of the router with that number from 0."""
        return VIP if number == 0 else f"10.0.1.{number}"


OURS_1S: Final = Profile(who="ours 1 s", program="ours", interval_ms=1000)
OURS: Final = Profile(who="ours 0.1 s", program="ours", interval_ms=100)
OURS_FAST: Final = Profile(who="ours fast", program="ours", interval_ms=80, send_ms=10)
KEEPALIVED_1S: Final = Profile(who="keepalived 1 s", program="keepalived", interval_ms=1000)
KEEPALIVED: Final = Profile(who="keepalived 0.1 s", program="keepalived", interval_ms=100)
TUNED: Final = Profile(who="keepalived 24 x 10 ms", program="keepalived", interval_ms=10, silent_adverts=24)
TUNED_REALTIME: Final = Profile(
    who="keepalived 24 x 10 ms, RT", program="keepalived", interval_ms=10, silent_adverts=24, realtime=True
)


class Director(ABC):
    """One of the two programs on one host."""

    def __init__(self, lan: Lan, name: str) -> None:
        self.lan = lan
        self.name = name

    @abstractmethod
    def start(self) -> None:
        """Start it; does not wait for the election."""

    @abstractmethod
    def close(self) -> None: ...

    @property
    @abstractmethod
    def process(self) -> subprocess.Popen[bytes]:
        """The one that was started last."""

    def stop(self) -> None:
        """An orderly end, as a shutdown of the node would ask for; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def pids(self) -> list[int]:
        """Of the program: its main process and its children."""
        pid = self.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def holds(self) -> bool:
        return f"{VIP}/32" in self.lan.addresses(self.name)


class OurDirector(Director):
    """``lvs-election``."""

    def __init__(self, lan: Lan, name: str, folder: Path, profile: Profile, priority: int) -> None:
        super().__init__(lan, name)
        self.host = ElectionHost(lan, name, f"{SOURCES[name]}/16", folder)
        self._routers = [
            router(
                priority,
                name=f"r{number}",
                virtual_router_id=51 + number,
                addresses=(f"{profile.address(number)}/32",),
                advertisement_interval_ms=profile.interval_ms,
                send_interval_ms=profile.send_ms,
            )
            for number in range(profile.routers)
        ]
        self._configured = False

    def start(self) -> None:
        self.host.start()
        if not self._configured:  # later on it runs by the wish that it kept on disk, as after a crash
            self.host.configure(*self._routers)
            self._configured = True

    def close(self) -> None:
        self.host.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self.host.process is not None
        return self.host.process

    def statistics(self) -> ipc.Statistics:
        return self.host.statistics()


class KeepalivedDirector(Director):
    """keepalived, VRRP only, settings of its documentation where the profile says nothing."""

    def __init__(self, lan: Lan, name: str, folder: Path, profile: Profile, priority: int) -> None:
        super().__init__(lan, name)
        lan.add_host(name, f"{SOURCES[name]}/16")
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "keepalived.conf").write_text(configuration(profile, priority))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            self._process.wait(5)
        files = {"use-file": "keepalived.conf", "pid": "keepalived.pid", "vrrp_pid": "vrrp.pid"}
        options = [f"--{word}={self._folder / file}" for word, file in files.items()]
        # Silent: on a console (--log-console) what it says about a flood stops it for seconds.
        self._process = self.lan.popen(self.name, ["keepalived", "--vrrp", "--dont-fork", "--no-syslog", *options])

    def close(self) -> None:
        """The LAN ends the process; an orderly end lets its child go first."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


def configuration(profile: Profile, priority: int) -> str:
    """keepalived.conf(5)."""
    realtime = "vrrp_rt_priority 10\n    vrrp_no_swap\n    " if profile.realtime else ""
    head = f"global_defs {{\n    {realtime}vrrp_version 3\n}}\n"
    down = f"    down_timer_adverts {profile.silent_adverts}\n" if profile.silent_adverts != 3 else ""
    return head + "".join(
        f"vrrp_instance r{number} {{\n    interface eth0\n    virtual_router_id {51 + number}\n"
        f"    priority {priority}\n    advert_int {profile.interval_ms / 1000:g}\n{down}"
        f"    virtual_ipaddress {{ {profile.address(number)}/32 dev eth0 }}\n}}\n"
        for number in range(profile.routers)
    )


def keepalived_version() -> str:
    """``2.2.7``; empty when it does not say."""
    said = subprocess.run(["keepalived", "--version"], capture_output=True, text=True, timeout=10)
    found = re.search(r"v(\d+(?:\.\d+)+)", said.stderr + said.stdout)
    return found[1] if found else ""


class Pair:
    """dr1 and dr2 of one program; a client that captures and asks. A context manager; dr1 serves from the start."""

    def __init__(self, profile: Profile, folder: Path, *, poller: type[Poller] | None = Poller) -> None:
        self.profile = profile
        self.period = poller.PERIOD if poller else 0.0
        """Seconds between the client's questions; 0: it does not ask."""
        with contextlib.ExitStack() as stack:
            self.lan = stack.enter_context(Lan())
            kind = OurDirector if profile.program == "ours" else KeepalivedDirector
            place = Path(tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", profile.who), dir=folder))
            self.dr1, self.dr2 = (
                kind(self.lan, name, place, profile, priority)
                for name, priority in zip(DIRECTORS, PRIORITIES, strict=True)
            )
            self.lan.add_host("client", "10.0.0.1/16")
            self.capture = Capture(self.lan, "client")
            self.watches = {name: AddressWatch(self.lan, name) for name in DIRECTORS}
            for director in (self.dr1, self.dr2):
                stack.callback(director.close)
                director.start()
            if poller is not None:
                stack.callback(poller(self.lan, "client").close)
            self._macs = {name: bytes.fromhex(self.lan.mac(name).replace(":", "")) for name in DIRECTORS}
            self._stack = stack.pop_all()
        try:
            self.settle()
            if profile.interval <= 0.1:
                self.check_rate()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def served_by(self, director: str, seconds: float) -> bool:
        """For so long the answers came from this director only, and without a pause of 50 ms."""
        now = time.time()
        recent = [answer for answer in self.capture.drain().answers if answer.at > now - seconds]
        if not recent or any(answer.mac != self._macs[director] for answer in recent):
            return False
        moments = [now - seconds, *(answer.at for answer in recent), now]
        return all(after - before < 0.05 for before, after in itertools.pairwise(moments))

    def settle(self, *, timeout: float = 12.0) -> None:
        """Wait until dr1 serves alone and steadily; the client's ARP cache is helped. Raises BenchError."""
        now = time.monotonic()
        end, helped = now + timeout, now
        while (now := time.monotonic()) < end:
            time.sleep(0.05)
            if self.period and not self.served_by("dr1", 0.3):
                if now - helped > 0.5:
                    self.lan.run("client", ["ip", "neighbour", "flush", "dev", "eth0"])
                    helped = now
                continue
            if self.dr1.holds() and not self.dr2.holds():
                return
        raise BenchError(f"{self.profile.who}: dr1 does not serve alone after {timeout} s")

    def check_rate(self) -> None:
        """Raises BenchError when dr1 sends far less often than its profile says: that would be another profile."""
        self.capture.restart()
        time.sleep(10 * self.profile.interval)
        found = spacings(self.capture.drain().of(SOURCES["dr1"]))
        if not found or statistics.median(found) > 4 * self.profile.interval:
            raise BenchError(f"{self.profile.who}: adverts every {found[:3]} s, not every {self.profile.interval} s")

    def repair(self) -> None:
        """After a run that failed: no loss, no cut, both programs up, dr1 serving."""
        self.lose(0, adverts_only=True)
        self.lan.heal("dr1")
        for director in (self.dr1, self.dr2):
            if director.process.poll() is not None:
                director.start()
        self.settle(timeout=20)

    def await_server(self, director: str, *, seconds: float = 0.1, timeout: float = 12.0) -> None:
        """Wait until this director has answered for so long. Raises BenchError."""
        end = time.monotonic() + timeout
        while not self.served_by(director, seconds):
            if time.monotonic() > end:
                raise BenchError(f"{self.profile.who}: {director} does not answer after {timeout} s")
            time.sleep(0.02)

    def lose(self, percent: int, *, adverts_only: bool) -> None:
        """Drop so many of the frames (or of the adverts) that directors, and without ``adverts_only`` the client, send.

        0: none any more.
        """
        with contextlib.suppress(AssertionError):
            self.lan.run(SWITCH, ["nft", "delete", "table", "netdev", "loss"])
        if percent == 0:
            return
        match = "ip protocol 112 " if adverts_only else ""
        ports = DIRECTORS if adverts_only else (*DIRECTORS, "client")
        chains = "".join(
            f"chain {port} {{\ntype filter hook ingress device {port} priority 1; policy accept;\n"
            f"{match}numgen random mod 100 < {percent} drop\n}}\n"
            for port in ports
        )
        self.lan.run(SWITCH, ["nft", f"table netdev loss {{\n{chains}}}"])
