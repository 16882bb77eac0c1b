"""docs/election.md names every field, finding and alert that there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsagent.ipc import Finding
from lvsapi import names

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "election.md").read_text()
SPEC: dict[str, Any] = yaml.safe_load((ROOT / "crds" / "virtualserviceclass.yaml").read_text())["spec"]["versions"][0][
    "schema"
]["openAPIV3Schema"]["properties"]["spec"]["properties"]


def test_every_setting_of_the_election_has_its_row() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    for field, schema in SPEC["vrrp"]["properties"].items():
        nested = schema.get("properties", {})
        if field == "virtualRouterIDs":
            nested = {}
        wanted = [f"{field}.{name}" for name in nested] or [field]
        for name in wanted:
            assert name in rows or f"{name}[]" in rows, name


def test_every_setting_of_a_director_is_named() -> None:
    for field in SPEC["directors"]["properties"]["nodes"]["items"]["properties"]:
        assert f"`{field}`" in PAGE, field


def test_every_bound_in_the_table_is_the_schemas() -> None:
    for field, schema in SPEC["vrrp"]["properties"].items():
        if "minimum" in schema and field not in ("version", "sendIntervalMilliseconds"):
            assert re.search(rf"^\| `{field}` \| {schema['minimum']}-{schema['maximum']}\b", PAGE, re.MULTILINE), field
    for name, schema in SPEC["vrrp"]["properties"]["announcements"]["properties"].items():
        if "minimum" in schema:
            row = f"| `announcements.{name}` | {schema['minimum']}-{schema['maximum']} ({schema['default']}) |"
            assert row in PAGE


def test_every_finding_annotation_taint_and_the_secret_are_named() -> None:
    for finding in Finding:
        assert f"`{finding}`" in PAGE, finding
    for word in (names.FAILOVER_FROM, f"{names.DIRECTOR}={names.STANDBY}", names.KEYS_SECRET, *names.LEAVING_TAINTS):
        assert word in PAGE, word


def test_every_alert_about_a_finding_is_named() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())["groups"][0]["rules"]
    about = [rule["alert"] for rule in rules if "lvs_vrrp_finding" in rule["expr"]]
    assert len(about) == 6
    for alert in about:
        assert alert in PAGE
    for rule in rules:
        for finding in re.findall(r'lvs_vrrp_finding{finding=~?"([A-Za-z|]+)"', rule["expr"]):
            assert set(finding.split("|")) <= {str(known) for known in Finding}
