"""Which hosts the election takes for real servers that ought to be silent, instead of foreign hosts."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from lvsagent.core.neighbors import MOST, Neighbors
from lvsagent.core.plan import plan
from lvsagent.core.state import Interface, NodeFacts
from lvsagent.ipc import PeerNode
from lvsapi.ipvs import Forwarding
from lvsapi.model import Director, RealServer, Resolved, Snapshot, VirtualService
from lvsapi.resolve import resolve
from tests.gen import (
    assignment,
    endpoint,
    endpoint_slice,
    node,
    service,
    service_class,
    snapshot,
    virtual_service,
)

pytestmark = pytest.mark.unit
NODES = tuple(PeerNode(name=f"node{n}", addresses=(f"192.168.139.10{n}", f"2001:db8::10{n}")) for n in range(1, 6))
CARD = Interface(
    name="eth0",
    index=2,
    mac="02:00:00:00:00:01",
    up=True,
    addresses=tuple(map(ip_interface, ("192.168.139.101/24", "2001:db8::101/64"))),
)
FACTS = NodeFacts(node="node1", interfaces=(CARD,))
TWO = assignment(200, {"node1": 250, "node2": 238})


def known(*items: VirtualService, nodes: tuple[PeerNode, ...] = (), **world: object) -> dict[str, tuple[str, ...]]:
    """Router -> its real servers."""
    return found(resolve(replace(snapshot(*items), **world)), nodes)  # type: ignore[arg-type]


def found(resolved: Resolved, nodes: tuple[PeerNode, ...] = ()) -> dict[str, tuple[str, ...]]:
    routers = plan(resolved, FACTS, frozenset()).routers
    return {router.name: router.real_servers for router in Neighbors().of(routers, resolved, FACTS, nodes)}


def classic(*servers: RealServer | str, **fields: object) -> VirtualService:
    return virtual_service(real_servers=servers, assigned=TWO, **fields)  # type: ignore[arg-type]


def test_real_servers_of_the_link_that_have_the_address_are_known() -> None:
    masqueraded = RealServer(address=ip_address("192.168.139.203"), forwarding=Forwarding.MASQUERADE)
    tunnelled = RealServer(address=ip_address("192.168.139.204"), forwarding=Forwarding.TUNNEL)
    item = classic("192.168.139.202", "192.168.139.201", "10.9.9.9", masqueraded, tunnelled)
    assert known(item) == {"default/200/v4": ("192.168.139.201", "192.168.139.202", "192.168.139.204")}


def test_a_sorry_server_is_one_too_and_what_drains_is_still_one() -> None:
    sorry = RealServer(address=ip_address("192.168.139.209"))
    drained = RealServer(address=ip_address("192.168.139.201"), weight=0)
    assert known(classic(drained, sorry_server=sorry)) == {"default/200/v4": ("192.168.139.201", "192.168.139.209")}


def test_each_family_and_each_router_has_its_own() -> None:
    both = classic("192.168.139.201", "2001:db8::201", addresses=("192.168.139.123", "2001:db8::123"))
    other = virtual_service(
        "other",
        addresses=("192.168.139.124",),
        real_servers=("192.168.139.205",),
        assigned=replace(TWO, virtual_router_id=201),
    )
    assert known(both, other) == {
        "default/200/v4": ("192.168.139.201",),
        "default/200/v6": ("2001:db8::201",),
        "default/201/v4": ("192.168.139.205",),
    }


def pods(count: int = 1) -> Snapshot:
    """An object with pods on node4 first, as far as there are."""
    here = [endpoint(f"10.244.4.{n}", "node4") for n in range(1, count + 1)]
    world = snapshot(virtual_service(assigned=TWO), services=[service()], slices=[endpoint_slice(endpoints=here)])
    return replace(world, nodes=tuple(node(each.name) for each in NODES))


def test_nodes_have_the_address_and_pods_are_not_on_the_lan() -> None:
    """Neither this node, nor the other director, whose adverts say what it has."""
    resolved = resolve(pods())
    assert {backend.node for server in resolved.servers for backend in server.backends} == {"node4"}
    assert found(resolved, NODES) == {
        "default/200/v4": ("192.168.139.103", "192.168.139.104", "192.168.139.105"),
    }


def test_a_director_is_no_real_server_although_it_is_named_as_one() -> None:
    directors = (
        Director(node="node1", priority=150),
        Director(node="node2", priority=100, addresses=(ip_address("192.168.139.102"),)),
    )
    world = snapshot(
        classic("192.168.139.102", "192.168.139.101", "192.168.139.201"), classes=[service_class(directors=directors)]
    )
    assert found(resolve(world)) == {"default/200/v4": ("192.168.139.201",)}


def test_of_many_real_servers_come_first_then_nodes_with_backends() -> None:
    many = tuple(
        PeerNode(name=f"n{n:03}", addresses=(f"192.168.139.{n}",)) for n in range(2, 100) if n not in (101, 123)
    )
    busy = PeerNode(name="node4", addresses=("192.168.139.250",))
    (servers,) = found(resolve(pods()), (*many, busy)).values()
    assert len(servers) == MOST
    assert servers[-1] == "192.168.139.250"
    assert servers[0] == "192.168.139.2"
    outside = [f"192.168.139.{n}" for n in range(130, 130 + MOST + 9)]
    assert known(classic(*outside), nodes=many) == {"default/200/v4": tuple(outside[:MOST])}


def test_the_answer_is_remembered_until_something_of_it_changes() -> None:
    memory = Neighbors()
    resolved = resolve(snapshot(classic("192.168.139.201")))
    routers = plan(resolved, FACTS, frozenset()).routers
    first = memory.of(routers, resolved, FACTS, ())
    assert memory.of(plan(resolved, FACTS, frozenset()).routers, resolved, replace(FACTS), ()) is first
    assert memory.of(routers, resolved, FACTS, NODES)[0].real_servers == (
        "192.168.139.103",
        "192.168.139.104",
        "192.168.139.105",
        "192.168.139.201",
    )
    (moved,) = memory.of(routers, resolve(snapshot(classic("192.168.139.202"))), FACTS, ())
    assert moved.real_servers == ("192.168.139.202",)
