"""A host of the LAN that runs the real ``lvs-election``, with the test in the place of the agent."""

import contextlib
import itertools
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from lvsagent import ipc
from lvsagent.vrrp import packet
from tests.net.lan import Lan

VIP = "10.0.0.200"
VIP6 = "fd00::200"
DR1, DR2, CLIENT = "10.0.0.11", "10.0.0.12", "10.0.0.1"


def router(priority: int, **changes: object) -> ipc.RouterConfig:
    """The lab's router: VRID 51, 100 ms, VIP on eth0."""
    fields: dict[str, object] = {
        "name": "lab",
        "virtual_router_id": 51,
        "family": 4,
        "interface": "eth0",
        "vip_interface": "eth0",
        "addresses": (f"{VIP}/32",),
        "priority": priority,
    }
    return ipc.RouterConfig(**{**fields, **changes})  # type: ignore[arg-type]


def router6(priority: int, **changes: object) -> ipc.RouterConfig:
    """Its twin for IPv6."""
    return router(priority, **{"name": "lab6", "family": 6, "addresses": (f"{VIP6}/128",), **changes})


class ElectionHost:
    """One director."""

    def __init__(self, lan: Lan, name: str, address: str, folder: Path, *more: str) -> None:
        """``more``: further addresses of ``eth0``."""
        self.lan = lan
        self.name = lan.add_host(name, address, *more)
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.messages: list[ipc.Message] = []
        self._connection: socket.socket | None = None
        self._rest = b""
        self._generations = itertools.count(1)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, *prefix: str, state: Path | None = None) -> None:
        """Start the process and connect to it. ``prefix``: a command that runs it. ``state``: another state folder."""
        if self.process is not None:
            self.process.wait(2)
        argv = [*prefix, sys.executable, "-m", "lvsagent.election", "--run-dir", str(self.folder)]
        argv += ["--state-dir", str(state or self.folder), "--keys-dir", str(self.folder / "keys")]
        self.process = self.lan.popen(self.name, argv, log=self.folder / "log")
        deadline = time.monotonic() + 10
        self.close()
        while True:
            self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._connection.connect(str(self.folder / "election.sock"))
                break
            except OSError:
                self._connection.close()
                assert time.monotonic() < deadline, f"lvs-election did not start: {self.log}"
                assert self.process.poll() is None, self.log
                time.sleep(0.02)
        self._rest = b""

    def close(self) -> None:
        """Hang up; the LAN ends the process."""
        if self._connection is not None:
            self._connection.close()

    def configure(self, *routers: ipc.RouterConfig, wait: bool = True) -> None:
        """Send the wish; wait until it is in force."""
        assert self._connection is not None
        generation = next(self._generations)
        self._connection.sendall(ipc.encode(ipc.Configure(generation=generation, routers=routers)))
        if wait:
            self.await_message(ipc.Configured(generation=generation))

    def send(self, wish: ipc.Configure) -> None:
        """Send it as it is."""
        assert self._connection is not None
        self._connection.sendall(ipc.encode(wish))

    def await_message(self, wanted: ipc.Message, timeout: float = 5.0) -> None:
        end = time.monotonic() + timeout
        while wanted not in self.read(0.02):
            assert time.monotonic() < end, f"{self.name} did not say {wanted}; log: {self.log}"

    def read(self, seconds: float = 0.0) -> list[ipc.Message]:
        """Messages that arrived."""
        assert self._connection is not None
        fresh: list[ipc.Message] = []
        with contextlib.suppress(ConnectionError):
            while select.select([self._connection], [], [], seconds)[0]:
                data = self._connection.recv(1 << 16)
                if not data:
                    break
                *lines, self._rest = (self._rest + data).split(b"\n")
                fresh += [ipc.decode(line) for line in lines]
                seconds = 0.0
        self.messages += fresh
        return fresh

    def statistics(self) -> ipc.Statistics:
        """The next Statistics, not one that waits already."""
        self.read()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for message in self.read(0.05):
                if isinstance(message, ipc.Statistics):
                    return message
        raise AssertionError(f"{self.name} sends no statistics; log: {self.log}")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def holds(self, address: str = f"{VIP}/32") -> bool:
        return address in self.lan.addresses(self.name)

    def await_holding(self, expected: bool = True, *, timeout: float = 3.0) -> float:
        """Wait until the host holds the VIP, or does not. Returns the seconds it took."""
        begin = time.monotonic()
        while self.holds() != expected:
            assert time.monotonic() - begin < timeout, f"{self.name} holds={not expected}; log: {self.log}"
            time.sleep(0.01)
        return time.monotonic() - begin

    def await_heard(self, active: str, *, timeout: float = 10.0) -> None:
        """Wait until this Backup has heard the Active of that address. Before, it does not know whose the VIP is and
        asks (RFC 5227), and would not take it at once."""
        end = time.monotonic() + timeout
        while (said := self.statistics().routers[0].active_address) != active:
            assert time.monotonic() < end, f"{self.name} has heard {said!r}, not {active}; log: {self.log}"

    def await_state(self, state: str, *, timeout: float = 5.0) -> None:
        """Wait until the host's first router says that it is in this state."""
        end = time.monotonic() + timeout
        while (said := self.statistics().routers[0].state) != state:
            assert time.monotonic() < end, f"{self.name} is {said}, not {state}; log: {self.log}"

    def transitions(self) -> list[str]:
        """Causes of the changes of state so far, as the agent hears them."""
        self.read()
        return [message.cause for message in self.messages if isinstance(message, ipc.StateChanged)]


class Pair:
    """Two directors whose election runs without a wish, and a host that is none."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.dr1 = ElectionHost(lan, "dr1", f"{DR1}/24", folder, "fd00::11/64", "fe80::11/64")
        self.dr2 = ElectionHost(lan, "dr2", f"{DR2}/24", folder, "fd00::12/64", "fe80::12/64")
        lan.add_host("client", f"{CLIENT}/24", "fe80::1/64")
        lan.run("client", ["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])
        self.dr1.start()
        self.dr2.start()

    def forge(self, priority: int, *, interval: int = 10, address: str = VIP, to: str = "224.0.0.18") -> None:
        """One advert of the client for VRID 51."""
        forger = self.lan.socket("client", socket.AF_INET, socket.SOCK_RAW, packet.PROTOCOL)
        forger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        forger.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        said = packet.Advertisement(
            virtual_router_id=51,
            priority=priority,
            interval=interval,
            addresses=(socket.inet_aton(address),),
            source=socket.inet_aton(CLIENT),
        )
        forger.sendto(packet.encode(said, destination=socket.inet_aton(to)), (to, 0))

    def close(self) -> None:
        """Hang up."""
        self.dr1.close()
        self.dr2.close()


def await_finding(host: ElectionHost, finding: ipc.Finding, *words: str, timeout: float = 5.0) -> None:
    """Wait until the host's first router has noticed that, with these words in the sentence."""
    end = time.monotonic() + timeout
    while True:
        text = host.statistics().routers[0].findings.get(finding, "")
        if text and all(word in text for word in words):
            return
        assert time.monotonic() < end, f"{host.name} found {text!r}, not {words}; log: {host.log}"


class Probe:
    """A client that asks the VIP every 5 ms (ICMP echo) and notes when it was answered."""

    PERIOD = 0.005

    def __init__(self, lan: Lan, host: str, address: str = VIP) -> None:
        self._six = ":" in address
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self._six else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        self._socket = lan.socket(host, family, socket.SOCK_RAW, protocol)
        self._address = address
        self.answered: list[float] = []
        self._asked: list[float] = []
        """When each question was sent; its number is its index."""
        self._heard: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def gap(self, since: float) -> float:
        """Seconds for which nobody answered, at the longest, since that moment (monotonic).

        Counted in questions sent: what this client does not ask because the machine is busy is nobody's fault.
        """
        longest = unanswered = 0
        newest = time.monotonic() - 0.05  # not answered yet, perhaps
        for number, moment in enumerate(tuple(self._asked)):
            if since - 0.05 <= moment < newest:
                unanswered = 0 if number in self._heard else unanswered + 1
                longest = max(longest, unanswered)
        return longest * self.PERIOD if self._asked else float("inf")

    def await_answer(self, timeout: float = 3.0) -> None:
        begin = time.monotonic()
        while not self.answered or self.answered[-1] < begin:
            assert time.monotonic() - begin < timeout, f"{self._address} does not answer"
            time.sleep(0.005)

    def _work(self) -> None:
        following = time.monotonic()
        while not self._stop.is_set():
            sequence = len(self._asked)
            self._asked.append(time.monotonic())
            with contextlib.suppress(OSError):  # no route while the client's ARP is unanswered
                self._socket.sendto(self._request(sequence), (self._address, 0))
            following = max(following + self.PERIOD, time.monotonic())
            while (left := following - time.monotonic()) > 0:
                if not select.select([self._socket], [], [], left)[0]:
                    break
                packet, sender = self._socket.recvfrom(256)
                answer = packet if self._six else packet[20:]
                if answer[0] == (129 if self._six else 0) and sender[0] == self._address:
                    self.answered.append(time.monotonic())
                    behind = sequence - int.from_bytes(answer[6:8]) & 0xFFFF
                    self._heard.add(sequence - behind)

    def _request(self, sequence: int) -> bytes:
        """ICMP echo; the kernel fills in ICMPv6's checksum."""
        kind = 0x8000 if self._six else 0x0800
        sequence &= 0xFFFF
        total = kind + 0x4C56 + sequence
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        return struct.pack("!HHHH", kind, 0 if self._six else total, 0x4C56, sequence)
