"""The agent's metrics: the agreed names, and no series of what is gone."""

import time
from ipaddress import ip_address

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lvsagent import ipc
from lvsagent.adapters.metrics import AgentCollector
from lvsagent.adapters.reflector import Health
from lvsagent.core.brakes import Held
from lvsagent.core.guard import NodeFinding, NodeReadings, Thing
from lvsagent.core.traffic import Now
from lvsagent.runtime.view import HEARTBEAT_SECONDS, View
from lvsagent.vrrp.packet import DropReason
from lvsapi.model import Protocol, Resolved
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service

pytestmark = pytest.mark.unit

NAMES = {
    "lvs_vrrp_state",
    "lvs_vrrp_transitions_total",
    "lvs_vrrp_adverts_sent_total",
    "lvs_vrrp_adverts_received_total",
    "lvs_vrrp_adverts_dropped_total",
    "lvs_vrrp_announcements_sent_total",
    "lvs_vip_held",
    "lvs_virtualservice_active",
    "lvs_backends",
    "lvs_programming_errors_total",
    "lvs_programming_seconds_bucket",
    "lvs_election_connected",
    "lvs_kube_connected",
    "lvs_kube_last_sync_timestamp_seconds",
    "lvs_kube_relists_total",
    "lvs_kube_errors_total",
    "lvs_build_info",
}
DRAINING = endpoint("10.244.1.3", ready=False, serving=True, terminating=True)
RESOLVED = resolve(snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(["10.244.1.2", DRAINING])]))


def router(state: str = "Active") -> ipc.RouterStatistics:
    return ipc.RouterStatistics(
        router="default/200/v4",
        state=state,
        virtual_router_id=200,
        family=4,
        interface="eth0",
        priority=250,
        active_address="",
        addresses_held=("192.168.139.123/32",) if state == "Active" else (),
        transitions={"Backup,Active,active_silent": 3},
        adverts_sent=1,
        adverts_received=2,
        announcements_sent=5,
        address_errors=0,
        intervals_clamped=2,
        findings={"ForeignVRID": "10.0.0.9 speaks on VRID 200"},
        effective_priority=240,
    )


def statistics(*routers: ipc.RouterStatistics) -> ipc.Statistics:
    return ipc.Statistics(
        started=0.0,
        generation=1,
        routers=routers,
        dropped={"checksum": 4},
        late_timers=0,
        lateness_max_ms=0.0,
        realtime=True,
        memory_locked=True,
    )


def scrape(view: View) -> list[str]:
    registry = CollectorRegistry()
    AgentCollector(view).register(registry)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def full() -> View:
    view = View(node="node1", version="1.2.3", resolved=RESOLVED, health={"services": Health(connected=True)})
    view.health["services"].errors["http_500"] = 1
    view.claims.heard(statistics(router()))
    view.errors["add_destination", "no_such_service"] += 2
    view.programming.observe(0.004)
    view.programming.observe(100.0)
    view.exchanged["told"], view.exchange_dropped["auth_hmac"], view.exchange_errors = 5, 6, 1
    place = (ip_address("192.168.139.123"), Protocol.TCP, 80)
    for number, (active, inactive) in enumerate(((1, 4), (2, 0))):
        view.traffic.backends[place, (ip_address(number), 80)] = Now(active=active, inactive=inactive)
    view.exchanged["left_out"] = 9
    view.held = {("lvsvirtualservices", Held.DELETED): 4, ("endpoints", Held.VANISHED): 0}
    view.repairs[Thing.SERVICE] = 3
    view.node_findings = {NodeFinding.TABLES_CONTESTED: "by somebody"}
    view.node_readings = NodeReadings(entries=7, limit=8)
    return view


def test_every_agreed_name_is_there() -> None:
    found = {line.split("{")[0].split(" ")[0] for line in scrape(full())}
    assert found >= NAMES


@pytest.mark.parametrize(
    "line",
    [
        'lvs_vrrp_state{family="4",interface="eth0",router="default/200/v4",state="Active",vrid="200"} 1.0',
        'lvs_vrrp_state{family="4",interface="eth0",router="default/200/v4",state="Backup",vrid="200"} 0.0',
        'lvs_vrrp_transitions_total{cause="active_silent",from="Backup",router="default/200/v4",to="Active"} 3.0',
        'lvs_vrrp_transitions_total{cause="preemption",from="Backup",router="default/200/v4",to="Active"} 0.0',
        'lvs_vrrp_adverts_dropped_total{reason="checksum"} 4.0',
        'lvs_vip_held{address="192.168.139.123",namespace="default",virtualservice="web"} 1.0',
        'lvs_virtualservice_active{namespace="default",virtualservice="web"} 1.0',
        'lvs_backends{address="192.168.139.123",namespace="default",port="80",protocol="TCP",state="ready",'
        'virtualservice="web"} 1.0',
        'lvs_backends{address="192.168.139.123",namespace="default",port="80",protocol="TCP",state="draining",'
        'virtualservice="web"} 1.0',
        'lvs_programming_errors_total{operation="add_destination",reason="no_such_service"} 2.0',
        'lvs_programming_seconds_bucket{le="0.005"} 1.0',
        'lvs_programming_seconds_bucket{le="+Inf"} 2.0',
        'lvs_kube_errors_total{reason="http_500",resource="services"} 1.0',
        'lvs_build_info{version="1.2.3"} 1.0',
        'lvs_vrrp_finding{finding="ForeignVRID",router="default/200/v4"} 1.0',
        'lvs_vrrp_finding{finding="AddressConflict",router="default/200/v4"} 0.0',
        'lvs_vrrp_priority{router="default/200/v4"} 240.0',
        'lvs_vrrp_refused{router="default/200/v4"} 0.0',
        'lvs_vrrp_intervals_clamped_total{router="default/200/v4"} 2.0',
        "lvs_election_realtime 1.0",
        "lvs_election_memory_locked 1.0",
        'lvs_repairs_total{what="service"} 3.0',
        'lvs_repairs_total{what="address"} 0.0',
        'lvs_node_finding{finding="TablesContested"} 1.0',
        'lvs_node_finding{finding="ReversePathStrict"} 0.0',
        "lvs_conntrack_entries 7.0",
        "lvs_connections_told_total 5.0",
        "lvs_connections_heard_total 0.0",
        "lvs_connections_written_total 0.0",
        "lvs_connections_forgotten_total 0.0",
        "lvs_connections_left_out_total 9.0",
        'lvs_kube_held_objects{reason="DeletedTogether",resource="lvsvirtualservices"} 4.0',
        'lvs_kube_held_objects{reason="EndpointsVanished",resource="endpoints"} 0.0',
        'lvs_connection_messages_dropped_total{reason="auth_hmac"} 6.0',
        'lvs_connection_messages_dropped_total{reason="unreachable"} 0.0',
        'lvs_connection_messages_dropped_total{reason="content"} 0.0',
        "lvs_connection_exchange_errors_total 1.0",
        "lvs_conntrack_limit 8.0",
        'lvs_ipvs_connections{state="active"} 3.0',
        'lvs_ipvs_connections{state="inactive"} 4.0',
    ],
)
def test_values_and_labels(line: str) -> None:
    assert line in scrape(full())


def test_every_finding_and_every_reason_for_a_drop_counts_from_zero() -> None:
    lines = scrape(full())
    for finding in ipc.Finding:
        assert any(line.startswith(f'lvs_vrrp_finding{{finding="{finding}"') for line in lines), finding
    for reason in DropReason:
        assert any(line.startswith(f'lvs_vrrp_adverts_dropped_total{{reason="{reason}"') for line in lines), reason


def test_what_is_gone_leaves_no_series() -> None:
    view = full()
    view.resolved = Resolved(servers=(), routers=(), problems=())
    view.claims.heard(statistics())
    assert not [line for line in scrape(view) if "virtualservice=" in line or "router=" in line]


def test_a_backup_holds_nothing() -> None:
    view = full()
    view.claims.heard(statistics(router("Backup")))
    assert 'lvs_vip_held{address="192.168.139.123",namespace="default",virtualservice="web"} 0.0' in scrape(view)
    assert 'lvs_virtualservice_active{namespace="default",virtualservice="web"} 0.0' in scrape(view)


def test_health_is_the_heartbeat_and_readiness_the_tables() -> None:
    view = full()
    now = time.monotonic()
    view.heartbeat = now
    assert view.healthy(now + HEARTBEAT_SECONDS / 2)
    assert not view.healthy(now + HEARTBEAT_SECONDS)
    assert not view.ready()
    view.in_place = True
    assert view.ready()
    view.kernel_supported = False
    assert not view.ready()
