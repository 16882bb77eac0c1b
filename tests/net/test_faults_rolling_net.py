"""A rolling update of twenty pods on three nodes under load, with agents that watch an API server."""

import asyncio
import resource
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.api import FakeApi, fake_api
from tests.gen import raw_endpoint_slice, raw_node, raw_service, raw_virtual_service
from tests.net.faults import scaled
from tests.net.lan import Lan
from tests.net.pods import POD_PORT, PodLan, await_listening
from tests.net.test_agent_api_net import NODES, SERVICES, SLICES, VIRTUAL_SERVICES

pytestmark = pytest.mark.net

VIP, PORT = "10.0.0.200", 80
API = "10.0.0.250"
REPLICAS = 20
DRAIN = 1.5
"""Seconds between the announcement that a pod terminates and its end."""
PATIENCE = 5.0
"""Seconds for a new connection."""
GO, DRAINING = (
    {"ready": True, "serving": True, "terminating": False},
    {"ready": False, "serving": True, "terminating": True},
)
NAMING = """
import resource, selectors, socket, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
ready = selectors.DefaultSelector()
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=4096)
ready.register(listener, selectors.EVENT_READ, None)
print("listening", flush=True)
while True:
    for key, _ in ready.select():
        if key.data is None:
            connection, _ = listener.accept()
            ready.register(connection, selectors.EVENT_READ, connection.getsockname()[0])
            continue
        try:
            line = key.fileobj.recv(4096)
            if line:
                key.fileobj.sendall(f"{key.data}\\n".encode())
        except OSError:
            line = b""
        if not line:
            ready.unregister(key.fileobj)
            key.fileobj.close()
"""
"""A server that answers with the address of the pod."""


class Update:
    """Three nodes with agents, the pods of a Deployment as addresses, an API server on the LAN."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.folder = folder
        self.pods = PodLan(lan, 3)
        self.lan = lan
        lan.add_host("api", f"{API}/24")
        self.endpoints: dict[str, tuple[str, dict[str, bool]]] = {}
        for k, node in enumerate(self.pods.nodes, 1):
            lan.popen(f"p{k}", [sys.executable, "-I", "-S", "-c", NAMING, str(POD_PORT)], log=folder / f"p{k}.log")
            await_listening(folder / f"p{k}.log")
            lan.run(node, ["sysctl", "-qw", "net.ipv4.conf.all.accept_local=1"])
        ready: Future[FakeApi] = Future()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        self.api = ready.result(20)
        directors = [{"node": node, "priority": 200 - 50 * k} for k, node in enumerate(self.pods.nodes)]
        status = {"virtualRouterID": 200, "directors": directors}
        for path, item in (
            *((NODES, raw_node(node, f"10.0.0.2{k}")) for k, node in enumerate(self.pods.nodes, 1)),
            (SERVICES, raw_service("web")),
            (VIRTUAL_SERVICES, raw_virtual_service("web", addresses=[VIP], status=status)),
        ):
            self.act(lambda p=path, i=item: self.api.put(p, i))  # type: ignore[misc]
        config = {
            "clusters": [{"name": "c", "cluster": {"server": self.api.url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
            "current-context": "c",
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))

    def _serve(self, ready: Future[FakeApi]) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            async with fake_api(host=API) as api:
                ready.set_result(api)
                await self._stop.wait()

        with self.lan.inside("api"):
            asyncio.run(run())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def act(self, work: Callable[[], Any]) -> None:
        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def start(self) -> None:
        for node in self.pods.nodes:
            folders = ["--run-dir", f"{self.folder}/{node}/run", "--state-dir", f"{self.folder}/{node}/state"]
            log, quiet = self.folder / f"{node}.log", {"PYTHONDONTWRITEBYTECODE": "1"}
            self.lan.popen(node, [sys.executable, "-m", "lvsagent.election", *folders], environment=quiet, log=log)
            command = [sys.executable, "-m", "lvsagent.cli", "--node-name", node, *folders, "--metrics-address", ""]
            command += ["--kubeconfig", str(self.folder / "kubeconfig")]
            self.lan.popen(node, command, environment=quiet, log=log)

    # -- pods --------------------------------------------------------------------------------------------------------

    @staticmethod
    def address(number: int) -> str:
        return f"10.244.{1 + number % 3}.{20 + number}"

    def add(self, number: int) -> None:
        """A pod is ready."""
        k = 1 + number % 3
        self.lan.run(f"p{k}", ["ip", "address", "add", f"{self.address(number)}/24", "dev", "eth0"])
        self.endpoints[self.address(number)] = (f"n{k}", GO)

    def drain(self, number: int) -> None:
        address = self.address(number)
        self.endpoints[address] = (self.endpoints[address][0], DRAINING)

    def end(self, number: int) -> None:
        """It is gone from the slices; the kubelet takes its network afterwards."""
        del self.endpoints[self.address(number)]

    def publish(self) -> None:
        item = raw_endpoint_slice(())
        item["endpoints"] = [
            {"addresses": [address], "nodeName": node, "conditions": dict(state)}
            for address, (node, state) in sorted(self.endpoints.items())
        ]
        self.act(lambda: self.api.put(SLICES, item))

    def table(self, node: str) -> dict[str, int]:
        """Weights of the ordinary service."""
        found, named = {}, False
        for line in self.lan.run(node, ["ipvsadm", "-Ln"]).splitlines():
            words = line.split()
            named = words[0] == "TCP" if words[0] != "->" else named
            if named and words[0] == "->":
                found[words[1].partition(":")[0]] = int(words[3])
        return found

    def tell(self, port: int) -> None:
        """What the nodes know of a client's port, for whoever has to find out why it was cut."""
        for node in self.pods.nodes:
            entry = self.lan.run(node, ["grep", "-i", f" {port:04X} ", "/proc/net/ip_vs_conn"], check=False)
            print(f"--- {node}\n{entry}{self.lan.run(node, ['ipvsadm', '-Ln'])}")
            print((self.folder / f"{node}.log").read_text()[-4000:])

    def settled(self, seconds: float = 30.0) -> None:
        """Every node has what the slices say."""
        wanted = {address: int(state["ready"]) for address, (_, state) in self.endpoints.items()}
        end = time.monotonic() + seconds
        while any(self.table(node) != wanted for node in self.pods.nodes):
            assert time.monotonic() < end, (wanted, [self.table(node) for node in self.pods.nodes])
            time.sleep(0.1)


class Client(threading.Thread):
    """New connections at a pace, each asked once. By epoll: in a guest every call is dear."""

    def __init__(self, update: Update, pace: float) -> None:
        super().__init__(daemon=True)
        self._lan, self._pace = update.lan, pace
        self._end = threading.Event()
        self._busy: dict[int, tuple[socket.socket, float]] = {}
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.rate = 0.0
        """As reached."""

    def run(self) -> None:
        with self._lan.inside("client"), select.epoll() as ready:
            start, number, look = time.monotonic(), 0, 0.0
            while not self._end.is_set() or self._busy:
                now = time.monotonic()
                while not self._end.is_set() and number < (now - start) * self._pace:
                    number += 1
                    self._begin(ready)
                for descriptor, events in ready.poll(0.002):
                    self._turn(ready, descriptor, events)
                if now >= look:
                    look = now + 0.1
                    for opened, begin in tuple(self._busy.values()):
                        if now - begin >= PATIENCE:
                            self._over(opened.fileno(), "TimeoutError")
                if not self._end.is_set():
                    self.rate = number / (time.monotonic() - start)

    def _begin(self, ready: select.epoll) -> None:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._busy[opened.fileno()] = opened, time.monotonic()
        opened.connect_ex((VIP, PORT))
        ready.register(opened.fileno(), select.EPOLLOUT)

    def _turn(self, ready: select.epoll, descriptor: int, events: int) -> None:
        opened, _ = self._busy[descriptor]
        try:
            if events & select.EPOLLOUT and not events & select.EPOLLERR:
                opened.send(b"x\n")
                ready.modify(descriptor, select.EPOLLIN)
            else:
                self._over(descriptor, "answered" if opened.recv(64) else "closed")
        except OSError as error:
            self._over(descriptor, f"{type(error).__name__} {error.errno}")

    def _over(self, descriptor: int, word: str) -> None:
        opened, begin = self._busy.pop(descriptor)
        opened.close()
        self.outcomes[word] += 1
        self.slowest = max(self.slowest, time.monotonic() - begin)

    def stop(self) -> None:
        self._end.set()
        self.join(30)


class Held:
    """A connection that is asked again."""

    def __init__(self, lan: Lan) -> None:
        opened = lan.socket("client", socket.AF_INET, socket.SOCK_STREAM)
        opened.settimeout(5.0)
        opened.connect((VIP, PORT))
        self.error, self.port = "", opened.getsockname()[1]
        self._stream = opened.makefile("rwb")
        self.pod = self._ask()

    def _ask(self) -> str:
        self._stream.write(b"x\n")
        self._stream.flush()
        return self._stream.readline().decode().strip()

    def lives(self) -> bool:
        try:
            return self._ask() == self.pod
        except OSError as error:
            self.error = repr(error)
            return False


@pytest.fixture
def update(tmp_path: Path) -> Iterator[Update]:
    most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Lan() as lan:
        made = Update(lan, tmp_path)
        try:
            yield made
        finally:
            made.close()


def test_fault_49_a_rolling_update_fails_no_connection_and_cuts_none_before_its_pod_ends(update: Update) -> None:
    for number in range(REPLICAS):
        update.add(number)
    update.publish()
    update.start()
    update.settled(60.0)
    end = time.monotonic() + 30.0
    while f"{VIP}/32" not in update.lan.addresses("n1"):
        assert time.monotonic() < end
        time.sleep(0.1)
    held = [Held(update.lan) for _ in range(60)]
    assert len({connection.pod for connection in held}) > REPLICAS / 2
    client = Client(update, scaled(100.0, 500.0))
    client.start()
    cut = []
    waiting: list[tuple[float, int]] = []
    for number in range(REPLICAS + 1):
        if number < REPLICAS:
            update.add(REPLICAS + number)
            update.publish()
            time.sleep(0.1)
            update.drain(number)
            update.publish()
            waiting.append((time.monotonic() + DRAIN, number))
        while waiting and (waiting[0][0] <= time.monotonic() or number == REPLICAS):
            due, old = waiting.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            mine = [connection for connection in held if connection.pod == update.address(old)]
            dead = [connection for connection in mine if not connection.lives()]
            cut += [f"{connection.pod}: {connection.error}" for connection in dead]
            if dead:
                update.tell(dead[0].port)
            update.end(old)
            update.publish()
        time.sleep(0.2)
    update.settled()
    client.stop()
    print(
        f"new connections: {dict(client.outcomes)}, {client.rate:.0f}/s, slowest {client.slowest:.2f} s;"
        f" cut before their pod ended: {cut}"
    )
    assert set(client.outcomes) == {"answered"}
    assert cut == []
