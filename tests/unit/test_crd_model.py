"""The CRD files are those of the model."""

import re
import runpy
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsapi import schema
from lvsapi.errors import SpecError
from lvsapi.ipvs import IPIP, Persistence, SchedulerFlag, TunnelChecksum, TunnelType
from lvsapi.model import Forwarding, Protocol, Scheduler
from lvsapi.parse import parse_class, parse_virtual_service
from lvsapi.vrrp import VrrpSettings
from tests.gen import raw_class, raw_virtual_service

pytestmark = pytest.mark.unit

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


def test_schemas_are_built_anew_on_every_call() -> None:
    schema.virtual_service_crd().clear()
    assert schema.virtual_service_crd()["kind"] == "CustomResourceDefinition"


def test_kubectl_explain_says_what_weight_0_of_a_tracked_thing_means() -> None:
    """As docs/election.md: an interface takes the node out, a condition makes it the last choice."""
    track = spec_of(schema.class_crd())["vrrp"]["properties"]["track"]["properties"]
    said = {name: track[name]["items"]["properties"]["weight"]["description"] for name in track}
    assert "0: while it is down, the node does not take part" in said["interfaces"]
    assert "0: while not good, the node is Active only if nobody else can be" in said["nodeConditions"]


def test_the_pages_that_the_examples_name_are_there() -> None:
    root = CRDS.parent
    named = {
        page
        for path in (*(root / "examples").glob("*.yaml"), *(root / "deploy").rglob("*.yaml"))
        for page in re.findall(r"docs/[\w./-]+\.md", path.read_text())
    }
    assert "docs/election.md" in named
    assert not [page for page in sorted(named) if not (root / page).is_file()]
