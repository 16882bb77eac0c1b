"""Nodes with pods whose real agents and elections beat for one another, and what their kernels say about it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from tests.net.lan import Lan
from tests.net.pods import POD_PORT, Connection, PodLan

VIP, PORT = "10.0.0.200", 80
QUIET = {"PYTHONDONTWRITEBYTECODE": "1"}
BEATS = "lvs_node_beats_received_total"
TICK = 0.004
"""Seconds between looks at a table."""


def manifests(count: int, pods: Collection[int] = (), directors: Collection[int] = (), spec: str = "") -> str:
    """A class, the nodes, and a VirtualService whose Service has one pod on each node, or on those of ``pods``.
    ``directors``: likewise. ``spec``: more of the VirtualService's, as YAML."""
    numbers = range(1, count + 1)
    ranked = ", ".join(f"{{name: n{k}, priority: {200 - 10 * k}}}" for k in directors or numbers)
    nodes = [
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: n{k}}}\n"
        f"status: {{addresses: [{{type: InternalIP, address: 10.0.0.{20 + k}}}]}}\n"
        for k in numbers
    ]
    endpoints = ", ".join(
        f"{{addresses: [10.244.{k}.11], nodeName: n{k}, conditions: {{ready: true}}}}" for k in pods or numbers
    )
    return "---\n".join(
        (
            f"apiVersion: lvsdr.io/v1alpha1\nkind: VirtualServiceClass\nmetadata: {{name: default}}\n"
            f"spec: {{directors: {{nodes: [{ranked}]}}}}\n",
            *nodes,
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\n"
            f"spec: {{ports: [{{port: {PORT}, targetPort: {POD_PORT}, protocol: TCP}}]}}\n",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
            "metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}\n"
            f"addressType: IPv4\nports: [{{port: {POD_PORT}, protocol: TCP}}]\nendpoints: [{endpoints}]\n",
            "apiVersion: lvsdr.io/v1alpha1\nkind: VirtualService\nmetadata: {name: web, namespace: default}\n"
            f"spec: {{addresses: [{VIP}], ports: [{{port: {PORT}}}], serviceRef: {{name: web}}{spec}}}\n",
        )
    )


class Beating:
    """Nodes n1, n2, … (n1 ranks highest), a pod on each, a client."""

    def __init__(self, lan: Lan, folder: Path, count: int = 3, objects: str = "") -> None:
        """``objects``: manifests; empty: the usual ones."""
        self.lan = lan
        self.folder = folder
        self.pods = PodLan(lan, count)
        self.nodes = self.pods.nodes
        self.pods.serve(folder)
        (folder / "manifests").mkdir()
        (folder / "manifests" / "all.yaml").write_text(objects or manifests(count))
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.held: list[Connection] = []

    def start(self, node: str) -> None:
        """The agent, which starts its election."""
        command = [sys.executable, "-m", "lvsagent.cli", "--manifests", str(self.folder / "manifests")]
        command += ["--node-name", node, "--metrics-address", "127.0.0.1:9479", *self._folders(node)]
        self.agents[node] = self.lan.popen(node, command, environment=QUIET, log=self._log(node))

    def start_election(self, node: str) -> None:
        """The election alone, with what it kept on disk."""
        command = [sys.executable, "-m", "lvsagent.election", *self._folders(node)]
        self.lan.popen(node, command, environment=QUIET, log=self._log(node))

    def start_all(self) -> None:
        for node in self.nodes:
            self.start(node)
        self.until("n1 serves", lambda: self.holds("n1"))
        self.await_tables(self.nodes, self.all(1))
        self.until("everybody is heard", lambda: min(self.metric(n, BEATS) for n in self.nodes) > 20)

    def all(self, weight: int) -> dict[str, int]:
        return dict.fromkeys(self.nodes, weight)

    def crash(self, node: str) -> float:
        """Its processes and its cable. Returns when (monotonic). What a living process sent without a cable would wait
        in the node's kernel for the cable to come back."""
        doomed = self.processes(node, "lvsagent")
        at = time.monotonic()
        for process in doomed:
            os.kill(process, signal.SIGKILL)
        self.lan.unplug(node)
        return at

    def reboot(self, node: str) -> None:
        """The cable is back; of the kernel's state nothing is left, and what is on disk is of an earlier boot."""
        self.lan.run(node, ["ipvsadm", "-C"])
        self.lan.run(node, ["ip", "address", "del", f"{VIP}/32", "dev", "lo"], check=False)
        kept = self.folder / node / "state" / "election.json"
        kept.write_text(json.dumps({**json.loads(kept.read_text()), "boot_id": "an earlier one"}))
        self.lan.heal(node)

    def deafen(self, node: str, deaf: bool = True, towards: str = "10.0.0.0/24") -> None:
        """The node's beats and ICMP are lost on their way out; everything else arrives."""
        if deaf:
            rules = "table inet deaf { chain out { type filter hook output priority 0;"
            rules += f" ip daddr {towards} udp dport 9480 drop; ip daddr {towards} meta l4proto icmp drop; }}; }}"
            self.lan.run(node, ["nft", rules])
        else:
            self.lan.run(node, ["nft", "delete", "table", "inet", "deaf"])

    def processes(self, node: str, what: str) -> list[int]:
        """Pids of the node's processes of ours, by their command lines."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdecimal():
                with contextlib.suppress(OSError):
                    line = (path / "cmdline").read_bytes().decode().replace("\0", " ")
                    if what in line and f"{self.folder}/{node}/" in line:
                        found.append(int(path.name))
        return found

    def weights(self, node: str) -> dict[str, int]:
        """The node's table: node of the pod -> weight."""
        with self.lan.inside(node):
            return parse(Path("/proc/thread-self/net/ip_vs").read_text())

    def tables(self, nodes: Iterable[str]) -> list[dict[str, int]]:
        """Of several nodes."""
        return [self.weights(node) for node in nodes]

    def await_tables(self, nodes: Collection[str], weights: dict[str, int], seconds: float = 30.0) -> None:
        """Until all of these nodes have these weights."""
        self.until(f"{', '.join(nodes)}: {weights}", lambda: self.tables(nodes) == [weights] * len(nodes), seconds)

    def stays(self, what: str, holds: Callable[[], bool], seconds: float = 1.0) -> None:
        """It is so for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert holds(), self._told(what)
            time.sleep(0.02)

    def holds(self, node: str) -> bool:
        return f"{VIP}/32" in self.lan.addresses(node)

    def metric(self, node: str, name: str) -> float:
        text = self.lan.get(node, "http://127.0.0.1:9479/metrics")
        values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name)]
        return sum(map(float, values)) if values else -1.0

    def log(self, node: str) -> str:
        return self._log(node).read_text()

    def until(self, what: str, holds: Callable[[], bool], seconds: float = 30.0) -> float:
        start = time.monotonic()
        while not holds():
            assert time.monotonic() - start <= seconds, self._told(f"not within {seconds} s: {what}")
            time.sleep(0.02)
        return time.monotonic() - start

    def hold(self, count: int) -> None:
        """Connections of the client that stay open."""
        self.held = [self.pods.connect(VIP, PORT) for _ in range(count)]

    def takeovers(self) -> int:
        """How often an election became Active so far, on all nodes."""
        return sum(self.log(node).count("state=Active") for node in self.nodes)

    def lost(self) -> dict[str, int]:
        """Held connections that their pod answers no more, by pod."""
        dead = [connection.pod for connection in self.held if not connection.lives()]
        return {pod: dead.count(pod) for pod in sorted(set(dead))}

    def close(self) -> None:
        """Elections outlive an agent that is killed; the LAN knows the agents only."""
        for node in self.nodes:
            for process in self.processes(node, "lvsagent"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def _told(self, what: str) -> str:
        return "\n".join([what, *(f"--- {node}: {self.weights(node)}\n{self.log(node)}" for node in self.agents)])

    def _folders(self, node: str) -> list[str]:
        return ["--run-dir", str(self.folder / node / "run"), "--state-dir", str(self.folder / node / "state")]

    def _log(self, node: str) -> Path:
        return self.folder / f"{node}.log"


class Watch(threading.Thread):
    """Looks at one node's table all the time, in the node, and notes every change."""

    def __init__(self, beating: Beating, node: str) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, dict[str, int]]] = []
        """(monotonic time, node of the pod -> weight)"""
        self._beating = beating
        self._node = node
        self._end = threading.Event()
        self.start()

    def run(self) -> None:
        with self._beating.lan.inside(self._node):
            while not self._end.is_set():
                now = parse(Path("/proc/thread-self/net/ip_vs").read_text())
                if not self.seen or self.seen[-1][1] != now:
                    self.seen.append((time.monotonic(), now))
                self._end.wait(TICK)

    def stop(self) -> None:
        self._end.set()
        self.join()

    def when(self, weights: dict[str, int], since: float) -> float | None:
        """Seconds from that moment until the table was so first; None: it never was."""
        return next((at - since for at, seen in self.seen if at >= since and seen == weights), None)


def parse(text: str) -> dict[str, int]:
    """/proc/net/ip_vs with one service -> weights by the node of the pod (10.244.K.11 is on nK). What is found by a
    firewall mark (core.loops) is another service."""
    found, named = {}, False
    for line in text.splitlines():
        words = line.split()
        named = words[0] == "TCP" if words[:1] != ["->"] else named
        if named and words[0] == "->" and words[1].startswith("0AF4"):
            found[f"n{int(words[1][4:6], 16)}"] = int(words[3])
    return found
