"""Kubernetes' own kinds: conditions as discovery/v1 says, and whatever makes no sense is passed over."""

from typing import Any

import pytest

from lvsapi.errors import SpecError
from lvsapi.model import Endpoint
from lvsapi.parse import parse_endpoint_slice, parse_node, parse_service
from tests.gen import (
    endpoint,
    endpoint_slice,
    node,
    raw_endpoint_slice,
    raw_node,
    raw_service,
    service,
)

pytestmark = pytest.mark.unit


def test_a_service_is_read() -> None:
    assert parse_service(raw_service()) == service()
    ports: list[dict[str, Any]] = [{"port": 53, "protocol": "UDP"}, {"port": 5, "protocol": "ICMP"}, {"port": "x"}]
    assert parse_service(raw_service(ports=ports)) == service(ports=[("", 53, "UDP")])


@pytest.mark.parametrize(
    ("written", "policy"), [("Local", "Local"), ("Cluster", "Cluster"), (None, "Cluster"), (7, "Cluster")]
)
def test_the_traffic_policy_of_a_service_is_read(written: Any, policy: str) -> None:
    raw: dict[str, Any] = raw_service()
    raw["spec"]["externalTrafficPolicy"] = written
    assert parse_service(raw) == service(policy=policy)


@pytest.mark.parametrize(("status", "lost"), [("True", False), ("False", False), ("Unknown", True)])
def test_a_node_is_lost_when_nothing_is_known_of_it(status: str, lost: bool) -> None:
    raw: dict[str, Any] = raw_node("node1")
    raw["status"]["conditions"] = [{"type": "Ready", "status": status}, {"type": "DiskPressure", "status": "Unknown"}]
    assert parse_node(raw).lost is lost


def test_a_node_is_read_with_its_internal_addresses() -> None:
    obj = raw_node("node1", "192.168.139.101", "2001:db8::101", labels={"a": "b"})
    assert parse_node(obj) == node("node1", "192.168.139.101", "2001:db8::101", labels={"a": "b"})


def test_an_endpoint_slice_is_read() -> None:
    assert parse_endpoint_slice(raw_endpoint_slice()) == endpoint_slice()


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        ({}, True, True, False),
        ({"ready": None, "serving": None, "terminating": None}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
        ({"ready": True, "serving": False}, True, False, False),
    ],
)
def test_missing_conditions_mean_what_discovery_v1_says(
    conditions: dict[str, Any], ready: bool, serving: bool, terminating: bool
) -> None:
    found: Endpoint = parse_endpoint_slice(raw_endpoint_slice(conditions=conditions)).endpoints[0]
    assert found == endpoint(ready=ready, serving=serving, terminating=terminating)


def test_an_endpoint_without_conditions_is_ready() -> None:
    obj = {**raw_endpoint_slice(), "endpoints": [{"addresses": ["10.244.1.2"]}]}
    assert parse_endpoint_slice(obj).endpoints == (endpoint(node=None),)


@pytest.mark.parametrize("kind", ["FQDN", None, "IPv5"])
def test_a_slice_of_names_has_no_endpoints(kind: Any) -> None:
    assert parse_endpoint_slice(raw_endpoint_slice(address_type=kind)).endpoints == ()


def test_addresses_of_the_other_family_are_left_out() -> None:
    found = parse_endpoint_slice(raw_endpoint_slice(["10.0.0.1", "2001:db8::7", "web"], address_type="IPv6"))
    assert [str(e.addresses[0]) for e in found.endpoints] == ["2001:db8::7"]


def test_what_makes_no_sense_is_passed_over() -> None:
    obj = {**raw_endpoint_slice(), "ports": [None, {"protocol": 7}, {"port": None}], "endpoints": [3, {"addresses": 4}]}
    found = parse_endpoint_slice(obj)
    assert found.endpoints == ()
    assert [(p.name, p.port) for p in found.ports] == [("", None)]


def test_an_object_without_a_name_is_refused() -> None:
    for parse in (parse_service, parse_endpoint_slice, parse_node):
        with pytest.raises(SpecError, match=r"metadata\.name"):
            parse({"metadata": {"name": ""}})
