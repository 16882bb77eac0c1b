"""What a takeover keeps, in words."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.core.report import reports
from lvsapi.assign import assign
from lvsapi.ipvs import ConnectionLimits, Forwarding, Persistence, Scheduler
from lvsapi.model import Backend, ObjectKey, Protocol, Resolved, VirtualRouter, VirtualServer
from lvsapi.parse import parse_class
from lvsapi.resolve import resolve
from lvsapi.status import agent_status
from lvsapi.takeover import kept_of, synchronised_class
from lvsapi.vrrp import VrrpSettings
from tests.gen import assignment, raw_class, raw_virtual_service, snapshot, virtual_service

pytestmark = pytest.mark.unit
POD = Backend(address=ip_address("10.244.1.11"), port=8080, weight=1, node="n1")
HOST = Backend(address=ip_address("10.0.0.21"), port=80, weight=1, node="n1", host_network=True)
OUTSIDE = Backend(address=ip_address("10.0.0.99"), port=80, weight=1, node=None, host_network=True)
PERSISTENCE, LIMITS = Persistence(), ConnectionLimits(upper=9)


def server(scheduler: str = "mh", *backends: Backend, **changes: object) -> VirtualServer:
    found = VirtualServer(
        owner=ObjectKey("default", "web"),
        address=ip_address("10.0.0.200"),
        protocol=Protocol.TCP,
        port=80,
        scheduler=Scheduler(scheduler),
        forwarding=Forwarding.DIRECT_ROUTING,
        backends=backends,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def router(name: str, sync: bool) -> VirtualRouter:
    return VirtualRouter(
        class_name=name,
        virtual_router_id=51,
        family=4,
        addresses=(),
        owners=(),
        directors=(),
        interface="",
        vip_interface="",
        vip_prefix_length=None,
        vrrp=VrrpSettings(),
        connection_sync=sync,
    )


@pytest.mark.parametrize(
    ("found", "sync", "reason"),
    [
        (server("mh", POD), False, "SameTable"),
        (server("mh", HOST), False, "SameTable"),
        (server("mh", OUTSIDE), False, "SameTable"),
        (server("mh", POD, persistence=PERSISTENCE), False, "LocalBackendsOnly"),
        (server("mh", replace(POD, limits=LIMITS)), False, "LocalBackendsOnly"),
        (server("mh", OUTSIDE, persistence=PERSISTENCE), False, "NotSynchronised"),
        (server("mh", replace(OUTSIDE, limits=LIMITS)), False, "NotSynchronised"),
        (server("mh", OUTSIDE, persistence=PERSISTENCE), True, "Synchronised"),
        (server("mh", POD, local=True), False, "LocalTrafficPolicy"),
        (server("rr", POD, local=True), False, "LocalTrafficPolicy"),
        (server("rr", POD), False, "LocalBackendsOnly"),
        (server("sh", HOST), False, "LocalBackendsOnly"),
        (server("rr", OUTSIDE), False, "NotSynchronised"),
        (server("rr", OUTSIDE), True, "Synchronised"),
        (server("sh", OUTSIDE), False, "SameTable"),
        (server("dh", OUTSIDE), False, "SameTable"),
        (server("dh", OUTSIDE), True, "SameTable"),
        (server("sh", OUTSIDE, persistence=PERSISTENCE), False, "NotSynchronised"),
        (server("fo", OUTSIDE), False, "SameTable"),
        (server("fo", POD), False, "LocalBackendsOnly"),
        (server("fo", replace(OUTSIDE, limits=LIMITS)), False, "NotSynchronised"),
        (server("mh", OUTSIDE, forwarding=Forwarding.TUNNEL), False, "SameTable"),
        (server("mh", OUTSIDE, forwarding=Forwarding.MASQUERADE), False, "AnswersNotTranslated"),
        (server("sh", OUTSIDE, forwarding=Forwarding.MASQUERADE), False, "AnswersNotTranslated"),
        (server("rr", OUTSIDE, forwarding=Forwarding.MASQUERADE), False, "NotSynchronised"),
        (server("mh", OUTSIDE, forwarding=Forwarding.MASQUERADE), True, "Synchronised"),
        (server("mh", OUTSIDE, replace(OUTSIDE, forwarding=Forwarding.MASQUERADE)), False, "AnswersNotTranslated"),
        (
            server("mh", replace(OUTSIDE, forwarding=Forwarding.TUNNEL), forwarding=Forwarding.MASQUERADE),
            False,
            "SameTable",
        ),
        (server("rr", OUTSIDE, protocol=Protocol.UDP), True, "Synchronised"),
        (server("rr", OUTSIDE, protocol=Protocol.SCTP), True, "Synchronised"),
        (server("rr", OUTSIDE, protocol=Protocol.SCTP, forwarding=Forwarding.MASQUERADE), True, "NotSynchronised"),
        (server("mh", OUTSIDE, protocol=None, forwarding=Forwarding.MASQUERADE), True, "AnswersNotTranslated"),
        (server("mh", OUTSIDE, protocol=Protocol.SCTP), True, "SameTable"),
        (server("rr", OUTSIDE, one_packet=True), False, "OnePacket"),
        (server("rr"), False, "SameTable"),
    ],
)
def test_the_reason_follows_from_scheduler_backends_and_synchronisation(
    found: VirtualServer, sync: bool, reason: str
) -> None:
    kept = kept_of([found], sync, sync, "")
    assert kept.reason == reason
    assert kept.all is (reason in ("SameTable", "Synchronised", "OnePacket"))


def test_the_worst_port_speaks_for_the_object() -> None:
    assert kept_of([server("mh", POD), server("rr", POD)], False, False, "").reason == "LocalBackendsOnly"


def test_what_is_not_kept_is_said_with_what_keeps_it() -> None:
    assert "scheduler rr" in kept_of([server("rr", POD)], False, False, "").message
    assert "mh keeps all" in kept_of([server("rr", POD)], False, False, "").message
    assert "use mh, or connectionSync" in kept_of([server("rr", OUTSIDE)], False, False, "").message
    masqueraded = kept_of([server("mh", OUTSIDE, forwarding=Forwarding.MASQUERADE)], False, False, "").message
    assert "use DirectRouting or Tunnel, or connectionSync" in masqueraded
    masqueraded = kept_of([server("rr", OUTSIDE, forwarding=Forwarding.MASQUERADE)], False, False, "").message
    assert "use mh with DirectRouting or Tunnel, or connectionSync" in masqueraded
    association = server("rr", OUTSIDE, protocol=Protocol.SCTP, forwarding=Forwarding.MASQUERADE)
    assert kept_of([association], True, True, "").message.endswith("; use mh with DirectRouting or Tunnel")
    text = kept_of([server("rr", OUTSIDE)], True, False, "pods are here").message
    assert "connectionSync is not in force: pods are here" in text


def resolved(*servers: VirtualServer, routers: tuple[VirtualRouter, ...]) -> Resolved:
    return Resolved(servers=servers, routers=routers, problems=())


def test_the_daemon_runs_for_one_class_and_where_no_pods_are() -> None:
    both = (router("b", True), router("a", True), router("c", False))
    assert synchronised_class(resolved(routers=(router("c", False),))) == ("", "")
    name, why = synchronised_class(resolved(server("rr", OUTSIDE), routers=both))
    assert name == "a"
    assert "class a" in why
    name, why = synchronised_class(resolved(server("rr", OUTSIDE), server("mh", POD), routers=both))
    assert name == ""
    assert "default/web has pods" in why


# -- the class -------------------------------------------------------------------------------------------------------


def test_a_class_that_synchronises_connections_serves_real_servers_only() -> None:
    asked = parse_class(raw_class("sync", connectionSync=True))
    assert asked.connection_sync
    assert not parse_class(raw_class()).connection_sync
    outside = virtual_service("lab", addresses=["10.0.0.1"], real_servers=["10.0.0.9"], class_name="sync")
    pods = virtual_service("web", addresses=["10.0.0.2"], class_name="sync")
    found = assign(snapshot(outside, pods, classes=[asked]))
    assert [key.name for key in found.assignments] == ["lab"]
    (problem,) = found.problems
    assert (problem.key.name, problem.condition, problem.reason) == (
        "web",
        "Accepted",
        "ConnectionSyncNeedsRealServers",
    )
    for word in ("spec.serviceRef", "class sync", "connectionSync", "realServers"):
        assert word in problem.message


def test_the_active_node_reports_what_a_takeover_keeps() -> None:
    objects = (
        replace(virtual_service("web", assigned=assignment(200), scheduler="rr"), addresses=(ip_address("10.0.0.1"),)),
        replace(virtual_service("mh", assigned=assignment(200)), addresses=(ip_address("10.0.0.2"),)),
    )
    found = reports(resolve(snapshot(*objects)), frozenset({"default/200/v4"}), (), "node1", {})
    assert {key.name: report.kept.reason for key, report in found.items()} == {
        "web": "LocalBackendsOnly",
        "mh": "SameTable",
    }


def test_the_condition_is_written_with_the_others_and_is_no_fault() -> None:
    kept = (False, "LocalBackendsOnly", "some")
    body = agent_status(raw_virtual_service(), node="n1", since="t", ready=1, total=1, problems=(), now="t", kept=kept)
    conditions = {c["type"]: (c["status"], c["reason"]) for c in body["status"]["conditions"]}  # type: ignore[index]
    assert conditions["ConnectionsSurvive"] == ("False", "LocalBackendsOnly")
    assert conditions["Ready"][0] == conditions["Programmed"][0] == "True"
