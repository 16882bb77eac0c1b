"""Classic direct routing on the real cluster, with every node that runs, be it all of them or not: a real server that
is no pod and its checks, and pods in the network of their node."""

import json
import sys
import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.deaths import places
from tests.load.outage import TIMEOUT, Outage
from tests.load.report import distribution, translated

pytestmark = pytest.mark.e2e

CLASSIC, AT = "192.168.139.128", 8099
ARP = "net.ipv4.conf.all.arp_ignore"
SERVER = f"import socket\nwith socket.create_server(('', {AT})) as s:\n  while True: s.accept()[0].close()"

HOSTS, PORT = "192.168.139.126", 8095
MANIFEST = f"""
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: hosts, namespace: default, labels: {{app: hosts}}}}
spec:
  selector: {{matchLabels: {{app: hosts}}}}
  template:
    metadata: {{labels: {{app: hosts}}}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers:
        - name: web
          image: traefik/whoami
          imagePullPolicy: IfNotPresent
          args: [--port, "{PORT}"]
          securityContext: {{runAsNonRoot: true, runAsUser: 65532}}
---
apiVersion: v1
kind: Service
metadata: {{name: hosts, namespace: default}}
spec:
  selector: {{app: hosts}}
  ports: [{{port: {PORT}}}]
---
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: hosts, namespace: default}}
spec: {{addresses: [{HOSTS}], ports: [{{port: {PORT}}}], serviceRef: {{name: hosts}}}}
"""


def test_pods_in_the_network_of_their_node_are_served_by_classic_direct_routing(world: World) -> None:
    cluster = world.cluster
    expected = {f"{cluster.node_address(node)}:{PORT}": 1 for node in world.nodes}

    def served() -> bool:
        """A node that died may still be listed: with weight 0."""
        tables = [
            {at: weight for at, weight in table.items() if weight} for table in world.tables(HOSTS, PORT).values()
        ]
        return all(table == expected for table in tables) and len(world.holders(HOSTS)) == 1

    world.apply(MANIFEST)
    try:
        assert wait_for(served, 40.0), world.tables(HOSTS, PORT)
        begin = time.monotonic()
        with (
            world.load(f"{HOSTS}:{PORT}", hold=20, duration=5.0, timeout=TIMEOUT) as load,
            world.witness(30.0) as witness,
        ):
            report = load.wait(20.0)
        spread = distribution(report.attempts)
        outage = Outage(report, begin, report.ended, places(witness, report), 0.0, "the start")
        print(f"{spread} by pods of {world.nodes}; {outage}")
        assert set(spread) == set(world.nodes)
        assert not outage.late, str(outage)
        assert translated(report) == 0
        assert len(report.held) == 20
        assert not outage.lost, outage.lost
        served_here = f"TCP {HOSTS}:{PORT} -> "
        methods = {
            line.split()[4] for state in world.states().values() for line in state.services if served_here in line
        }
        assert methods <= {"Route", "Local"}, methods
    finally:
        cluster.kubectl("delete", "lvsvs,service,daemonset", "hosts", "--wait=false")


def test_a_real_server_is_named_in_the_condition_with_what_to_do_until_it_is_mended(world: World) -> None:
    """A host of the LAN that lacks the address, then answers ARP for it, then is as it should be."""
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
        return all(table == {f"{own}:{AT}": wanted} for table in world.tables(CLASSIC, AT).values())

    try:
        cluster.client_run(["sysctl", "-qw", f"{ARP}=0"])
        world.apply(json.dumps(classic))
        remedy = f"put {CLASSIC} on its lo (lvs-node-init --real-server --vip {CLASSIC})"
        assert wait_for(lambda: told("False", f"does not accept {CLASSIC}", remedy), 60.0), world.condition(
            "BackendsHealthy", "classic"
        )
        assert wait_for(lambda: weight(0), 20.0), world.tables(CLASSIC, AT)
        cluster.client_run(["ip", "address", "add", f"{CLASSIC}/32", "dev", "lo"])
        assert wait_for(lambda: told("False", f"answers ARP for {CLASSIC}", f"set {ARP}=1"), 30.0), world.condition(
            "BackendsHealthy", "classic"
        )
        assert wait_for(lambda: weight(0), 20.0), world.tables(CLASSIC, AT)
        cluster.client_run(["sysctl", "-qw", f"{ARP}=1"])
        assert wait_for(lambda: told("True") and weight(1), 30.0), world.condition("BackendsHealthy", "classic")
    finally:
        cluster.kubectl("delete", "lvsvs", "classic", "--wait=false")
        cluster.client_run(["ip", "address", "delete", f"{CLASSIC}/32", "dev", "lo"], check=False)
        cluster.client_run(["sysctl", "-qw", f"{ARP}={before}"])
        server.kill()
        server.wait()
