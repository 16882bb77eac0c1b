"""The agent's reflectors and status against a real kube-apiserver."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsagent.adapters import kubeconfig
from lvsagent.adapters.kube import ApiClient, ApiError
from lvsagent.adapters.kubesource import KubeSource
from lvsagent.adapters.statuswriter import StatusWriter
from lvsagent.core.report import Report
from lvsapi.model import ObjectKey, Snapshot
from tests.apiserver import ApiServer
from tests.gen import raw_virtual_service

pytestmark = pytest.mark.contract

CRDS = Path(__file__).parents[2] / "crds"
NAMESPACE = "reflector"
WEB = ObjectKey(NAMESPACE, "web")


def slice_of(service: str, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-abc",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def service_of(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }


def virtual_service_of(service: str, address: str) -> dict[str, Any]:
    raw = raw_virtual_service()
    raw["metadata"] = {"name": "web", "namespace": NAMESPACE}
    raw["spec"] = {"addresses": [address], "ports": [{"port": 80}], "serviceRef": {"name": service}}
    raw.pop("status", None)
    return raw


@pytest.fixture(scope="module")
def prepared(apiserver: ApiServer) -> ApiServer:
    for name in ("virtualservice.yaml", "virtualserviceclass.yaml"):
        done = apiserver.apply(yaml.safe_load((CRDS / name).read_text()))
        assert done.returncode == 0, done.stderr
    apiserver.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    apiserver.kubectl("create", "namespace", NAMESPACE)
    return apiserver


@asynccontextmanager
async def running(
    server: ApiServer, config: kubeconfig.KubeConfig | None = None
) -> AsyncIterator[tuple[KubeSource, ApiClient]]:
    client = ApiClient(config or kubeconfig.from_file(server.kubeconfig))
    source = KubeSource(client, lambda: None)
    task = asyncio.create_task(source.run())
    try:
        yield source, client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


async def seen(source: KubeSource, holds: Callable[[Snapshot], bool], seconds: float = 15.0) -> float:
    """How long it took until the snapshot was so, for somebody who looks as the agent's loop does."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        source.expire()
        snapshot = source.snapshot()
        if snapshot is not None and holds(snapshot):
            return time.monotonic() - start
        await asyncio.sleep(0.002)
    raise AssertionError(f"not seen within {seconds} s: {source.snapshot()}; {source.health}")


def addresses(snapshot: Snapshot) -> set[str]:
    return {
        str(address)
        for part in snapshot.slices
        if part.key.namespace == NAMESPACE
        for endpoint in part.endpoints
        for address in endpoint.addresses
    }


async def apply(server: ApiServer, obj: dict[str, Any]) -> None:
    done = await asyncio.to_thread(server.apply, obj)
    assert done.returncode == 0, done.stderr


def test_objects_arrive_change_and_go(prepared: ApiServer) -> None:
    async def story() -> None:
        async with running(prepared) as (source, client):
            await seen(source, lambda s: True)
            await apply(prepared, service_of("web"))
            await apply(prepared, slice_of("web", "10.1.0.1"))
            await apply(prepared, slice_of("other", "10.9.9.9"))
            await apply(prepared, virtual_service_of("web", "192.168.139.10"))
            await seen(source, lambda s: WEB in {v.key for v in s.virtual_services} and addresses(s) == {"10.1.0.1"})
            assert "in (web)" in (source.reflectors[3].covered or "")
            await apply(prepared, slice_of("web", "10.1.0.1", "10.1.0.2"))
            await seen(source, lambda s: addresses(s) == {"10.1.0.1", "10.1.0.2"})
            await apply(prepared, virtual_service_of("other", "192.168.139.10"))
            await seen(
                source,
                lambda s: addresses(s) == {"10.9.9.9"} and [v.service for v in s.virtual_services] == ["other"],
            )
            await asyncio.to_thread(prepared.kubectl, "delete", "lvsvirtualservice", "-n", NAMESPACE, "web")
            await seen(source, lambda s: WEB not in {v.key for v in s.virtual_services})
            # A CRD that was made a moment ago answers 429 until its storage is ready.
            errors = {reason for health in source.health.values() for reason in health.errors}
            assert errors <= {"http_429"}, source.health
            with pytest.raises(ApiError) as refused:
                await client.list_page("/api/v1/services", {"resourceVersion": "1", "continue": "bogus"})
            assert refused.value.reason in ("http_400", "gone")

    asyncio.run(story())


def test_the_active_nodes_status_is_taken_over_by_the_next(prepared: ApiServer) -> None:
    async def story() -> None:
        await apply(prepared, virtual_service_of("web", "192.168.139.10"))
        async with running(prepared) as (source, client):
            await seen(source, lambda s: WEB in {v.key for v in s.virtual_services})
            writers = [
                StatusWriter(client, node, source.observed, lambda: "2026-01-02T03:04:05Z") for node in ("n1", "n2")
            ]
            for ready, writer in enumerate(writers, 1):
                task = asyncio.create_task(writer.run())
                writer.want({WEB: Report(active=True, ready=ready, total=3)})
                writer.event(WEB, "Normal", "Active", f"Node {writer.node} is Active")
                await seen(source, lambda s, w=writer: source.observed[WEB].active_node == w.node)  # type: ignore[misc]
                while writer.pending:
                    await asyncio.sleep(0.01)
                kinds = {condition["type"]: condition["status"] for condition in source.observed[WEB].conditions}
                kinds_wanted = ("Programmed", "Ready", "ElectionHealthy", "NodeHealthy", "ConnectionsSurvive")
                assert kinds == dict.fromkeys(kinds_wanted, "True")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        events = await asyncio.to_thread(
            prepared.kubectl, "get", "events", "-n", NAMESPACE, "-o", "jsonpath={.items[*].message}"
        )
        assert "Node n2 is Active" in events.stdout
        await asyncio.to_thread(prepared.kubectl, "delete", "lvsvirtualservice", "-n", NAMESPACE, "web")

    asyncio.run(story())


def test_watches_hear_on_while_certificates_are_written_anew(prepared: ApiServer, tmp_path: Path) -> None:
    """As the kubelet writes the volume of a service account, with TLS: the same authority, and a larger bundle."""
    config = kubeconfig.from_file(prepared.kubeconfig)
    text = config.ca_data or (config.ca_file or Path()).read_text()
    bundle = tmp_path / "ca.crt"
    bundle.write_text(text)

    async def story() -> None:
        await apply(prepared, service_of("anew"))
        await apply(prepared, slice_of("anew", "10.2.0.1"))
        await apply(prepared, virtual_service_of("anew", "192.168.139.11"))
        async with running(prepared, replace(config, ca_data=None, ca_file=bundle)) as (source, client):
            await seen(source, lambda s: addresses(s) == {"10.2.0.1"})
            lists = [health.relists for health in source.health.values()]
            for number, content in enumerate((text, text + "\n" + text, text), 2):
                bundle.write_text(content)
                await client.get("/api/v1/namespaces/default")
                await apply(prepared, slice_of("anew", f"10.2.0.{number}"))
                await seen(source, lambda s, n=number: addresses(s) == {f"10.2.0.{n}"}, 5.0)  # type: ignore[misc]
            assert [health.relists for health in source.health.values()] == lists
            assert not any(health.errors for health in source.health.values())
        await asyncio.to_thread(prepared.kubectl, "delete", "lvsvirtualservice", "-n", NAMESPACE, "web")

    asyncio.run(story())
