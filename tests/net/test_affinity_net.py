"""Connections whose place in the table has changed, kept over a takeover: on real kernels, with the real parts."""

import asyncio
import contextlib
import itertools
import resource
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.core import claims
from lvsagent.core.agent import About
from lvsagent.core.diff import Owned
from lvsagent.core.hold import Hold
from lvsagent.core.liveness import Overlay, Suspects
from lvsagent.core.plan import plan
from lvsagent.election.keys import Keys
from lvsagent.ipc import PeerNode
from lvsagent.runtime.affinity import Affinity
from lvsagent.runtime.view import View
from lvsapi.model import Resolved
from tests.net.faults import FULL
from tests.net.lan import Lan
from tests.net.pods import PodLan, as_host, virtual
from tests.net.test_data_path_net import PORT, VIP, resolved
from tests.net.test_dual_stack_net import CLIENTS, VIPS, DualLan

pytestmark = pytest.mark.net
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
HELD = 1000
MANY = 10_000 if FULL else 1_500
FRESH = {4: itertools.count(12000), 6: itertools.count(12000)}
"""Ports of the client: one that was used a minute ago finds what is left of its connection, where tables differ too."""


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> None:
    most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 2 * MANY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# -- over a takeover -------------------------------------------------------------------------------------------------


class Held:
    """Connections of the client, asked all at once."""

    def __init__(self, pods: PodLan, count: int, ports: Iterable[int] | None = None, *, vip: str = VIP) -> None:
        self._sockets: list[socket.socket] = []
        family = 6 if ":" in vip else 4
        for port in itertools.islice(FRESH[family] if ports is None else ports, count):
            opened = pods.lan.socket("client", FAMILIES[family], socket.SOCK_STREAM)
            opened.settimeout(5)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((CLIENTS[family], port))
            opened.connect((vip, PORT))
            opened.setblocking(False)
            self._sockets.append(opened)
        self.pods = self._ask()
        assert None not in self.pods

    def _ask(self) -> list[str | None]:
        """The pod that answers on each; None: nobody does."""
        waiting = select.epoll()
        answers: dict[int, str | None] = {}
        for opened in self._sockets:
            with contextlib.suppress(OSError):
                opened.send(b"hello\n")
                waiting.register(opened, select.EPOLLIN)
        by_number = {opened.fileno(): opened for opened in self._sockets}
        last = time.monotonic()
        while len(answers) < len(by_number) and time.monotonic() - last < 2:
            for number, _ in waiting.poll(0.1):
                last = time.monotonic()
                waiting.unregister(number)
                with contextlib.suppress(OSError):
                    answers[number] = by_number[number].recv(100).decode().partition(" ")[0] or None
        waiting.close()
        return [answers.get(opened.fileno()) for opened in self._sockets]

    def lost(self) -> dict[str | None, int]:
        """Connections that the same pod no longer answers on, by pod."""
        found: dict[str | None, int] = {}
        for before, now in zip(self.pods, self._ask(), strict=True):
            if before != now:
                found[before] = found.get(before, 0) + 1
        return found

    def close(self) -> None:
        for opened in self._sockets:
            opened.close()


class Agents:
    """The exchange of each node, in threads of their own."""

    def __init__(self, pods: PodLan) -> None:
        self.pods = pods
        self.views = {node: View(node=node, version="test") for node in pods.nodes}
        self.parts: dict[str, Affinity] = {}
        self._stops: list[Callable[[], object]] = []
        self._threads: list[threading.Thread] = []
        nodes = tuple(PeerNode(name=node, addresses=(f"10.0.0.2{k}",)) for k, node in enumerate(pods.nodes, 1))
        for view in self.views.values():
            view.claims.about = About(node=view.node, serving=True, nodes=nodes)

    def start(self, *names: str, keys: Path = Path("/nonexistent")) -> None:
        for node in names:
            self._threads.append(threading.Thread(target=self._run, args=(node, keys), daemon=True))
            self._threads[-1].start()

    def _run(self, node: str, keys: Path) -> None:
        async def run() -> None:
            loop, this = asyncio.get_running_loop(), asyncio.current_task()
            assert this is not None
            self._stops.append(lambda: loop.call_soon_threadsafe(this.cancel))
            part = Affinity(view=self.views[node], call=asyncio.to_thread, keys=Keys(keys, lambda *_, **__: None))
            self.parts[node] = part
            with contextlib.suppress(asyncio.CancelledError):
                await part.run()

        with self.pods.lan.inside(node):
            asyncio.run(run())

    def program(self, what: Resolved, *names: str, suspecting: str = "") -> None:
        """A pass of these nodes (of every node), and what its agent then knows."""
        laid = Overlay().over(what, Suspects(names=frozenset({suspecting} - {""})))
        for node in names or self.pods.nodes:
            self.views[node].actual = self.pods.program(node, laid)
            with self.pods.kernel(node) as kernel:
                planned = plan(laid, kernel.facts(virtual(laid)), frozenset())
            self.views[node].resolved, self.views[node].plan = what, planned

    def settle(self, done: Callable[[], bool], seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, {node: (part.counted, part.dropped) for node, part in self.parts.items()}
            time.sleep(0.05)

    def counted(self, what: str) -> int:
        return sum(part.counted[what] for part in self.parts.values())

    def close(self) -> None:
        for stop in self._stops:
            stop()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with Lan() as lan:
        pods = DualLan(lan, 3)
        pods.serve(tmp_path_factory.mktemp("pods"))
        yield pods


@pytest.fixture
def agents(cluster: PodLan) -> Iterator[Agents]:
    found = Agents(cluster)
    found.program(resolved(1, 2, 3))
    for node in cluster.nodes:
        if f"{VIP}/32" in cluster.lan.addresses(node):
            cluster.release(node, VIP)
    cluster.hold("n1", VIP)
    yield found
    found.close()


def move_around(pods: PodLan, connections: Held) -> list[dict[str | None, int]]:
    """The VIP goes to the third node, the second, and back; what was lost after each."""
    found = []
    for old, new in (("n1", "n3"), ("n3", "n2"), ("n2", "n1")):
        pods.release(old, VIP)
        pods.hold(new, VIP)
        found.append(connections.lost())
    return found


CHANGES = {
    "a backend comes": (resolved(1, 2), resolved(1, 2, 3), set[str]()),
    "one drains": (resolved(1, 2, 3), resolved(1, 2, 3, drained=3), set[str]()),
    "one goes": (resolved(1, 2, 3), resolved(1, 2), {"p3"}),
    "one goes and one comes": (resolved(1, 2), resolved(2, 3), {"p1"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_connections_outlive_a_change_of_the_set_and_every_takeover_after_it(agents: Agents, change: str) -> None:
    before, after, gone = CHANGES[change]
    agents.program(before)
    agents.start(*agents.pods.nodes)
    connections = Held(agents.pods, HELD)
    agents.program(after)
    if change != "one goes":
        agents.settle(lambda: agents.counted("written") > 0)
    time.sleep(1.5)  # the second look after a change
    lost = move_around(agents.pods, connections)
    told, written = agents.counted("told"), agents.counted("written")
    print(f"{change}: of {HELD} lost {lost}; told {told}, written {written}")
    connections.close()
    assert all(each.keys() <= gone for each in lost)
    assert sum(part.dropped.total() for part in agents.parts.values()) == 0


def test_without_the_exchange_a_change_of_the_set_costs_connections(agents: Agents) -> None:
    agents.program(resolved(1, 2))
    connections = Held(agents.pods, HELD)
    agents.program(resolved(1, 2, 3))
    lost = move_around(agents.pods, connections)
    print(f"without: of {HELD} lost {lost}")
    connections.close()
    assert sum(lost[0].values()) > HELD / 10


def test_a_node_that_comes_later_asks_and_is_told(agents: Agents) -> None:
    agents.program(resolved(1, 2))
    agents.start("n1", "n2")
    connections = Held(agents.pods, 300)
    agents.program(resolved(1, 2, 3))
    agents.settle(lambda: agents.counted("told") > 0)
    time.sleep(1.5)
    begin = time.monotonic()
    agents.start("n3")
    agents.settle(lambda: "n3" in agents.parts and agents.parts["n3"].counted["written"] > 0)
    print(f"told {time.monotonic() - begin:.2f} s after its start")
    time.sleep(0.5)
    agents.pods.release("n1", VIP)
    agents.pods.hold("n3", VIP)
    lost = connections.lost()
    connections.close()
    assert lost == {}


def move(pods: PodLan, old: str, new: str) -> None:
    """At once, though a client heeds no announcement within a second of another one."""
    pods.release(old, VIP)
    pods.hold(new, VIP)
    pods.lan.run("client", ["ip", "neigh", "del", VIP, "dev", "eth0"], check=False)


@pytest.mark.parametrize("dead", ["n1", "n3"])
def test_a_node_that_comes_back_hears_first_and_then_takes_the_address(agents: Agents, dead: str) -> None:
    """Whether it was the one whose pods had weight 0, or another is dead of which it has not heard."""
    pods, others = agents.pods, {"n2", "n3"} - {dead}
    move(pods, "n1", "n2")
    agents.start(*others)
    agents.program(resolved(1, 2, 3), *others, suspecting=dead)
    connections = Held(pods, HELD)
    hold = agents.views["n1"].hold = Hold()
    begin = time.monotonic()
    assert hold.holds(begin, others, taking_part=False)
    hold.until = begin + 30
    agents.start("n1")
    time.sleep(0.3)
    assert not hold.done or dead == "n3", "they suspect it still, and what they open now is misplaced, too"
    late = Held(pods, 100)
    if dead == "n1":
        agents.program(resolved(1, 2, 3), *others)
    agents.settle(lambda: hold.done)
    print(f"heard everything {time.monotonic() - begin:.2f} s after its tables were there")
    move(pods, "n2", "n1")
    lost = [connections.lost(), late.lost() if dead == "n1" else {}]
    written = agents.parts["n1"].counted["written"]
    print(f"of {HELD + 100} lost {lost}; {written} were told")
    connections.close()
    late.close()
    assert lost == [{}, {}]
    assert written > HELD / 10, "without it they would have been lost"


def test_nobody_without_the_key_is_believed(agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "nodes.hmac.1").write_bytes(b"k" * 32)
    agents.program(resolved(1, 2))
    agents.start("n1", "n2", keys=tmp_path)
    connections = Held(agents.pods, 300)
    agents.program(resolved(1, 2, 3))
    # from the first message that n2 proves nothing else is taken of it
    agents.settle(lambda: "n1" in agents.parts and agents.parts["n1"].counted["heard"] > 0)
    say(agents.pods, "n2", claims.ask("n2"))
    agents.settle(lambda: agents.parts["n1"].dropped["auth_missing"] == 1)
    say(agents.pods, "n2", claims.ask("n2") + bytes(28))
    agents.settle(lambda: agents.parts["n1"].dropped["stale"] == 1)
    say(agents.pods, "n3", claims.ask("n2"))
    agents.settle(lambda: agents.parts["n1"].dropped["source"] == 1)
    say(agents.pods, "n3", b"nonsense" * 4)
    agents.settle(lambda: agents.parts["n1"].dropped["magic"] == 1)
    connections.close()


def say(pods: PodLan, node: str, datagram: bytes, *to: str) -> None:
    """To n1 if not to others, from a port of its own."""
    with pods.lan.inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        for address in to or ("10.0.0.21",):
            opened.sendto(datagram, (address, claims.PORT))


# -- many ------------------------------------------------------------------------------------------------------------


def forget(pods: PodLan, node: str, vip: str) -> None:
    """As after a crash: of the node's kernel nothing is left, and its cable is back."""
    pods.lan.run(node, ["ipvsadm", "-C"])
    pods.lan.run(node, ["ip", "address", "del", as_host(vip), "dev", "lo"], check=False)
    if as_host(vip) in pods.lan.addresses(node):
        pods.release(node, vip)
    pods.owned[node] = Owned()
    pods.lan.heal(node)


def backends(family: int, *, third: bool = True, drained: bool = False) -> Resolved:
    """Of n2 one, of n3 two, or one without the ``third``; ``drained``: that of n2."""
    (server,) = resolved(2, 3).servers
    here, there = server.backends
    found = [replace(here, weight=0) if drained else here, there]
    if third:
        found.append(replace(there, address=ip_address("10.244.3.12")))
    if family == 6:
        found = [
            replace(one, address=ip_address(f"fd00:244:{str(one.address)[7:].replace('.', '::')}")) for one in found
        ]
    server = replace(server, address=ip_address(VIPS[family]), backends=tuple(found))
    return Resolved(servers=(server,), routers=(), problems=())


BEFORE_CRASH = {
    "unchanged": (4, backends(4), backends(4)),
    "unchanged, IPv6": (6, backends(6), backends(6)),
    "a backend was added before": (4, backends(4, third=False), backends(4)),
    "one drains": (4, backends(4), backends(4, drained=True)),
}


@pytest.mark.parametrize("case", BEFORE_CRASH)
def test_many_connections_outlive_crash_planned_hand_over_and_return(agents: Agents, case: str) -> None:
    """Their pods are on n2 and n3; n1 is Active, dies, and comes back with an empty kernel."""
    family, before, after = BEFORE_CRASH[case]
    pods, vip, changed = agents.pods, VIPS[family], before != after
    pods.lan.run("p3", ["ip", "address", "replace", "10.244.3.12/24", "dev", "eth0"])
    pods.lan.run("p3", ["ip", "address", "replace", "fd00:244:3::12/64", "dev", "eth0", "nodad"])
    agents.program(before)
    if family == 6:
        pods.hold("n1", vip)
    agents.start(*pods.nodes)
    connections = Held(pods, MANY, vip=vip)
    if changed:
        agents.program(after)
        agents.settle(lambda: agents.counted("written") > 0)
        time.sleep(8.5)  # the last look after a change: told once more meanwhile, n1 would have nothing to write
    lost = {}
    pods.lan.unplug("n1")
    pods.hold("n2", vip)
    lost["crash"] = connections.lost()
    forget(pods, "n1", vip)
    pods.release("n2", vip)
    pods.hold("n3", vip)
    lost["planned hand-over"] = connections.lost()
    written = agents.parts["n1"].counted["written"]
    agents.program(after)
    if changed:
        # A node that comes asks, and waits for the answer before it takes the address.
        say(pods, "n1", claims.ask("n1"), *(f"10.0.0.2{k}" for k in (2, 3)))
        agents.settle(lambda: agents.parts["n1"].counted["written"] > written)
        time.sleep(1.0)
    pods.release("n3", vip)
    pods.hold("n1", vip)
    lost["return"] = connections.lost()
    connections.close()
    if family == 6:
        pods.release("n1", vip)
    draining = Counter(connections.pods)["p2"] if case == "one drains" else 0
    print(f"of {MANY} lost, {case}: {lost}{f'; {draining} of them on the one that drains' if draining else ''}")
    total = sum((Counter(each) for each in lost.values()), Counter[str | None]())
    if draining:
        assert total.keys() <= {"p2"}
    assert total.total() <= (MANY / 1000 if changed else 0)
