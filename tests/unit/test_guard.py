"""What others do to what is ours: noticed, put back, counted, blamed; foreign things are nobody's business here."""

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

import pytest

from lvsagent.adapters.clients import Made
from lvsagent.adapters.culprits import culprit
from lvsagent.adapters.glance import SVC_STATS, without_counters
from lvsagent.adapters.netlink import attribute
from lvsagent.core.clients import ClientPaths
from lvsagent.core.diff import AddLoopback, Owned
from lvsagent.core.guard import (
    FIGHTS,
    WINDOW_SECONDS,
    Culprit,
    Fights,
    NodeFinding,
    NodeReadings,
    Thing,
    disturbed,
    findings,
    node_problems,
)
from lvsagent.core.plan import plan
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Service, ServiceKey
from lvsagent.core.sysctl import REQUIRED
from lvsagent.runtime.guard import Guard, remote_pods
from lvsagent.runtime.view import View
from lvsagent.runtime.worker import Worker
from lvsapi.model import IPAddress, Protocol
from lvsapi.resolve import resolve
from tests.fakes.kernel import FakeKernel
from tests.gen import VIP, assignment, endpoint_slice, snapshot, virtual_service
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

ADDRESS, FOREIGN = ip_address(VIP), ip_address("10.9.9.9")
RESOLVED = resolve(
    snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(["10.244.1.2", "10.244.2.2"])])
)


def service(address: IPAddress = ADDRESS, *backends: int, scheduler: str = "mh") -> Service:
    key = ServiceKey(address=address, protocol=Protocol.TCP, port=80)
    destinations = (
        Destination(ip_address(f"10.244.1.{n}"), 8080, ForwardMethod.DIRECT_ROUTE, 1) for n in backends or (2, 3)
    )
    return Service(key=key, scheduler=scheduler, flags=0x18, destinations=tuple(destinations))


def state(*services: Service, lo: tuple[IPAddress, ...] = (ADDRESS,), **sysctls: str) -> KernelState:
    settings = {**REQUIRED, **{key.replace("__", "/"): value for key, value in sysctls.items()}}
    return KernelState(services={one.key: one for one in services}, loopback=frozenset(lo), sysctls=settings)


OURS = Owned(services=frozenset({service().key}), loopback=frozenset({ADDRESS}))


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        (state(service()), {}),
        (state(), {Thing.SERVICE: 1}),
        (state(service(scheduler="rr")), {Thing.SERVICE: 1}),
        (state(service(ADDRESS, 2)), {Thing.DESTINATION: 1}),
        (state(service(ADDRESS, 2, 4)), {Thing.DESTINATION: 2}),
        (state(service(), lo=()), {Thing.ADDRESS: 1}),
        (state(service(), net__ipv4__vs__sloppy_tcp="0"), {Thing.SETTING: 1}),
        (state(service(), net__ipv4__conf__all__arp_ignore="2"), {}),
        (state(service(), service(FOREIGN)), {}),
    ],
)
def test_what_somebody_took_or_changed_of_ours_is_counted_by_kind(now: KernelState, changed: dict[Thing, int]) -> None:
    assert disturbed(state(service()), now, OURS) == changed


def test_what_becomes_of_foreign_things_does_not_count() -> None:
    before = state(service(), service(FOREIGN), lo=(ADDRESS, FOREIGN))
    assert disturbed(before, state(service()), OURS) == Counter()


def test_three_visits_within_two_minutes_are_a_fight_and_it_ends() -> None:
    fights = Fights()
    for at in (0.0, 30.0, 60.0):
        fights.noticed(at)
    assert fights.count(60.0) == FIGHTS
    (found,) = findings("n1", fights.count(60.0), None, NodeReadings()).items()
    assert found[0] == NodeFinding.TABLES_CONTESTED
    assert "3 times in the last 120 s" in found[1]
    assert findings("n1", fights.count(60.0 + WINDOW_SECONDS), None, NodeReadings()) == {}


def test_one_visit_is_enough_when_the_culprit_says_itself_that_it_does_it() -> None:
    sure = Culprit(name="kube-proxy", remedy="use excludeCIDRs", certain=True)
    assert findings("n1", 0, sure, NodeReadings()) == {}
    assert findings("n1", 1, replace(sure, certain=False), NodeReadings()) == {}
    message = findings("n1", 1, sure, NodeReadings())[NodeFinding.TABLES_CONTESTED]
    assert "Probably kube-proxy: use excludeCIDRs" in message
    assert "our tables once in the last" in message


def test_a_strict_reverse_path_and_a_nearly_full_conntrack_are_named_with_the_remedy() -> None:
    readings = NodeReadings(reverse_path={"flannel.1": 1, "cilium": 2}, entries=80, limit=100)
    found = findings("n1", 0, None, readings)
    assert found.keys() == {NodeFinding.REVERSE_PATH_STRICT, NodeFinding.CONNTRACK_NEARLY_FULL}
    assert "net/ipv4/conf/flannel.1/rp_filter is effectively 1" in found[NodeFinding.REVERSE_PATH_STRICT]
    assert "cilium" not in found[NodeFinding.REVERSE_PATH_STRICT]
    assert "80 of 100" in found[NodeFinding.CONNTRACK_NEARLY_FULL]
    assert findings("n1", 0, None, NodeReadings(reverse_path={"flannel.1": 2}, entries=79, limit=100)) == {}
    (problem,) = node_problems(RESOLVED, {"ConntrackNearlyFull": "it is"})
    assert (problem.condition, problem.reason, problem.message) == ("NodeHealthy", "ConntrackNearlyFull", "it is")


def test_a_strict_reverse_path_of_the_uplink_is_named_where_clients_inside_are_answered_over_it() -> None:
    found = findings("n1", 0, None, NodeReadings(inside={"eth0": 1, "eth1": 2}))[NodeFinding.REVERSE_PATH_STRICT]
    assert "net.ipv4.conf.eth0.rp_filter is effectively 1" in found
    assert "clients on this node" in found
    assert "eth1" not in found
    both = findings("n1", 0, None, NodeReadings(inside={"eth0": 1}, reverse_path={"flannel.1": 1}))
    assert "flannel" in both[NodeFinding.REVERSE_PATH_STRICT]
    assert "eth0" in both[NodeFinding.REVERSE_PATH_STRICT]
    assert findings("n1", 0, None, NodeReadings(inside={"eth0": 2, "eth1": 0})) == {}


def test_ipv6_that_is_not_forwarded_because_routes_would_go_is_named_with_the_remedy_and_only_then() -> None:
    readings = NodeReadings(advertised=frozenset({"eth0", "bond0.7"}))
    found = findings("n1", 0, None, readings, forwards6=True)
    assert found.keys() == {NodeFinding.FORWARDING6_OFF}
    text = found[NodeFinding.FORWARDING6_OFF]
    assert "Set net/ipv6/conf/bond0.7/accept_ra=2 net.ipv6.conf.eth0.accept_ra=2" in text
    assert findings("n1", 0, None, readings) == {}
    assert findings("n1", 0, None, replace(readings, forwarding6=True), forwards6=True) == {}
    for advertised in (None, frozenset[str]()):
        assert findings("n1", 0, None, replace(readings, advertised=advertised), forwards6=True) == {}


def test_counters_do_not_count_in_a_glance() -> None:
    def answer(scheduler: bytes, packets: int) -> bytes:
        return bytes(8) + attribute(6, scheduler) + attribute(SVC_STATS, struct.pack("=Q", packets)) + bytes(4)

    assert without_counters([answer(b"mh", 1), answer(b"rr", 2)]) == without_counters(
        [answer(b"rr", 3), answer(b"mh", 4)]
    )
    assert without_counters([answer(b"mh", 1)]) != without_counters([answer(b"rr", 1)])
    assert without_counters([]) == frozenset()


@dataclass
class FakeGlance:
    kernel: FakeKernel
    closed: bool = False
    paths: ClientPaths | None = None

    def look(self, services: object) -> int:
        return hash((frozenset(self.kernel.read().services), self.kernel.read().loopback))

    def inspect(self, remote: object, inside: object) -> NodeReadings:
        return NodeReadings()

    def ways(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, int | None]:
        return {}

    def make(self, paths: ClientPaths) -> Made:
        self.paths = paths
        return Made()

    def close(self) -> None:
        self.closed = True


def test_what_was_flushed_is_noticed_by_a_glance_put_back_and_counted(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        glance = FakeGlance(rig.kernel)
        rig.loop.worker = Worker(lambda: rig.kernel, rig.files, lambda: glance)
        rig.loop.guard = Guard(worker=rig.loop.worker, view=rig.loop.view)
        await rig.turn()
        assert not await rig.loop.worker.moved()
        before = rig.kernel.state
        for _ in range(FIGHTS):
            rig.kernel.state = replace(before, services={}, loopback=frozenset())
            assert await rig.loop.worker.moved()
            rig.loop.stirred()
            await rig.turn()
            assert rig.kernel.state == before
            assert not await rig.loop.worker.moved()
        assert rig.loop.view.repairs == {Thing.SERVICE: FIGHTS, Thing.ADDRESS: FIGHTS}
        assert rig.loop.view.node_findings.keys() == {NodeFinding.TABLES_CONTESTED}
        await rig.loop.worker.close()
        assert glance.closed
        await rig.worker.close()

    asyncio.run(story())


def test_what_could_not_be_put_back_is_no_repair(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        rig.loop.guard = Guard(worker=rig.worker, view=rig.loop.view)
        await rig.turn()
        rig.kernel.state = replace(rig.kernel.state, loopback=frozenset())
        rig.kernel.refuse = AddLoopback
        rig.loop.stirred()
        await rig.turn()
        assert rig.loop.view.repairs == {}
        await rig.worker.close()

    asyncio.run(story())


def test_one_pod_of_each_other_node_shows_the_ways_to_them() -> None:
    assert remote_pods((), RESOLVED) == ()
    own = {backend.node for server in RESOLVED.servers for backend in server.backends}
    made = plan(RESOLVED, FakeKernel(node="elsewhere").facts(), frozenset())
    assert len(remote_pods(made.state.services.values(), RESOLVED)) == len(own)


@pytest.mark.parametrize(
    ("mode", "interfaces", "named", "certain"),
    [
        ("ipvs", ("eth0",), "kube-proxy", True),
        ("nftables", ("eth0", "kube-ipvs0"), None, False),
        ("", ("eth0", "kube-ipvs0"), "kube-proxy in IPVS mode", False),
        ("", ("eth0", "kube-dummy-if"), "kube-router", False),
        ("", ("eth0",), None, False),
    ],
)
def test_the_likely_culprit_is_known_by_its_traces(
    tmp_path: Path, mode: str, interfaces: tuple[str, ...], named: str | None, certain: bool
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/proxyMode" and mode else 404)
            self.end_headers()
            self.wfile.write(mode.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            found = culprit(interfaces, server.server_port, tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert (found.name if found else "").startswith(named or "")
    assert (found is None) == (named is None)
    assert found is None or found.certain == certain
    assert found is None or "excludeCIDRs" in found.remedy or "--excluded-cidrs" in found.remedy


def test_keepalived_is_named_where_processes_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "comm").write_text("keepalived\n")
    (tmp_path / "18").mkdir()
    found = culprit(("eth0",), 1, tmp_path)
    assert found is not None
    assert "virtual_server" in found.remedy


RAW = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode ref pointer drops
    1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 15 2 0000000000000000 0
  112: 00000000:0070 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 16 2 0000000000000000 0
  112: 00000000:0070 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 17 2 0000000000000000 0
"""


@pytest.mark.parametrize(
    ("ours", "six", "named"),
    [
        ((16, 17), "", False),
        ((16,), "", True),
        ((), "", False),
        ((16, 17), RAW.replace("00000000:0070", "0" * 32 + ":0070").replace(" 17 2", " 18 2"), True),
        ((16, 17, 18), RAW.replace("00000000:0070", "0" * 32 + ":0070").replace(" 17 2", " 18 2"), False),
    ],
)
def test_a_vrrp_daemon_that_is_not_ours_is_named_also_where_no_process_can_be_seen(
    tmp_path: Path, ours: tuple[int, ...], six: str, named: bool
) -> None:
    (tmp_path / "raw").write_text(RAW)
    if six:
        (tmp_path / "raw6").write_text(six)
    found = culprit(("eth0",), 1, tmp_path, sockets=ours, network=tmp_path)
    assert (found is not None) is named
    assert found is None or "virtual_server" in found.remedy


def test_who_is_not_known_is_asked_again_while_tables_are_contested_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([None, None, Culprit(name="somebody", remedy="stop it")])

    class Knows:
        async def moved(self) -> bool:
            return False

        async def inspect(self, *_: object) -> NodeReadings:
            return NodeReadings()

        async def culprit(self, *_: object) -> Culprit | None:
            return next(answers)

    async def story() -> None:
        monkeypatch.setattr("lvsagent.runtime.guard.WARY_SECONDS", 0.001)
        monkeypatch.setattr("lvsagent.runtime.guard.UNKNOWN_SECONDS", 0.001)
        guard = Guard(worker=Knows(), view=View(node="n1", version="test"))  # type: ignore[arg-type]
        for _ in range(FIGHTS):
            guard._fights.noticed(time.monotonic())
        watch = asyncio.create_task(guard.watch(lambda: None, lambda: None))
        async with asyncio.timeout(10.0):
            while "Probably somebody: stop it" not in str([record.__dict__ for record in caplog.records]):
                await asyncio.sleep(0.001)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert next(answers, "nothing more is asked") == "nothing more is asked"
        assert "Probably somebody" in guard.view.node_findings[NodeFinding.TABLES_CONTESTED]

    asyncio.run(story())
