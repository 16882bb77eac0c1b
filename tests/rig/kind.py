"""The cluster whose nodes are containers: kind, on a machine with Docker and ip_vs.

The same interface as the guests', by other means: ``docker kill`` is the power cut, ``docker pause`` the freeze,
nftables at the node's card the cut, a container on its network the client. Commands go through ``docker exec``. The
network has the guests' addresses, as the demo and the examples name VIPs in it, and kind's control plane is a host of
the LAN that is no node, as theirs.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from . import cache, dumps, kind_keeper, layout, shell
from .cluster import Direction
from .errors import CommandFailed, RigError
from .kind_program import kind
from .patience import patient
from .progress import Progress

CONFIG = Path(__file__).resolve().parents[2] / "kind-config.yaml"
UPLINK = "eth0"
SUBNET = f"{layout.LAN}.0/24"
CONTAINERS = f"{layout.LAN}.64/27"
"""What Docker gives to containers: neither the client's address nor a VIP."""
CUT = "lvs-cut"
"""The nftables table of a cut. In family netdev: iptables would let ARP pass, and what goes through packet sockets."""


class Kind:
    """See ``rig.cluster.Cluster``."""

    def __init__(self, name: str = "default", proxy: str = "nftables") -> None:
        self.name = name
        self._kind = f"lvs-{name}"
        self._proxy = proxy
        self._archives: list[Path] = []
        self._keeper: subprocess.Popen[bytes] | None = None
        self.kubeconfig = cache.root() / f"kind-{name}.kubeconfig"
        self._kubectl = cache.root() / f"kind-{name}" / "kubectl"

    def up(self, nodes: int = 3, *, owned: bool = True) -> None:
        if self._kind in self._run_kind("get", "clusters").split():
            raise RigError(f"cluster {self.name!r} is up already; `down` first, or choose another name")
        self._sweep()
        if owned:
            self._keeper = kind_keeper.start(self.name)
        progress = Progress("kind")
        try:
            progress.at(f"creating a control plane and {nodes} workers")
            network = ["network", "create", "--subnet", SUBNET, "--gateway", layout.CONTROL_PLANE]
            self._docker(*network, "--ip-range", CONTAINERS, self._kind)
            self._create(nodes)
            client = ["run", "-d", "--rm", "--name", self._client, "--network", self._kind, "--ip", layout.CLIENT]
            self._docker(*client, "--entrypoint", "sleep", self._node_image(), "infinity")
            self.kubectl("delete", "node", f"{self._kind}-control-plane")
            progress.at("loading images into every worker")
            self._load(self._archives)
            progress.at("waiting for every worker to be ready")
            self.wait_ready()
            progress.done(f"cluster {self.name!r} is up")
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        self._run_kind("delete", "cluster", "--name", self._kind, check=False, timeout=300)
        self._sweep()
        if self._keeper is not None:
            kind_keeper.dismiss(self._keeper)
            self._keeper = None

    def load_images(self, archives: Sequence[Path]) -> None:
        self._archives += archives
        if self.nodes:
            self._load(archives)

    def wait_ready(self, timeout: float = 120.0) -> None:
        deadline = time.monotonic() + patient(timeout)
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
                raise RigError(f"cluster {self.name!r} is not ready after {patient(timeout):.0f} s\n{said}")
            time.sleep(0.5)

    @property
    def nodes(self) -> tuple[str, ...]:
        names = self._run_kind("get", "nodes", "--name", self._kind, check=False).split()
        return tuple(sorted(name for name in names if name.startswith(f"{self._kind}-worker")))

    @property
    def vips(self) -> tuple[str, ...]:
        return layout.VIPS

    def node_address(self, node: str) -> str:
        template = f'{{{{(index .NetworkSettings.Networks "{self._kind}").IPAddress}}}}'
        return self._docker("inspect", node, "--format", template).strip()

    def uplink(self, node: str) -> str:
        return UPLINK

    def crash(self, node: str) -> None:
        """First its cable, as the processes that die still close their connections; then it, with its address kept."""
        shell.run([*self._network_of(node), "ip", "link", "set", UPLINK, "down"])
        address = self.node_address(node)
        self._docker("kill", "--signal", "KILL", node)
        self._docker("network", "disconnect", self._kind, node)
        self._docker("network", "connect", "--ip", address, self._kind, node)

    def boot(self, node: str) -> None:
        self._docker("start", node)

    def freeze(self, node: str) -> None:
        self._docker("pause", node)

    def thaw(self, node: str) -> None:
        self._docker("unpause", node)

    def cut(self, node: str, direction: Direction = "both") -> None:
        self.on_node(node, ["nft", "-f", "-"], stdin=cut_rules(direction))

    def heal(self, node: str) -> None:
        self.on_node(node, ["nft", "delete", "table", "netdev", CUT], check=False)

    def freeze_api(self) -> None:
        self._docker("exec", f"{self._kind}-control-plane", "pkill", "-STOP", "-x", "kube-apiserver")

    def thaw_api(self) -> None:
        self._docker("exec", f"{self._kind}-control-plane", "pkill", "-CONT", "-x", "kube-apiserver")

    def waited(self, node: str) -> dict[str, float]:
        return {}  # its processes are many, and those of the machine

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """The machine's own, or the one that lies on every node."""
        program = shutil.which("kubectl", path=shell.SEARCH_PATH) or self._kubectl
        return shell.run([program, "--kubeconfig", self.kubeconfig, *arguments], stdin=stdin, timeout=timeout)

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
        self._run_kind("export", "logs", "--name", self._kind, str(folder / "kind"), check=False, timeout=300)

    # The machinery

    def _sweep(self) -> None:
        """Take away what is beside the nodes: what a run that was killed has left, too."""
        self._docker("rm", "-f", self._client, check=False)
        self._docker("network", "rm", self._kind, check=False)
        self.kubeconfig.unlink(missing_ok=True)
        shutil.rmtree(self._kubectl.parent, ignore_errors=True)

    @property
    def _client(self) -> str:
        return f"{self._kind}-client"

    def _on_client(self, argv: Sequence[str]) -> list[str]:
        """A program of this machine in the client's network namespace, so that its pid is its own."""
        return [*self._network_of(self._client), *argv]

    def _network_of(self, container: str) -> list[str]:
        """The words in front of a command of this machine that put it into the container's network namespace."""
        pid = self._docker("inspect", container, "--format", "{{.State.Pid}}").strip()
        enter = ["nsenter", f"--target={pid}", "--net", "--"]
        return enter if os.geteuid() == 0 else ["sudo", *enter]

    def _create(self, nodes: int) -> None:
        words = ["create", "cluster", "--name", self._kind, "--config", "-", "--kubeconfig", str(self.kubeconfig)]
        if image := os.environ.get("LVS_KIND_IMAGE"):
            words += ["--image", image]
        text = config_text(CONFIG.read_text(), nodes, self._proxy, os.environ.get("LVS_KIND_PATCHES"))
        network = {"KIND_EXPERIMENTAL_DOCKER_NETWORK": self._kind}
        self._run_kind(*words, "--wait", f"{patient(120.0):.0f}s", stdin=text, timeout=1800, extra=network)
        if not shutil.which("kubectl", path=shell.SEARCH_PATH):
            self._kubectl.parent.mkdir(exist_ok=True)
            self._docker("cp", "-qL", f"{self._kind}-control-plane:/usr/bin/kubectl", str(self._kubectl))

    def _running(self, node: str) -> bool:
        state = self._docker("inspect", node, "--format", "{{.State.Status}}", check=False)
        return state.strip() == "running"

    def _node_image(self) -> str:
        return self._docker("inspect", f"{self._kind}-worker", "--format", "{{.Config.Image}}").strip()

    def _load(self, archives: Sequence[Path]) -> None:
        nodes = ",".join(self.nodes)  # no pod of theirs runs beside the control plane
        for archive in archives:
            self._run_kind("load", "image-archive", "--name", self._kind, "--nodes", nodes, str(archive), timeout=1800)

    def _run_kind(self, *words: str, **options: Any) -> str:
        return shell.run([kind(), *words], **options)

    def _docker(self, *words: str, check: bool = True) -> str:
        return shell.run(["docker", *words], check=check)


def config_text(text: str, nodes: int, proxy: str, patches: str | None = None) -> str:
    """``kind-config.yaml`` with so many workers and kube-proxy in that mode.

    ``patches``: a folder of the node image with kubeadm's patches of the control plane.
    """
    config = yaml.safe_load(text)
    others = [node for node in config["nodes"] if node["role"] != "worker"]
    config["nodes"] = [*others, *({"role": "worker"} for _ in range(nodes))]
    ours = layout.kube_proxy_mode(proxy)
    config.setdefault("networking", {})["kubeProxyMode"] = ours["mode"]
    if "ipvs" in ours:
        config.setdefault("kubeadmConfigPatches", []).append(yaml.safe_dump(ours))
    if patches:
        ours = {"kind": "InitConfiguration", "patches": {"directory": patches}}
        config.setdefault("kubeadmConfigPatches", []).append(yaml.safe_dump(ours))
    return yaml.safe_dump(config)


def cut_rules(direction: Direction) -> str:
    """nftables rules that lose what comes in, what goes out, or both; in place of those that are there."""
    hooks = [hook for way, hook in (("in", "ingress"), ("out", "egress")) if direction in (way, "both")]
    chains = "".join(
        f'chain {hook} {{ type filter hook {hook} device "{UPLINK}" priority -500; policy drop; }}\n' for hook in hooks
    )
    return f"table netdev {CUT}\ndelete table netdev {CUT}\ntable netdev {CUT} {{\n{chains}}}\n"
