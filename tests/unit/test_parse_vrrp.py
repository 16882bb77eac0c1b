"""The election's settings in a class, and the annotations and states that ask a node to stand by."""

from ipaddress import ip_address
from typing import Any

import pytest

from lvsapi.errors import SpecError
from lvsapi.model import Director
from lvsapi.parse import parse_class, parse_node, parse_virtual_service
from lvsapi.vrrp import (
    Announcements,
    AuthenticationMode,
    AuthenticationType,
    Checksum,
    ConditionStatus,
    InitialState,
    TrackedCondition,
    TrackedInterface,
    Transport,
    VrrpSettings,
)
from tests.gen import raw_class, raw_node, raw_virtual_service

pytestmark = pytest.mark.unit


def errors_of(**spec: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse_class(raw_class(**spec))
    return {error.path: f"{error.value!r}: {error.message}" for error in caught.value.errors}


def test_every_field_of_the_election_is_read() -> None:
    found = parse_class(
        raw_class(
            vrrp={
                "version": 2,
                "advertisementIntervalMilliseconds": 3000,
                "sendIntervalMilliseconds": 1000,
                "preempt": False,
                "preemptDelaySeconds": 1000,
                "virtualRouterIDs": {"first": 51, "last": 51},
                "transport": "Unicast",
                "checksum": "Message",
                "authentication": {"type": "Password", "mode": "Permissive"},
                "syncGroup": "edge",
                "announcements": {"repeat": 5, "delaySeconds": 5, "refreshSeconds": 0, "onLowerPriority": False},
                "virtualMAC": True,
                "gracefulRestartSeconds": 30,
                "track": {
                    "interfaces": [{"name": "eth1"}, {"name": "eth2", "weight": -253}],
                    "nodeConditions": [
                        {"type": "Ready"},
                        {"type": "example.com/Uplink_1", "status": "False", "weight": 253},
                    ],
                },
            }
        )
    )
    assert found.vrrp == VrrpSettings(
        version=2,
        advertisement_interval_ms=3000,
        send_interval_ms=1000,
        preempt=False,
        preempt_delay_seconds=1000,
        virtual_router_ids=(51, 51),
        transport=Transport.UNICAST,
        checksum=Checksum.MESSAGE,
        authentication=AuthenticationType.PASSWORD,
        authentication_mode=AuthenticationMode.PERMISSIVE,
        sync_group="edge",
        announcements=Announcements(repeat=5, delay_seconds=5, refresh_seconds=0, on_lower_priority=False),
        virtual_mac=True,
        graceful_restart_seconds=30,
        track_interfaces=(TrackedInterface(name="eth1"), TrackedInterface(name="eth2", weight=-253)),
        track_conditions=(
            TrackedCondition(type="Ready"),
            TrackedCondition(type="example.com/Uplink_1", status=ConditionStatus.FALSE, weight=253),
        ),
    )


def test_empty_sections_mean_the_defaults() -> None:
    sections: dict[str, Any] = {name: {} for name in ("authentication", "announcements", "track", "virtualRouterIDs")}
    assert parse_class(raw_class(vrrp=sections)).vrrp == VrrpSettings()


def test_a_director_has_a_state_to_begin_with_and_addresses() -> None:
    node = {"name": "dr1", "priority": 150, "initialState": "Active", "addresses": ["10.0.0.2", "fe80::2"]}
    assert parse_class(raw_class(directors={"nodes": [node]})).directors == (
        Director(
            node="dr1",
            priority=150,
            initial_state=InitialState.ACTIVE,
            addresses=(ip_address("10.0.0.2"), ip_address("fe80::2")),
        ),
    )


@pytest.mark.parametrize(
    ("vrrp", "path", "message"),
    [
        ({"version": 4}, "version", "4: must be 2-3"),
        ({"version": 2}, "advertisementIntervalMilliseconds", "100: version 2 has whole seconds: write 1000"),
        (
            {"version": 2, "advertisementIntervalMilliseconds": 1500},
            "advertisementIntervalMilliseconds",
            "1500: version 2 has whole seconds",
        ),
        ({"sendIntervalMilliseconds": 5}, "sendIntervalMilliseconds", "5: must be 10-40950 in steps of 10"),
        ({"sendIntervalMilliseconds": 110}, "sendIntervalMilliseconds", "must not be above advertisementInterval"),
        ({"preemptDelaySeconds": 1001}, "preemptDelaySeconds", "1001: must be 0-1000"),
        ({"transport": "unicast"}, "transport", "must be one of Multicast, Unicast"),
        ({"checksum": "None"}, "checksum", "must be one of PseudoHeader, Message"),
        ({"authentication": {"type": "PASS"}}, "authentication.type", "must be one of None, Password, HMAC"),
        ({"authentication": {"type": "Password"}}, "authentication.type", "use HMAC, or version: 2"),
        ({"authentication": {"mode": "Off"}}, "authentication.mode", "ReceiveOnly, Permissive, Enforce"),
        ({"authentication": {"key": "abc"}}, "authentication.key", "is not a field here"),
        ({"syncGroup": "a b"}, "syncGroup", "lower-case"),
        ({"announcements": {"repeat": 0}}, "announcements.repeat", "must be 1-60"),
        ({"announcements": {"delaySeconds": -1}}, "announcements.delaySeconds", "must be 0-3600"),
        ({"announcements": {"refreshSeconds": 86401}}, "announcements.refreshSeconds", "must be 0-86400"),
        ({"announcements": {"onLowerPriority": 1}}, "announcements.onLowerPriority", "true or false"),
        ({"virtualMAC": "yes"}, "virtualMAC", "true or false"),
        ({"gracefulRestartSeconds": 31}, "gracefulRestartSeconds", "must be 0-30"),
        ({"track": {"interfaces": [{"name": "a/b"}]}}, "track.interfaces[0].name", "name of a network interface"),
        ({"track": {"interfaces": [{"weight": 1}]}}, "track.interfaces[0].name", "is required"),
        ({"track": {"interfaces": [{"name": "a", "weight": 254}]}}, "track.interfaces[0].weight", "must be -253-253"),
        ({"track": {"interfaces": [{"name": "a"}] * 2}}, "track.interfaces[1].name", "is there twice"),
        ({"track": {"nodeConditions": [{"type": "a b"}]}}, "track.nodeConditions[0].type", "Node's condition"),
        ({"track": {"nodeConditions": [{"type": "A"}] * 2}}, "track.nodeConditions[1].type", "is there twice"),
        (
            {"track": {"nodeConditions": [{"type": "Ready", "status": True}]}},
            "track.nodeConditions[0].status",
            'write "True" in quotes',
        ),
        (
            {"track": {"nodeConditions": [{"type": "Ready", "status": "Unknown"}]}},
            "track.nodeConditions[0].status",
            "must be one of True, False",
        ),
        ({"track": {"scripts": []}}, "track.scripts", "is not a field here"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_value_and_remedy(vrrp: dict[str, Any], path: str, message: str) -> None:
    assert message in errors_of(vrrp=vrrp)[f"spec.vrrp.{path}"]


def test_version_2_takes_no_pool_of_ipv6_addresses() -> None:
    found = errors_of(
        vrrp={"version": 2, "advertisementIntervalMilliseconds": 1000}, addressPools=["10.0.0.0/24", "2001:db8::/64"]
    )
    assert list(found) == ["spec.addressPools[1]"]
    assert "VRRP version 2 does not carry" in found["spec.addressPools[1]"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.0.0.300", "must be an IPv4 or IPv6 address"),
        ("fe80::1%eth0", "must be an IPv4 or IPv6 address"),
        ("FE80::1", "is not in canonical form"),
        ("127.0.0.1", "loopback"),
        ("224.0.0.18", "multicast"),
    ],
)
def test_an_address_that_no_director_can_have_is_refused(address: str, message: str) -> None:
    node = {"name": "dr1", "priority": 1, "addresses": [address]}
    assert message in errors_of(directors={"nodes": [node]})["spec.directors.nodes[0].addresses[0]"]


def test_a_directors_address_stands_there_once() -> None:
    node = {"name": "dr1", "priority": 1, "addresses": ["10.0.0.1", "10.0.0.1"]}
    assert "twice" in errors_of(directors={"nodes": [node]})["spec.directors.nodes[0].addresses[1]"]


def test_a_virtual_service_may_ask_to_be_elsewhere() -> None:
    obj = raw_virtual_service()
    for value, wanted in (("node1", "node1"), ("a b", ""), (3, ""), (None, "")):
        annotated = {**obj, "metadata": {**obj["metadata"], "annotations": {"lvsdr.io/failover-from": value}}}  # type: ignore[dict-item]
        assert parse_virtual_service(annotated).failover_from == wanted
    assert parse_virtual_service({**obj, "metadata": {**obj["metadata"], "annotations": 7}}).failover_from == ""  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"spec": {"unschedulable": True}}, "cordoned"),
        ({"spec": {"unschedulable": False}}, ""),
        (
            {"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}},
            "taint node.kubernetes.io/out-of-service",
        ),
        (
            {"spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}},
            "taint node.kubernetes.io/unschedulable",
        ),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}}, ""),
        ({"spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}, ""),
        ({"spec": {"taints": "x"}}, ""),
        (
            {"metadata": {"name": "node1", "annotations": {"lvsdr.io/director": "standby"}}},
            "annotation lvsdr.io/director: standby",
        ),
        ({"metadata": {"name": "node1", "annotations": {"lvsdr.io/director": "never"}}}, ""),
    ],
)
def test_a_node_that_somebody_takes_out_of_service_stands_by(change: dict[str, Any], why: str) -> None:
    assert parse_node({**raw_node(), **change}).standby == why


def test_conditions_of_a_node_are_read_and_what_is_unknown_is_not() -> None:
    conditions = [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
        {"type": "DiskPressure", "status": "Unknown"},
        {"type": "NetworkUnavailable", "status": "False"},
        {"status": "True"},
        7,
    ]
    found = parse_node({**raw_node(), "status": {"conditions": conditions}})
    assert found.conditions == {"NetworkUnavailable": "False", "Ready": "True"}
