"""A LAN of network namespaces joined by one bridge: hosts to run real processes in, cables to cut.

Needs root, ``ip`` and ``nft``. Every host is a network namespace with one interface ``eth0``; the bridge lives in a
namespace of its own, where each cable's end is named like its host. ``close()`` leaves nothing behind.
"""

import contextlib
import http.client
import itertools
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from tests.net import quick, rtnetlink
from tests.net.preloaded import Nursery, is_agent

SWITCH = "switch"
EVERY_PROTOCOL = 0x0003
WITHOUT_SYS = {"ip", "ipvsadm", "nft", "sysctl", "tc"}
"""Commands that ask the kernel by netlink or /proc: they need no /sys of the host's own, which is dear in a guest."""
DROP_CHAIN = "{ type filter hook %s device %s priority 0; policy drop; }"

Direction = Literal["both", "from", "to"]
Frame = tuple[float, bytes]
"""Monotonic time of arrival in seconds, Ethernet frame."""

_serial = itertools.count(1)


class CommandFailed(AssertionError):
    """A command inside a host ended with a status other than 0; the text carries its output."""


class Sniffer:
    """Every frame that one host sends or receives on ``eth0`` from now on."""

    def __init__(self, packet_socket: socket.socket) -> None:
        self._socket = packet_socket
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setblocking(False)
        self.seen: list[Frame] = []

    def frames(self, seconds: float = 0.0) -> list[Frame]:
        """What arrived since the last call, waiting so long for more. Kept in ``seen`` too."""
        end = time.monotonic() + seconds
        fresh: list[Frame] = []
        while True:
            readable, _, _ = select.select([self._socket], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                break
            with contextlib.suppress(BlockingIOError):
                while True:
                    fresh.append((time.monotonic(), self._socket.recv(65536)))
        self.seen += fresh
        return fresh

    def close(self) -> None:
        self._socket.close()


class Lan:
    """The switch and what is plugged into it. A context manager."""

    nursery: ClassVar[Nursery | None] = None
    """Where agents come from; None: they start as the commands that they are."""

    def __init__(self) -> None:
        self._prefix = f"lan{os.getpid()}x{next(_serial)}"
        self._hosts: list[str] = []
        self._cuts: set[str] = set()
        self._processes: list[subprocess.Popen[Any]] = []
        self._sockets: list[socket.socket] = []
        self._links: dict[str, socket.socket] = {}
        """For what is asked often, one at a time."""
        self._asking = threading.Lock()
        self._add_namespace(SWITCH)
        with self.inside(SWITCH):
            rtnetlink.add_bridge("bridge0", snooping=False)
            rtnetlink.set_up("bridge0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def namespace(self, host: str) -> str:
        """The name of the host's network namespace, for ``ip netns``."""
        return f"{self._prefix}-{host}"

    def add_host(self, name: str, *addresses: str) -> str:
        """A host plugged into the switch. ``addresses`` carry prefix lengths. Returns the name.

        Like a node after ``lvs-node-init``: forwards, ``arp_ignore=1``, ``arp_announce=2``.
        """
        self._add_namespace(name)
        self._hosts.append(name)
        with self.inside(SWITCH):
            rtnetlink.add_veth(name, "eth0", self.namespace(name), "bridge0")
        with self.inside(name):
            for setting in ("ip_forward=1", "conf/all/arp_ignore=1", "conf/all/arp_announce=2", "conf/all/rp_filter=0"):
                path, _, value = setting.partition("=")
                Path("/proc/sys/net/ipv4", path).write_text(value)
            for interface in ("lo", "eth0"):
                rtnetlink.set_up(interface)
            rtnetlink.await_working("eth0", seconds=2.0)
        with self.inside(SWITCH):
            rtnetlink.await_working(name, seconds=2.0)
        with self.inside(name):
            for one in addresses:
                rtnetlink.change_address(one, "eth0", nodad=":" in one)
        return name

    def remove_host(self, name: str) -> None:
        """Its kernel's memory goes with it. No process may be in it."""
        with self.inside(SWITCH):
            rtnetlink.delete_link(name)
        if name in self._links:
            self._links.pop(name).close()
        rtnetlink.delete_namespace(self.namespace(name))
        self._hosts.remove(name)

    def run(self, host: str, argv: Sequence[str], *, check: bool = True, timeout: float = 30.0) -> str:
        """Standard output of a command inside the host. Raises CommandFailed unless ``check`` is False."""
        if argv[0] in WITHOUT_SYS:
            with self.inside(host):
                said = quick.done(argv)
                return self._command(*argv, check=check, timeout=timeout, where=f"{host}: ") if said is None else said
        return self._command(*self._inside(host, argv), check=check, timeout=timeout)

    def popen(
        self, host: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """A process inside the host: its pid is the command's own. Killed by ``close()`` when it still runs."""
        with contextlib.ExitStack() as stack:
            output: Any = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
            everything = {**os.environ, **(environment or {})}
            process: subprocess.Popen[bytes]
            if Lan.nursery is not None and log is not None and is_agent(argv):
                process = Lan.nursery.start(self.namespace(host), argv, everything, output.fileno())
                self._processes.append(process)
                return process
            process = subprocess.Popen(
                self._inside(host, argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=everything,
            )
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """The calling thread is in the host's network namespace: sockets opened here stay there."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{self.namespace(host)}").open() as away:
            rtnetlink.enter(away.fileno())
            try:
                yield
            finally:
                rtnetlink.enter(home.fileno())

    def socket(self, host: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives in the host, used from here; closed by ``close()``."""
        with self.inside(host):
            opened = socket.socket(family, kind, protocol)
        self._sockets.append(opened)
        return opened

    def sniff(self, host: str) -> Sniffer:
        """Frames on the host's ``eth0``, both directions; ``host`` may be a SWITCH port's owner."""
        packet_socket = self.socket(host, socket.AF_PACKET, socket.SOCK_RAW, 0)
        packet_socket.bind(("eth0", EVERY_PROTOCOL))
        return Sniffer(packet_socket)

    def addresses(self, host: str, interface: str = "eth0") -> list[str]:
        """Addresses on the interface, with prefix length, without the IPv6 link-local one."""
        with self._asking:
            if host not in self._links:
                with self.inside(host):
                    self._links[host] = rtnetlink.open_socket()
            found = rtnetlink.addresses(self._links[host], interface)
        return [address for address in found if not address.startswith("fe80:")]

    def get(self, host: str, url: str) -> str:
        """What an HTTP server answers to the host within 2 s, whatever the status; empty when nobody does."""
        place, _, path = url.removeprefix("http://").partition("/")
        address, _, port = place.partition(":")
        with self.inside(host):
            connection = http.client.HTTPConnection(address, int(port or 80), timeout=2.0)
            with contextlib.suppress(OSError):
                connection.connect()
        if connection.sock is None:
            return ""
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", f"/{path}", headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        return ""

    def mac(self, host: str, interface: str = "eth0") -> str:
        """Hardware address of the host's interface."""
        with self.inside(host):
            return rtnetlink.mac(interface)

    def cut(self, host: str, direction: Direction = "both") -> None:
        """Frames ``from`` the host, ``to`` it, or both are lost in silence; the link stays up."""
        if direction != "to":
            self._drop(f"from_{host}", "ingress", host)
        if direction != "from":
            self._drop(f"to_{host}", "egress", host)

    def heal(self, host: str) -> None:
        """Undo ``cut`` and ``unplug``."""
        chains = [chain for chain in (f"from_{host}", f"to_{host}") if chain in self._cuts]
        if chains:  # both directions at the same moment
            self.run(SWITCH, ["nft", "; ".join(f"delete chain netdev cuts {chain}" for chain in chains)])
            self._cuts.difference_update(chains)
        self.run(SWITCH, ["ip", "link", "set", "dev", host, "up"])

    def unplug(self, host: str) -> None:
        """The host's port goes down; the host sees its carrier go."""
        self.run(SWITCH, ["ip", "link", "set", "dev", host, "down"])

    def close(self) -> None:
        """Kill what still runs, delete every namespace. May be called twice."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for opened in (*self._sockets, *self._links.values()):
            opened.close()
        for name in (*self._hosts, SWITCH):
            rtnetlink.delete_namespace(self.namespace(name))
        self._hosts.clear()

    def _drop(self, chain: str, hook: str, host: str) -> None:
        self.run(SWITCH, ["nft", f"add table netdev cuts; add chain netdev cuts {chain} {DROP_CHAIN % (hook, host)}"])
        self._cuts.add(chain)

    def _add_namespace(self, host: str) -> None:
        if rtnetlink.can_name():
            rtnetlink.add_namespace(self.namespace(host))
        else:
            self._command("ip", "netns", "add", self.namespace(host))

    def _inside(self, host: str, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace(host), *argv]

    def _command(self, *argv: str, check: bool = True, timeout: float = 30.0, where: str = "") -> str:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise CommandFailed(f"{where}{' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout
