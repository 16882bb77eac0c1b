"""What one node's kernel shall hold."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from lvsagent.core.plan import NodePlan, plan
from lvsagent.core.state import ForwardMethod, Interface, NodeFacts, Service, ServiceKey
from lvsagent.core.sysctl import REQUIRED
from lvsapi.ipvs import Persistence
from lvsapi.model import (
    Backend,
    Director,
    Forwarding,
    ObjectKey,
    Protocol,
    Resolved,
    Scheduler,
    VirtualRouter,
    VirtualServer,
)
from lvsapi.vrrp import VrrpSettings

pytestmark = pytest.mark.unit
VIP = ip_address("10.0.0.200")
WEB = ObjectKey("default", "web")
KEY = ServiceKey(VIP, Protocol.TCP, 80)
M, T, D = ForwardMethod.MASQUERADE, ForwardMethod.TUNNEL, ForwardMethod.DIRECT_ROUTE


def interface(name: str, *addresses: str, index: int = 2) -> Interface:
    return Interface(
        name=name, index=index, mac="02:00:00:00:00:01", up=True, addresses=tuple(map(ip_interface, addresses))
    )


LO = interface("lo", "127.0.0.1/8", index=1)


def facts(*interfaces: Interface, node: str = "n1", default: Mapping[int, str] | None = None) -> NodeFacts:
    cards = interfaces or (interface("eth0", "10.0.0.21/24"), interface("cni0", "10.244.1.1/24", index=3))
    return NodeFacts(node=node, interfaces=(LO, *cards), default_interface=default or {})


def backend(address: str, node: str | None, *, host: bool = False, weight: int = 1) -> Backend:
    return Backend(address=ip_address(address), port=8080, weight=weight, node=node, host_network=host)


PODS = (backend("10.244.1.11", "n1"), backend("10.244.2.11", "n2", weight=0))


def server(**changes: object) -> VirtualServer:
    base = VirtualServer(
        owner=WEB,
        address=VIP,
        protocol=Protocol.TCP,
        port=80,
        scheduler=Scheduler.MH,
        forwarding=Forwarding.DIRECT_ROUTING,
        backends=PODS,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def router(**changes: object) -> VirtualRouter:
    base = VirtualRouter(
        class_name="default",
        virtual_router_id=200,
        family=4,
        addresses=(VIP,),
        owners=(WEB,),
        directors=(Director(node="n1", priority=250), Director(node="n2", priority=240)),
        interface="",
        vip_interface="",
        vip_prefix_length=None,
        vrrp=VrrpSettings(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def planned(
    server: VirtualServer, node: NodeFacts | None = None, router: VirtualRouter | None = None, active: bool = False
) -> NodePlan:
    routers = (router,) if router else ()
    resolved = Resolved(servers=(server,), routers=routers, problems=())
    return plan(resolved, node or facts(), frozenset({"default/200/v4"}) if active else frozenset())


def only(result: NodePlan) -> Service:
    (service,) = result.state.services.values()
    return service


def test_a_local_pod_is_masqueraded_and_a_remote_one_reached_by_direct_routing() -> None:
    service = only(planned(server()))
    assert [(str(d.address), d.port, d.method, d.weight) for d in service.destinations] == [
        ("10.244.1.11", 8080, M, 1),
        ("10.244.2.11", 8080, D, 0),
    ]
    assert (service.key, service.scheduler, service.flags) == (KEY, "mh", 0x18)


def test_every_node_has_the_same_mh_destinations_in_the_same_order_and_the_vip_on_lo() -> None:
    plans = [planned(server(), facts(node=node), router(), active=node == "n1") for node in ("n1", "n2", "n3")]
    assert len({tuple(d.key for d in only(p).destinations) for p in plans}) == 1
    assert {p.state.loopback for p in plans} == {frozenset({VIP})}
    assert all(p.state.sysctls == REQUIRED for p in plans)


@pytest.mark.parametrize("scheduler", [s for s in Scheduler if s is not Scheduler.MH])
def test_other_schedulers_hold_all_destinations_on_the_active_only(scheduler: Scheduler) -> None:
    backup = only(planned(server(scheduler=scheduler), router=router()))
    active = only(planned(server(scheduler=scheduler), router=router(), active=True))
    assert [str(d.address) for d in backup.destinations] == ["10.244.1.11"]
    assert len(active.destinations) == 2
    assert (backup.scheduler, backup.flags) == (scheduler, 0)


@pytest.mark.parametrize(
    ("forwarding", "here", "there", "host_here"),
    [(Forwarding.DIRECT_ROUTING, M, D, D), (Forwarding.MASQUERADE, M, D, M), (Forwarding.TUNNEL, T, T, T)],
)
def test_the_forwarding_method_is_honoured(
    forwarding: Forwarding, here: ForwardMethod, there: ForwardMethod, host_here: ForwardMethod
) -> None:
    backends = (*PODS, backend("10.0.0.21", "n1", host=True))
    service = only(planned(server(forwarding=forwarding, backends=backends)))
    assert [d.method for d in service.destinations] == [here, there, host_here]


def test_what_is_no_pod_is_masqueraded_by_this_node_wherever_it_is() -> None:
    backends = (backend("10.0.0.22", "n2", host=True), backend("10.0.0.23", None, host=True))
    service = only(planned(server(forwarding=Forwarding.MASQUERADE, backends=backends)))
    assert [d.method for d in service.destinations] == [M, M]


def test_a_real_server_that_is_this_node_counts_as_local() -> None:
    backends = (backend("10.0.0.21", None, host=True), backend("10.0.0.22", None, host=True))
    service = only(planned(server(scheduler=Scheduler.RR, backends=backends)))
    assert [str(d.address) for d in service.destinations] == ["10.0.0.21"]


def test_a_director_that_is_no_real_server_holds_the_whole_table_while_it_waits() -> None:
    backends = (backend("10.0.0.22", None, host=True), backend("10.0.0.23", None, host=True))
    service = only(planned(server(scheduler=Scheduler.RR, backends=backends), router=router()))
    assert [str(d.address) for d in service.destinations] == ["10.0.0.22", "10.0.0.23"]
    assert service.flags == 0


def test_a_director_takes_part_on_the_interface_whose_network_holds_the_vip() -> None:
    (config,) = planned(server(), router=router()).routers
    assert (config.interface, config.vip_interface) == ("eth0", "eth0")
    assert config.addresses == ("10.0.0.200/32",)
    assert (config.priority, config.virtual_router_id, config.advertisement_interval_ms) == (250, 200, 100)
    assert not config.ready


def test_a_node_that_is_no_director_has_the_table_but_no_router() -> None:
    result = planned(server(), facts(node="n3"), router())
    assert result.routers == ()
    assert result.problems == ()
    assert result.state.services


def test_the_smallest_network_that_holds_the_vip_wins_and_host_addresses_do_not_count() -> None:
    node = facts(
        interface("wide", "10.0.0.1/8"), interface("eth1", "10.0.0.2/24", index=3), interface("dummy", "10.0.0.9/32")
    )
    assert planned(server(), node, router()).routers[0].interface == "eth1"


def test_without_a_fitting_network_the_default_route_decides() -> None:
    node = facts(interface("eth7", "192.168.1.1/24"), default={4: "eth7"})
    assert planned(server(), node, router()).routers[0].interface == "eth7"


def test_without_any_interface_the_problem_names_address_node_and_field() -> None:
    result = planned(server(), facts(interface("eth7", "192.168.1.1/24")), router())
    assert result.routers == ()
    (problem,) = result.problems
    assert (problem.key, problem.reason) == (WEB, "NoInterface")
    for word in ("10.0.0.200", "n1", "spec.interface", "VirtualServiceClass default"):
        assert word in problem.message


def test_the_class_may_name_both_interfaces() -> None:
    (config,) = planned(server(), router=router(interface="cni0", vip_interface="eth0", vip_prefix_length=24)).routers
    assert (config.interface, config.vip_interface, config.addresses) == ("cni0", "eth0", ("10.0.0.200/24",))


@pytest.mark.parametrize("field", ["interface", "vip_interface"])
def test_an_interface_that_does_not_exist_is_named(field: str) -> None:
    result = planned(server(), router=router(**{field: "bond7"}))
    assert result.routers == ()
    (problem,) = result.problems
    assert "bond7" in problem.message
    assert {"interface": "spec.interface", "vip_interface": "spec.vipInterface"}[field] in problem.message


def test_an_address_of_the_node_itself_is_refused_and_nothing_of_it_is_planned() -> None:
    result = planned(server(address=ip_address("10.0.0.21")), router=router(addresses=(ip_address("10.0.0.21"),)))
    assert not result.state.services
    assert not result.state.loopback
    assert result.routers == ()
    (problem,) = result.problems
    assert (problem.key, problem.condition, problem.reason) == (WEB, "Programmed", "AddressOfNode")
    for word in ("spec.addresses", "10.0.0.21", "n1", "eth0"):
        assert word in problem.message


def test_the_other_addresses_of_the_router_stay() -> None:
    result = planned(server(), router=router(addresses=(ip_address("10.0.0.21"), VIP)))
    assert result.routers[0].addresses == ("10.0.0.200/32",)
    assert [p.reason for p in result.problems] == ["AddressOfNode"]


def test_the_vip_on_lo_is_no_address_of_the_node() -> None:
    node = NodeFacts(node="n1", interfaces=(interface("lo", "10.0.0.200/32"), interface("eth0", "10.0.0.21/24")))
    assert planned(server(), node, router()).problems == ()


def test_ipv6_addresses_are_carried_by_a_router_of_their_own() -> None:
    vip = ip_address("fd00::200")
    node = facts(interface("eth0", "10.0.0.21/24", "fd00::21/64"))
    result = planned(server(address=vip, backends=()), node, router(family=6, addresses=(vip,)))
    assert result.state.loopback == {vip}
    (config,) = result.routers
    assert (config.name, config.family, config.addresses) == ("default/200/v6", 6, ("fd00::200/128",))
    assert (config.interface, config.sources, config.unicast_peers) == ("eth0", (), None)
    assert result.problems == ()


MISSING = "spec.serviceRef.name: there is no Service default/web; create it or name another"


def test_an_object_whose_references_are_missing_gets_nothing_new() -> None:
    result = planned(server(backends=(), missing=MISSING), router=router())
    assert (result.state.services, result.state.loopback, result.routers) == ({}, frozenset(), ())
    (problem,) = result.problems
    assert (problem.key, problem.condition, problem.reason) == (WEB, "Programmed", "NotResolved")
    assert MISSING in problem.message


def test_what_served_already_stays_when_its_service_goes() -> None:
    resolved = Resolved(servers=(server(backends=(), missing=MISSING),), routers=(router(),), problems=())
    result = plan(resolved, facts(), frozenset(), frozenset({KEY}))
    assert only(result).destinations == ()
    assert result.state.loopback == {VIP}
    assert [config.addresses for config in result.routers] == [("10.0.0.200/32",)]
    assert result.problems == ()


def test_a_port_that_is_missing_keeps_a_new_port_of_the_object_from_being_made_and_no_old_one() -> None:
    servers = (server(missing=MISSING), server(port=443, backends=(), missing=MISSING))
    result = plan(Resolved(servers=servers, routers=(router(),), problems=()), facts(), frozenset(), frozenset({KEY}))
    assert list(result.state.services) == [KEY]
    assert len(only(result).destinations) == 2
    assert [problem.reason for problem in result.problems] == ["NotResolved"]


def test_an_address_without_tables_is_not_carried_beside_others_of_its_router() -> None:
    other = ip_address("10.0.0.201")
    servers = (server(), server(address=other, backends=(), missing=MISSING))
    result = plan(
        Resolved(servers=servers, routers=(router(addresses=(VIP, other)),), problems=()), facts(), frozenset()
    )
    assert [config.addresses for config in result.routers] == [("10.0.0.200/32",)]


def test_persistence_lets_go_of_clients_whose_backend_drains() -> None:
    key = "net/ipv4/vs/expire_quiescent_template"
    assert planned(server(persistence=Persistence())).state.sysctls == {**REQUIRED, key: "1"}
    assert key not in planned(server()).state.sysctls


def test_an_endpoint_that_does_not_serve_stays_where_a_table_has_it_and_is_added_nowhere() -> None:
    kept = replace(PODS[1], kept=True)
    what = Resolved(servers=(server(backends=(PODS[0], kept)),), routers=(), problems=())
    with_it = plan(Resolved(servers=(server(),), routers=(), problems=()), facts(), frozenset()).state.services
    without = plan(what, facts(), frozenset())
    assert [str(d.address) for d in only(without).destinations] == ["10.244.1.11"]
    after = plan(what, facts(), frozenset(), frozenset(), with_it)
    assert [(str(d.address), d.weight) for d in only(after).destinations] == [("10.244.1.11", 1), ("10.244.2.11", 0)]
    gone = plan(what, facts(), frozenset(), frozenset(), without.state.services)
    assert gone.state == without.state


@pytest.mark.parametrize("active", [True, False])
def test_with_external_traffic_policy_local_every_node_has_its_own_pods_only(active: bool) -> None:
    homeless = backend("10.244.9.9", None)
    for node, wanted in (("n1", ["10.244.1.11"]), ("n2", ["10.244.2.11"]), ("n3", [])):
        what = server(local=True, backends=(*PODS, homeless))
        service = only(planned(what, facts(node=node), router(), active=active))
        assert [str(d.address) for d in service.destinations] == wanted
    assert only(planned(server(local=True, backends=(homeless,)))).destinations == ()
