"""Nodes with pods on a Lan: each node has a bridge ``cni0``, each pod a namespace of its own behind it.

Pod network 10.244.K.0/24 on node K, routed between the nodes as a CNI without an overlay does.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.loops import Guarded
from lvsagent.core.diff import Owned, claim, diff
from lvsagent.core.loops import LoopGuard, Senders, Standing, begun, loop_guard, ours
from lvsagent.core.loops import guarded as may_be_whole
from lvsagent.core.plan import NodePlan, filled, plan
from lvsagent.core.state import KernelState
from lvsagent.vrrp import arp, ndp
from lvsapi.model import IPAddress, Resolved
from tests.net.lan import Lan

POD_PORT = 8080
SERVER = """
import resource, selectors, socket, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
name, ready = sys.argv[1], selectors.DefaultSelector()
listener = socket.create_server(("", int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
ready.register(listener, selectors.EVENT_READ, None)
print("listening", flush=True)
while True:
    for key, _ in ready.select():
        if key.data is None:
            connection, peer = listener.accept()
            ready.register(connection, selectors.EVENT_READ, peer[0].removeprefix("::ffff:"))
            continue
        try:
            line = key.fileobj.recv(4096).decode()
            if line:
                key.fileobj.sendall(f"{name} {key.data} {line}".encode())
        except OSError:
            line = ""
        if not line:
            ready.unregister(key.fileobj)
            key.fileobj.close()
"""


class Connection:
    """A held TCP connection of the client to the VIP."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._stream = opened.makefile("rwb")
        self.pod, self.seen_client = self.ask()

    def ask(self) -> tuple[str, str]:
        """(pod that answers, client address that it sees). Raises OSError when nobody does."""
        self._stream.write(b"hello\n")
        self._stream.flush()
        line = self._stream.readline().decode().split()
        if len(line) != 3:
            raise ConnectionError(f"half an answer: {line}")
        return line[0], line[1]

    def speak(self) -> None:
        """Nobody is waited for."""
        self._socket.sendall(b"hello\n")

    def ends(self, seconds: float) -> bool:
        """Whether it is reset within that time."""
        self._socket.settimeout(seconds)
        try:
            return not self._socket.recv(1)
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def lives(self) -> bool:
        """Whether the same pod still answers."""
        try:
            return self.ask()[0] == self.pod
        except OSError:
            return False


def virtual(resolved: Resolved) -> set[IPAddress]:
    """Addresses that are nobody's own, also while the election holds them."""
    return {server.address for server in resolved.servers}


class PodLan:
    """Nodes n1, n2, … with pods p1, p2, … (pod K on node K), a client, and the real plan and kernel code on each."""

    def __init__(self, lan: Lan, nodes: int) -> None:
        self.lan = lan
        self.nodes = [f"n{k}" for k in range(1, nodes + 1)]
        self.owned = {node: Owned() for node in self.nodes}
        lan.add_host("client", "10.0.0.100/24")
        for k, node in enumerate(self.nodes, 1):
            lan.add_host(node, f"10.0.0.{20 + k}/24")
            self._bridge(node, k)
        for k, node in enumerate(self.nodes, 1):
            for other in range(1, nodes + 1):
                if other != k:
                    lan.run(node, ["ip", "route", "add", f"10.244.{other}.0/24", "via", f"10.0.0.{20 + other}"])

    def _bridge(self, node: str, k: int) -> None:
        lan, pod = self.lan, f"p{k}"
        # A pod is a host of the LAN whose cable is moved from the switch to the node's bridge.
        lan.add_host(pod)
        lan.run(node, ["ip", "link", "add", "cni0", "type", "bridge"])
        lan.run(node, ["ip", "address", "add", f"10.244.{k}.1/24", "dev", "cni0"])
        lan.run("switch", ["ip", "link", "set", "dev", pod, "nomaster", "netns", lan.namespace(node)])
        lan.run(node, ["ip", "link", "set", "dev", pod, "master", "cni0", "up"])
        lan.run(node, ["ip", "link", "set", "dev", "cni0", "up"])
        lan.run(pod, ["ip", "address", "add", f"10.244.{k}.11/24", "dev", "eth0"])
        lan.run(pod, ["ip", "route", "add", "default", "via", f"10.244.{k}.1"])

    def beat_once(self) -> None:
        """As heartbeats do: the nodes are neighbours."""
        for node in self.nodes:
            with self.lan.inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                for k, _ in enumerate(self.nodes, 1):
                    one.sendto(b"", (f"10.0.0.{20 + k}", 9))

    def serve(self, folder: Path) -> None:
        """Start the pods' servers and wait until they listen."""
        logs = []
        for k, _ in enumerate(self.nodes, 1):
            log = folder / f"p{k}.log"
            self.lan.popen(f"p{k}", [sys.executable, "-I", "-S", "-c", SERVER, f"p{k}", str(POD_PORT)], log=log)
            logs.append(log)
        for log in logs:
            await_listening(log)

    @contextmanager
    def kernel(self, node: str) -> Iterator[Kernel]:
        """The node's kernel; this thread is in the node while it lasts."""
        with self.lan.inside(node), Kernel(node=node, proc_sys=Path("/proc/sys")) as kernel:
            yield kernel

    def guard_loops(self, node: str, what: Resolved) -> Guarded:
        """What other nodes send on, as ``runtime.guard`` does it after a pass."""
        with self.kernel(node) as kernel:
            wish, there, _ = self._guard(kernel, plan(what, kernel.facts(virtual(what)), frozenset()))
            return kernel.guard_loops(wish, there)

    def _guard(self, kernel: Kernel, wanted: NodePlan) -> tuple[LoopGuard, Standing, frozenset[IPAddress]]:
        there = ours(kernel.read().services.values())
        facts = kernel.facts({key.address for key in (*wanted.state.services, *wanted.whole)})
        own = frozenset(a.ip for interface in facts.interfaces for a in interface.addresses)
        peers = frozenset(ip_address(f"10.0.0.{20 + k}") for k, _ in enumerate(self.nodes, 1)) - own
        tables = {**wanted.state.services, **wanted.whole}
        return loop_guard(tables, own, peers, there.keys(), wanted.whole.keys()), there, own

    def program(
        self, node: str, resolved: Resolved, active: frozenset[str] = frozenset(), *, guarded: bool = False
    ) -> KernelState:
        """One pass of the agent: plan, diff, apply, read back. Asserts that a second pass has nothing to do.
        ``guarded``: with what it does before and after about that which other nodes send on."""
        with self.kernel(node) as kernel:
            have = kernel.read()
            wanted = plan(resolved, kernel.facts(virtual(resolved)), active, tables=have.services)
            if guarded:
                wish, there, own = self._guard(kernel, wanted)
                done = kernel.guard_loops(begun(wish, there, None), there)
                assert done.errors == ()
                wanted = filled(wanted, may_be_whole(wish, done.there, wanted.whole.values(), own, Senders.TOLD))
            want = wanted.state
            difference = diff(want, have, self.owned[node])
            self.owned[node] = claim(want, have, self.owned[node])
            assert not difference.conflicts
            assert kernel.apply(difference.ops) == ()
            after = kernel.read()
            assert diff(want, after, self.owned[node]).ops == ()
        if guarded:
            assert self.guard_loops(node, resolved).errors == ()
        return after

    def connect(self, address: str, port: int, timeout: float = 3.0) -> Connection:
        """A new connection from the client."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = self.lan.socket("client", family, socket.SOCK_STREAM)
        opened.settimeout(timeout)
        opened.connect((address, port))
        return Connection(opened)

    def hold(self, node: str, address: str, lifetime: int = 250) -> None:
        """What the election does: the VIP on the uplink, fenced (lifetime in seconds), and an announcement."""
        lasting = ["valid_lft", str(lifetime), "preferred_lft", str(lifetime), "noprefixroute"]
        more = ["nodad"] if ":" in address else []
        self.lan.run(node, ["ip", "address", "add", as_host(address), "dev", "eth0", *lasting, *more])
        self.announce(node, address)

    def announce(self, node: str, address: str) -> None:
        """A gratuitous ARP request, or an unsolicited neighbour advertisement."""
        mac = bytes.fromhex(self.lan.mac(node).replace(":", ""))
        if ":" in address:
            frame = ndp.announcement(socket.inet_pton(socket.AF_INET6, address), mac, forwards=True)
        else:
            frame = arp.announcement(socket.inet_aton(address), mac)
        with self.lan.inside(node), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
            packet.bind(("eth0", 0))
            packet.send(frame)

    def release(self, node: str, address: str) -> None:
        """The VIP leaves the uplink."""
        self.lan.run(node, ["ip", "address", "del", as_host(address), "dev", "eth0"])


def as_host(address: str) -> str:
    """With its prefix length."""
    return f"{address}/{128 if ':' in address else 32}"


def await_listening(log: Path) -> None:
    """Until the server whose log that is says that it listens."""
    end = time.monotonic() + 20.0
    while "listening" not in log.read_text():
        assert time.monotonic() < end, f"{log.stem} does not listen: {log.read_text()}"
        time.sleep(0.02)


def own_namespace() -> int:
    """Inode of this thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino
