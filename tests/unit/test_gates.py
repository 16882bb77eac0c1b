"""Readiness gates: which pods are asked before they are backends, and what is said of them by whom."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.adapters.podgates import known_of
from lvsagent.checks.messages import Verdict
from lvsagent.core.gates import LONGEST, Gate, gates
from lvsagent.core.targets import name_of
from lvsapi.gates import Waiting, waiting
from lvsapi.health import CheckType, Health, HealthCheck
from lvsapi.model import Endpoint, ObjectKey, VirtualService
from lvsapi.parse_kube import parse_endpoint_slice
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint, endpoint_slice, service, snapshot, virtual_service

pytestmark = pytest.mark.unit

PATH = Health(checks=(HealthCheck(type=CheckType.PATH),), pods=True)
POD = ObjectKey("default", "web-1")


def web(name: str = "web", address: str = "192.168.139.123", **more: object) -> VirtualService:
    made = virtual_service(name, addresses=[address], assigned=assignment())
    return replace(made, **{"health": PATH, **more})  # type: ignore[arg-type]


def pod(address: str = "10.244.1.9", name: str = "web-1", **more: bool) -> Endpoint:
    made = replace(endpoint(address, ready=False), pod=ObjectKey("default", name), uid=f"uid-{name}")
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_pod_that_is_not_ready_is_asked_as_the_backend_that_it_would_be() -> None:
    given = snapshot(web(), slices=[endpoint_slice([endpoint(), pod()])])
    (one,) = waiting(given)
    assert (one.pod, one.uid) == (POD, "uid-web-1")
    assert (str(one.backend.address), one.backend.port, one.backend.weight) == ("10.244.1.9", 8080, 1)
    ready = snapshot(web(), slices=[endpoint_slice([endpoint(), pod(ready=True, serving=True)])])
    (server,) = resolve(ready).servers
    assert name_of(one.server, one.backend) in {name_of(server, backend) for backend in server.backends}, (
        "ready, it keeps its answers"
    )
    assert waiting(ready) == ()


@pytest.mark.parametrize(
    "item",
    [
        web(health=Health()),
        web(health=replace(PATH, pods=False)),
        web(health=replace(PATH, checks=(HealthCheck(type=CheckType.TCP),))),
        web(assigned=None),
    ],
    ids=["nothing is asked", "pods are not asked", "the path is not asked", "not assigned"],
)
def test_nobody_is_asked_for_an_object_that_does_not_ask_for_the_path(item: VirtualService) -> None:
    assert waiting(snapshot(item, slices=[endpoint_slice([pod()])])) == ()


def test_pods_that_end_endpoints_without_pods_and_other_services_are_not_asked() -> None:
    slices = [
        endpoint_slice([pod(terminating=True, serving=True), endpoint("10.244.1.8", ready=False)]),
        endpoint_slice([pod()], service="other"),
        endpoint_slice([pod()], namespace="elsewhere", name="x"),
    ]
    assert waiting(snapshot(web(), slices=slices)) == ()


def test_every_object_and_port_of_a_pod_is_asked() -> None:
    items = (web(), web("web2", "192.168.139.124"), replace(web("quiet", "192.168.139.125"), health=Health()))
    found = waiting(snapshot(*items, slices=[endpoint_slice([pod()])]))
    assert [(one.server.owner.name, str(one.server.address)) for one in found] == [
        ("web", "192.168.139.123"),
        ("web2", "192.168.139.124"),
    ]


def test_an_endpoint_names_its_pod() -> None:
    raw = {
        "metadata": {"name": "web-abcde", "namespace": "default"},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "n", "uid": "u"}},
            {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "web-2"}},
            {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Node", "name": "x", "uid": "u"}},
            {"addresses": ["10.0.0.4"], "targetRef": None},
        ],
    }
    found = [(each.pod, each.uid) for each in parse_endpoint_slice(raw).endpoints]
    assert found == [(ObjectKey("n", "web-1"), "u"), (ObjectKey("default", "web-2"), ""), (None, ""), (None, "")]


# -- what is said ----------------------------------------------------------------------------------------------------

FIRST, SECOND = ip_address("192.168.139.123"), ip_address("192.168.139.124")


def two() -> tuple[Waiting, ...]:
    return waiting(snapshot(web(), web("web2", str(SECOND)), services=[service()], slices=[endpoint_slice([pod()])]))


def verdicts(found: tuple[Waiting, ...], *ups: bool | None) -> dict[str, Verdict]:
    """None: not known yet."""
    names = [name_of(one.server, one.backend) for one in found]
    return {
        name: Verdict(generation=1, name=name, up=bool(up), known=up is not None, reason="" if up else "Path: mute")
        for name, up in zip(names, ups, strict=False)
    }


def test_the_gate_opens_when_everything_holds() -> None:
    found = two()
    (gate,) = gates(found, verdicts(found, True, True), {FIRST}, "node1")
    assert gate == Gate(
        pod=POD,
        uid="uid-web-1",
        status=True,
        reason="PathProved",
        message="It gets what clients send to 192.168.139.123, 192.168.139.124, found out by node node1",
    )


def test_one_object_that_fails_keeps_it_shut_and_says_why() -> None:
    found = two()
    (gate,) = gates(found, verdicts(found, True, False), {FIRST}, "node1")
    assert (gate.status, gate.reason, gate.message) == (False, "PathNotProved", "default/web2: Path: mute")
    (gate,) = gates(found, verdicts(found, None, False), {FIRST}, "node1")
    assert gate.reason == "PathNotProved"


@pytest.mark.parametrize("ups", [(True,), (None, True), ()])
def test_until_all_have_answered_it_stays_shut(ups: tuple[bool | None, ...]) -> None:
    found = two()
    (gate,) = gates(found, verdicts(found, *ups), {FIRST}, "node1")
    assert (gate.status, gate.reason) == (False, "NotAnswered")
    assert "has not been answered yet" in gate.message


@pytest.mark.parametrize(("active", "speaks"), [({FIRST}, True), ({SECOND}, False), (set(), False)])
def test_the_active_node_of_the_first_address_speaks_for_a_pod_of_several(active: set[object], speaks: bool) -> None:
    found = two()
    assert bool(gates(found, verdicts(found, True, True), active, "node1")) is speaks  # type: ignore[arg-type]


def test_a_message_is_no_longer_than_others_can_take() -> None:
    found = two()
    said = {name: replace(each, reason="x" * 2000) for name, each in verdicts(found, False, False).items()}
    (gate,) = gates(found, said, {FIRST}, "node1")
    assert len(gate.message) == LONGEST


# -- what a Pod says -------------------------------------------------------------------------------------------------

RAW = {"metadata": {"uid": "u"}, "spec": {"readinessGates": [{"conditionType": "lvsdr.io/path"}]}}


def test_only_a_pod_that_declares_the_gate_is_written() -> None:
    assert known_of(RAW, "u").gated
    assert not known_of(RAW, "another").gated
    assert not known_of({**RAW, "spec": {"readinessGates": [{"conditionType": "example.com/x"}]}}, "u").gated
    assert not known_of({"metadata": {"uid": "u"}, "spec": {"readinessGates": None}}, "u").gated


def test_an_open_gate_stays_open_and_one_that_is_shut_remembers_since_when() -> None:
    def with_condition(status: str) -> dict[str, object]:
        condition = {"type": "lvsdr.io/path", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {**RAW, "status": {"conditions": [{"type": "Ready", "status": "False"}, condition]}}

    assert not known_of(with_condition("True"), "u").gated
    shut = known_of(with_condition("False"), "u")
    assert (shut.gated, shut.since) == (True, "2026-01-01T00:00:00Z")
