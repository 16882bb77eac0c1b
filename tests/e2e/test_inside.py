"""Clients inside the cluster: pods and processes of every node, the one that holds the VIP among them."""

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import VIP, serving, spread

pytestmark = pytest.mark.e2e

ASKED = 12
# Asks from the network namespace that has the address, or from the node's own when the address is the node's.
ASK = """
for space in "" $(ls /run/netns); do
  run="${space:+ip netns exec $space}"
  if $run ip -4 -oneline address show to "$1" | grep -q .; then
    for i in $(seq "$2"); do $run curl -sm 3 "http://$3/" || echo nobody; done
    exit
  fi
done
echo "no namespace has $1"
"""


def ask(world: World, node: str, own: str) -> list[str]:
    """What the VIP answers a client with this address on the node, a line each."""
    return world.cluster.on_node(node, ["bash", "-c", ASK, "ask", own, str(ASKED), VIP], timeout=90.0).splitlines()


def test_pods_and_processes_of_every_node_are_answered_by_every_pod(world: World) -> None:
    assert wait_for(lambda: serving(world), 60.0), "not everything is well"
    spread(world)
    (holder,) = world.holders(VIP)
    pods = [pod for pod in world.api.items("pods", "default", "app=web") if "deletionTimestamp" not in pod["metadata"]]
    clients = {f"pod on {pod['spec']['nodeName']}": (pod["spec"]["nodeName"], pod["status"]["podIP"]) for pod in pods}
    for item in world.api.items("nodes"):
        own = next(a["address"] for a in item["status"]["addresses"] if a["type"] == "InternalIP")
        clients[f"process on {item['metadata']['name']}"] = (item["metadata"]["name"], own)
    assert len(clients) == 2 * len(world.cluster.nodes)
    names = [pod["metadata"]["name"] for pod in pods]
    asked = world.each(lambda node: {name: ask(world, node, own) for name, (at, own) in clients.items() if at == node})
    for name, (node, _) in clients.items():
        answers = asked[node][name]
        by = {pod: sum(pod in line for line in answers) for pod in names}
        print(f"{name}{' (holds the VIP)' if node == holder else ''}: {by}")
        assert sum(by.values()) == ASKED, (name, answers)
        assert sum(number > 0 for number in by.values()) >= 2, (name, answers)


def test_a_node_says_that_nothing_asks_for_a_look(world: World) -> None:
    assert wait_for(lambda: world.condition("NodeHealthy").get("status") == "True", 10.0), world.condition(
        "NodeHealthy"
    )
