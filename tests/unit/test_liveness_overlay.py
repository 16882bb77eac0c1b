"""What a suspected node's backends get, and whom a node beats for."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.core.liveness import Overlay, Suspects, changes, peers
from lvsagent.ipc import Liveness, PeerNode
from lvsapi.model import Backend, Director, Node, Resolved, Scheduler, Snapshot, VirtualServer, VirtualServiceClass
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service

pytestmark = pytest.mark.unit

NODES = ("node1", "node2", "node3")
PEERS = tuple(PeerNode(name=name, addresses=(f"192.168.139.10{k}",)) for k, name in enumerate(NODES, 1))
SERVED = snapshot(
    virtual_service(assigned=assignment()),
    slices=[endpoint_slice([endpoint(f"10.244.{k}.2", node=name) for k, name in enumerate(NODES, 1)])],
)


def suspects(*silent: str, unready: tuple[str, ...] = (), node: str = "node1") -> Suspects:
    return Suspects.of(Liveness(silent=silent, unready=unready), PEERS, node)


def weights(resolved: Resolved) -> list[list[int]]:
    return [[backend.weight for backend in server.backends] for server in resolved.servers]


def test_backends_of_suspected_nodes_have_weight_0_and_keep_their_place() -> None:
    resolved = resolve(SERVED)
    overlaid = Overlay().over(resolved, suspects("node2"))
    assert weights(overlaid) == [[1, 0, 1]]
    assert [b.address for b in overlaid.servers[0].backends] == [b.address for b in resolved.servers[0].backends]
    assert weights(Overlay().over(resolved, suspects(unready=("node3",)))) == [[1, 1, 0]]
    assert weights(Overlay().over(resolved, suspects("node2", unready=("node3",)))) == [[1, 0, 0]]


def test_never_all_of_them() -> None:
    resolved = resolve(SERVED)
    assert weights(Overlay().over(resolved, suspects("node1", "node2", "node3", node="other"))) == [[1, 1, 1]]


def test_a_node_never_suspects_itself() -> None:
    resolved = resolve(SERVED)
    assert Overlay().over(resolved, suspects("node1")) is resolved
    assert weights(Overlay().over(resolved, suspects("node1", "node2"))) == [[1, 0, 1]]


def test_without_suspicion_nothing_is_computed_and_the_same_suspicion_is_computed_once() -> None:
    resolved, overlay = resolve(SERVED), Overlay()
    assert overlay.over(resolved, Suspects()) is resolved
    first = overlay.over(resolved, suspects("node2"))
    assert overlay.over(resolved, suspects("node2")) is first
    assert weights(overlay.over(resolved, suspects("node3"))) == [[1, 1, 0]]
    assert weights(overlay.over(resolve(SERVED), suspects("node2"))) == [[1, 0, 1]]


def server(*backends: Backend) -> Resolved:
    one = VirtualServer(
        owner=virtual_service().key,
        address=ip_address("192.168.139.123"),
        protocol=resolve(SERVED).servers[0].protocol,
        port=80,
        scheduler=Scheduler.WLC,
        forwarding=virtual_service().forwarding,
        backends=backends,
    )
    return Resolved(servers=(one,), routers=(), problems=())


def backend(number: int, node: str | None, weight: int = 1) -> Backend:
    return Backend(address=ip_address(f"10.244.0.{number}"), port=80, weight=weight, node=node)


def test_a_draining_backend_does_not_count_as_what_is_left() -> None:
    draining = server(backend(1, "node2"), backend(2, "node3", weight=0))
    assert weights(Overlay().over(draining, suspects("node2"))) == [[1, 0]]


def test_a_real_server_outside_of_the_cluster_is_known_by_the_address_of_a_node() -> None:
    outside = Backend(address=ip_address("192.168.139.102"), port=80, weight=3, node=None, host_network=True)
    other = Backend(address=ip_address("192.168.139.77"), port=80, weight=3, node=None, host_network=True)
    assert weights(Overlay().over(server(outside, other), suspects("node2"))) == [[0, 3]]


@given(
    st.lists(st.tuples(st.sampled_from((*NODES, None)), st.integers(0, 3)), max_size=8),
    st.sets(st.sampled_from(NODES)),
    st.sets(st.sampled_from(NODES)),
)
def test_whatever_is_suspected_who_served_is_served(
    backends: list[tuple[str | None, int]], silent: set[str], unready: set[str]
) -> None:
    resolved = server(*(backend(number, node, weight) for number, (node, weight) in enumerate(backends)))
    suspected = suspects(*silent, unready=tuple(unready))
    (after,) = weights(Overlay().over(resolved, suspected))
    (before,) = weights(resolved)
    assert any(after) == any(before)
    changed = [number for number, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
    assert all(after[number] == 0 and backends[number][0] in suspected.names for number in changed)
    left = any(weight and node not in suspected.names for node, weight in backends)
    assert not left or all(not (node in suspected.names and weight) or after[number] == 0
                           for number, (node, weight) in enumerate(backends))  # fmt: skip


def test_nodes_beat_for_one_another_while_something_is_served() -> None:
    nodes = [Node(name="b", labels={}, addresses=(ip_address("10.0.0.2"), ip_address("fd00::2"))),
             Node(name="a", labels={}, addresses=(ip_address("10.0.0.1"),)),
             Node(name="none", labels={}, addresses=())]  # fmt: skip
    found = peers(Snapshot(nodes=tuple(nodes)), resolve(SERVED))
    assert found == (
        PeerNode(name="a", addresses=("10.0.0.1",)),
        PeerNode(name="b", addresses=("10.0.0.2", "fd00::2")),
    )
    assert peers(Snapshot(nodes=tuple(nodes)), resolve(Snapshot())) == ()


def test_a_class_names_the_addresses_of_directors_without_a_node_object() -> None:
    directors = (
        Director(node="dr1", priority=150, addresses=(ip_address("10.0.0.11"),)),
        Director(node="dr2", priority=100, addresses=(ip_address("10.0.0.12"),)),
        Director(node="dr3", priority=50),
    )
    item = VirtualServiceClass(name="lab", directors=directors)
    nodes = (Node(name="dr1", labels={}, addresses=()),
             Node(name="dr2", labels={}, addresses=(ip_address("10.9.9.9"),)))  # fmt: skip
    assert peers(Snapshot(nodes=nodes, classes=(item,)), resolve(SERVED)) == (
        PeerNode(name="dr1", addresses=("10.0.0.11",)),
        PeerNode(name="dr2", addresses=("10.9.9.9",)),
    )


def test_what_is_said_of_a_change() -> None:
    before = Liveness(silent=("a", "b"), unready=("c",))
    now = Liveness(silent=("c",), unready=("b", "d"))
    assert changes(before, now) == {"a": "good", "b": "unready", "c": "silent", "d": "unready"}
    assert changes(now, now) == {}
