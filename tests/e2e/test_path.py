"""A rollout that waits for proved paths, on the real cluster: the readiness gate ``lvsdr.io/path``."""

import time
from typing import Any

import pytest

from tests.demo.story import DEPLOY
from tests.demo.world import World, has_condition, wait_for
from tests.e2e.conftest import serving

pytestmark = pytest.mark.e2e

GATE, ADDRESS, WRONG, RIGHT = "lvsdr.io/path", "192.168.139.127", 8081, 8082
EARLY = "192.168.139.124"
"""The same pods by a Service that publishes those that are not ready."""
MANIFEST = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: gated, namespace: default, labels: {{app: gated}}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: gated}}}}
  template:
    metadata: {{labels: {{app: gated}}}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      readinessGates: [{{conditionType: {GATE}}}]
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {{matchLabels: {{app: gated}}}}
      containers:
        - name: web
          image: traefik/whoami
          imagePullPolicy: IfNotPresent
          args: [--port, "{RIGHT}"]
          securityContext: {{runAsNonRoot: true, runAsUser: 65532}}
---
apiVersion: v1
kind: Service
metadata: {{name: gated, namespace: default}}
spec:
  selector: {{app: gated}}
  ports: [{{name: http, port: 80, targetPort: {WRONG}}}]
---
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: gated, namespace: default}}
spec:
  addresses: [{ADDRESS}]
  ports: [{{port: 80}}]
  serviceRef: {{name: gated}}
  health:
    pods: true
    checks: [{{type: Path, intervalMilliseconds: 1000}}]
---
apiVersion: v1
kind: Service
metadata: {{name: early, namespace: default}}
spec:
  publishNotReadyAddresses: true
  selector: {{app: gated}}
  ports: [{{name: http, port: 80, targetPort: {RIGHT}}}]
---
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: early, namespace: default}}
spec: {{addresses: [{EARLY}], ports: [{{port: 80}}], serviceRef: {{name: early}}}}
"""


def gates(world: World) -> list[dict[str, Any]]:
    """The condition of each pod that has one."""
    pods = world.api.items("pods", "default", "app=gated")
    return [
        condition
        for pod in pods
        for condition in pod["status"].get("conditions", [])
        if condition["type"] == GATE and "deletionTimestamp" not in pod["metadata"]
    ]


def test_pods_wait_for_their_path_are_told_why_and_serve_when_it_is_proved(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    cluster = world.cluster
    cluster.kubectl("apply", "-k", str(DEPLOY / "readiness-gate"))
    world.apply(MANIFEST)
    try:
        assert wait_for(
            lambda: len(named := gates(world)) == 3 and all("nothing" in g["message"] for g in named), 90.0
        ), gates(world)
        for gate in gates(world):
            assert (gate["status"], gate["reason"]) == ("False", "PathNotProved")
            assert f":{WRONG}/TCP: name the port that the server listens on (targetPort)" in gate["message"]
        pods = world.api.items("pods", "default", "app=gated")
        assert all(has_condition(pod, "ContainersReady") and not has_condition(pod, "Ready") for pod in pods)
        assert all(weight == 0 for table in world.tables(ADDRESS).values() for weight in table.values())
        places = {f"{pod['status']['podIP']}:{RIGHT}": 1 for pod in pods}
        assert wait_for(lambda: all(table == places for table in world.tables(EARLY).values()), 20.0)
        assert wait_for(lambda: len(hosts(world, EARLY)) >= 2, 10.0), (
            "pods that are not ready are published, not served"
        )
        assert not world.ready_pods("app=gated")
        cluster.kubectl("delete", "lvsvs,service", "early", "--wait=false")
        patch = f'{{"spec": {{"ports": [{{"name": "http", "port": 80, "targetPort": {RIGHT}}}]}}}}'
        begin = time.monotonic()
        cluster.kubectl("patch", "service", "gated", "-p", patch)
        assert wait_for(lambda: len(world.ready_pods("app=gated")) == 3, 60.0), gates(world)
        ready = time.monotonic() - begin
        full = {f"{pod['status']['podIP']}:{RIGHT}": 1 for pod in world.api.items("pods", "default", "app=gated")}

        def weighed() -> bool:
            tables = world.tables(ADDRESS).values()
            return all({place: table.get(place) for place in full} == full for table in tables)

        assert wait_for(weighed, 20.0), world.tables(ADDRESS)
        print(f"ready {ready:.1f} s, and in every table {time.monotonic() - begin:.1f} s after the Service was mended")
        for gate in gates(world):
            assert (gate["status"], gate["reason"]) == ("True", "PathProved")
        assert wait_for(lambda: world.condition("BackendsHealthy", "gated").get("status") == "True", 10.0)
        holder = world.holders(ADDRESS)
        assert len(holder) == 1
        assert len(hosts(world, ADDRESS)) >= 2
    finally:
        cluster.kubectl("delete", "lvsvs,service", "gated", "early", "--wait=false", "--ignore-not-found")
        cluster.kubectl("delete", "deployment", "gated", "--wait=false")
        cluster.kubectl("delete", "-k", str(DEPLOY / "readiness-gate"))


def hosts(world: World, address: str) -> set[str]:
    """Who answers twenty clients."""
    command = ["curl", "-sm", "3", f"http://{address}/"]
    answers = (world.cluster.client_run(command, check=False).splitlines() for _ in range(20))
    return {line for answer in answers for line in answer if line.startswith("Hostname")}
