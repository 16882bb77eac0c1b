"""Connections a second and throughput through a VIP: ours, plain ipvsadm, and what kube-proxy writes, in turn.

``python -m tests.bench.throughput`` (guest kernel, namespaces; some minutes). Each side has a LAN of its own in one
kernel: two nodes with a pod each and a client; the VIP is on the first node. The sides take turns every quarter of a
second. A machine that does other things, too, spoils most of these windows, so the best tenth of them is compared.

* ``ipvsadm``: the table written by ipvsadm(8), and the settings that it needs to reach pods, nothing else;
* ``ours``: the same table, and all that the agent writes beside it (loop guard, paths of clients inside);
* ``kube-proxy``: rules as kube-proxy 1.37 writes them for a Service of type LoadBalancer in nftables mode (a verdict
  map of service addresses, a chain for the service and for each endpoint, masquerading of external clients); written
  here by nft, no kube-proxy runs.

The pods listen on the VIP's own port: ipvsadm gives destinations by direct routing no other, and with another one the
nodes' tables would differ. A guest's system calls are slow: figures compare sides, not machines.
"""

import argparse
import contextlib
import itertools
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from lvsagent.adapters.clients import Clients
from lvsagent.adapters.procfs import Originals, Sysctls
from lvsagent.core.clients import client_paths
from lvsagent.core.loops import loop_guard
from lvsagent.core.plan import plan
from lvsapi.model import Resolved
from tests.net.lan import Lan
from tests.net.pods import PodLan, await_listening, virtual
from tests.net.test_data_path_net import PORT, VIP, resolved

SIDES: Final = ("ipvsadm", "ours", "kube-proxy")
WITHIN: Final = 0.05
"""Of plain ipvsadm."""
BEST: Final = 0.9
"""Quantile of the windows."""
ABREAST: Final = 32
"""Connections on their way at a time."""
CHUNK: Final = 1 << 16
STREAMS: Final = 4
SERVER: Final = """
import resource, selectors, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
ready, chunk = selectors.DefaultSelector(), bytes(1 << 16)
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=4096)
ready.register(listener, selectors.EVENT_READ, None)
print("listening", flush=True)
while True:
    for key, mask in ready.select():
        try:
            if key.data is None:
                ready.register(listener.accept()[0], selectors.EVENT_READ, 1)
            elif mask & selectors.EVENT_WRITE:
                key.fileobj.send(chunk)
            else:
                word = key.fileobj.recv(1)
                if word == b"s":
                    key.fileobj.setblocking(False)
                    ready.modify(key.fileobj, selectors.EVENT_WRITE, 2)
                elif word:
                    key.fileobj.send(word)
                else:
                    raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            ready.unregister(key.fileobj)
            key.fileobj.close()
"""
"""Answers each octet with itself; after an ``s`` it sends for ever."""
KUBE_PROXY: Final = """
table ip kube-proxy {
  set cluster-ips { type ipv4_addr; }
  map service-ips {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = { %(vip)s . tcp . %(port)d : goto external-web }
  }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain filter-input { type filter hook input priority -110; ct state new jump check; }
  chain filter-forward { type filter hook forward priority -110; ct state new jump check; }
  chain filter-output { type filter hook output priority -110; ct state new jump check; }
  chain check { return; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
  chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set meta mark ^ 0x4000
    masquerade fully-random
  }
  chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
  chain external-web { jump mark-for-masquerade; goto service-web; }
  chain service-web { numgen random mod 2 vmap { 0 : goto endpoint-1, 1 : goto endpoint-2 }; }
  chain endpoint-1 { meta l4proto tcp dnat to 10.244.1.11:%(port)d; }
  chain endpoint-2 { meta l4proto tcp dnat to 10.244.2.11:%(port)d; }
}
"""
(_SERVER,) = resolved(1, 2).servers
_BACKENDS: Final = tuple(replace(backend, port=PORT) for backend in _SERVER.backends)
TABLE: Final = Resolved(servers=(replace(_SERVER, backends=_BACKENDS),), routers=(), problems=())


class Place:
    """A LAN with the tables of one side."""

    def __init__(self, lan: Lan, folder: Path, side: str) -> None:
        folder.mkdir()
        self.lan, self.folder, self.side = lan, folder, side
        self.pods = PodLan(lan, 2)
        for pod in ("p1", "p2"):
            log = folder / f"{pod}.log"
            lan.popen(pod, [sys.executable, "-I", "-S", "-c", SERVER, str(PORT)], log=log)
            await_listening(log)
        for node, other in (("n1", "10.0.0.22"), ("n2", "10.0.0.21")):
            with lan.inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"", (other, 9))
        for node in self.pods.nodes:
            if side == "ours":
                self._ours(node, TABLE)
            elif side == "ipvsadm":
                self._ipvsadm(node)
            elif node == "n1":
                rules = folder / "kube-proxy.nft"
                rules.write_text(KUBE_PROXY % {"vip": VIP, "port": PORT})
                lan.run(node, ["nft", "-f", str(rules)])
        self.pods.hold("n1", VIP)
        # A port that was used before meets what kernels remember of it: there are enough of them.
        addresses = [f"10.0.0.{number}" for number in range(101, 200)]
        for address in addresses:
            lan.run("client", ["ip", "address", "add", f"{address}/24", "dev", "eth0"])
        self._clients = itertools.cycle(addresses)
        self._client = next(self._clients)

    def turn(self) -> None:
        """The next window begins."""
        self._client = next(self._clients)

    def _ours(self, node: str, what: Resolved) -> None:
        self.pods.program(node, what)
        with self.pods.kernel(node) as kernel:
            facts, state = kernel.facts(virtual(what)), kernel.read()
            tables = plan(what, facts, frozenset()).state.services
            own = {a.ip for interface in facts.interfaces for a in interface.addresses}
            peers = frozenset(ip_address(f"10.0.0.2{k}") for k in (1, 2)) - own
            kernel.guard_loops(loop_guard(tables, own, peers, ()), {k: s for k, s in state.services.items() if k.mark})
            clients = Clients(Sysctls(Path("/proc/sys")), Originals(self.folder / node))
            clients.make(client_paths(state.loopback if what.servers else (), what, facts, ()))
            clients.close()

    def _ipvsadm(self, node: str) -> None:
        here, run = int(node[1]), self.lan.run
        settings = ("sloppy_tcp=1", "conntrack=1", "expire_nodest_conn=1")
        run(node, ["sysctl", "-qw", *(f"net.ipv4.vs.{one}" for one in settings)])
        run(node, ["ip", "address", "replace", f"{VIP}/32", "dev", "lo"])
        run(node, ["ipvsadm", "-A", "-t", f"{VIP}:{PORT}", "-s", "mh", "-b", "mh-fallback,mh-port"])
        for k in (1, 2):
            run(
                node,
                ["ipvsadm", "-a", "-t", f"{VIP}:{PORT}", "-r", f"10.244.{k}.11:{PORT}", "-m" if k == here else "-g"],
            )

    def connections(self, seconds: float) -> float:
        """Connections a second: open, one octet there and back, close; ABREAST at a time."""
        done, busy = 0, {}
        with self.lan.inside("client"), select.epoll() as ready:

            def begin() -> None:
                opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                opened.setblocking(False)
                opened.bind((self._client, 0))
                opened.connect_ex((VIP, PORT))
                busy[opened.fileno()] = opened
                ready.register(opened, select.EPOLLOUT)

            for _ in range(ABREAST):
                begin()
            start = time.monotonic()
            while time.monotonic() < start + seconds:
                for number, events in ready.poll(1.0):
                    if events & select.EPOLLIN:
                        if busy[number].recv(1) != b"x":
                            raise ConnectionError(f"{VIP}: half an answer")
                        ready.unregister(number)
                        busy.pop(number).close()
                        done += 1
                        begin()
                    elif events & select.EPOLLOUT:
                        busy[number].send(b"x")
                        ready.modify(number, select.EPOLLIN)
                    else:
                        raise ConnectionError(f"{VIP}: {busy[number].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)}")
            elapsed = time.monotonic() - start
        for opened in busy.values():
            opened.close()
        return done / elapsed

    def megabits(self, seconds: float) -> float:
        """Mbit/s from the pods to the client over STREAMS connections."""
        with self.lan.inside("client"):
            source = (self._client, 0)
            streams = [socket.create_connection((VIP, PORT), 10.0, source) for _ in range(STREAMS)]
        for stream in streams:
            stream.sendall(b"s")
        start, octets = time.monotonic(), 0
        while time.monotonic() < start + seconds:
            for stream in select.select(streams, [], [], 5.0)[0]:
                octets += len(stream.recv(CHUNK))
        elapsed = time.monotonic() - start
        for stream in streams:
            stream.close()
        return octets * 8 / elapsed / 1e6


def compare(places: Sequence[Place], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Figure -> side -> one number for each window."""
    figures: dict[str, Callable[[Place, float], float]] = {
        "connections/s": Place.connections,
        "Mbit/s": Place.megabits,
    }
    found: dict[str, dict[str, list[float]]] = {name: {side: [] for side in SIDES} for name in figures}
    for name, measure in figures.items():
        for place in places:
            measure(place, seconds)  # neighbours, caches
        for number in range(rounds):
            for place in (*places[number % 3 :], *places[: number % 3]):
                place.turn()
                found[name][place.side].append(measure(place, seconds))
    return found


def best(windows: list[float]) -> float:
    """What the best tenth reaches."""
    return sorted(windows)[int(BEST * (len(windows) - 1))]


def report(found: dict[str, dict[str, list[float]]]) -> tuple[str, bool]:
    """The table, and whether ours is within WITHIN of plain ipvsadm."""
    lines = [
        "| best tenth of the windows | ipvsadm | ours | kube-proxy (nftables) | ours : ipvsadm | ours : kube-proxy |"
    ]
    lines.append("|---|---|---|---|---|---|")
    held = True
    for name, sides in found.items():
        plain, ours, proxy = (best(sides[side]) for side in SIDES)
        held = held and ours >= (1 - WITHIN) * plain
        middles = " / ".join(f"{statistics.median(sides[side]):.0f}" for side in SIDES)
        lines.append(f"| {name} | {plain:.0f} | {ours:.0f} | {proxy:.0f} | {ours / plain:.3f} | {ours / proxy:.2f} |")
        lines.append(f"| (medians: {middles}, of {len(sides['ours'])} windows each) | | | | | |")
    return "\n".join(lines), held


def main() -> int:
    """Exit status 1: ours was more than WITHIN slower than plain ipvsadm."""
    parser = argparse.ArgumentParser(prog="throughput", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=0.25, help="of each window (default %(default)s)")
    options = parser.parse_args()
    if not Path("/proc/net/ip_vs").exists():
        from tests.rig import guest
        from tests.rig.build_kernel import kernel

        command = [sys.executable, "-m", "tests.bench.throughput", *sys.argv[1:]]
        return guest.run(kernel() / "linux", command, memory="2G", timeout=3600.0)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    subprocess.run(["sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1"], check=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        places = [Place(stack.enter_context(Lan()), Path(folder) / side, side) for side in SIDES]
        text, held = report(compare(places, options.rounds, options.seconds))
    print(text)
    print(
        f"ours is within {WITHIN:.0%} of plain ipvsadm"
        if held
        else f"missed: more than {WITHIN:.0%} below plain ipvsadm"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
