"""Readiness gates against a real kube-apiserver: with the rights of deploy/readiness-gate, and without them."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsagent.adapters import kubeconfig
from lvsagent.adapters.kube import ApiClient
from lvsagent.adapters.podgates import PodGates
from lvsagent.core.gates import Gate
from lvsapi.model import ObjectKey
from tests.apiserver import ApiServer

pytestmark = pytest.mark.contract

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMESPACE, KIND = "gates", "lvsdr.io/path"
THEN, NOW = "2026-01-02T03:04:05Z", "2026-01-02T03:04:09Z"


def pod(name: str, gated: bool = True) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "web", "image": "web"}]}
    if gated:
        spec["readinessGates"] = [{"conditionType": KIND}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def seen(server: ApiServer, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("get", "pod", "-n", NAMESPACE, name, "-o", "json").stdout)
    return found


def conditions(server: ApiServer, name: str) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in seen(server, name)["status"].get("conditions", [])}


@pytest.fixture(scope="module")
def agent(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiServer, Path]]:
    """The server, and the kubeconfig of the agents' account, which has no right to pods yet."""
    apiserver.kubectl("create", "namespace", NAMESPACE)
    apiserver.kubectl("create", "namespace", "lvs-system")
    for document in yaml.safe_load_all((DEPLOY / "rbac-agent.yaml").read_text()):
        done = apiserver.apply(document)
        assert done.returncode == 0, done.stderr
    token = apiserver.kubectl("create", "token", "-n", "lvs-system", "lvs-agent").stdout.strip()
    config = yaml.safe_load(apiserver.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = tmp_path_factory.mktemp("agent") / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    for name, gated in (("web-1", True), ("web-2", False), ("web-3", True)):
        done = apiserver.apply(pod(name, gated))
        assert done.returncode == 0, done.stderr
    yield apiserver, path
    apiserver.kubectl("delete", "-k", str(DEPLOY / "readiness-gate"))


def gate(server: ApiServer, name: str, status: bool, message: str = "", uid: str | None = None) -> Gate:
    real = seen(server, name)["metadata"]["uid"] if uid is None else uid
    reason = "PathProved" if status else "PathNotProved"
    return Gate(pod=ObjectKey(NAMESPACE, name), uid=real, status=status, reason=reason, message=message)


async def tell(path: Path, *rounds: tuple[Gate, ...], clock: str = THEN) -> None:
    """Each round until it was taken note of."""
    client = ApiClient(kubeconfig.from_file(path))
    now = [clock]
    writer = PodGates(client, lambda: now[0])
    task = asyncio.create_task(writer.run())
    try:
        for wanted in rounds:
            writer.want(wanted)
            end = asyncio.get_running_loop().time() + 20
            while not writer.settled:
                assert asyncio.get_running_loop().time() < end
                await asyncio.sleep(0.01)
            now[0] = NOW
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


def test_without_the_right_it_says_what_to_apply(
    agent: tuple[ApiServer, Path], caplog: pytest.LogCaptureFixture
) -> None:
    server, path = agent
    with caplog.at_level(logging.WARNING):
        asyncio.run(tell(path, (gate(server, "web-1", True),)))
    assert "kubectl apply -k deploy/readiness-gate" in caplog.text
    assert KIND not in conditions(server, "web-1")


def test_a_gate_is_shut_with_its_reason_and_opens_and_stays_open(agent: tuple[ApiServer, Path]) -> None:
    server, path = agent
    done = server.kubectl("apply", "-k", str(DEPLOY / "readiness-gate"))
    assert done.returncode == 0, done.stderr
    other = {
        "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "example.com/x", "status": "True"}]}
    }
    patched = server.kubectl(
        *("patch", "pod", "-n", NAMESPACE, "web-1", "--subresource=status", "--type=merge", "-p", json.dumps(other))
    )
    assert patched.returncode == 0, patched.stderr
    asyncio.run(tell(path, (gate(server, "web-1", False, "no VIP there"), gate(server, "web-2", True))))
    found = conditions(server, "web-1")
    assert (found[KIND]["status"], found[KIND]["reason"], found[KIND]["message"]) == (
        "False",
        "PathNotProved",
        "no VIP there",
    )
    assert found[KIND]["lastTransitionTime"] == THEN
    assert found["example.com/x"]["status"] == "True", "others' conditions stay"
    assert KIND not in conditions(server, "web-2"), "it declares no gate"
    asyncio.run(tell(path, (gate(server, "web-1", False, "something else"),), clock=NOW))
    assert conditions(server, "web-1")[KIND]["lastTransitionTime"] == THEN, "it has not changed since"
    asyncio.run(tell(path, (gate(server, "web-1", True),), (gate(server, "web-1", False),), clock=NOW))
    found = conditions(server, "web-1")
    assert (found[KIND]["status"], found[KIND]["lastTransitionTime"]) == ("True", NOW)
    asyncio.run(tell(path, (gate(server, "web-1", False),)))
    assert conditions(server, "web-1")[KIND]["status"] == "True", "another agent does not shut it either"


def test_a_pod_that_was_replaced_or_is_gone_is_left_alone(agent: tuple[ApiServer, Path]) -> None:
    server, path = agent
    server.kubectl("apply", "-k", str(DEPLOY / "readiness-gate"))
    gone = Gate(pod=ObjectKey(NAMESPACE, "nobody"), uid="u", status=True, reason="PathProved", message="")
    asyncio.run(tell(path, (gate(server, "web-3", True, uid="of-another-time"), gone)))
    assert KIND not in conditions(server, "web-3")
