"""What `kubectl apply -k deploy/` installs, rendered by kubectl itself, and the examples."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsapi import names
from lvsapi.parse import parse_class, parse_service, parse_virtual_service
from lvsoperator.core.manifests import AGENT_PORT, agent_daemonset
from lvsoperator.settings import from_env
from tests.apiserver import tools

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]


def kustomize(folder: Path) -> list[dict[str, Any]]:
    command = [str(tools() / "kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def installed() -> list[dict[str, Any]]:
    return kustomize(ROOT / "deploy")


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def operator_pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = one(documents, "Deployment", "lvs-operator")["spec"]["template"]["spec"]
    return found


def agents(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The DaemonSet as the installed operator will make it."""
    (container,) = operator_pod(documents)["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    return agent_daemonset(from_env(env), "uid")


def test_everything_that_is_needed_is_installed_and_nothing_else(installed: list[dict[str, Any]]) -> None:
    assert sorted((d["kind"], d["metadata"]["name"]) for d in installed) == sorted(
        [
            ("Namespace", names.SYSTEM_NAMESPACE),
            ("CustomResourceDefinition", f"{names.PLURAL}.{names.GROUP}"),
            ("CustomResourceDefinition", f"{names.CLASS_PLURAL}.{names.GROUP}"),
            *((kind, "lvs-agent") for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")),
            *((kind, "lvs-operator") for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")),
            *((kind, "lvs-operator") for kind in ("Role", "RoleBinding", "Deployment")),
        ]
    )
    namespaces = {d["metadata"].get("namespace") for d in installed}
    assert namespaces == {None, names.SYSTEM_NAMESPACE}


def test_names_in_the_manifests_are_those_of_the_code(installed: list[dict[str, Any]]) -> None:
    one(installed, "Deployment", names.OPERATOR_DEPLOYMENT)
    pod = agents(installed)["spec"]["template"]["spec"]
    one(installed, "ServiceAccount", pod["serviceAccountName"])
    assert agents(installed)["metadata"]["namespace"] == names.SYSTEM_NAMESPACE


def test_the_operator_runs_restricted(installed: list[dict[str, Any]]) -> None:
    pod = operator_pod(installed)
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for key in ("hostNetwork", "hostPID", "hostIPC", "volumes"):
        assert key not in pod
    assert all("hostPort" not in port for port in container["ports"])


def test_there_is_one_operator_and_never_two_at_once(installed: list[dict[str, Any]]) -> None:
    spec = one(installed, "Deployment", "lvs-operator")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_the_namespace_says_that_its_pods_are_privileged(installed: list[dict[str, Any]]) -> None:
    labels = one(installed, "Namespace", names.SYSTEM_NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_another_registry_reaches_both_images(tmp_path: Path) -> None:
    overlay = {
        "resources": [os.path.relpath(ROOT / "deploy", tmp_path.resolve())],
        "configurations": ["images.yaml"],
        "images": [
            {"name": f"lvs-dr-{part}", "newName": f"registry.example/lvs-dr-{part}", "newTag": "7"}
            for part in ("agent", "operator")
        ],
    }
    # kustomize reads files below the overlay only
    (tmp_path / "images.yaml").write_text((ROOT / "deploy" / "images.yaml").read_text())
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    documents = kustomize(tmp_path)
    assert operator_pod(documents)["containers"][0]["image"] == "registry.example/lvs-dr-operator:7"
    for container in agents(documents)["spec"]["template"]["spec"]["containers"]:
        assert container["image"] == "registry.example/lvs-dr-agent:7"


def test_prometheus_finds_operator_and_agents(installed: list[dict[str, Any]]) -> None:
    documents = kustomize(ROOT / "deploy" / "prometheus")
    assert sorted(d["kind"] for d in documents) == ["PodMonitor", "PrometheusRule"]
    monitor = one(documents, "PodMonitor", "lvs-dr")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    for workload in (one(installed, "Deployment", "lvs-operator"), agents(installed)):
        template = workload["spec"]["template"]
        assert wanted <= template["metadata"]["labels"].items()
        ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}
        assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
    assert all(endpoint["honorLabels"] for endpoint in monitor["podMetricsEndpoints"])
    assert AGENT_PORT == 9479


def examples() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name} {document['kind']}", document)
        for path in sorted((ROOT / "examples").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.mark.parametrize(("name", "document"), [pytest.param(n, d, id=n) for n, d in examples()])
def test_every_example_of_ours_parses(name: str, document: dict[str, Any]) -> None:
    parse: dict[str, Callable[[Any], object]] = {
        names.KIND: parse_virtual_service,
        names.CLASS_KIND: parse_class,
        "Service": parse_service,
    }
    if document["kind"] in parse:
        parse[document["kind"]](document)
    else:
        assert document["kind"] == "Deployment", name


def test_the_example_is_three_pods_one_a_node_behind_one_port_that_is_mapped() -> None:
    by_kind = {document["kind"]: document for name, document in examples() if name.startswith("virtualservice.yaml")}
    deployment, service = by_kind["Deployment"]["spec"], by_kind["Service"]["spec"]
    assert deployment["replicas"] == 3
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
    (container,) = deployment["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) in container["args"]
    assert service["ports"] == [{"name": "http", "port": 80, "targetPort": port["name"]}]
    assert by_kind["VirtualService"]["spec"]["serviceRef"]["name"] == by_kind["Service"]["metadata"]["name"]


def test_the_class_example_shows_every_field_with_its_default() -> None:
    text = (ROOT / "examples" / "class.yaml").read_text()
    (document,) = yaml.safe_load_all(text)
    crd = yaml.safe_load((ROOT / "crds" / "virtualserviceclass.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(document["spec"]) == set(schema["properties"])
    # a field whose default is to be absent stands there as a comment
    commented = set(re.findall(r"^    # (\w+): \S+$", text, re.MULTILINE))
    assert commented >= {"sendIntervalMilliseconds", "syncGroup"}
    fields = set(schema["properties"]["vrrp"]["properties"])
    assert set(document["spec"]["vrrp"]) | (commented & fields) == fields
    assert parse_class(document).vrrp == parse_class({**document, "spec": {}}).vrrp


def test_the_image_holds_neither_scapy_nor_a_shell_command_and_is_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "scapy" not in text
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL))
    for name in ("agent", "operator"):
        assert "USER 65532:65532" in stages[name]
        assert re.search(r'^ENTRYPOINT \["lvs-\w+"\]$', stages[name], re.MULTILINE)
    for stage, line in ((s, line) for s, body in stages.items() for line in body.splitlines()):
        if "pip" in line and " install " in line:
            assert "--require-hashes" in line or "--no-index" in line, f"{stage}: {line}"
    assert list(stages)[-1] == "agent", "the default target"


def test_the_agents_lock_has_no_client_and_no_lock_names_an_index_or_a_path() -> None:
    for path in sorted((ROOT / "requirements").glob("*.lock")):
        text = path.read_text()
        assert "--hash=sha256:" in text, path.name
        assert not re.search(r"https?://|file:|--index|--find-links|@ ", text), path.name
    agent = (ROOT / "requirements" / "agent.lock").read_text()
    for package in ("kubernetes", "kopf", "scapy"):
        assert not re.search(rf"^{package}==", agent, re.MULTILINE)
        if package != "scapy":
            assert re.search(rf"^{package}==", (ROOT / "requirements" / "operator.lock").read_text(), re.MULTILINE)
