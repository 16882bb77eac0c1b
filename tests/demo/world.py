"""What the demo and the e2e tests look at: objects as the API server gives them, and the nodes' own kernels."""

import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tests.demo.api import Api
from tests.demo.nodes import NodeState, parse_state, parse_tables
from tests.demo.witness import Witness
from tests.load.run import LoadRun, command, environment
from tests.rig.cluster import Cluster
from tests.rig.patience import patient

ROOT = Path(__file__).resolve().parent.parent.parent
SYSTEM = "lvs-system"
AGENTS = "app.kubernetes.io/name=lvs-agent"
T = TypeVar("T")

# One command, so that the parts belong together; few processes, as each costs a node time. Nothing in it needs ipvsadm,
# which a node need not have. A node without nft fails: nothing would be seen of what is left there.
STATE_SCRIPT = """
ip -json address && echo && echo ==routes && ip route show table all && ip -6 route show table all || exit
echo ==ip_vs; cat /proc/net/ip_vs || exit
echo ==sysctl; cd /proc/sys
grep -sH "" net/ipv4/ip_forward net/ipv4/conf/*/* net/ipv6/conf/*/* net/ipv4/vs/*
echo ==nft; nft -s list ruleset || exit
echo ==files; find /var/lib/lvs-dr /run/lvs-dr ! -type d 2>/dev/null
echo ==owned; tail -n 1 /var/lib/lvs-dr/owned.json 2>/dev/null; true
"""


class World:
    """A cluster, with the words of this product."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.api = Api(cluster.kubeconfig)
        self._down: set[str] = set()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that run."""
        return tuple(node for node in self.cluster.nodes if node not in self._down)

    def crash(self, node: str) -> None:
        self.cluster.crash(node)
        self._down.add(node)

    def boot(self, node: str) -> None:
        self.cluster.boot(node)
        self._down.discard(node)

    # objects

    def ready_pods(self, selector: str, namespace: str = "default") -> dict[str, str]:
        """Ready pods that are not going away: pod -> node."""
        return {
            pod["metadata"]["name"]: pod["spec"]["nodeName"]
            for pod in self.api.items("pods", namespace, selector)
            if "deletionTimestamp" not in pod["metadata"] and has_condition(pod, "Ready")
        }

    def virtual_service(self, name: str, namespace: str = "default") -> dict[str, Any]:
        return self.api.get("lvsvirtualservices", name, namespace)

    def agents_ready(self) -> tuple[int, int]:
        """Agents that are ready, and those that there shall be; 0 and the number of nodes while nobody has said."""
        for item in self.api.items("daemonsets", SYSTEM):
            return item["status"].get("numberReady", 0), item["status"].get("desiredNumberScheduled", 0)
        return 0, len(self.cluster.nodes)

    def agent_pods(self) -> int:
        """Also those that are going away."""
        return len(self.api.items("pods", SYSTEM, AGENTS))

    def condition(self, kind: str, name: str = "web", namespace: str = "default") -> dict[str, str]:
        """A condition of a VirtualService; empty when it has none of that type."""
        conditions = self.virtual_service(name, namespace).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def apply(self, manifest: str) -> None:
        """``kubectl apply`` of YAML or JSON text."""
        self.cluster.kubectl("apply", "-f", "-", stdin=manifest)

    # kernels

    def state(self, node: str) -> NodeState:
        """Addresses, tables, kernel settings and nftables tables of the node, normalised."""
        return parse_state(self.cluster.on_node(node, ["sh", "-c", STATE_SCRIPT]))

    def states(self, nodes: Iterable[str] | None = None) -> dict[str, NodeState]:
        return self.each(self.state, nodes)

    def each(self, look: Callable[[str], T], nodes: Iterable[str] | None = None) -> dict[str, T]:
        """What it says of each of the nodes (those that run when none are named), which are asked at the same time."""
        asked = list(nodes or self.nodes)
        with ThreadPoolExecutor(max(1, len(asked))) as pool:
            return dict(zip(asked, pool.map(look, asked), strict=True))

    def holders(self, vip: str, nodes: Iterable[str] | None = None) -> list[str]:
        """Nodes whose kernel has the address on an interface other than ``lo``."""
        return [node for node, holds in self.each(lambda node: self.holds(node, vip), nodes).items() if holds]

    def tables(self, vip: str, port: int = 80) -> dict[str, dict[str, int]]:
        """``destinations`` of every node that runs."""
        return self.each(lambda node: self.destinations(node, vip, port))

    def holds(self, node: str, vip: str) -> bool:
        lines = self.cluster.on_node(node, ["ip", "-oneline", "address", "show", "to", vip]).splitlines()
        return any(line.split()[1] != "lo" for line in lines)

    def destinations(self, node: str, vip: str, port: int = 80) -> dict[str, int]:
        """The node's IPVS table of that address: ``address:port`` -> weight."""
        text = self.cluster.on_node(node, ["cat", "/proc/net/ip_vs"])
        return dict(parse_tables(text).get(f"TCP {vip}:{port}", {}))

    # the client, and the machine

    def witness(self, seconds: float) -> Witness:
        """How much of the time that follows the machine stands still; for so many seconds at most."""
        return Witness(self.cluster, self.nodes, seconds)

    def load(self, target: str, *, hold: int, duration: float, rate: float = 50.0, timeout: float = 1.0) -> LoadRun:
        """A load run on the client host."""
        argv = command(target, rate=rate, hold=hold, duration=duration, timeout=timeout)
        return LoadRun(self._start, ["env", *(f"{name}={value}" for name, value in environment().items()), *argv])

    def _start(self, argv: Sequence[str]) -> "subprocess.Popen[bytes]":
        return self.cluster.client_popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)


def has_condition(item: dict[str, Any], kind: str) -> bool:
    """The object says that this condition is True."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def wait_for(look: Callable[[], T], seconds: float, every: float = 0.3) -> T:
    """What ``look`` returns as soon as it is true, or at the end of the time whatever it is then.

    ``LVS_PATIENCE`` makes the time longer. A look that fails (an API server in its first seconds) counts as not yet;
    the last failure is raised at the end.
    """
    end = time.monotonic() + patient(seconds)
    while True:
        try:
            seen = look()
        except (AssertionError, OSError, ValueError, KeyError):
            if time.monotonic() > end:
                raise
        else:
            if seen or time.monotonic() > end:
                return seen
        time.sleep(every)
