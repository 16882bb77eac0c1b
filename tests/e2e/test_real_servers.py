"""Checks of a real server that is no pod, on the real cluster: by every node that runs, be it all of them or not."""

import json
import sys

import pytest

from tests.demo.world import World, wait_for

pytestmark = pytest.mark.e2e

CLASSIC, AT = "192.168.139.128", 8099
ARP = "net.ipv4.conf.all.arp_ignore"
SERVER = f"import socket\nwith socket.create_server(('', {AT})) as s:\n  while True: s.accept()[0].close()"


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
