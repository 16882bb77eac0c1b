"""What one node's kernel shall hold: flags, persistence, limits, tunnels, firewall marks, sync daemons."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.core.plan import MARKS, NodePlan, plan
from lvsagent.core.state import ForwardMethod, Mark, Persistent, ServiceKey, SyncDaemon, SyncRole
from lvsagent.core.sysctl import SYNC_THRESHOLD
from lvsagent.core.tablehash import Hashes
from lvsapi.ipvs import ConnectionLimits, Forwarding, Persistence, Scheduler, SchedulerFlag, Tunnel, TunnelType
from lvsapi.model import Backend, Protocol, Resolved, VirtualRouter, VirtualServer
from lvsapi.vrrp import VrrpSettings
from tests.unit.test_plan import PODS, VIP, WEB, backend, facts, interface, only, planned, router, server

pytestmark = pytest.mark.unit
M, T, D = ForwardMethod.MASQUERADE, ForwardMethod.TUNNEL, ForwardMethod.DIRECT_ROUTE
VIP6 = ip_address("fd00::200")
LAB = (backend("10.0.0.22", None, host=True), backend("10.0.0.23", None, host=True))


@pytest.mark.parametrize(
    ("scheduler", "given", "flags"),
    [
        ("mh", None, 0x18),
        ("mh", (), 0),
        ("mh", (SchedulerFlag.MH_FALLBACK,), 0x08),
        ("sh", None, 0),
        ("sh", (SchedulerFlag.SH_PORT,), 0x10),
        ("wrr", None, 0),
    ],
)
def test_flags_are_the_schedulers_own(scheduler: str, given: tuple[SchedulerFlag, ...] | None, flags: int) -> None:
    assert only(planned(server(scheduler=Scheduler(scheduler), scheduler_flags=given))).flags == flags


def test_one_packet_scheduling_and_persistence_are_flags_too() -> None:
    sticky = Persistence(timeout_seconds=60, ipv4_prefix_length=24, ipv6_prefix_length=64)
    found = only(planned(server(protocol=Protocol.UDP, one_packet=True, persistence=sticky)))
    assert (found.flags, found.persistent) == (0x18 | 0x4 | 0x1, Persistent(60, 24))
    assert only(planned(server(address=VIP6, backends=(), persistence=sticky))).persistent == Persistent(60, 64)


LIMITED = tuple(replace(pod, limits=ConnectionLimits(upper=9, lower=3)) for pod in PODS)


@pytest.mark.parametrize("found", [server(persistence=Persistence()), server(backends=LIMITED)])
def test_where_nodes_remember_or_count_a_backup_knows_its_own_pods_only(found: VirtualServer) -> None:
    """mh or not: a packet that two nodes send elsewhere would go to and fro until its TTL ends."""
    assert [str(d.address) for d in only(planned(found, router=router())).destinations] == ["10.244.1.11"]
    assert len(only(planned(found, router=router(), active=True)).destinations) == 2


def test_limits_reach_every_destination() -> None:
    found = only(planned(server(backends=LIMITED), active=True)).destinations
    assert {(d.upper, d.lower) for d in found} == {(9, 3)}


def test_every_real_server_may_have_its_own_way() -> None:
    gue = Tunnel(type=TunnelType.GUE, port=6080)
    ways = (
        replace(LAB[0], tunnel=gue),
        replace(LAB[1], forwarding=Forwarding.TUNNEL, tunnel=gue),
        replace(LAB[1], forwarding=Forwarding.MASQUERADE),
    )
    found = only(planned(server(backends=ways))).destinations
    assert [(d.method, d.tunnel.type) for d in found] == [(D, "ipip"), (T, "gue"), (M, "ipip")]


# -- firewall marks --------------------------------------------------------------------------------------------------

RANGE = server(port=30000, end_port=32767, protocol=Protocol.UDP)
EVERY = server(address=VIP6, port=0, end_port=65535, protocol=None)


def marked(*servers: VirtualServer, standing: frozenset[ServiceKey] = frozenset()) -> NodePlan:
    return plan(Resolved(servers=servers, routers=(), problems=()), facts(), frozenset(), standing)


def keys(result: NodePlan) -> frozenset[ServiceKey]:
    return frozenset(result.state.services)


def test_a_range_is_a_service_with_a_firewall_mark_and_a_rule_that_sets_it() -> None:
    result = marked(server(), RANGE, EVERY)
    assert result.state.marks == {
        Mark(address=VIP, protocol=Protocol.UDP, first=30000, last=32767, value=0x1000),
        Mark(address=VIP6, protocol=None, first=0, last=65535, value=0x1000),
    }
    assert {(key.address, key.mark) for key in keys(result)} == {(VIP, 0), (VIP, 0x1000), (VIP6, 0x1000)}
    assert result.state.loopback == {VIP, VIP6}


def test_marks_stay_when_ranges_come_go_and_grow() -> None:
    before = marked(RANGE)
    sooner = replace(RANGE, port=1000, end_port=2000)
    grown = replace(RANGE, end_port=40000)
    later = marked(sooner, grown, standing=keys(before))
    assert {(mark.first, mark.last): mark.value for mark in later.state.marks} == {
        (1000, 2000): 0x1001,
        (30000, 40000): 0x1000,
    }
    alone = marked(grown, standing=keys(later))
    assert {mark.value for mark in alone.state.marks} == {0x1000}
    assert {mark.value for mark in marked(sooner, grown, standing=keys(alone)).state.marks} == {0x1000, 0x1001}


def test_a_range_whose_references_are_missing_gets_neither_service_nor_mark() -> None:
    result = marked(replace(RANGE, backends=(), missing="no Service"))
    assert (keys(result), result.state.marks) == (frozenset(), frozenset())
    assert [problem.reason for problem in result.problems] == ["NotResolved"]


def test_when_marks_run_out_the_object_is_named_and_the_others_are_served() -> None:
    many = [replace(RANGE, port=n * 10 + 1, end_port=n * 10 + 5) for n in range(len(MARKS) + 1)]
    result = marked(*many, replace(EVERY, port=0))
    assert len(keys(result)) == len(MARKS) + 1
    (problem,) = result.problems
    assert (problem.key, problem.reason) == (WEB, "TooManyRanges")
    assert "2561-2565" in problem.message


def test_the_marks_have_no_bit_that_others_use() -> None:
    """kube-proxy 0x4000 and 0x8000, Cilium 0xf00, portmap 0x2000, Calico 0xffff0000, Weave 0x60000."""
    assert all(not value & (0x4000 | 0x8000 | 0xF00 | 0x2000 | 0xFFFF0000) for value in MARKS)


def test_nodes_with_other_marks_have_equal_tables() -> None:
    """Marks follow a node's history."""
    resolved = Resolved(servers=(RANGE,), routers=(), problems=())
    other = ServiceKey(VIP, Protocol.UDP, 30000, 0x10FF)
    fresh, old = (
        plan(resolved, facts(), frozenset(), standing).state for standing in (frozenset(), frozenset({other}))
    )
    assert {mark.value for mark in fresh.marks | old.marks} == {0x1000, 0x10FF}
    one, another = (Hashes().of(resolved, state) for state in (fresh, old))
    assert [each.alike for each in one.values()] == [each.alike for each in another.values()] != []
    assert [each.whole for each in one.values()] != [each.whole for each in another.values()]


# -- sync daemons ----------------------------------------------------------------------------------------------------


def synchronised(active: bool, *servers: VirtualServer, vrid: int = 51) -> NodePlan:
    settings = VrrpSettings(virtual_router_ids=(vrid, vrid))
    one: VirtualRouter = router(connection_sync=True, virtual_router_id=200, vrrp=settings)
    node = facts(interface("ens33", "10.0.0.1/24"))
    resolved = Resolved(servers=servers or (server(scheduler=Scheduler.RR, backends=LAB),), routers=(one,), problems=())
    return plan(resolved, node, frozenset({"default/200/v4"}) if active else frozenset())


@pytest.mark.parametrize(("active", "role"), [(True, SyncRole.MASTER), (False, SyncRole.BACKUP)])
def test_the_active_tells_and_the_others_listen(active: bool, role: SyncRole) -> None:
    state = synchronised(active).state
    assert state.daemons == {SyncDaemon(role=role, interface="ens33", sync_id=51)}
    assert state.sysctls[SYNC_THRESHOLD] == "2 50"


def test_a_node_that_is_active_for_one_router_and_not_for_another_does_both() -> None:
    routers = tuple(router(connection_sync=True, virtual_router_id=vrid) for vrid in (200, 201))
    resolved = Resolved(servers=(server(scheduler=Scheduler.RR, backends=LAB),), routers=routers, problems=())
    state = plan(resolved, facts(), frozenset({"default/201/v4"})).state
    assert {(d.role, d.sync_id) for d in state.daemons} == {(SyncRole.MASTER, 200), (SyncRole.BACKUP, 200)}


def test_where_pods_are_there_is_no_daemon() -> None:
    state = synchronised(True, server(scheduler=Scheduler.RR, backends=LAB), server(port=81)).state
    assert state.daemons == frozenset()
    assert SYNC_THRESHOLD not in state.sysctls


def test_backends_keep_their_port_zero() -> None:
    one = Backend(address=ip_address("10.0.0.22"), port=0, weight=1, node=None, host_network=True)
    (found,) = marked(replace(RANGE, backends=(one,))).state.services.values()
    assert found.destinations[0].port == 0
