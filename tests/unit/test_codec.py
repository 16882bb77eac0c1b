"""Model values to JSON and back."""

import json
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from lvsagent.core.codec import CodecError, from_json, to_json
from lvsapi.health import CheckType, Health, HealthCheck, WhenEmpty
from lvsapi.ipvs import (
    UNLIMITED,
    ConnectionLimits,
    Forwarding,
    Persistence,
    SchedulerFlag,
    Tunnel,
    TunnelChecksum,
    TunnelType,
)
from lvsapi.model import Director, RealServer, Snapshot
from lvsapi.vrrp import (
    Announcements,
    AuthenticationType,
    InitialState,
    TrackedCondition,
    TrackedInterface,
    Transport,
)
from tests.gen import assignment, endpoint_slice, node, port, service, service_class, snapshot, virtual_service

pytestmark = pytest.mark.unit

GUE = Tunnel(type=TunnelType.GUE, port=6080, checksum=TunnelChecksum.REMCSUM)
FULL = snapshot(
    virtual_service(assigned=assignment(), addresses=["10.0.0.1", "fd00::1"], ports=[80, 443], vrid=7, scheduler="wlc"),
    virtual_service(
        "asked",
        real_servers=["10.0.0.8"],
        health=Health(
            checks=(
                HealthCheck(type=CheckType.UDP, payload=b"\0\xff", expect=b"x", statuses=((200, 200), (300, 399))),
            ),
            quorum=2,
            when_empty=WhenEmpty.SORRY,
        ),
        sorry_server=RealServer(address=ip_address("10.0.0.7")),
    ),
    virtual_service("far", real_servers=["10.0.0.9"], namespace="other"),
    virtual_service("all", all_ports=True, limits=ConnectionLimits(upper=9, lower=3), scheduler_flags=()),
    virtual_service(
        "full",
        ports=[port(53, "UDP", end=60)],
        real_servers=[
            RealServer(address=ip_address("10.0.0.9"), forwarding=Forwarding.TUNNEL, tunnel=GUE, limits=UNLIMITED)
        ],
        scheduler_flags=(SchedulerFlag.MH_PORT,),
        persistence=Persistence(timeout_seconds=60),
        one_packet=True,
        tunnel=GUE,
    ),
    classes=[
        service_class(selector={"a": "b"}, directors={"n": 3}, pools=["10.0.0.0/24", "fd00::/64"]),
        service_class(
            "edge",
            connection_sync=True,
            directors=[
                Director(node="n", priority=3, initial_state=InitialState.ACTIVE, addresses=(ip_address("fe80::1"),))
            ],
            transport=Transport.UNICAST,
            authentication=AuthenticationType.HMAC,
            announcements=Announcements(repeat=5, on_lower_priority=False),
            track_interfaces=(TrackedInterface(name="eth1", weight=-5),),
            track_conditions=(TrackedCondition(type="Ready", weight=5),),
        ),
    ],
    services=[service()],
    slices=[endpoint_slice(ports=[("http", None, "TCP")])],
    nodes=[node("n", "10.0.0.7", labels={"x": "y"}, standby="cordoned", conditions={"Ready": "True"})],
)


def test_a_snapshot_survives_the_trip() -> None:
    assert from_json(Snapshot, json.loads(json.dumps(to_json(FULL)))) == FULL


def test_a_missing_field_takes_its_default() -> None:
    assert from_json(Snapshot, {}) == Snapshot()
    assert from_json(RealServer, {"address": "10.0.0.1"}).weight == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected an object"),
        ({"address": 1}, "none of"),
        ({"address": "x"}, "x"),
        ({"address": None}, "expected a value"),
        ({}, r"\$\.address: missing"),
        ({"address": "10.0.0.1", "weight": "1"}, "expected int"),
        ({"address": "10.0.0.1", "weight": True}, "expected int"),
        ({"address": "10.0.0.1", "port": []}, "none of"),
        ({"address": "10.0.0.1", "forwarding": "Best"}, "forwarding.*Best"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(data: object, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        from_json(RealServer, data)


@pytest.mark.parametrize("path", ["virtual_services", "classes", "nodes"])
def test_lists_must_be_lists(path: str) -> None:
    with pytest.raises(CodecError, match="expected a list"):
        from_json(Snapshot, {path: {}})


def test_other_misfits_are_refused() -> None:
    data = to_json(FULL)
    data["virtual_services"][0]["scheduler"] = "best"
    with pytest.raises(CodecError, match="scheduler"):
        from_json(Snapshot, data)
    data = to_json(FULL)
    data["nodes"][0]["labels"] = []
    with pytest.raises(CodecError, match="labels"):
        from_json(Snapshot, data)
    data = to_json(FULL)
    data["classes"][0]["vrrp"]["virtual_router_ids"] = [1]
    with pytest.raises(CodecError, match="2 items"):
        from_json(Snapshot, data)
    data = to_json(FULL)
    data["classes"][0]["pools"] = ["10.0.0.1/8"]
    with pytest.raises(CodecError, match="host bits"):
        from_json(Snapshot, data)


@dataclass
class Odd:
    value: complex = 0j


def test_types_the_model_does_not_use_are_refused() -> None:
    with pytest.raises(CodecError, match="complex cannot be written"):
        to_json(Odd())
    with pytest.raises(CodecError, match="cannot be read"):
        from_json(Odd, {"value": 1})


def test_sets_are_lists() -> None:
    assert to_json(frozenset({1})) == [1]
    assert from_json(frozenset[int], [1, 1]) == {1}


@dataclass
class Bytes:
    value: bytes = b""


def test_bytes_travel_as_base64_and_anything_else_is_refused() -> None:
    assert from_json(Bytes, to_json(Bytes(b"\x00\xff"))) == Bytes(b"\x00\xff")
    for wrong in ("*", "abc", "ü"):
        with pytest.raises(CodecError, match="value"):
            from_json(Bytes, {"value": wrong})
    with pytest.raises(CodecError, match="expected base64"):
        from_json(Bytes, {"value": 7})
