"""The lab's five hosts on one LAN, and what can be done to them. Needs root and a kernel with ip_vs.

dr1 .100  dr2 .101   directors: ens33 (heartbeat), ens37 (the VIP); each runs lvs-agent from a folder of manifests, or
                     keepalived with the lab's own configuration
web1 .201 web2 .202  web servers with the VIP on lo
client .50
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.load.http import parse_answer, request
from tests.load.run import LoadRun, command, environment
from tests.net.lan import SWITCH, Lan

VIP = "192.168.139.123"
PORT = 80
DIRECTORS = {"dr1": "192.168.139.100", "dr2": "192.168.139.101"}
WEB_SERVERS = {"web1": "192.168.139.201", "web2": "192.168.139.202"}
CLIENT = "192.168.139.50"
PASSWORD = "1111"
HEARTBEAT, UPLINK = "ens33", "ens37"
COMMANDS = Path(sys.executable).parent
TESTS = Path(__file__).resolve().parent.parent
SIOCGIFADDR = 0x8915


class Place:
    """The running lab. A context manager that leaves nothing behind but its folder of logs."""

    def __init__(
        self, folder: Path, *, keepalived: str = "", ports: Iterable[int] = (), tls: tuple[str, ...] = ()
    ) -> None:
        """``keepalived``: the director that runs it. ``ports``: of the web servers, besides 80. ``tls``: more options
        of ``lab.web``."""
        self.folder = folder
        self.keepalived = keepalived
        self.ports = [PORT, *ports]
        self.tls = tls
        self._web: dict[str, subprocess.Popen[bytes]] = {}
        self.manifests = folder / "manifests"
        self.manifests.mkdir(parents=True)
        self.lan = Lan()
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self._probes: dict[str, socket.socket] = {}
        self._loads: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill everything that runs here, remove every namespace."""
        for director in list(self._agents):
            self.kill(director)
        for process in self._loads:
            process.kill()
            process.wait()
        self.lan.close()

    # what is done to it

    def use(self, manifests: str) -> None:
        """The directors' manifests become those of that folder of this package."""
        self.remove_manifests()
        for file in sorted((Path(__file__).parent / manifests).glob("*.yaml")):
            # written beside and renamed: a reader never sees half a file
            shutil.copy(file, self.manifests / f".{file.name}")
            (self.manifests / f".{file.name}").rename(self.manifests / file.name)

    def write(self, name: str, text: str) -> None:
        """One more manifest, or another text for one."""
        (self.manifests / f".{name}").write_text(text)
        (self.manifests / f".{name}").rename(self.manifests / name)

    def remove_manifests(self) -> None:
        for file in self.manifests.glob("*.yaml"):
            file.unlink()

    def prepare(self, host: str) -> str:
        """What the init container does on a node: kernel settings, and on a web server the VIP on lo."""
        role = ["--real-server", "--vip", VIP] if host in WEB_SERVERS else []
        return self.lan.run(host, [str(COMMANDS / "lvs-node-init"), "--state-dir", str(self._state(host)), *role])

    def start(self, director: str) -> None:
        """lvs-agent with its lvs-election, from the folder of manifests; or keepalived, all of it."""
        run = self.folder / "run" / director
        run.mkdir(parents=True, exist_ok=True)
        if director == self.keepalived:
            configuration = Path(__file__).parent / "keepalived" / f"{director}.conf"
            argv = ["keepalived", "--dont-fork", "--log-console", "--use-file", str(configuration)]
            for option, name in (("--pid", "main"), ("--vrrp_pid", "vrrp"), ("--checkers_pid", "checkers")):
                argv += [option, str(run / f"{name}.pid")]
        else:
            argv = [str(COMMANDS / "lvs-agent"), "--manifests", str(self.manifests), "--node-name", director]
            argv += ["--run-dir", str(run), "--state-dir", str(self._state(director)), "--keys-dir", str(self._keys())]
        self._agents[director] = self.lan.popen(
            director, argv, environment={"PYTHONDONTWRITEBYTECODE": "1"}, log=self.folder / f"{director}.log"
        )

    def stop(self, director: str) -> int:
        """In order: SIGTERM, and wait. Returns the exit status."""
        agent = self._agents.pop(director)
        agent.terminate()
        return agent.wait(15.0)

    def kill(self, director: str) -> None:
        """Every process of the director with SIGKILL."""
        agent = self._agents.pop(director)
        for pid in [agent.pid, *descendants(agent.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.wait()

    def crash(self, director: str) -> None:
        """Power off, as far as others can tell: its ports go down, its processes are gone."""
        for port in (director, f"{director}-b"):
            self.lan.run(SWITCH, ["ip", "link", "set", "dev", port, "down"])
        self.kill(director)

    def repair(self, director: str) -> None:
        """Power on: a kernel that has forgotten everything, and the same start as ever."""
        self.lan.run(director, ["ipvsadm", "--clear"])
        for interface in ("lo", UPLINK):
            self.lan.run(director, ["ip", "address", "flush", "dev", interface, "to", f"{VIP}/32"])
        for port in (director, f"{director}-b"):
            self.lan.run(SWITCH, ["ip", "link", "set", "dev", port, "up"])
        self.prepare(director)
        self.start(director)

    def start_web(self, name: str) -> None:
        """The web server on its host."""
        self._web[name] = self.lan.popen(
            name,
            [sys.executable, "-m", "lab.web", "--name", name, "--port", *map(str, self.ports), *self.tls],
            environment=environment(),
            log=self.folder / f"{name}.log",
        )

    def stop_web(self, name: str) -> None:
        """Its process; the host lives on."""
        process = self._web.pop(name)
        process.kill()
        process.wait()

    def turn_web(self, name: str) -> None:
        """Ill, or well again."""
        self._web[name].send_signal(signal.SIGUSR1)

    # what is seen of it

    def holds(self, director: str) -> bool:
        """The director's kernel has the VIP on its uplink (not asked of the director's processes)."""
        request = struct.pack("16s16x8x", UPLINK.encode())
        try:
            answer = fcntl.ioctl(self._probes[director], SIOCGIFADDR, request)
        except OSError:
            return False
        return socket.inet_ntoa(answer[20:24]) == VIP

    def holders(self) -> list[str]:
        """Directors that hold the VIP now."""
        return [director for director in DIRECTORS if self.holds(director)]

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Until it is so; False when it was not in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def who_answers(self, times: int) -> list[str]:
        """Names of the web servers that answer so many new connections, one after another."""
        return [self._ask() for _ in range(times)]

    def who_holds(self, address: str, port: int, times: int) -> list[str]:
        """Names of the web servers that answer so many connections, which stay open until the last is answered."""
        names = []
        with self.lan.inside("client"), contextlib.ExitStack() as stack:
            for _ in range(times):
                held = stack.enter_context(socket.create_connection((address, port), timeout=2.0))
                held.sendall(request(address, "/", keep_alive=True))
                said = b""
                while b"\nGET / " not in said:
                    part = held.recv(65536)
                    if not part:
                        raise ConnectionError(f"half an answer: {said!r}")
                    said += part
                names.append(parse_answer(said.partition(b"\r\n\r\n")[2]).server)
        return names

    def neighbour(self) -> str:
        """The MAC address that the client has for the VIP, asked for anew."""
        self.lan.run("client", ["ip", "neigh", "flush", "to", VIP], check=False)
        self.who_answers(1)
        return self.lan.run("client", ["ip", "-o", "neigh", "show", VIP]).split(" lladdr ")[-1].split()[0]

    def mac(self, host: str, interface: str) -> str:
        return self.lan.mac(host, interface)

    def addresses(self, director: str) -> list[str]:
        """IPv4 addresses of the director's uplink, with prefix length."""
        lines = self.lan.run(director, ["ip", "-4", "-oneline", "address", "show", "dev", UPLINK]).splitlines()
        return [line.split()[3] for line in lines]

    def table(self, director: str) -> str:
        """The director's IPVS table in ipvsadm's words."""
        return self.lan.run(director, ["ipvsadm", "-L", "-n"])

    def left_over(self, director: str) -> str:
        """What a director without any VirtualService should not have: empty when all is gone."""
        table = self.lan.run(director, ["ipvsadm", "-S", "-n"])
        addresses = self.lan.run(director, ["ip", "-o", "address", "show", "to", f"{VIP}/32"])
        return (table + addresses).strip()

    def log(self, director: str, lines: int = 15) -> str:
        """The end of what lvs-agent and its election said."""
        path = self.folder / f"{director}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def load(self, *, hold: int, duration: float = 60.0) -> LoadRun:
        """50 new connections a second from the client, and held ones."""
        argv = command(f"{VIP}:{PORT}", rate=50, hold=hold, duration=duration, period=0.5)
        return LoadRun(self._start_load, argv)

    def _ask(self) -> str:
        with self.lan.inside("client"):
            connection = socket.create_connection((VIP, PORT), timeout=2.0)
        body = b""
        with connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n")
            while part := connection.recv(65536):
                body += part
        return parse_answer(body).server

    def _start_load(self, argv: Sequence[str]) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.lan.namespace("client"), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment()},
        )
        self._loads.append(process)
        return process

    def _keys(self) -> Path:
        """The folder with the class's password, as a mounted Secret has it."""
        folder = self.folder / "keys"
        if not folder.exists():
            folder.mkdir()
            (folder / "lab.password").touch(mode=0o600)
            (folder / "lab.password").write_text(PASSWORD)
        return folder

    def _state(self, host: str) -> Path:
        path = self.folder / "state" / host
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _build(self) -> None:
        lan = self.lan
        lan.add_host("client", f"{CLIENT}/24")
        for name, address in WEB_SERVERS.items():
            lan.add_host(name, f"{address}/24")
        for name, address in DIRECTORS.items():
            lan.add_host(name)
            second = ["ip", "link", "add", "name", f"{name}-b", "type", "veth", "peer", "name", UPLINK]
            lan.run(SWITCH, [*second, "netns", lan.namespace(name)])
            lan.run(SWITCH, ["ip", "link", "set", "dev", f"{name}-b", "master", "bridge0", "up"])
            for line in (
                "link set dev eth0 down",
                f"link set dev eth0 name {HEARTBEAT}",
                f"link set dev {HEARTBEAT} up",
                f"link set dev {UPLINK} up",
                f"address add {address}/24 dev {HEARTBEAT}",
            ):
                lan.run(name, ["ip", *line.split()])
            self._probes[name] = lan.socket(name, socket.AF_INET, socket.SOCK_DGRAM)
        for name in (*DIRECTORS, *WEB_SERVERS):
            # as a freshly installed machine has them: lvs-node-init is to set what is needed
            fresh = ("ip_forward=0", "conf.all.arp_ignore=0", "conf.all.arp_announce=0")
            lan.run(name, ["sysctl", "-qw", *(f"net.ipv4.{setting}" for setting in fresh)])
        for name in WEB_SERVERS:
            self.start_web(name)


def descendants(pid: int) -> list[int]:
    """Processes below that one, from /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
