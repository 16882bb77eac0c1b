"""A real Prometheus on a host of the nodes' LAN, with our rules, looking at our agents and our operator."""

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import yaml

from tests.demo.world import ROOT, SYSTEM, World

PORT = 9090
AGENT_PORT = 9479
OPERATOR_NODE_PORT = 30080
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
SERVICE = f"""
apiVersion: v1
kind: Service
metadata: {{name: lvs-operator-metrics, namespace: {SYSTEM}}}
spec:
  type: NodePort
  selector: {{app.kubernetes.io/name: lvs-operator}}
  ports: [{{name: metrics, port: 8080, targetPort: metrics, nodePort: {OPERATOR_NODE_PORT}}}]
"""


class Prometheus:
    """A context manager: started, and stopped, with all its data in a folder that goes too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._folder = tempfile.TemporaryDirectory(prefix="lvs-prometheus-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._world.apply(SERVICE)
        folder = Path(self._folder.name)
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(self._configuration()))
        with (folder / "log").open("wb") as log:
            self._process = self._world.cluster.client_popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{PORT}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def healthy_targets(self) -> int:
        return sum(1 for target in self.targets() if target["health"] == "up")

    def targets(self) -> list[dict[str, Any]]:
        return list(self._ask("targets?state=active").get("activeTargets", ()))

    def value(self, query: str) -> float:
        """The first value of an instant query; 0 when there is none."""
        result = self._ask(f"query?query={quote(query)}").get("result", ())
        return float(result[0]["value"][1]) if result else 0.0

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """Labels of the alerts that fire now, by name."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in self._ask("alerts").get("alerts", ()):
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def _ask(self, path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{PORT}/api/v1/{path}"
        text = self._world.cluster.client_run(["curl", "-s", "-m", "5", url], check=False)
        return dict(json.loads(text)["data"]) if text else {}

    def _configuration(self) -> dict[str, Any]:
        cluster = self._world.cluster
        return {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": "agents",
                    "honor_labels": True,
                    "static_configs": [
                        {"targets": [f"{cluster.node_address(node)}:{AGENT_PORT}"], "labels": {"node": node}}
                        for node in cluster.nodes
                    ],
                },
                {
                    "job_name": "operator",
                    "honor_labels": True,
                    "static_configs": [
                        {"targets": [f"{cluster.node_address(node)}:{OPERATOR_NODE_PORT}" for node in cluster.nodes]}
                    ],
                },
            ],
        }
