"""lvs-operator as a process, with the rights of deploy/ and no others, beside a real API server; for tests."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.apiserver import ApiServer

ROOT = Path(__file__).parents[2]
SECONDS = 15.0
"""How long anything may take on a busy machine; the usual is far below one."""
T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str) -> T:
    """The first result that is not None; fails after SECONDS."""
    end = time.monotonic() + SECONDS
    while (found := look()) is None:
        if time.monotonic() > end:
            pytest.fail(f"not within {SECONDS:g} s: {what}")
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        def serving() -> str | None:
            found = re.search(r"/readyz on 127\.0\.0\.1:(\d+)", self.log.read_text())
            return found and f"http://127.0.0.1:{found[1]}"

        return eventually(serving, "the operator listens")

    def ask(self, path: str) -> tuple[int, str]:
        """HTTP status and text."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def passes(self) -> int:
        """Passes over all objects until now."""
        found = re.findall(r"^lvs_reconcile_total{.*} (\d+)", self.ask("/metrics")[1], re.MULTILINE)
        return sum(map(int, found))

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=SECONDS)


@dataclass(frozen=True)
class Cluster:
    """The API server with deploy/ applied and three nodes, and ways to look at it."""

    server: ApiServer
    home: Path

    @contextmanager
    def operator(self, account: str = "lvs-operator", **env: str) -> Iterator[Operator]:
        """Run the operator as a service account of lvs-system; ready when its first pass succeeded."""
        token = self.kubectl("create", "token", account, "-n", "lvs-system").strip()
        config = yaml.safe_load(self.server.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        kubeconfig = self.home / f"{account}.kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        log = self.home / f"operator-{time.monotonic_ns()}.log"
        variables = {"KUBECONFIG": str(kubeconfig), "LVS_LISTEN": "127.0.0.1", "LVS_PORT": "0", **env}
        with log.open("wb") as out:
            command = [sys.executable, "-m", "lvsoperator"]
            process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=out, stderr=out)
        try:
            yield Operator(process=process, log=log)
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def ready_operator(self) -> Iterator[Operator]:
        """As ``operator``, after its first complete pass."""
        with self.operator() as operator:
            eventually(lambda: operator.ask("/readyz")[0] == 200 or None, "the operator is ready")
            yield operator

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output; fails when kubectl does."""
        done = self.server.kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any] | None:
        """An object, None if there is none."""
        done = self.server.kubectl("get", *arguments, "-o", "json")
        return None if done.returncode else dict(json.loads(done.stdout))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side apply."""
        text = yaml.safe_dump_all(objects)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def condition(self, name: str, type_: str, status: str, generation: int = 1) -> dict[str, Any]:
        """Wait for a condition of a VirtualService in the namespace default."""

        def look() -> dict[str, Any] | None:
            obj = self.get("lvsvs", name, "-n", "default") or {}
            for item in obj.get("status", {}).get("conditions", []):
                if (item["type"], item["status"], item["observedGeneration"]) == (type_, status, generation):
                    return dict(item)
            return None

        return eventually(look, f"{name}: {type_}={status}")


def install(cluster: Cluster, *, kinds: bool = True) -> None:
    """deploy/ and three nodes. ``kinds``: and our own, too."""
    objects = yaml.safe_load_all(cluster.kubectl("kustomize", str(ROOT / "deploy")))
    cluster.apply(*(obj for obj in objects if kinds or obj["kind"] != "CustomResourceDefinition"))
    if kinds:
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for number in (1, 2, 3):
        name = f"node{number}"
        cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        address = {"type": "InternalIP", "address": f"192.168.139.{100 + number}"}
        patch = json.dumps({"status": {"addresses": [address]}})
        cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)


def service(name: str = "web", port: str = "http") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "labels": {"test": "yes"}},
        "spec": {"ports": [{"name": port, "port": 80, "targetPort": 8080}]},
    }


def virtual_service(name: str, address: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lvsdr.io/v1alpha1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default", "labels": {"test": "yes"}},
        "spec": {"addresses": [address], "ports": [{"port": 80}], "serviceRef": {"name": "web"}, **spec},
    }
