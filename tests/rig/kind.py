"""The cluster whose nodes are containers: kind, on a machine with Docker and ip_vs.

The same interface as the guests', by other means: ``docker kill`` is the power cut, ``docker pause`` the freeze,
iptables in the node the cut, a container on kind's network the client. Commands go through ``docker exec``.
"""

import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from . import cache, dumps, shell
from .cluster import Direction
from .errors import CommandFailed, RigError

CONFIG = Path(__file__).resolve().parents[2] / "kind-config.yaml"
UPLINK = "eth0"
CUTS = {
    "in": ("raw", "PREROUTING", "-i", UPLINK, "-j", "DROP"),
    "out": ("mangle", "POSTROUTING", "-o", UPLINK, "-j", "DROP"),
}
"""Direction -> iptables table, chain and rule. docker exec is no packet and goes on."""


class Kind:
    """See ``rig.cluster.Cluster``."""

    def __init__(self, name: str = "default", proxy: str = "nftables") -> None:
        self.name = name
        self._kind = f"lvs-{name}"
        self._proxy = proxy
        self._archives: list[Path] = []
        self.kubeconfig = cache.root() / f"kind-{name}.kubeconfig"

    def up(self, nodes: int = 3, *, owned: bool = True) -> None:
        if self._kind in shell.run(["kind", "get", "clusters"]).split():
            raise RigError(f"cluster {self.name!r} is up already; `down` first, or choose another name")
        try:
            text = config_text(CONFIG.read_text(), nodes, self._proxy)
            create = ["kind", "create", "cluster", "--name", self._kind, "--config", "-", "--kubeconfig"]
            shell.run([*create, self.kubeconfig, "--wait", "120s"], stdin=text, timeout=900)
            client = ["run", "-d", "--rm", "--name", self._client, "--network", "kind", "--entrypoint", "sleep"]
            self._docker(*client, self._node_image(), "infinity")
            self._load(self._archives)
            self.wait_ready()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        self._docker("rm", "-f", self._client, check=False)
        shell.run(["kind", "delete", "cluster", "--name", self._kind], check=False, timeout=300)
        self.kubeconfig.unlink(missing_ok=True)

    def load_images(self, archives: Sequence[Path]) -> None:
        self._archives += archives
        if self.kubeconfig.exists():
            self._load(archives)

    def wait_ready(self, timeout: float = 120.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                lines = self.kubectl("get", "nodes", "--no-headers", timeout=15).splitlines()
                running = {node for node in self.nodes if self._running(node)}
                if running <= {line.split()[0] for line in lines if line.split()[1] == "Ready"}:
                    return
                said = "\n".join(lines)
            except CommandFailed as failed:
                said = str(failed)
            if time.monotonic() > deadline:
                raise RigError(f"cluster {self.name!r} is not ready after {timeout:.0f} s\n{said}")
            time.sleep(0.5)

    @property
    def nodes(self) -> tuple[str, ...]:
        names = shell.run(["kind", "get", "nodes", "--name", self._kind], check=False).split()
        return tuple(sorted(name for name in names if name.startswith(f"{self._kind}-worker")))

    @property
    def vips(self) -> tuple[str, ...]:
        """The upper end of Docker's network, far from what it gives to containers."""
        found = self._docker("network", "inspect", "kind", "--format", "{{json .IPAM.Config}}")
        subnets = [entry["Subnet"] for entry in json.loads(found) if "." in entry["Subnet"]]
        return free_addresses(subnets[0])

    def node_address(self, node: str) -> str:
        template = '{{(index .NetworkSettings.Networks "kind").IPAddress}}'
        return self._docker("inspect", node, "--format", template).strip()

    def uplink(self, node: str) -> str:
        return UPLINK

    def crash(self, node: str) -> None:
        self._docker("kill", "--signal", "KILL", node)

    def boot(self, node: str) -> None:
        self._docker("start", node)

    def freeze(self, node: str) -> None:
        self._docker("pause", node)

    def thaw(self, node: str) -> None:
        self._docker("unpause", node)

    def cut(self, node: str, direction: Direction = "both") -> None:
        for table, *rule in cuts(direction):
            self.on_node(node, ["iptables", "-w", "-t", table, "-I", *rule])

    def heal(self, node: str) -> None:
        for table, *rule in cuts("both"):
            self.on_node(node, ["iptables", "-w", "-t", table, "-D", *rule], check=False)

    def freeze_api(self) -> None:
        self._docker("exec", f"{self._kind}-control-plane", "pkill", "-STOP", "-x", "kube-apiserver")

    def thaw_api(self) -> None:
        self._docker("exec", f"{self._kind}-control-plane", "pkill", "-CONT", "-x", "kube-apiserver")

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        return shell.run(["kubectl", "--kubeconfig", self.kubeconfig, *arguments], stdin=stdin, timeout=timeout)

    def on_node(
        self, node: str, argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout: float = 30.0
    ) -> str:
        command = ["docker", "exec", "-i", node, *argv]
        return shell.run(command, check=check, stdin=stdin, timeout=timeout)

    def client_run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0) -> str:
        return shell.run(self._on_client(argv), check=check, timeout=timeout)

    def client_popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        return subprocess.Popen(self._on_client(argv), **options)

    def dump(self, folder: Path) -> None:
        dumps.dump(self, None, folder)
        shell.run(["kind", "export", "logs", "--name", self._kind, folder / "kind"], check=False, timeout=300)

    # The machinery

    @property
    def _client(self) -> str:
        return f"{self._kind}-client"

    def _on_client(self, argv: Sequence[str]) -> list[str]:
        """A program of this machine in the client's network namespace, so that its pid is its own."""
        pid = self._docker("inspect", self._client, "--format", "{{.State.Pid}}").strip()
        enter = ["nsenter", f"--target={pid}", "--net", "--", *argv]
        return enter if os.geteuid() == 0 else ["sudo", *enter]

    def _running(self, node: str) -> bool:
        state = self._docker("inspect", node, "--format", "{{.State.Status}}", check=False)
        return state.strip() == "running"

    def _node_image(self) -> str:
        return self._docker("inspect", f"{self._kind}-worker", "--format", "{{.Config.Image}}").strip()

    def _load(self, archives: Sequence[Path]) -> None:
        for archive in archives:
            shell.run(["kind", "load", "image-archive", "--name", self._kind, archive], timeout=600)

    def _docker(self, *words: str, check: bool = True) -> str:
        return shell.run(["docker", *words], check=check)


def config_text(text: str, nodes: int, proxy: str) -> str:
    """``kind-config.yaml`` with so many workers and kube-proxy in that mode."""
    config = yaml.safe_load(text)
    others = [node for node in config["nodes"] if node["role"] != "worker"]
    config["nodes"] = [*others, *({"role": "worker"} for _ in range(nodes))]
    config.setdefault("networking", {})["kubeProxyMode"] = proxy
    return yaml.safe_dump(config)


def free_addresses(subnet: str) -> tuple[str, ...]:
    """21 addresses near the end of an IPv4 subnet."""
    last = ipaddress.IPv4Network(subnet).broadcast_address
    return tuple(str(last - offset) for offset in range(60, 39, -1))


def cuts(direction: Direction) -> list[tuple[str, ...]]:
    """The rules that lose what comes in, what goes out, or both."""
    return [rule for way, rule in CUTS.items() if direction in (way, "both")]
