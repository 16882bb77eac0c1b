"""What clients inside the cluster need of a node follows from its addresses and its pods."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from lvsagent.adapters.clients import Made
from lvsagent.core.clients import ClientPaths, client_paths, needs_forwarding6
from lvsagent.core.guard import NodeReadings
from lvsagent.core.state import Interface, NodeFacts
from lvsagent.runtime.guard import Guard
from lvsagent.runtime.view import View
from lvsagent.runtime.worker import Worker
from lvsapi.model import (
    Backend,
    Forwarding,
    IPAddress,
    ObjectKey,
    Protocol,
    Resolved,
    Scheduler,
    Snapshot,
    VirtualServer,
)
from tests.fakes.kernel import FakeKernel
from tests.gen import VIP
from tests.unit.test_agent_loop import Rig

pytestmark = pytest.mark.unit

ADDRESS, OWN = ip_address(VIP), ip_address("192.168.139.101")


def interface(name: str, index: int, *addresses: str) -> Interface:
    return Interface(name=name, index=index, mac="", up=True, addresses=tuple(map(ip_interface, addresses)))


FACTS = NodeFacts(
    node="n1",
    interfaces=(
        interface("lo", 1, "127.0.0.1/8"),
        interface("eth0", 2, "fd00::1/64", "192.168.139.101/24"),
        interface("cni0", 3, "10.244.1.1/24"),
        interface("mgmt", 4, "172.16.0.1/24"),
    ),
    default_interface={4: "eth0"},
)


def resolved(**backends: str | None) -> Resolved:
    """Address with underscores -> node."""
    found = tuple(
        Backend(address=ip_address(a.strip("a").replace("_", ".")), port=8080, weight=1, node=node)
        for a, node in backends.items()
    )
    server = VirtualServer(
        owner=ObjectKey("default", "web"),
        address=ADDRESS,
        protocol=Protocol.TCP,
        port=80,
        scheduler=Scheduler.MH,
        forwarding=Forwarding.DIRECT_ROUTING,
        backends=found,
    )
    return Resolved(servers=(server,), routers=(), problems=())


def test_processes_use_the_address_of_the_vips_own_network() -> None:
    paths = client_paths({ADDRESS}, resolved(), FACTS, ())
    assert paths == ClientPaths(sources=frozenset({(ADDRESS, OWN)}), interfaces=frozenset({"eth0"}))  # type: ignore[arg-type]
    assert paths.addresses(4) == (ADDRESS,)


def test_an_address_of_no_network_of_the_node_is_reached_from_the_uplinks() -> None:
    far = ip_address("203.0.113.7")
    assert client_paths({far}, resolved(), FACTS, ()).sources == {(far, OWN)}
    alone = replace(FACTS, default_interface={})
    assert client_paths({far}, resolved(), alone, ()) == ClientPaths()
    assert client_paths({ADDRESS}, resolved(), alone, ()).interfaces == {"eth0"}


def test_pods_beside_one_another_are_masqueraded_by_their_bridge_or_else_alone() -> None:
    paths = client_paths({ADDRESS}, resolved(a10_244_1_2="n1", a10_9_9_9="n1", a10_244_2_2="n2"), FACTS, ["flannel.1"])
    assert paths.neighbours == {ip_network("10.244.1.0/24"), ip_network("10.9.9.9/32")}
    assert paths.interfaces == {"eth0", "flannel.1"}
    assert paths.pods


def test_without_pods_of_ours_there_is_nothing_to_translate() -> None:
    assert not client_paths({ADDRESS}, resolved(a192_168_139_50=None), FACTS, ()).pods
    assert client_paths({ADDRESS}, resolved(a10_244_2_2="n2"), FACTS, ()).neighbours == frozenset()


def test_ipv6_has_its_own_sources_and_neighbours_and_needs_no_settings() -> None:
    six, own = ip_address("fd00::200"), ip_address("fd00::1")
    bridge = interface("cni0", 3, "fe80::1/64", "fd00:244:1::1/64")
    facts = replace(FACTS, interfaces=(*FACTS.interfaces[:2], bridge))
    found = client_paths({six}, pods("fd00:244:1::2", "fd00:9::9", "10.244.1.2"), facts, ["flannel.1"])
    assert found == ClientPaths(
        sources6=frozenset({(six, own)}),  # type: ignore[arg-type]
        neighbours=frozenset({ip_network("fd00:244:1::/64"), ip_network("fd00:9::9/128")}),
        pods=True,
    )
    assert (found.addresses(6), found.addresses(4)) == ((six,), ())


def pods(*addresses: str) -> Resolved:
    (server,) = resolved().servers
    backends = tuple(Backend(address=ip_address(a), port=8080, weight=1, node="n1") for a in addresses)
    return Resolved(servers=(replace(server, backends=backends),), routers=(), problems=())


SIX = ip_address("fd00::200")


@pytest.mark.parametrize(
    ("vip", "forwarding", "changes", "needed"),
    [
        (SIX, Forwarding.DIRECT_ROUTING, {"node": "n1"}, True),
        (SIX, Forwarding.DIRECT_ROUTING, {"node": "n1", "host_network": True}, False),
        (SIX, Forwarding.DIRECT_ROUTING, {"node": None}, False),
        (SIX, Forwarding.TUNNEL, {"node": None}, False),
        (SIX, Forwarding.MASQUERADE, {"node": None}, True),
        (SIX, Forwarding.DIRECT_ROUTING, {"node": None, "forwarding": Forwarding.MASQUERADE}, True),
        (SIX, Forwarding.MASQUERADE, {"node": None, "forwarding": Forwarding.TUNNEL}, False),
        (ADDRESS, Forwarding.MASQUERADE, {"node": "n1"}, False),
    ],
)
def test_ipv6_is_forwarded_where_answers_come_back_through_the_node(
    vip: IPAddress, forwarding: Forwarding, changes: dict[str, object], needed: bool
) -> None:
    (server,) = pods("10.244.1.2").servers
    backends = tuple(replace(backend, **changes) for backend in server.backends)  # type: ignore[arg-type]
    server = replace(server, address=vip, forwarding=forwarding, backends=backends)
    assert needs_forwarding6(Resolved(servers=(server,), routers=(), problems=())) is needed


def test_ipv6_is_forwarded_only_on_a_node_that_has_it() -> None:
    facts = replace(FACTS, interfaces=(interface("eth0", 2, "fd00::21/64"),))
    assert client_paths({SIX}, pods("fd00:9::9"), facts, (), True).forwards6
    assert not client_paths({SIX}, pods("fd00:9::9"), facts, (), False).forwards6
    assert not client_paths({ADDRESS}, pods("10.244.1.2"), FACTS, (), True).forwards6


@pytest.mark.parametrize(("advertised", "forwards"), [(None, False), (frozenset({"eth0"}), False), (frozenset(), True)])
def test_ipv6_is_not_forwarded_before_it_is_known_that_no_route_goes(
    advertised: frozenset[str] | None, forwards: bool
) -> None:
    made: list[ClientPaths] = []

    class Records:
        async def make(self, paths: ClientPaths) -> Made:
            made.append(paths)
            return Made()

    view = View(node="n1", version="test", resolved=replace_address(pods("fd00:9::9"), SIX))
    guard = Guard(worker=Records(), view=view)  # type: ignore[arg-type]
    guard._readings = NodeReadings(advertised=advertised)
    facts = replace(FACTS, interfaces=(interface("eth0", 2, "fd00::21/64"),))
    asyncio.run(guard._serve_clients(frozenset({SIX}), facts))
    assert [paths.forwards6 for paths in made] == [forwards]


def replace_address(resolved: Resolved, address: IPAddress) -> Resolved:
    return replace(resolved, servers=tuple(replace(server, address=address) for server in resolved.servers))


def test_nothing_at_all_asks_for_nothing() -> None:
    assert client_paths((), resolved(a10_244_1_2="n1"), FACTS, ["x"]) == ClientPaths()
    linked = replace(FACTS, interfaces=(interface("eth0", 2, "fe80::1/64"),))
    assert client_paths({ip_address("fd00::200")}, resolved(), linked, ()) == ClientPaths()


class FakeGlance:
    def __init__(self) -> None:
        self.made: list[ClientPaths] = []
        self.numbers: Iterator[int | Exception] = iter(())

    def look(self, services: object) -> int:
        found = next(self.numbers, 0)
        if isinstance(found, Exception):
            raise found
        return found

    def inspect(self, remote: object, inside: object) -> NodeReadings:
        return NodeReadings()

    def ways(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, int | None]:
        return {}

    def make(self, paths: ClientPaths) -> Made:
        self.made.append(paths)
        return Made(errors=("no such thing",))

    def close(self) -> None:
        pass


def test_the_paths_are_made_when_an_address_comes_and_taken_away_when_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        rig, glance, kernel = Rig(tmp_path), FakeGlance(), FakeKernel()
        rig.loop.worker = Worker(lambda: kernel, rig.files, lambda: glance)
        rig.loop.guard = Guard(worker=rig.loop.worker, view=rig.loop.view)
        await rig.turn()
        await rig.turn()
        assert [paths.addresses(4) for paths in glance.made] == [(ADDRESS,)]
        rig.confirm()
        rig.source.current = Snapshot()
        await rig.turn()
        rig.confirm()
        await rig.turn()
        assert glance.made[-1] == ClientPaths()
        assert all(paths.addresses(4) == (ADDRESS,) for paths in glance.made[:-1])
        await rig.loop.worker.close()
        await rig.worker.close()

    asyncio.run(story())
    assert "no such thing" in str([record.__dict__ for record in caplog.records])


def test_an_agent_that_knows_nothing_yet_takes_no_paths_away_and_a_fault_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr("lvsagent.runtime.guard.LOOK_SECONDS", 0.001)
        monkeypatch.setattr("lvsagent.runtime.guard.INSPECT_SECONDS", 0.0)
        rig, glance, stirred = Rig(tmp_path, current=None), FakeGlance(), asyncio.Event()
        worker = Worker(FakeKernel, rig.files, lambda: glance)
        guard = Guard(worker=worker, view=rig.loop.view)
        rig.loop.worker, rig.loop.guard = worker, guard
        await rig.turn()
        glance.numbers = iter([0, ValueError("never seen"), OSError("no answer"), 0, 1, 1])
        watch = asyncio.create_task(guard.watch(stirred.set, lambda: None))
        async with asyncio.timeout(10.0):
            await stirred.wait()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert glance.made == []
        assert rig.loop.view.errors["guard", "internal"] == 1
        await worker.close()
        await rig.worker.close()

    asyncio.run(story())
