"""Resolution: the same servers, backends in the same order and routers on every node; problems have names."""

import time
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsapi.model import Backend, ObjectKey, RealServer, Resolved, Snapshot, VirtualService
from lvsapi.resolve import default_class, resolve, with_assignments
from lvsapi.status import ConditionType
from lvsapi.vrrp import AuthenticationType
from tests.gen import (
    assignment,
    endpoint,
    endpoint_slice,
    node,
    nodes,
    port,
    service,
    service_class,
    snapshot,
    virtual_service,
)

pytestmark = pytest.mark.unit

MINE = assignment()
NEW = "2026-01-02T00:00:00Z"


def web(**more: object) -> VirtualService:
    return replace(virtual_service(assigned=MINE), **more)  # type: ignore[arg-type]


def backends(found: Resolved) -> list[tuple[str, int, int]]:
    """(address, port, weight) of the only server."""
    (server,) = found.servers
    return [(str(b.address), b.port, b.weight) for b in server.backends]


def problem(found: Resolved) -> tuple[str, str]:
    """(reason, message) of the only problem."""
    (only,) = found.problems
    assert only.condition == ConditionType.RESOLVED_REFS
    return str(only.reason), only.message


def test_one_service_with_one_endpoint() -> None:
    found = resolve(snapshot(web()))
    (server,) = found.servers
    assert (str(server.address), server.protocol, server.port, server.scheduler) == ("192.168.139.123", "TCP", 80, "mh")
    assert server.backends == (Backend(address=ip_address("10.244.1.2"), port=8080, weight=1, node="node1"),)
    (router,) = found.routers
    assert router.name == "default/200/v4"
    assert [(d.node, d.priority) for d in router.directors] == [(d.node, d.priority) for d in MINE.directors]
    assert router.owners == (ObjectKey("default", "web"),)
    assert found.problems == ()


def test_what_is_not_assigned_is_not_served() -> None:
    assert resolve(snapshot(virtual_service())) == Resolved(servers=(), routers=(), problems=())
    given_ = snapshot(virtual_service("a"), virtual_service("b", ports=[81], assigned=MINE))
    assert [s.owner.name for s in resolve(with_assignments(given_, {ObjectKey("default", "a"): MINE})).servers] == ["a"]


def test_backends_stand_in_numeric_order_whatever_the_slices_order() -> None:
    one = endpoint_slice(["10.244.10.2", "10.244.9.2"], name="one")
    two = endpoint_slice(["10.244.2.9", "10.244.2.10"], name="two")
    wanted = ["10.244.2.9", "10.244.2.10", "10.244.9.2", "10.244.10.2"]
    for slices in ([one, two], [two, one]):
        assert [address for address, _, _ in backends(resolve(snapshot(web(), slices=slices)))] == wanted


def test_an_endpoint_in_two_slices_is_one_backend_and_ready_wins() -> None:
    draining = endpoint_slice([endpoint(ready=False, serving=True, terminating=True)], name="a")
    ready = endpoint_slice([endpoint(node=None)], name="b")
    for slices in ([draining, ready], [ready, draining]):
        assert backends(resolve(snapshot(web(), slices=slices))) == [("10.244.1.2", 8080, 1)]
    known = resolve(snapshot(web(), slices=[ready, endpoint_slice(name="c")]))
    assert known.servers[0].backends[0].node == "node1"


def test_backends_are_of_the_family_of_the_address() -> None:
    both = web(addresses=(ip_address("2001:db8::1"), ip_address("192.168.139.123")))
    slices = [endpoint_slice(name="four"), endpoint_slice(["2001:db8:1::2"], name="six")]
    found = resolve(snapshot(both, slices=slices))
    assert [(str(s.address), [str(b.address) for b in s.backends]) for s in found.servers] == [
        ("192.168.139.123", ["10.244.1.2"]),
        ("2001:db8::1", ["2001:db8:1::2"]),
    ]
    assert [r.name for r in found.routers] == ["default/200/v4", "default/200/v6"]


PORTS = (("http", 80, "TCP"), ("admin", 81, "TCP"), ("dns", 53, "UDP"))
SLICE_PORTS = (("http", 8080, "TCP"), ("admin", 9000, "TCP"), ("dns", 5353, "UDP"), ("dns", None, "UDP"))


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        (port(80), 8080),
        (port(81), 9000),
        (port(53, "UDP"), 5353),
        (port(1053, "UDP"), 5353),
        (port(8000, target="admin"), 9000),
        (port(8000, target=1234), 1234),
    ],
)
def test_the_target_port_is_found_by_number_name_or_being_the_only_one(wanted: object, number: int) -> None:
    found = resolve(
        snapshot(web(ports=(wanted,)), services=[service(ports=PORTS)], slices=[endpoint_slice(ports=SLICE_PORTS)])
    )
    assert found.problems == ()
    assert backends(found) == [("10.244.1.2", number, 1)]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (port(82), "port 82: Service default/web has no TCP port 82"),
        (port(53, target="http-alt"), "targetPort http-alt: Service default/web has no TCP port of that name"),
        (port(80, "SCTP", "http"), "has no SCTP port of that name"),
    ],
)
def test_a_port_that_does_not_exist_is_named_with_those_that_do(wanted: object, message: str) -> None:
    found = resolve(snapshot(web(ports=(wanted,)), services=[service(ports=PORTS)]))
    reason, text = problem(found)
    assert reason == "PortNotFound"
    assert message in text
    assert "its ports are http (TCP 80), admin (TCP 81), dns (UDP 53)" in text
    assert backends(found) == []


def test_a_named_container_port_may_differ_between_slices() -> None:
    slices = [
        endpoint_slice(["10.244.1.2"], name="a"),
        endpoint_slice(["10.244.1.3"], name="b", ports=[("http", 8081, "TCP")]),
    ]
    assert backends(resolve(snapshot(web(), slices=slices))) == [("10.244.1.2", 8080, 1), ("10.244.1.3", 8081, 1)]


def test_a_service_that_is_missing_or_in_another_namespace_is_named() -> None:
    for services in ([], [service(namespace="shop")]):
        found = resolve(snapshot(web(), services=services))
        assert problem(found)[0] == "ServiceNotFound"
        assert "Service default/web" in problem(found)[1]
        assert backends(found) == []
        assert found.servers[0].missing == problem(found)[1]
        assert len(found.routers) == 1


def test_one_port_that_is_missing_marks_every_server_of_the_object() -> None:
    found = resolve(snapshot(web(ports=(port(80), port(443, target="https")))))
    assert [(s.port, len(s.backends), bool(s.missing)) for s in found.servers] == [(80, 1, True), (443, 0, True)]


def test_a_slice_of_another_namespace_or_service_is_not_used() -> None:
    slices = [endpoint_slice(namespace="shop"), endpoint_slice(service="other")]
    found = resolve(snapshot(web(), slices=slices))
    assert backends(found) == []
    assert found.problems == ()


HOST = endpoint_slice(["192.168.139.101"])


def test_direct_routing_cannot_map_the_port_of_a_host_network_endpoint() -> None:
    found = resolve(snapshot(web(), slices=[endpoint_slice(["192.168.139.101", "10.244.1.2"])]))
    reason, text = problem(found)
    assert reason == "PortNotMappable"
    assert "endpoint 192.168.139.101 is in its node's network and listens on 8080" in text
    assert "Masquerade" in text
    assert found.servers[0].missing == "", "its other endpoints serve"
    assert backends(found) == [("10.244.1.2", 8080, 1)]


def test_a_host_network_endpoint_works_on_the_same_port_or_by_masquerading() -> None:
    same = resolve(snapshot(web(ports=(port(8080, target="http"),)), slices=[HOST]))
    mapped = resolve(snapshot(virtual_service(assigned=MINE, forwarding="Masquerade"), slices=[HOST]))
    for found in (same, mapped):
        assert found.problems == ()
        assert [(b.port, b.host_network) for b in found.servers[0].backends] == [(8080, True)]


def test_real_servers_are_backends_outside_the_cluster() -> None:
    outside = [
        RealServer(address=ip_address("192.168.139.9"), weight=3),
        RealServer(address=ip_address("192.168.139.8"), port=80, weight=0),
        RealServer(address=ip_address("2001:db8::8")),
    ]
    found = resolve(snapshot(virtual_service(assigned=MINE, real_servers=outside), services=[], slices=[]))
    assert found.problems == ()
    assert backends(found) == [("192.168.139.8", 80, 0), ("192.168.139.9", 80, 3)]
    assert all(b.host_network and b.node is None for b in found.servers[0].backends)


def test_a_router_carries_the_addresses_of_all_its_objects_with_the_settings_of_the_class() -> None:
    one = virtual_service("one", addresses=["10.0.0.10"], assigned=MINE)
    two = virtual_service("two", addresses=["10.0.0.9"], assigned=assignment(200, {"other": 1}), created=NEW)
    three = virtual_service("three", addresses=["10.0.0.11"], assigned=assignment(201))
    edge = service_class(interface="eth0", vip_interface="eth1", vip_prefix_length=24, interval_ms=1000, preempt=False)
    found = resolve(snapshot(two, three, one, classes=[edge])).routers
    assert [(r.virtual_router_id, [str(a) for a in r.addresses]) for r in found] == [
        (200, ["10.0.0.9", "10.0.0.10"]),
        (201, ["10.0.0.11"]),
    ]
    assert [d.node for d in found[0].directors] == ["node1", "node2", "node3"], (
        "the oldest object speaks for the router"
    )
    assert (found[0].interface, found[0].vip_interface, found[0].vip_prefix_length) == ("eth0", "eth1", 24)
    assert found[0].vrrp == edge.vrrp


def test_a_class_that_vanished_takes_no_address_away() -> None:
    (router,) = resolve(snapshot(web(class_name="gone"))).routers
    assert router.class_name == "gone"
    assert router.vrrp == default_class().vrrp


def test_of_two_objects_with_one_port_only_the_older_is_served() -> None:
    found = resolve(snapshot(virtual_service("new", assigned=MINE, created=NEW), web()))
    assert [s.owner.name for s in found.servers] == ["web"]
    assert [(p.key.name, p.reason) for p in found.problems] == [("new", "AddressConflict")]


def large() -> Snapshot:
    count = 1000
    return snapshot(
        *(
            virtual_service(f"s{i}", service=f"s{i}", addresses=[f"10.9.{i // 250}.{i % 250 + 1}"], assigned=MINE)
            for i in range(count)
        ),
        services=[service(f"s{i}") for i in range(count)],
        slices=[
            endpoint_slice([f"10.{100 + j}.{i // 250}.{i % 250 + 1}" for j in range(10)], service=f"s{i}")
            for i in range(count)
        ],
    )


@pytest.mark.no_cover  # it judges its own time
def test_a_thousand_services_of_ten_endpoints_are_resolved_within_a_moment_of_processor_time() -> None:
    everything = large()
    taken = []
    for _ in range(5):
        start = time.process_time()
        found = resolve(everything)
        taken.append(time.process_time() - start)
    assert sum(len(s.backends) for s in found.servers) == 10_000
    assert min(taken) < 0.3  # 33 ms; three times as much where branches are counted


addresses = st.sampled_from(["10.244.1.2", "10.244.1.3", "192.168.139.101", "2001:db8::7"])
endpoints = st.builds(
    endpoint,
    addresses,
    st.sampled_from([None, "node1", "node2"]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
)
numbers = st.one_of(st.none(), st.sampled_from([80, 8080]))
slices = st.builds(
    endpoint_slice,
    st.lists(endpoints, max_size=4),
    service=st.sampled_from(["web", "api"]),
    ports=st.lists(st.tuples(st.sampled_from(["http", ""]), numbers, st.sampled_from(["TCP", "UDP"])), max_size=2),
)
objects = st.builds(
    virtual_service,
    st.sampled_from("abc"),
    addresses=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1"]), min_size=1, max_size=2, unique=True),
    ports=st.lists(
        st.builds(
            port,
            st.integers(80, 83),
            target=st.sampled_from([None, "http", 8080]),
            end=st.sampled_from([None, None, 83, 90]),
        ),
        max_size=2,
        unique_by=lambda p: p.port,
    ),
    service=st.sampled_from(["web", "api", "none"]),
    class_name=st.sampled_from(["default", "gone"]),
    forwarding=st.sampled_from(["DirectRouting", "Tunnel", "Masquerade"]),
    all_ports=st.booleans(),
    one_packet=st.booleans(),
    assigned=st.one_of(st.none(), st.builds(assignment, st.integers(1, 2))),
)


@given(st.lists(objects, max_size=4), st.lists(slices, max_size=4))
def test_any_snapshot_resolves_alike_whatever_its_order(services: list[VirtualService], parts: list[object]) -> None:
    base = snapshot(services=[service(), service("api", PORTS)], nodes=[*nodes(2), node("x", "2001:db8::7")])
    found = resolve(replace(base, virtual_services=tuple(services), slices=tuple(parts)))  # type: ignore[arg-type]
    keys = [(s.address, s.protocol, s.port) for s in found.servers]
    assert len(set(keys)) == len(keys)
    for server in found.servers:
        order = [(int(b.address), b.port) for b in server.backends]
        assert order == sorted(set(order))
        assert all(b.address.version == server.address.version for b in server.backends)
    if len({item.key for item in services}) == len(services):
        turned = replace(base, virtual_services=tuple(services[::-1]), slices=tuple(parts[::-1]))  # type: ignore[arg-type]
        again = resolve(turned)
        assert (again.servers, again.routers) == (found.servers, found.routers)
        assert set(again.problems) == set(found.problems)


def test_what_a_class_no_longer_allows_is_served_on_as_it_can_be() -> None:
    """Connection synchronisation would break those to pods, and version 2 has no IPv6."""
    item = web(addresses=(ip_address("10.0.0.1"), ip_address("2001:db8::1")))
    changed = service_class(version=2, connection_sync=True, authentication=AuthenticationType.PASSWORD)
    four, six = resolve(snapshot(item, classes=[changed])).routers
    assert (four.vrrp.version, four.vrrp.authentication) == (2, "Password")
    assert (six.vrrp.version, six.vrrp.authentication) == (3, "None")
    assert not four.connection_sync
    assert not six.connection_sync
