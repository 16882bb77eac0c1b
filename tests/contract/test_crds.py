"""A real API server enforces what parse enforces, and takes the statuses that we write."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsapi import names
from lvsapi.errors import SpecError
from lvsapi.model import Assignment, Director, Problem
from lvsapi.parse import parse_class, parse_virtual_service
from lvsapi.status import Reason, agent_status, operator_status
from tests.apiserver import ApiServer
from tests.contract.health_objects import SOUND, UNSOUND
from tests.gen import raw_class, raw_virtual_service

pytestmark = pytest.mark.contract

CRDS = Path(__file__).parents[2] / "crds"
NOW = "2026-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def api(apiserver: ApiServer) -> Iterator[ApiServer]:
    """The API server with our kinds, installed by kustomize as a user does."""
    done = apiserver.kubectl("apply", "-k", str(CRDS))
    assert done.returncode == 0, done.stderr
    assert "violates" not in done.stderr
    kinds = [f"crd/{plural}.{names.GROUP}" for plural in (names.PLURAL, names.CLASS_PLURAL)]
    done = apiserver.kubectl("wait", "--for=condition=Established", "--timeout=30s", *kinds)
    assert done.returncode == 0, done.stderr
    yield apiserver
    apiserver.kubectl("delete", "-k", str(CRDS), "--wait=true", "--timeout=30s")


def clean(obj: dict[str, Any]) -> dict[str, Any]:
    """Without what only the API server may set, under a name of its own."""
    metadata = {key: obj["metadata"][key] for key in ("namespace",) if key in obj["metadata"]}
    return {**obj, "metadata": {**metadata, "name": f"x{uuid.uuid4().hex[:12]}"}}


def servers(*found: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return raw_virtual_service(**{"serviceRef": None, "realServers": list(found), **spec})


VALID: list[dict[str, Any]] = [
    raw_virtual_service(),
    raw_virtual_service(addresses=["192.168.139.123", "2001:db8::1"]),
    raw_virtual_service(ports=[{"port": 53}, {"port": 53, "protocol": "UDP"}]),
    raw_virtual_service(ports=[{"port": 80, "targetPort": 8080}, {"port": 443, "targetPort": "https"}]),
    raw_virtual_service(scheduler="wlc", forwarding="Masquerade", virtualRouterID=51, className="edge"),
    servers({"address": "192.168.139.7", "weight": 0}, {"address": "192.168.139.8"}),
    servers({"address": "192.168.139.7", "port": 80}),
    servers({"address": "192.168.139.7", "port": 8080}, forwarding="Masquerade"),
    raw_virtual_service(ports=[{"port": 21}, {"port": 30000, "endPort": 32767}, {"port": 30000, "protocol": "UDP"}]),
    raw_virtual_service(ports=[{"port": 80, "endPort": 80}]),
    raw_virtual_service(ports=None, allPorts=True),
    raw_virtual_service(allPorts=False),
    raw_virtual_service(scheduler="mh", schedulerFlags=[]),
    raw_virtual_service(schedulerFlags=["mh-port"]),
    raw_virtual_service(scheduler="sh", schedulerFlags=["sh-port", "sh-fallback"]),
    raw_virtual_service(scheduler="rr", schedulerFlags=[]),
    raw_virtual_service(persistence={}),
    raw_virtual_service(persistence={"timeoutSeconds": 60, "ipv4PrefixLength": 24, "ipv6PrefixLength": 64}),
    raw_virtual_service(ports=[{"port": 53, "protocol": "UDP"}], onePacketScheduling=True),
    raw_virtual_service(onePacketScheduling=False),
    raw_virtual_service(connectionLimits={"upper": 1000}),
    raw_virtual_service(connectionLimits={"upper": 1000, "lower": 1000}),
    raw_virtual_service(forwarding="Tunnel"),
    raw_virtual_service(forwarding="Tunnel", tunnel={}),
    raw_virtual_service(forwarding="Tunnel", tunnel={"type": "gue", "port": 6080, "checksum": "remcsum"}),
    raw_virtual_service(forwarding="Tunnel", tunnel={"type": "gre", "checksum": "csum"}),
    servers({"address": "192.168.139.7"}, ports=None, allPorts=True),
    servers(
        {"address": "192.168.139.7", "forwarding": "Tunnel", "tunnel": {"type": "gue", "port": 6080}},
        {"address": "192.168.139.8", "forwarding": "Masquerade", "port": 8080, "connectionLimits": {"upper": 9}},
        {"address": "192.168.139.9", "forwarding": "Tunnel"},
        tunnel={"type": "gre"},
    ),
    raw_virtual_service(externalTrafficPolicy="Local", drainSeconds=0),
    raw_virtual_service(drainSeconds=86400),
    *SOUND,
    raw_class(connectionSync=True),
    raw_class(),
    raw_class(
        directors={"nodeSelector": {"matchLabels": {"a": "b"}}, "nodes": [{"name": "dr1", "priority": 150}]},
        interface="eth0.100",
        vipInterface="br-lan",
        vipPrefixLength=32,
        addressPools=["192.168.139.120/29", "2001:db8::/64"],
        namespaces=["default"],
        vrrp={"advertisementIntervalMilliseconds": 1000, "preempt": False, "virtualRouterIDs": {"first": 50}},
    ),
    raw_class(
        directors={
            "nodes": [
                {"name": "dr1", "priority": 150, "initialState": "Active", "addresses": ["10.0.0.2", "fe80::2"]},
                {"name": "dr2", "priority": 100, "initialState": "Backup"},
            ]
        },
        vrrp={
            "version": 2,
            "advertisementIntervalMilliseconds": 2000,
            "sendIntervalMilliseconds": 1000,
            "preemptDelaySeconds": 5,
            "transport": "Unicast",
            "checksum": "Message",
            "authentication": {"type": "Password"},
            "syncGroup": "edge",
            "announcements": {"repeat": 5, "delaySeconds": 5, "refreshSeconds": 0, "onLowerPriority": False},
            "virtualMAC": True,
            "gracefulRestartSeconds": 10,
            "track": {
                "interfaces": [{"name": "eth1"}, {"name": "eth2", "weight": -20}],
                "nodeConditions": [{"type": "Ready"}, {"type": "example.com/Up", "status": "False", "weight": 9}],
            },
        },
    ),
    raw_class(vrrp={"authentication": {"type": "HMAC", "mode": "ReceiveOnly"}}),
    raw_class(vrrp={"version": 2, "advertisementIntervalMilliseconds": 1000, "authentication": {"type": "HMAC"}}),
    raw_class(vrrp={"sendIntervalMilliseconds": 100}),
    raw_class(vrrp={"version": 2, "advertisementIntervalMilliseconds": 1000}, addressPools=["10.0.0.0/24"]),
]


def refusal(api: ApiServer, obj: dict[str, Any], *, create: bool = False) -> str:
    """What the API server says against the object; empty: it would take it. Sent as ``kubectl apply --server-side
    --dry-run=server`` sends it, or ``kubectl create``."""
    plural, where = names.CLASS_PLURAL, ""
    if obj["kind"] != names.CLASS_KIND:
        plural, where = names.PLURAL, f"/namespaces/{obj['metadata'].get('namespace', 'default')}"
    path, query = f"/apis/{names.API_VERSION}{where}/{plural}", "dryRun=All&fieldValidation=Strict&fieldManager=kubectl"
    if create:
        status, said = api.ask(f"{path}?{query}", method="POST", body=obj)
    else:
        place = f"{path}/{obj['metadata']['name']}?{query}&force=true"
        status, said = api.ask(place, method="PATCH", body=obj, kind="application/apply-patch+yaml")
    if status < 300:
        return ""
    assert said["kind"] == "Status", said
    return f"{said['reason']}: {said['message']}"


def parse(obj: dict[str, Any]) -> object:
    return parse_class(obj) if obj["kind"] == names.CLASS_KIND else parse_virtual_service(obj)


@pytest.mark.parametrize("obj", VALID, ids=lambda obj: str(obj["spec"])[:60])
def test_what_parse_accepts_the_api_server_accepts(api: ApiServer, obj: dict[str, Any]) -> None:
    parse(obj)
    assert refusal(api, clean(obj)) == ""


# object, and the field that parse and the API server both must name
INVALID: list[tuple[dict[str, Any], str]] = [
    *(
        (raw_virtual_service(addresses=[address]), "spec.addresses[0]")
        for address in (
            *("10.0.0.300", "::1%eth0", "", "10.0.0.1/24", "010.0.0.1", "١٠.0.0.1", "web", "2001:DB8::1"),
            *("0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.18", "255.255.255.255"),
            *("::", "::1", "fe80::1", "ff02::12", "::ffff:10.0.0.1"),
        )
    ),
    (raw_virtual_service(addresses=[]), "spec.addresses"),
    (raw_virtual_service(addresses=None), "spec.addresses"),
    (raw_virtual_service(addresses=["10.0.0.1", "10.0.0.1"]), "spec.addresses[1]"),
    (raw_virtual_service(addresses=[f"10.0.0.{n}" for n in range(1, 66)]), "spec.addresses"),
    (raw_virtual_service(ports=[]), "spec.ports"),
    (raw_virtual_service(ports=[{"port": 0}]), "spec.ports[0].port"),
    (raw_virtual_service(ports=[{"port": 65536}]), "spec.ports[0].port"),
    (raw_virtual_service(ports=[{"port": "80a"}]), "spec.ports[0].port"),
    (raw_virtual_service(ports=[{"port": 80}, {"port": 80}]), "spec.ports[1]"),
    (raw_virtual_service(ports=[{"port": n} for n in range(1, 66)]), "spec.ports"),
    (raw_virtual_service(ports=[{"port": 80, "protocol": "tcp"}]), "spec.ports[0].protocol"),
    (raw_virtual_service(ports=[{"port": 80, "targetPort": 0}]), "spec.ports[0].targetPort"),
    (raw_virtual_service(ports=[{"port": 80, "targetPort": "80"}]), "spec.ports[0].targetPort"),
    (raw_virtual_service(ports=[{"port": 80, "targetPort": "a b"}]), "spec.ports[0].targetPort"),
    (raw_virtual_service(scheduler="mhx"), "spec.scheduler"),
    (raw_virtual_service(forwarding="DR"), "spec.forwarding"),
    (raw_virtual_service(virtualRouterID=256), "spec.virtualRouterID"),
    (raw_virtual_service(virtualRouterID=51.5), "spec.virtualRouterID"),
    (raw_virtual_service(serviceRef=None), "spec"),
    (raw_virtual_service(realServers=[{"address": "192.168.139.7"}]), "spec"),
    (raw_virtual_service(serviceRef={"name": "a/b"}), "spec.serviceRef.name"),
    (raw_virtual_service(adresses=["10.0.0.1"]), "spec.adresses"),
    (servers({"address": "192.168.139.7", "port": 8080}), "spec.realServers"),
    (servers({"address": "192.168.139.7", "port": 8080}, forwarding="Tunnel"), "spec.realServers"),
    (servers({"address": "192.168.139.7", "weight": 65536}), "spec.realServers[0].weight"),
    (servers({"address": "192.168.139.7"}, {"address": "192.168.139.7"}), "spec.realServers[1]"),
    (servers({"address": "192.168.139.123"}), "spec.realServers"),
    (servers({"address": "2001:db8::7"}), "spec.realServers"),
    (servers({"address": "127.0.0.1"}), "spec.realServers[0].address"),
    (servers({"address": "192.168.139.7"}, ports=[{"port": 80, "targetPort": 81}]), "spec.ports"),
    (raw_virtual_service(ports=None), "spec.ports"),
    (raw_virtual_service(ports=None, allPorts=False), "spec.ports"),
    (raw_virtual_service(allPorts="yes"), "spec.allPorts"),
    (raw_virtual_service(ports=[{"port": 80, "endPort": 79}]), "spec.ports[0].endPort"),
    (raw_virtual_service(ports=[{"port": 80, "endPort": 90, "targetPort": 8080}]), "spec.ports[0].targetPort"),
    (raw_virtual_service(ports=[{"port": 80, "endPort": 90, "targetPort": "http"}]), "spec.ports[0].targetPort"),
    (raw_virtual_service(ports=[{"port": 80, "endPort": 90}, {"port": 90}]), "spec.ports[1]"),
    (raw_virtual_service(ports=[{"port": 85}, {"port": 80, "endPort": 90}]), "spec.ports[1]"),
    (servers({"address": "192.168.139.7", "port": 80}, ports=[{"port": 80, "endPort": 90}]), "spec.realServers"),
    (servers({"address": "192.168.139.7", "port": 80}, ports=None, allPorts=True), "spec.realServers"),
    (raw_virtual_service(externalTrafficPolicy="local"), "spec.externalTrafficPolicy"),
    (raw_virtual_service(drainSeconds=-1), "spec.drainSeconds"),
    (raw_virtual_service(drainSeconds=86401), "spec.drainSeconds"),
    (servers({"address": "192.168.139.7"}, drainSeconds=1), "spec.drainSeconds"),
    (servers({"address": "192.168.139.7"}, externalTrafficPolicy="Local"), "spec.externalTrafficPolicy"),
    (raw_virtual_service(schedulerFlags=["sh-port"]), "spec.schedulerFlags"),
    (raw_virtual_service(scheduler="rr", schedulerFlags=["mh-port"]), "spec.schedulerFlags"),
    (raw_virtual_service(schedulerFlags=["mh-port", "mh-port"]), "spec.schedulerFlags[1]"),
    (raw_virtual_service(schedulerFlags=["port"]), "spec.schedulerFlags[0]"),
    (raw_virtual_service(persistence={"timeoutSeconds": 0}), "spec.persistence.timeoutSeconds"),
    (raw_virtual_service(persistence={"ipv4PrefixLength": 33}), "spec.persistence.ipv4PrefixLength"),
    (raw_virtual_service(onePacketScheduling=True), "spec.onePacketScheduling"),
    (raw_virtual_service(ports=None, allPorts=True, onePacketScheduling=True), "spec.onePacketScheduling"),
    (
        raw_virtual_service(ports=[{"port": 53, "protocol": "UDP"}], onePacketScheduling=True, forwarding="Masquerade"),
        "spec.onePacketScheduling",
    ),
    (
        servers(
            {"address": "192.168.139.7", "forwarding": "Masquerade"},
            ports=[{"port": 53, "protocol": "UDP"}],
            onePacketScheduling=True,
        ),
        "spec.onePacketScheduling",
    ),
    (raw_virtual_service(connectionLimits={}), "spec.connectionLimits.upper"),
    (raw_virtual_service(connectionLimits={"upper": 5, "lower": 6}), "spec.connectionLimits.lower"),
    (raw_virtual_service(tunnel={}), "spec.tunnel"),
    (raw_virtual_service(forwarding="Masquerade", tunnel={"type": "gre"}), "spec.tunnel"),
    (raw_virtual_service(forwarding="Tunnel", tunnel={"type": "gue"}), "spec.tunnel.port"),
    (raw_virtual_service(forwarding="Tunnel", tunnel={"port": 6080}), "spec.tunnel.port"),
    (raw_virtual_service(forwarding="Tunnel", tunnel={"checksum": "csum"}), "spec.tunnel.checksum"),
    (raw_virtual_service(forwarding="Tunnel", tunnel={"type": "gre", "checksum": "remcsum"}), "spec.tunnel.checksum"),
    (raw_virtual_service(forwarding="Tunnel", tunnel={"type": "vxlan"}), "spec.tunnel.type"),
    (servers({"address": "192.168.139.7", "tunnel": {}}), "spec.realServers"),
    (
        servers({"address": "192.168.139.7", "port": 81, "forwarding": "Tunnel"}, forwarding="Masquerade"),
        "spec.realServers",
    ),
    (servers({"address": "192.168.139.7", "forwarding": "NAT"}), "spec.realServers[0].forwarding"),
    *UNSOUND,
    (raw_class(connectionSync="yes"), "spec.connectionSync"),
    (raw_class(interface="0123456789abcdef"), "spec.interface"),
    (raw_class(interface="../x"), "spec.interface"),
    (raw_class(vipInterface="a b"), "spec.vipInterface"),
    (raw_class(vipInterface=".."), "spec.vipInterface"),
    (raw_class(vipPrefixLength=129), "spec.vipPrefixLength"),
    (raw_class(addressPools=["10.0.0.1"]), "spec.addressPools[0]"),
    (raw_class(addressPools=["10.0.0.1/24"]), "spec.addressPools[0]"),
    (raw_class(namespaces=["A"]), "spec.namespaces[0]"),
    (raw_class(directors={"nodes": [{"name": "dr1", "priority": 255}]}), "spec.directors.nodes[0].priority"),
    (raw_class(directors={"nodes": [{"name": "dr1", "priority": 1}] * 2}), "spec.directors.nodes[1]"),
    (raw_class(vrrp={"advertisementIntervalMilliseconds": 15}), "spec.vrrp.advertisementIntervalMilliseconds"),
    (raw_class(vrrp={"advertisementIntervalMilliseconds": 41000}), "spec.vrrp.advertisementIntervalMilliseconds"),
    (raw_class(vrrp={"virtualRouterIDs": {"first": 20, "last": 10}}), "spec.vrrp.virtualRouterIDs"),
    (raw_class(vrrp={"preempt": "yes"}), "spec.vrrp.preempt"),
    (raw_class(vrrp={"version": 2}), "spec.vrrp.advertisementIntervalMilliseconds"),
    (raw_class(vrrp={"sendIntervalMilliseconds": 110}), "spec.vrrp.sendIntervalMilliseconds"),
    (raw_class(vrrp={"authentication": {"type": "Password"}}), "spec.vrrp.authentication.type"),
    (raw_class(vrrp={"transport": "unicast"}), "spec.vrrp.transport"),
    (raw_class(vrrp={"checksum": "none"}), "spec.vrrp.checksum"),
    (raw_class(vrrp={"syncGroup": "a b"}), "spec.vrrp.syncGroup"),
    (raw_class(vrrp={"announcements": {"repeat": 0}}), "spec.vrrp.announcements.repeat"),
    (raw_class(vrrp={"track": {"interfaces": [{"name": "a/b"}]}}), "spec.vrrp.track.interfaces[0].name"),
    (raw_class(vrrp={"track": {"interfaces": [{"name": "a"}] * 2}}), "spec.vrrp.track.interfaces[1]"),
    (raw_class(vrrp={"track": {"nodeConditions": [{"type": "a b"}]}}), "spec.vrrp.track.nodeConditions[0].type"),
    (
        raw_class(vrrp={"track": {"nodeConditions": [{"type": "Ready", "status": "Unknown"}]}}),
        "spec.vrrp.track.nodeConditions[0].status",
    ),
    (
        raw_class(addressPools=["2001:db8::/64"], vrrp={"version": 2, "advertisementIntervalMilliseconds": 1000}),
        "spec.addressPools",
    ),
    (
        raw_class(directors={"nodes": [{"name": "a", "priority": 1, "addresses": ["127.0.0.1"]}]}),
        "spec.directors.nodes[0].addresses[0]",
    ),
    (
        raw_class(directors={"nodes": [{"name": "a", "priority": 1, "initialState": "MASTER"}]}),
        "spec.directors.nodes[0].initialState",
    ),
]


@pytest.mark.parametrize(
    ("obj", "field"), INVALID, ids=lambda value: str(value.get("spec") if isinstance(value, dict) else value)[:60]
)
def test_what_parse_refuses_the_api_server_refuses_and_both_name_the_field(
    api: ApiServer, obj: dict[str, Any], field: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse(obj)
    assert any(error.path.startswith(field) for error in caught.value.errors), caught.value
    # create, for apply would merge lists by their keys on this side
    said = refusal(api, clean(obj), create=True)
    assert said.startswith(("Invalid: ", "BadRequest: ")), said
    assert field.removeprefix("spec.").split("[")[0].split(".")[-1] in said or field in said
    assert "no such key" not in said
    assert "evaluat" not in said


def test_both_statuses_are_applied_by_their_owners_and_seen_in_the_columns(api: ApiServer) -> None:
    obj = clean(raw_virtual_service(addresses=["192.168.139.123", "192.168.139.124"]))
    name = obj["metadata"]["name"]
    assert api.apply(obj).returncode == 0
    live = yaml.safe_load(api.kubectl("get", names.SHORT, name, "-o", "yaml").stdout)
    assert live["spec"]["scheduler"] == "mh"
    assigned = Assignment(virtual_router_id=203, directors=(Director(node="node2", priority=250),))
    for manager, body in (
        (names.OPERATOR_FIELD_MANAGER, operator_status(live, assigned, (), NOW)),
        (
            names.AGENT_FIELD_MANAGER,
            agent_status(
                live, node="node2", since=NOW, ready=3, total=4, problems=(), now=NOW, kept=(True, "SameTable", "all")
            ),
        ),
    ):
        done = api.apply(body, "--subresource=status", f"--field-manager={manager}")
        assert done.returncode == 0, done.stderr
    live = yaml.safe_load(api.kubectl("get", names.SHORT, name, "-o", "yaml").stdout)
    assert [item["type"] for item in live["status"]["conditions"]] == [
        "Accepted",
        "ResolvedRefs",
        "Programmed",
        "Ready",
        "ElectionHealthy",
        "NodeHealthy",
        "ConnectionsSurvive",
    ]
    assert parse_virtual_service(live).assigned == assigned
    head, row = api.kubectl("get", names.SHORT, name).stdout.splitlines()
    assert head.split() == ["NAME", "VIP", "VRID", "ACTIVE", "BACKENDS", "READY", "AGE"]
    assert row.split()[:6] == [name, "192.168.139.123", "203", "node2", "3", "True"], row
    wide = api.kubectl("get", names.SHORT, name, "-o", "wide").stdout
    assert "REASON" in wide
    assert '["192.168.139.123","192.168.139.124"]' in wide


def test_the_reason_column_shows_what_is_wrong(api: ApiServer) -> None:
    obj = clean(raw_virtual_service())
    name = obj["metadata"]["name"]
    assert api.apply(obj).returncode == 0
    key = parse_virtual_service(obj).key
    problem = Problem(key=key, condition="Accepted", reason=Reason.ADDRESS_CONFLICT, message="taken by a/b")
    live = yaml.safe_load(api.kubectl("get", names.SHORT, name, "-o", "yaml").stdout)
    done = api.apply(operator_status(live, None, (problem,), NOW), "--subresource=status")
    assert done.returncode == 0, done.stderr
    assert "AddressConflict" in api.kubectl("get", names.SHORT, name, "-o", "wide").stdout


def test_the_objects_of_the_examples_are_accepted(api: ApiServer) -> None:
    for path in sorted((CRDS.parent / "examples").glob("*.yaml")):
        for obj in yaml.safe_load_all(path.read_text()):
            if obj and obj.get("apiVersion") == names.API_VERSION:
                parse(obj)
                assert refusal(api, obj) == "", path
