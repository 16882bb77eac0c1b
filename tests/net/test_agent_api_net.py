"""The whole agent on a kernel with ip_vs, its objects in an API server that is stopped, emptied and slow."""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.fakes.api import FakeApi, fake_api, status
from tests.gen import raw_endpoint_slice, raw_node, raw_service, raw_virtual_service
from tests.net.lan import Lan

pytestmark = pytest.mark.net

T = TypeVar("T")
VIP = "10.0.0.100"
VIRTUAL_SERVICES = "/apis/lvsdr.io/v1alpha1/lvsvirtualservices"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
SERVICES = "/api/v1/services"
NODES = "/api/v1/nodes"
STATUS = {"virtualRouterID": 200, "directors": [{"node": "d1", "priority": 200}]}


class Cluster:
    """A fake API server inside the node's namespace, and the agent with its election."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        lan.add_host("d1", "10.0.0.1/24")
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        ready: Future[FakeApi] = Future()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        self.api = ready.result(20)
        config = {
            "clusters": [{"name": "c", "cluster": {"server": self.api.url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
            "current-context": "c",
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        self.act(lambda: self.api.put(NODES, raw_node("d1", "10.0.0.1")))
        self.act(lambda: self.api.put(SERVICES, raw_service("web")))
        self.act(lambda: self.endpoints("10.244.1.2", "10.244.1.3"))
        raw = raw_virtual_service("web", addresses=[VIP], status=STATUS)
        self.act(lambda: self.api.put(VIRTUAL_SERVICES, raw))
        options = ["--run-dir", str(folder / "run"), "--state-dir", str(folder / "state")]
        self.lan.popen("d1", [sys.executable, "-m", "lvsagent.election", *options], log=folder / "election.log")
        self.options = [*options, "--kubeconfig", str(folder / "kubeconfig"), "--metrics-address", "127.0.0.1:9479"]
        self.agent = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "lvsagent.cli", "--node-name", "d1", *self.options]
        return self.lan.popen(
            "d1", command, environment={"PYTHONDONTWRITEBYTECODE": "1"}, log=self.folder / "agent.log"
        )

    def _serve(self, ready: Future[FakeApi]) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            async with fake_api() as api:
                ready.set_result(api)
                await self._stop.wait()

        with self.lan.inside("d1"):
            asyncio.run(run())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def act(self, work: Callable[[], T]) -> T:
        """On the thread of the API server."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def endpoints(self, *addresses: str, service: str = "web") -> None:
        self.api.put(SLICES, raw_endpoint_slice(addresses, node="elsewhere", service=service))

    def fault(self, code: int | None) -> None:
        def answer(_: Any, __: bool) -> Any:
            return status(code) if code else None

        self.api.fault = answer if code else None
        for path in (VIRTUAL_SERVICES, SLICES, SERVICES, NODES):
            self.api.gone(path)

    def table(self) -> str:
        return self.lan.run("d1", ["ipvsadm", "-Sn"])

    def until(self, what: str, holds: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"{what}\n{(self.folder / 'agent.log').read_text()}"
            time.sleep(0.02)

    def serving(self) -> None:
        self.until("the VIP is held", lambda: f"{VIP}/32" in self.lan.addresses("d1"))

    def requests(self) -> int:
        return self.act(lambda: sum(self.api.requests.values()))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Lan() as lan:
        made = Cluster(lan, tmp_path)
        try:
            yield made
        finally:
            made.close()


def test_an_endpoint_change_is_in_the_kernel_within_a_tenth_of_a_second(cluster: Cluster) -> None:
    from lvsagent.adapters.ipvs import Ipvs

    cluster.serving()
    with cluster.lan.inside("d1"):
        ipvs = Ipvs()
    delays = []
    try:
        for number in range(30):
            wanted = {f"10.244.1.{2 + place}" for place in range(2 + number % 2)}
            start = time.monotonic()
            cluster.act(lambda w=wanted: cluster.endpoints(*sorted(w)))  # type: ignore[misc]
            while {str(d.address) for service in ipvs.read().values() for d in service.destinations} != wanted:
                assert time.monotonic() - start < 5, cluster.table()
                time.sleep(0.002)
            delays.append(time.monotonic() - start)
            time.sleep(0.05)
    finally:
        ipvs.close()
    median = statistics.median(delays)
    print(f"endpoint event to kernel: p50 {median * 1000:.0f} ms, max {max(delays) * 1000:.0f} ms")
    assert median <= 0.1, delays


@pytest.mark.parametrize("code", [403, 500])
def test_answers_of_the_api_withdraw_nothing(cluster: Cluster, code: int) -> None:
    cluster.serving()
    before = cluster.table()
    cluster.act(lambda: cluster.fault(code))
    time.sleep(3.0)
    assert cluster.table() == before
    assert f"{VIP}/32" in cluster.lan.addresses("d1")
    cluster.act(lambda: cluster.fault(None))
    cluster.act(lambda: cluster.endpoints("10.244.1.9"))
    cluster.until("the change arrives", lambda: "10.244.1.9" in cluster.table(), 40)


def test_empty_lists_withdraw_nothing_but_a_watched_deletion_does(cluster: Cluster) -> None:
    cluster.serving()
    before = cluster.table()

    def emptied() -> None:
        for path in (VIRTUAL_SERVICES, SLICES, SERVICES, NODES):
            cluster.api.lose(path, *cluster.api.objects[path])
            cluster.api.gone(path)

    cluster.act(emptied)
    cluster.until("listed anew", lambda: cluster.act(lambda: cluster.api.requests[f"list {VIRTUAL_SERVICES}"]) >= 2)
    time.sleep(2.0)
    assert cluster.table() == before
    assert f"{VIP}/32" in cluster.lan.addresses("d1")
    cluster.until("watching", lambda: cluster.act(lambda: bool(cluster.api.watchers.get(VIRTUAL_SERVICES))))
    raw = raw_virtual_service("web", addresses=[VIP], status=STATUS)
    cluster.act(lambda: cluster.api.put(VIRTUAL_SERVICES, raw))
    start = time.monotonic()
    cluster.act(lambda: cluster.api.delete(VIRTUAL_SERVICES, "web"))
    cluster.until("all is gone", lambda: cluster.table() == "")
    assert time.monotonic() - start <= 2.0
    assert f"{VIP}/32" not in cluster.lan.addresses("d1")
    assert f"{VIP}/32" not in cluster.lan.addresses("d1", "lo")


def test_an_object_without_its_service_gets_nothing_and_one_that_loses_it_keeps_its_address(cluster: Cluster) -> None:
    late = "10.0.0.101"
    raw = raw_virtual_service("late", addresses=[late], serviceRef={"name": "late"}, status=STATUS)
    cluster.serving()
    cluster.act(lambda: cluster.api.put(VIRTUAL_SERVICES, raw))
    log = cluster.folder / "agent.log"
    cluster.until("the reason is named", lambda: "there is no Service default/late" in log.read_text())
    time.sleep(0.5)
    held = [*cluster.lan.addresses("d1"), *cluster.lan.addresses("d1", "lo")]
    assert late not in cluster.table()
    assert f"{late}/32" not in held
    assert f"{VIP}/32" in held
    cluster.act(lambda: cluster.api.put(SERVICES, raw_service("late")))
    cluster.act(lambda: cluster.endpoints("10.244.1.7", service="late"))
    cluster.until(
        "it is served", lambda: f"{late}/32" in cluster.lan.addresses("d1") and "10.244.1.7" in cluster.table()
    )
    cluster.act(lambda: cluster.api.delete(SERVICES, "late"))
    cluster.act(lambda: cluster.api.delete(SLICES, "late-abcde"))
    cluster.until("its backends are gone", lambda: "10.244.1.7" not in cluster.table())
    time.sleep(0.5)
    assert f"-A -t {late}:80" in cluster.table()
    assert f"{late}/32" in cluster.lan.addresses("d1")


def test_an_agent_that_starts_while_the_api_hangs_serves_from_the_last_good_state(cluster: Cluster) -> None:
    cluster.serving()
    cluster.until("the state is saved", lambda: (cluster.folder / "state" / "snapshot.json").exists())
    before = cluster.table()
    cluster.agent.kill()
    cluster.agent.wait()

    def silent() -> None:
        cluster.api.hang = True
        for path in (VIRTUAL_SERVICES, SLICES, SERVICES, NODES):
            cluster.api.end(path)

    cluster.act(silent)
    cluster.lan.run("d1", ["ipvsadm", "-C"])
    cluster.agent = cluster.start()
    cluster.until("the tables are back", lambda: cluster.table() == before)
    cluster.until("the agent is ready", lambda: cluster.lan.get("d1", "http://127.0.0.1:9479/readyz") == "ok\n")
    assert f"{VIP}/32" in cluster.lan.addresses("d1")
    with contextlib.suppress(ProcessLookupError):
        os.kill(cluster.agent.pid, 0)


def test_what_vanishes_all_at_once_is_served_on_until_the_agent_goes_too(cluster: Cluster) -> None:
    """Somebody deletes all objects, or a controller empties the slices: nobody's clients are to notice at once."""
    more = [f"10.0.0.{number}" for number in range(110, 114)]
    log = cluster.folder / "agent.log"
    cluster.serving()

    def filled() -> None:
        cluster.endpoints(*(f"10.244.1.{number}" for number in range(2, 8)))
        for address in more:
            raw = raw_virtual_service(f"web-{address}", addresses=[address], status=STATUS)
            cluster.api.put(VIRTUAL_SERVICES, raw)

    cluster.act(filled)
    cluster.until("all are served", lambda: cluster.table().count("10.244.1.7") == 5)
    before = cluster.table()
    cluster.act(cluster.endpoints)
    cluster.until("it is said", lambda: "EndpointsVanished" in log.read_text())
    time.sleep(1.0)
    assert cluster.table() == before
    cluster.act(lambda: cluster.endpoints("10.244.1.9"))
    cluster.until("somebody looks after it", lambda: cluster.table().count("10.244.1.") == 5, 2.0)
    before = cluster.table()

    def deleted() -> None:
        for name in list(cluster.api.objects[VIRTUAL_SERVICES]):
            cluster.api.delete(VIRTUAL_SERVICES, name)

    def events() -> int:
        return cluster.act(lambda: cluster.api.requests["list /api/v1/namespaces/default/events"])

    posted = events()
    cluster.act(deleted)
    cluster.until("it is said", lambda: "DeletedTogether" in log.read_text())
    cluster.until("each object has its event", lambda: events() >= posted + 5)
    time.sleep(1.0)
    assert cluster.table() == before
    assert {f"{address}/32" for address in (VIP, *more)} <= set(cluster.lan.addresses("d1"))
    cluster.agent.terminate()
    assert cluster.agent.wait(10) == 0
    assert cluster.table() == "", "README: delete the objects, then the rest"
    assert not {f"{address}/32" for address in (VIP, *more)} & set(cluster.lan.addresses("d1", "lo"))
