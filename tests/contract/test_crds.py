"""The CRD files are those of the model, and a real API server enforces what parse enforces."""

import runpy
import uuid
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsapi import names, schema
from lvsapi.errors import SpecError
from lvsapi.ipvs import IPIP, Persistence, SchedulerFlag, TunnelChecksum, TunnelType
from lvsapi.model import Assignment, Director, Forwarding, Problem, Protocol, Scheduler
from lvsapi.parse import parse_class, parse_virtual_service
from lvsapi.status import Reason, agent_status, operator_status
from lvsapi.vrrp import VrrpSettings
from tests.apiserver import ApiServer
from tests.gen import raw_class, raw_virtual_service

pytestmark = pytest.mark.contract

CRDS = Path(__file__).parents[2] / "crds"
NOW = "2026-01-02T03:04:05Z"


def properties(crd: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


def spec_of(crd: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = properties(crd)["spec"]["properties"]
    return found


@pytest.mark.parametrize("name", ["virtualservice.yaml", "virtualserviceclass.yaml"])
def test_the_files_are_what_the_model_generates(name: str) -> None:
    wanted = runpy.run_path(str(CRDS / "generate.py"))["rendered"]()[name]
    assert (CRDS / name).read_text() == wanted, "run: python crds/generate.py"


def test_generating_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["generate.py", str(tmp_path)])
    runpy.run_path(str(CRDS / "generate.py"), run_name="__main__")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["virtualservice.yaml", "virtualserviceclass.yaml"]


def test_enums_and_defaults_are_the_models() -> None:
    spec = spec_of(yaml.safe_load((CRDS / "virtualservice.yaml").read_text()))
    parsed = parse_virtual_service(raw_virtual_service())
    assert spec["scheduler"]["enum"] == [str(item) for item in Scheduler]
    assert spec["scheduler"]["default"] == parsed.scheduler
    assert spec["forwarding"]["enum"] == [str(item) for item in Forwarding]
    assert spec["forwarding"]["default"] == parsed.forwarding
    assert spec["schedulerFlags"]["items"]["enum"] == [str(item) for item in SchedulerFlag]
    sticky = {name: each["default"] for name, each in spec["persistence"]["properties"].items()}
    assert tuple(sticky.values()) == astuple(Persistence())
    tunnel = spec["tunnel"]["properties"]
    assert (tunnel["type"]["enum"], tunnel["type"]["default"]) == ([str(item) for item in TunnelType], IPIP.type)
    assert tunnel["checksum"]["enum"] == [str(item) for item in TunnelChecksum]
    assert tunnel["checksum"]["default"] == IPIP.checksum
    assert spec["className"]["default"] == parsed.class_name
    port = spec["ports"]["items"]["properties"]
    assert port["protocol"]["enum"] == [str(item) for item in Protocol]
    assert port["protocol"]["default"] == parsed.ports[0].protocol
    vrrp = spec_of(yaml.safe_load((CRDS / "virtualserviceclass.yaml").read_text()))["vrrp"]["properties"]
    usual = parse_class(raw_class()).vrrp
    assert usual == VrrpSettings()
    assert vrrp["advertisementIntervalMilliseconds"]["default"] == usual.advertisement_interval_ms
    assert vrrp["preempt"]["default"] == usual.preempt
    assert tuple(vrrp["virtualRouterIDs"]["default"].values()) == usual.virtual_router_ids
    assert vrrp["version"]["default"] == usual.version
    assert vrrp["preemptDelaySeconds"]["default"] == usual.preempt_delay_seconds
    assert (vrrp["transport"]["default"], vrrp["checksum"]["default"]) == (usual.transport, usual.checksum)
    proof = vrrp["authentication"]["properties"]
    assert proof["type"]["default"] == usual.authentication
    assert proof["mode"]["default"] == usual.authentication_mode
    rounds = {name: each["default"] for name, each in vrrp["announcements"]["properties"].items()}
    usually = usual.announcements
    assert tuple(rounds.values()) == (
        *(usually.repeat, usually.delay_seconds, usually.refresh_seconds),
        usually.on_lower_priority,
    )
    assert (vrrp["virtualMAC"]["default"], vrrp["gracefulRestartSeconds"]["default"]) == (False, 0)


BOUNDS = [
    ("virtualservice.yaml", ["virtualRouterID"], 1),
    ("virtualservice.yaml", ["ports", "port"], 1),
    ("virtualservice.yaml", ["ports", "endPort"], 1),
    ("virtualservice.yaml", ["persistence", "timeoutSeconds"], 1),
    ("virtualservice.yaml", ["persistence", "ipv4PrefixLength"], 1),
    ("virtualservice.yaml", ["persistence", "ipv6PrefixLength"], 1),
    ("virtualservice.yaml", ["connectionLimits", "upper"], 1),
    ("virtualservice.yaml", ["connectionLimits", "lower"], 1),
    ("virtualservice.yaml", ["tunnel", "port"], 1),
    ("virtualservice.yaml", ["realServers", "port"], 1),
    ("virtualservice.yaml", ["realServers", "weight"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "advertisementIntervalMilliseconds"], 10),
    ("virtualserviceclass.yaml", ["vrrp", "version"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "preemptDelaySeconds"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "gracefulRestartSeconds"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "announcements", "repeat"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "announcements", "delaySeconds"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "announcements", "refreshSeconds"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "virtualRouterIDs", "first"], 1),
    ("virtualserviceclass.yaml", ["vrrp", "virtualRouterIDs", "last"], 1),
    ("virtualserviceclass.yaml", ["vipPrefixLength"], 1),
    ("virtualserviceclass.yaml", ["directors", "nodes", "priority"], 1),
]


@pytest.mark.parametrize(("name", "path", "step"), BOUNDS)
def test_bounds_are_those_that_parse_enforces(name: str, path: list[str], step: int) -> None:
    level: dict[str, Any] = {"properties": spec_of(yaml.safe_load((CRDS / name).read_text()))}
    for part in path:
        level = level["properties"][part]
        lists = level if "items" in level else None
        level = lists["items"] if lists else level
    low, high = level["minimum"], level["maximum"]
    assert level.get("multipleOf", 1) == step

    def accepted(value: int) -> bool:
        obj = _with(name, path, value)
        try:
            parse_virtual_service(obj) if name == "virtualservice.yaml" else parse_class(obj)
        except SpecError as error:
            return not any(str(value) in str(field) for field in error.errors)
        return True

    assert [accepted(value) for value in (low - step, low, high, high + step)] == [False, True, True, False]
    if step > 1:
        assert not accepted(low + 1)


def _with(name: str, path: list[str], value: int) -> dict[str, object]:
    match path:
        case ["ports", "endPort"]:
            return raw_virtual_service(ports=[{"port": 1, "endPort": value}])
        case ["persistence", field]:
            return raw_virtual_service(persistence={field: value})
        case ["connectionLimits", field]:
            return raw_virtual_service(connectionLimits={"upper": 65535, field: value})
        case ["tunnel", field]:
            return raw_virtual_service(forwarding="Tunnel", tunnel={"type": "gue", field: value})
        case ["ports", field]:
            return raw_virtual_service(ports=[{field: value}])
        case ["realServers", field]:
            server = {"address": "192.168.139.7", field: value}
            return raw_virtual_service(serviceRef=None, realServers=[server], forwarding="Masquerade")
        case ["directors", "nodes", field]:
            return raw_class(directors={"nodes": [{"name": "node1", field: value}]})
        case ["vrrp", "virtualRouterIDs", field]:
            return raw_class(vrrp={"virtualRouterIDs": {"first": 1, "last": 255, field: value}})
        case ["vrrp", "announcements", field]:
            return raw_class(vrrp={"announcements": {field: value}})
        case ["vrrp", field]:
            return raw_class(vrrp={"advertisementIntervalMilliseconds": 1000, field: value})
        case _:
            spec: dict[str, Any] = {path[0]: value}
            return raw_virtual_service(**spec) if name == "virtualservice.yaml" else raw_class(**spec)


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


def parse(obj: dict[str, Any]) -> object:
    return parse_class(obj) if obj["kind"] == names.CLASS_KIND else parse_virtual_service(obj)


@pytest.mark.parametrize("obj", VALID, ids=lambda obj: str(obj["spec"])[:60])
def test_what_parse_accepts_the_api_server_accepts(api: ApiServer, obj: dict[str, Any]) -> None:
    parse(obj)
    done = api.apply(clean(obj), "--dry-run=server")
    assert done.returncode == 0, done.stderr


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
    done = api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(clean(obj)))
    assert done.returncode != 0, done.stdout
    assert field.removeprefix("spec.").split("[")[0].split(".")[-1] in done.stderr or field in done.stderr
    assert "no such key" not in done.stderr
    assert "evaluat" not in done.stderr


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
                done = api.apply(obj, "--dry-run=server")
                assert done.returncode == 0, f"{path}: {done.stderr}"


def test_schemas_are_built_anew_on_every_call() -> None:
    schema.virtual_service_crd().clear()
    assert schema.virtual_service_crd()["kind"] == "CustomResourceDefinition"
