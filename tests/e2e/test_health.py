"""Checks of pods on the real cluster: a pod that Kubernetes calls ready and that answers nobody gets no connections."""

import time

import pytest

from tests.demo.world import World, has_condition, wait_for
from tests.e2e.conftest import serving

pytestmark = pytest.mark.e2e

ADDRESS, PORT = "192.168.139.129", 8090
MANIFEST = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: asked, namespace: default, labels: {{app: asked}}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: asked}}}}
  template:
    metadata: {{labels: {{app: asked}}}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {{matchLabels: {{app: asked}}}}
      containers:
        - name: web
          image: traefik/whoami
          imagePullPolicy: IfNotPresent
          args: [--port, "{PORT}"]
          securityContext: {{runAsNonRoot: true, runAsUser: 65532}}
---
apiVersion: v1
kind: Service
metadata: {{name: asked, namespace: default}}
spec:
  selector: {{app: asked}}
  ports: [{{name: http, port: 80, targetPort: {PORT}}}]
---
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: asked, namespace: default}}
spec:
  addresses: [{ADDRESS}]
  ports: [{{port: 80}}]
  serviceRef: {{name: asked}}
  health:
    pods: true
    checks: [{{type: HTTP, intervalMilliseconds: 500, timeoutMilliseconds: 1000, fall: 2}}]
"""
# No process is started for a look at each of a node's: that would take seconds.
SIGNAL = f"""
for file in /proc/[0-9]*/cmdline; do
  mapfile -d '' -t words 2>/dev/null <"$file" || continue
  pid=${{file#/proc/}}
  [ "${{words[*]}}" = "/whoami --port {PORT}" ] && kill -$1 ${{pid%/*}} && echo sent
done 2>/dev/null
true
"""


def signal(world: World, node: str, name: str) -> None:
    """To the server of the pod on that node."""
    assert "sent" in world.cluster.on_node(node, ["bash", "-c", SIGNAL, "signal", name])


def answers(world: World) -> set[str]:
    """The pods that answer new connections; empty text: nobody did."""
    found = set()
    for _ in range(15):
        said = world.cluster.client_run(["curl", "-sm", "3", f"http://{ADDRESS}/"], check=False).splitlines()
        found.add(next((line.split()[1] for line in said if line.startswith("Hostname")), ""))
    return found


def test_a_ready_pod_that_answers_nobody_leaves_the_tables_and_returns(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    world.apply(MANIFEST)
    stopped = ""
    try:
        assert wait_for(lambda: len(world.ready_pods("app=asked")) == 3, 90.0)
        pods = {pod["spec"]["nodeName"]: pod for pod in world.api.items("pods", "default", "app=asked")}
        places = {node: f"{pod['status']['podIP']}:{PORT}" for node, pod in pods.items()}

        def tables() -> dict[str, dict[str, int]]:
            return world.tables(ADDRESS)

        def weights(node: str, *, sick: int) -> dict[str, int]:
            """Of a node's table while the pod of ``lost`` answers nobody. Its own node takes what others send it."""
            return {place: sick if host == lost and node != lost else 1 for host, place in places.items()}

        assert wait_for(lambda: len(world.holders(ADDRESS)) == 1, 30.0)
        (holder,) = world.holders(ADDRESS)
        lost = next(node for node in sorted(pods) if node != holder)
        assert wait_for(lambda: tables() == {node: weights(node, sick=1) for node in pods}, 60.0), tables()
        name = pods[lost]["metadata"]["name"]
        assert wait_for(lambda: name in answers(world), 20.0), "it serves"

        stopped = lost
        signal(world, lost, "STOP")
        begin = time.monotonic()
        assert wait_for(lambda: tables() == {node: weights(node, sick=0) for node in pods}, 20.0), tables()
        print(f"out of every other node's table {time.monotonic() - begin:.1f} s after it hung")
        told = f"HTTP {places[lost]}/: no complete answer within 1000 ms"
        assert wait_for(lambda: told in world.condition("BackendsHealthy", "asked").get("message", ""), 10.0), (
            world.condition("BackendsHealthy", "asked")
        )
        assert name not in (found := answers(world))
        assert "" not in found
        assert has_condition(world.api.get("pods", name, "default"), "Ready")

        signal(world, lost, "CONT")
        stopped = ""
        begin = time.monotonic()
        assert wait_for(lambda: tables() == {node: weights(node, sick=1) for node in pods}, 20.0), tables()
        print(f"back in every table {time.monotonic() - begin:.1f} s after it answered again")
        assert wait_for(lambda: world.condition("BackendsHealthy", "asked").get("status") == "True", 10.0)
        assert wait_for(lambda: name in answers(world), 20.0), "it serves again"
    finally:
        if stopped:
            signal(world, stopped, "CONT")
        world.cluster.kubectl("delete", "lvsvs,service,deployment", "asked", "--wait=false")
