"""Which endpoints are backends and with which weight, and what externalTrafficPolicy Local makes of nodes."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, cast

import pytest

from lvsapi.errors import SpecError
from lvsapi.ipvs import Scheduler, SchedulerFlag, TrafficPolicy, passes_over
from lvsapi.model import Endpoint, Node, Resolved, ServicePort, VirtualService
from lvsapi.parse import parse_endpoint_slice, parse_service, parse_virtual_service
from lvsapi.resolve import resolve
from tests.gen import (
    endpoint,
    endpoint_slice,
    node,
    nodes,
    port,
    raw_endpoint_slice,
    raw_service,
    raw_virtual_service,
    service,
    snapshot,
    virtual_service,
)
from tests.unit.test_resolve import MINE

pytestmark = pytest.mark.unit

READY = endpoint("10.244.1.2", "node1")
LEAVING = endpoint("10.244.2.2", "node2", ready=False, serving=True, terminating=True)
FAILING = endpoint("10.244.3.2", "node3", ready=False)


def web(**more: Any) -> VirtualService:
    return virtual_service(assigned=MINE, **more)


def resolved(
    *endpoints: Endpoint,
    item: VirtualService | None = None,
    policy: str = "Cluster",
    known: Iterable[Node] | None = None,
    ports: Iterable[tuple[str, int, str]] = (("http", 80, "TCP"),),
) -> Resolved:
    parts = [endpoint_slice(endpoints, ports=[(n, 8080, p) for n, _, p in ports])]
    services = [service(ports=ports, policy=policy)]
    return resolve(snapshot(item or web(), services=services, slices=parts, nodes=known))


def weights(found: Resolved) -> dict[str, int | None]:
    """Weight by address; None: kept only where a table has it."""
    return {str(b.address): None if b.kept else b.weight for s in found.servers for b in s.backends}


@pytest.mark.parametrize(
    ("state", "weight"),
    [
        (endpoint("10.9.0.1"), 1),
        (endpoint("10.9.0.1", ready=True, serving=False, terminating=True), 1),
        (endpoint("10.9.0.1", ready=False, serving=True, terminating=True), 0),
        (endpoint("10.9.0.1", ready=False, serving=False, terminating=True), None),
        (endpoint("10.9.0.1", ready=False, serving=True), None),
        (endpoint("10.9.0.1", ready=False), None),
    ],
)
def test_the_weight_follows_the_conditions(state: Endpoint, weight: int | None) -> None:
    found = resolved(READY, state)
    assert weights(found) == {"10.244.1.2": 1, "10.9.0.1": weight}
    assert all(b.weight == 0 for s in found.servers for b in s.backends if b.kept)


def test_where_nobody_is_ready_those_that_terminate_and_serve_get_the_connections() -> None:
    assert weights(resolved(LEAVING, FAILING)) == {"10.244.2.2": 1, "10.244.3.2": None}
    assert weights(resolved(LEAVING, FAILING, READY)) == {"10.244.1.2": 1, "10.244.2.2": 0, "10.244.3.2": None}


def test_families_have_nothing_to_do_with_each_other() -> None:
    both = web(addresses=["192.168.139.123", "2001:db8::1"])
    six = endpoint("2001:db8:1::2", "node1", ready=False, serving=True, terminating=True)
    assert weights(resolved(READY, LEAVING, six, item=both)) == {"10.244.1.2": 1, "10.244.2.2": 0, "2001:db8:1::2": 1}


def test_a_service_that_publishes_endpoints_that_are_not_ready_has_them_ready_in_its_slices() -> None:
    """The EndpointSlice controller says so for publishNotReadyAddresses, also of pods that terminate."""
    conditions = {"ready": True, "serving": False, "terminating": True}
    part = parse_endpoint_slice(raw_endpoint_slice(conditions=conditions))
    assert weights(resolve(snapshot(web(), slices=[part]))) == {"10.244.1.2": 1}


def test_hints_and_traffic_distribution_leave_every_node_the_same_table() -> None:
    """docs/ipvs.md: a table for each zone or node would be another one on each, and a takeover would break connections.
    internalTrafficPolicy is about the ClusterIP."""
    plain = raw_endpoint_slice(["10.244.1.2"])
    hinted = deepcopy(plain)
    for one in cast("list[dict[str, object]]", hinted["endpoints"]):
        one["hints"] = {"forZones": [{"name": "a"}], "forNodes": [{"name": "node2"}]}
    usual = resolve(snapshot(web(), slices=[parse_endpoint_slice(plain)], services=[parse_service(raw_service())]))
    said = raw_service()
    asked = {"trafficDistribution": "PreferSameNode", "internalTrafficPolicy": "Local"}
    cast("dict[str, object]", said["spec"]).update(asked)
    found = resolve(snapshot(web(), slices=[parse_endpoint_slice(hinted)], services=[parse_service(said)]))
    assert weights(found) == {"10.244.1.2": 1}
    assert found == usual


def test_a_client_of_udp_is_not_left_with_who_does_not_answer() -> None:
    wanted: list[ServicePort] = [port(53, "UDP")]
    found = resolved(READY, LEAVING, FAILING, item=web(ports=wanted), ports=[("dns", 53, "UDP")])
    assert weights(found) == {"10.244.1.2": 1, "10.244.2.2": 0}


def test_who_was_on_a_node_that_is_lost_keeps_nobody_waiting() -> None:
    known = [*nodes(2), node("node3", lost=True)]
    assert weights(resolved(READY, FAILING, known=known)) == {"10.244.1.2": 1}


def test_a_control_plane_that_lost_every_node_is_the_one_that_is_cut_off() -> None:
    known = [node(f"node{n}", lost=True) for n in (1, 2, 3)]
    assert weights(resolved(FAILING, known=known)) == {"10.244.3.2": None}


@pytest.mark.parametrize(
    ("scheduler", "flags", "passes"),
    [
        ("mh", None, True),
        ("mh", (), False),
        ("mh", (SchedulerFlag.MH_PORT,), False),
        ("sh", None, False),
        ("sh", (SchedulerFlag.SH_FALLBACK,), True),
        ("dh", None, False),
        ("wlc", None, True),
    ],
)
def test_a_place_that_refuses_connections_is_not_kept_for_who_does_not_serve(
    scheduler: str, flags: tuple[SchedulerFlag, ...] | None, passes: bool
) -> None:
    assert passes_over(Scheduler(scheduler), flags) is passes
    found = resolved(READY, FAILING, item=web(scheduler=scheduler, scheduler_flags=flags))
    assert ("10.244.3.2" in weights(found)) is passes


# -- externalTrafficPolicy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "policy", "local"),
    [(None, "Local", True), (None, "Cluster", False), ("Cluster", "Local", False), ("Local", "Cluster", True)],
)
def test_the_object_decides_before_the_service(asked: str | None, policy: str, local: bool) -> None:
    raw = raw_virtual_service(externalTrafficPolicy=asked)
    wanted = parse_virtual_service(raw).external_traffic_policy
    assert wanted == (None if asked is None else TrafficPolicy(asked))
    (server,) = resolved(READY, item=web(external_traffic_policy=wanted), policy=policy).servers
    assert (server.local, server.alike) == (local, not local)


def test_real_servers_are_on_no_node() -> None:
    servers = [{"address": "192.168.139.7"}]
    with pytest.raises(SpecError, match=r"spec\.externalTrafficPolicy: 'Local': goes with serviceRef"):
        parse_virtual_service(raw_virtual_service(serviceRef=None, realServers=servers, externalTrafficPolicy="Local"))
    (server,) = resolve(snapshot(web(real_servers=["192.168.139.7"]), services=[service(policy="Local")])).servers
    assert not server.local


def test_with_local_each_node_takes_what_it_has() -> None:
    other = endpoint("10.244.1.3", "node1", ready=False, serving=True, terminating=True)
    found = resolved(READY, other, LEAVING, policy="Local")
    assert weights(found) == {"10.244.1.2": 1, "10.244.1.3": 0, "10.244.2.2": 1}


def standby(found: Resolved) -> list[set[str]]:
    return [set(router.standby) for router in found.routers]


def test_nodes_without_ready_endpoints_stand_by() -> None:
    found = resolved(READY, LEAVING, FAILING, policy="Local")
    assert standby(found) == [{"node3"}], "node2 has nobody better than who terminates"
    reason = found.routers[0].standby["node3"]
    assert reason == "externalTrafficPolicy Local: no ready endpoint of default/web"
    assert standby(resolved(READY)) == [set()]


def test_nobody_stands_by_where_no_node_has_an_endpoint() -> None:
    assert standby(resolved(FAILING, policy="Local")) == [set()]


def test_a_cordoned_node_that_alone_has_endpoints_serves_on() -> None:
    known = [node("node1", standby="cordoned"), node("node2"), node("node3")]
    assert standby(resolved(READY, policy="Local", known=known)) == [{"node2", "node3"}]
    two = resolved(READY, endpoint("10.244.2.9", "node2"), policy="Local", known=known)
    assert standby(two) == [{"node1", "node3"}]


def test_of_several_objects_on_one_router_the_node_with_endpoints_of_most_serves() -> None:
    one, two = web(), virtual_service("api", service="api", addresses=["192.168.139.124"], assigned=MINE)
    parts = [
        endpoint_slice([READY, endpoint("10.244.2.9", "node2")]),
        endpoint_slice([endpoint("10.244.2.3", "node2")], service="api"),
    ]
    services = [service(policy="Local"), service("api", policy="Local")]
    found = resolve(snapshot(one, two, services=services, slices=parts))
    assert standby(found) == [{"node1", "node3"}]
    assert found.routers[0].standby["node1"].endswith("default/api")


def test_an_object_with_two_ports_needs_endpoints_for_both() -> None:
    parts = [
        endpoint_slice([READY, endpoint("10.244.2.9", "node2")], ports=[("http", 8080, "TCP")]),
        endpoint_slice([endpoint("10.244.2.9", "node2")], name="b", ports=[("dns", 53, "UDP")]),
    ]
    services = [service(ports=[("http", 80, "TCP"), ("dns", 53, "UDP")], policy="Local")]
    item = web(ports=[port(80), port(53, "UDP")])
    assert standby(resolve(snapshot(item, services=services, slices=parts))) == [{"node1", "node3"}]
