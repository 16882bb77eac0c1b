"""What the operator keeps of a large cluster."""

import json
from dataclasses import replace
from typing import Any

import pytest

from lvsoperator.adapters.kube import PAGE, Kube
from lvsoperator.core.reconcile import reconcile
from lvsoperator.settings import Settings

pytestmark = pytest.mark.unit

MANAGED = [{"manager": "kubelet", "fieldsV1": {f"f:{n}": {} for n in range(50)}}]


def node(number: int) -> dict[str, Any]:
    """As a kubelet writes it, with fifty images."""
    return {
        "metadata": {
            "name": f"node{number}",
            "labels": {"kubernetes.io/os": "linux"},
            "annotations": {"example.com/note": "x" * 500},
            "managedFields": MANAGED,
        },
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": f"10.0.{number // 250}.{number % 250 + 1}"}],
            "images": [{"names": [f"registry.example/app-{n}@sha256:{'a' * 64}"], "sizeBytes": n} for n in range(50)],
        },
    }


def service(number: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"web{number}",
            "namespace": "default",
            "uid": f"uid-{number}",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x" * 500},
            "managedFields": MANAGED,
        },
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}], "externalTrafficPolicy": "Local"},
    }


def virtual_service(number: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"web{number}",
            "namespace": "default",
            "uid": f"uid-{number}",
            "generation": 1,
            "resourceVersion": "7",
            "managedFields": MANAGED,
        },
        "spec": {"addresses": [f"10.1.0.{number}"], "ports": [{"port": 80}], "serviceRef": {"name": f"web{number}"}},
    }


LISTED = {
    "nodes": [node(number) for number in range(2 * PAGE + 1)],
    "services": [service(number) for number in range(PAGE)],
    "lvsvirtualservices": [virtual_service(number) for number in range(1, 4)],
}


class Paged:
    """Stands for the official client; gives lists page by page."""

    status = 200

    def __init__(self) -> None:
        self.largest = 0

    def param_serialize(self, method: str, path: str, **more: Any) -> tuple[str, dict[str, str]]:
        return path.rpartition("/")[2], dict(more["query_params"])

    def call_api(self, kind: str, query: dict[str, str], **_: Any) -> "Paged":
        begin, limit = int(query.get("continue", "0")), int(query.get("limit", "0"))
        items = LISTED.get(kind, [])[begin : begin + limit]
        self.largest = max(self.largest, len(items))
        following = str(begin + limit) if begin + limit < len(LISTED.get(kind, [])) else ""
        self.answer = {"metadata": {"uid": "uid", "continue": following}, "items": items}
        return self

    def read(self) -> bytes:
        return json.dumps(self.answer).encode()


def test_of_a_cluster_only_what_decides_is_kept_and_it_decides_alike() -> None:
    """With everything, 600 nodes and 5,000 Services took the operator to its limit of 256 MiB."""
    api = Paged()
    kept = Kube(api, Settings()).observe()
    assert (len(kept.nodes), len(kept.services), len(kept.virtual_services)) == (2 * PAGE + 1, PAGE, 3)
    assert api.largest == PAGE
    assert len(json.dumps([*kept.nodes, *kept.services])) * 10 < len(
        json.dumps([*LISTED["nodes"], *LISTED["services"]])
    )
    whole = replace(
        kept,
        nodes=tuple(LISTED["nodes"]),
        services=tuple(LISTED["services"]),
        virtual_services=tuple(LISTED["lvsvirtualservices"]),
    )
    decided = reconcile(kept, Settings(), "now")
    assert decided == reconcile(whole, Settings(), "now")
    assert all(body["metadata"]["resourceVersion"] == "7" for body in decided.statuses)
    assert len(decided.statuses) == 3
