"""A rollout that waits for proved paths, on the real cluster: the readiness gate ``lvsdr.io/path``."""

import json
import sys
import time
from typing import Any

import pytest

from tests.demo.story import DEPLOY
from tests.demo.world import World, has_condition, wait_for
from tests.e2e.conftest import serving

pytestmark = pytest.mark.e2e

GATE, ADDRESS, WRONG, RIGHT = "lvsdr.io/path", "192.168.139.127", 8081, 8082
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
"""


def gates(world: World) -> list[dict[str, Any]]:
    """The condition of each pod that has one."""
    pods = world.items("pods", "--selector", "app=gated")
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
        pods = world.items("pods", "--selector", "app=gated")
        assert all(has_condition(pod, "ContainersReady") and not has_condition(pod, "Ready") for pod in pods)
        assert all(weight == 0 for node in cluster.nodes for weight in world.destinations(node, ADDRESS).values())
        patch = f'{{"spec": {{"ports": [{{"name": "http", "port": 80, "targetPort": {RIGHT}}}]}}}}'
        begin = time.monotonic()
        cluster.kubectl("patch", "service", "gated", "-p", patch)
        assert wait_for(lambda: len(world.ready_pods("app=gated")) == 3, 60.0), gates(world)
        ready = time.monotonic() - begin
        full = {f"{pod['status']['podIP']}:{RIGHT}": 1 for pod in world.items("pods", "--selector", "app=gated")}

        def weighed() -> bool:
            tables = [world.destinations(node, ADDRESS) for node in cluster.nodes]
            return all({place: table.get(place) for place in full} == full for table in tables)

        assert wait_for(weighed, 20.0), [world.destinations(node, ADDRESS) for node in cluster.nodes]
        print(f"ready {ready:.1f} s, and in every table {time.monotonic() - begin:.1f} s after the Service was mended")
        for gate in gates(world):
            assert (gate["status"], gate["reason"]) == ("True", "PathProved")
        assert wait_for(lambda: world.condition("BackendsHealthy", "gated").get("status") == "True", 10.0)
        holder = world.holders(ADDRESS)
        assert len(holder) == 1
        answers = {line for _ in range(20) for line in ask(world) if line.startswith("Hostname")}
        assert len(answers) >= 2, answers
    finally:
        cluster.kubectl("delete", "lvsvs,service,deployment", "gated", "--wait=false")
        cluster.kubectl("delete", "-k", str(DEPLOY / "readiness-gate"))


CLASSIC, AT = "192.168.139.128", 8099
ARP = "net.ipv4.conf.all.arp_ignore"
SERVER = f"import socket\nwith socket.create_server(('', {AT})) as s:\n  while True: s.accept()[0].close()"


def test_a_real_server_is_named_in_the_condition_with_what_to_do_until_it_is_mended(world: World) -> None:
    """A host of the LAN that lacks the address, then answers ARP for it, then is as it should be."""
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    cluster = world.cluster
    found = cluster.client_run(["ip", "-4", "-oneline", "address", "show", "dev", "eth0"]).split()
    own = found[found.index("inet") + 1].partition("/")[0]
    before = cluster.client_run(["sysctl", "-n", ARP]).strip()
    server = cluster.client_popen([sys.executable, "-I", "-S", "-c", SERVER])
    spec = {
        "addresses": [CLASSIC],
        "ports": [{"port": AT}],
        "realServers": [{"address": own}],
        "health": {"checks": [{"type": "Path", "intervalMilliseconds": 1000}]},
    }
    classic = {
        "apiVersion": "lvsdr.io/v1alpha1",
        "kind": "VirtualService",
        "metadata": {"name": "classic", "namespace": "default"},
        "spec": spec,
    }

    def told(status: str, *words: str) -> bool:
        said = world.condition("BackendsHealthy", "classic")
        return said.get("status") == status and all(word in said["message"] for word in words)

    def weight(wanted: int) -> bool:
        tables = [world.destinations(node, CLASSIC, AT) for node in cluster.nodes]
        return all(table == {f"{own}:{AT}": wanted} for table in tables)

    try:
        cluster.client_run(["sysctl", "-qw", f"{ARP}=0"])
        world.apply(json.dumps(classic))
        remedy = f"put {CLASSIC} on its lo (lvs-node-init --real-server --vip {CLASSIC})"
        assert wait_for(lambda: told("False", f"does not accept {CLASSIC}", remedy), 60.0), world.condition(
            "BackendsHealthy", "classic"
        )
        assert wait_for(lambda: weight(0), 20.0), [world.destinations(node, CLASSIC, AT) for node in cluster.nodes]
        cluster.client_run(["ip", "address", "add", f"{CLASSIC}/32", "dev", "lo"])
        assert wait_for(lambda: told("False", f"answers ARP for {CLASSIC}", f"set {ARP}=1"), 30.0), world.condition(
            "BackendsHealthy", "classic"
        )
        assert wait_for(lambda: weight(0), 20.0), [world.destinations(node, CLASSIC, AT) for node in cluster.nodes]
        cluster.client_run(["sysctl", "-qw", f"{ARP}=1"])
        assert wait_for(lambda: told("True") and weight(1), 30.0), world.condition("BackendsHealthy", "classic")
    finally:
        cluster.kubectl("delete", "lvsvs", "classic", "--wait=false")
        cluster.client_run(["ip", "address", "delete", f"{CLASSIC}/32", "dev", "lo"], check=False)
        cluster.client_run(["sysctl", "-qw", f"{ARP}={before}"])
        server.kill()
        server.wait()


def ask(world: World) -> list[str]:
    return world.cluster.client_run(["curl", "-sm", "3", f"http://{ADDRESS}/"], check=False).splitlines()
