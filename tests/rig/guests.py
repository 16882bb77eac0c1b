"""The cluster whose nodes are User-Mode-Linux guests on a bridge, in namespaces of their own."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import apt, cache, dumps, guest, layout, remote, schedstat, shell
from .build_kernel import kernel
from .build_kubernetes import kubernetes
from .cluster import Direction
from .disk import base_disk
from .errors import CommandFailed, RigError
from .keeper import STATE, started_at
from .lan import Lan
from .pki import Authority

MEMORY = os.environ.get("LVS_NODE_MEMORY", "2G")
PROCESSORS = 1
"""Of a node. Three nodes with two each take nearly twice the processor time: theirs wait for each other."""
HERE = Path(__file__).parent


def run_folder() -> Path:
    """Where the clusters that are up keep their state: ``LVS_RUN``, else in the cache folder."""
    return Path(os.environ.get("LVS_RUN") or cache.root() / "run")


class Guests:
    """See ``rig.cluster.Cluster``. All state is on disk: any process may ask for any of this."""

    def __init__(self, name: str = "default", proxy: str = "nftables") -> None:
        if proxy not in layout.PROXY_MODES:
            raise RigError(f"LVS_RIG_PROXY={proxy!r}: choose one of {', '.join(layout.PROXY_MODES)}")
        self.name = name
        self.folder = run_folder() / name
        self.kubeconfig = self.folder / "kubeconfig"
        self._proxy = proxy
        self._archives: list[Path] = []
        self._owner = -1
        self._child: subprocess.Popen[bytes] | None = None

    # Life

    def up(self, nodes: int = 3, *, owned: bool = True) -> None:
        if self._keeper():
            raise RigError(f"cluster {self.name!r} is up already ({self.folder}); `down` first, or choose another name")
        apt.install((*apt.NETWORK, *apt.NODES))
        linux, commands = kernel() / "linux", kubernetes()
        disk = base_disk(linux, tuple(self._archives))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        try:
            self._start_keeper()
            self._prepare(nodes, linux, commands, disk)
            self._lan().create(nodes)
            self._start_api(commands)
            for node in self.nodes:
                self.boot(node)
            self._start_controllers(commands)
            self.wait_ready()
            if not owned:
                os.write(self._owner, b"k")
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        facts = self._keeper()
        if facts:
            os.kill(facts["pid"], signal.SIGTERM)
            deadline = time.monotonic() + 20
            while self._keeper() and time.monotonic() < deadline:
                time.sleep(0.02)
            if self._keeper():
                os.kill(facts["pid"], signal.SIGKILL)  # the kernel then ends the rest
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        if self._child is not None:
            self._child.wait()
            self._child = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def load_images(self, archives: Sequence[Path]) -> None:
        self._archives += [path.resolve() for path in archives]
        if self._keeper():
            for node in self.nodes:
                for archive in archives:
                    path = f"/host{archive.resolve()}"
                    self.on_node(node, ["ctr", "-n", "k8s.io", "images", "import", path], timeout=120)

    def wait_ready(self, timeout: float = 120.0) -> None:
        deadline = time.monotonic() + timeout
        running = {node for node in self.nodes if self._alive(node)}
        while True:
            try:
                found = json.loads(self.kubectl("get", "nodes,serviceaccounts", "-o", "json", timeout=15))["items"]
                if running <= layout.schedulable(found):
                    return
                said = "nodes that can run pods: " + (", ".join(sorted(layout.schedulable(found))) or "none")
            except CommandFailed as failed:
                said = str(failed)
            if time.monotonic() > deadline:
                raise RigError(
                    f"cluster {self.name!r} is not ready after {timeout:.0f} s; logs in {self.folder}\n{said}"
                )
            time.sleep(0.25)

    # What a node is

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(layout.node_name(number + 1) for number in range(self._facts().get("nodes", 0)))

    @property
    def vips(self) -> tuple[str, ...]:
        return layout.VIPS

    def node_address(self, node: str) -> str:
        return layout.node_address(layout.node_number(node))

    def uplink(self, node: str) -> str:
        return "eth0"

    # Faults

    def boot(self, node: str) -> None:
        if self._alive(node):
            raise RigError(f"{node} is running already")
        number, facts = layout.node_number(node), self._facts()
        self._lan().plug(number)
        place = self.folder / node
        arguments = guest.kernel_arguments(
            Path(facts["linux"]), HERE / "node-init", place, memory=MEMORY, cpus=PROCESSORS, name=node
        )
        cards = [
            f"vec{cable}:transport=raw,ifname={port}{number},depth=128,gro=1,mac={layout.mac(cable, number)}"
            for cable, port in enumerate(("port", "wire"))
        ]
        disk = f"ubd0={place / 'disk'},{facts['disk']}"
        self._spawn(node, [*arguments, *cards, disk, "con=null", "con0=null,fd:1", f"rig_node={place}"])

    def crash(self, node: str) -> None:
        self._signal(node, "KILL")
        (self.folder / f"{node}.pid").unlink()

    def freeze(self, node: str) -> None:
        self._signal(node, "STOP")

    def thaw(self, node: str) -> None:
        self._signal(node, "CONT")

    def cut(self, node: str, direction: Direction = "both") -> None:
        self._lan().cut(layout.node_number(node), direction)

    def heal(self, node: str) -> None:
        self._lan().heal(layout.node_number(node))

    def freeze_api(self) -> None:
        self._signal("kube-apiserver", "STOP")

    def thaw_api(self) -> None:
        self._signal("kube-apiserver", "CONT")

    # Commands

    def waited(self, node: str) -> dict[str, float]:
        if not self._alive(node):
            return {}
        pid = (self.folder / f"{node}.pid").read_text().strip()
        return schedstat.waited(Path(f"/proc/{self._facts()['first']}/root/proc"), pid)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        command = [f"{self._facts()['commands']}/kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return shell.run(command, stdin=stdin, timeout=timeout)

    def on_node(
        self, node: str, argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout: float = 30.0
    ) -> str:
        out, error = bytearray(), bytearray()
        status = self.stream(node, argv, stdin=stdin, timeout=timeout, out=out.extend, error=error.extend)
        if check and status != 0:
            text = (bytes(out) + bytes(error)).decode(errors="replace")
            raise CommandFailed(f"{node}: {shlex.join(argv)}: status {status}", text, status)
        return out.decode(errors="replace")

    def stream(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 86400.0,
        out: remote.Sink = remote.to_stdout,
        error: remote.Sink = remote.to_stderr,
    ) -> int:
        """Like ``on_node``, output as it comes; answers the exit status."""
        if not self._alive(node):
            raise RigError(f"{node} is not running")
        address = layout.management_address(layout.node_number(node))
        connection = remote.connect(self._network(), address, time.monotonic() + min(timeout, 30.0))
        try:
            return remote.run(connection, argv, stdin=stdin, timeout=timeout, out=out, error=error)
        except TimeoutError:
            raise CommandFailed(f"{node}: {shlex.join(argv)}: no end within {timeout} s") from None

    def client_run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0) -> str:
        return shell.run(self._client(argv), check=check, timeout=timeout)

    def client_popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self._client(argv)], **options)

    def dump(self, folder: Path) -> None:
        dumps.dump(self, self.folder, folder)

    # The machinery

    def _client(self, argv: Sequence[str]) -> list[str]:
        namespace = f"/proc/{self._facts()['first']}/root/run/netns/client"
        return ["nsenter", f"--net={namespace}", "--", *argv]

    def _network(self) -> Path:
        return Path(f"/proc/{self._facts()['first']}/ns/net")

    def _lan(self) -> Lan:
        return Lan(self._inside())

    def _inside(self) -> list[str]:
        return ["nsenter", f"--target={self._facts()['first']}", "--net", "--mount", "--pid", "--"]

    def _keeper(self) -> dict[str, Any] | None:
        """What the living keeper wrote; None when there is none."""
        try:
            facts: dict[str, Any] = json.loads((self.folder / STATE).read_text())
        except (OSError, ValueError):
            return None
        return facts if started_at(facts["pid"]) == facts["start"] else None

    def _facts(self) -> dict[str, Any]:
        facts = self._keeper()
        if facts is None:
            raise RigError(f"cluster {self.name!r} is not up (python -m tests.rig up, or make rig-up)")
        cluster = self.folder / "cluster.json"
        return {**facts, **(json.loads(cluster.read_text()) if cluster.exists() else {})}

    def _start_keeper(self) -> None:
        theirs, self._owner = os.pipe()
        environment = {"PYTHONPATH": str(HERE.parent)}
        with (self.folder / "keeper.log").open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "rig.keeper", str(self.folder), str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
                env=shell.environment(environment),
                start_new_session=True,
            )
        os.close(theirs)
        deadline = time.monotonic() + 30
        while not self._keeper():
            if time.monotonic() > deadline:
                raise RigError(f"the cluster's keeper did not start: {(self.folder / 'keeper.log').read_text()}")
            time.sleep(0.02)

    def _prepare(self, nodes: int, linux: Path, commands: Path, disk: Path) -> None:
        """Keys, configuration files and facts, before anything runs."""
        facts = {
            "nodes": nodes,
            "linux": str(linux),
            "commands": str(commands),
            "disk": str(disk),
            "proxy": self._proxy,
        }
        (self.folder / "cluster.json").write_text(json.dumps(facts))
        pki = Authority(self.folder / "pki")
        pki.key_pair("sa")
        names = ("IP:127.0.0.1", f"IP:{layout.CONTROL_PLANE}", "IP:10.96.0.1", "DNS:localhost")
        pki.sign("apiserver", "/CN=kube-apiserver", *names, "DNS:kubernetes.default.svc")
        pki.sign("to-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        inside = f"https://{layout.CONTROL_PLANE}:6443"
        for name, user in (("controllers", "kube-controller-manager"), ("scheduler", "kube-scheduler"), ("proxy", "")):
            pki.sign(name, f"/CN=system:{user or 'kube-proxy'}")
            (self.folder / f"{name}.conf").write_text(pki.kubeconfig(name, inside))
        pki.sign("admin", "/O=system:masters/CN=admin")
        self.kubeconfig.write_text(pki.kubeconfig("admin", f"https://127.0.0.1:{self._facts()['port']}"))
        (self.folder / "admin.conf").write_text(pki.kubeconfig("admin", inside))
        for number in range(1, nodes + 1):
            self._prepare_node(number, nodes, commands, pki)

    def _prepare_node(self, number: int, nodes: int, commands: Path, pki: Authority) -> None:
        name, address = layout.node_name(number), layout.node_address(number)
        place = self.folder / name
        place.mkdir()
        pki.sign(name, f"/O=system:nodes/CN=system:node:{name}", f"IP:{address}", f"DNS:{name}")
        (place / "kubelet.conf").write_text(pki.kubeconfig(name, f"https://{layout.CONTROL_PLANE}:6443"))
        (place / "kubelet.yaml").write_text(layout.kubelet(number, f"/host{pki.folder}"))
        proxy = f"/host{self.folder}/proxy.conf"
        (place / "kube-proxy.yaml").write_text(layout.kube_proxy(number, self._proxy, proxy))
        (place / "containerd.toml").write_text(layout.containerd())
        (place / "cni.conflist").write_text(layout.cni(number))
        others = [other for other in range(1, nodes + 1) if other != number]
        (place / "environment").write_text(
            layout.shell_variables(
                name=name,
                address=address,
                gateway=layout.CONTROL_PLANE,
                management=layout.management_address(number),
                routes=" ".join(f"{layout.pod_network(other)}@{layout.node_address(other)}" for other in others),
                bin=str(commands),
                python=sys.executable,
                agent=str(HERE / "node_agent.py"),
            )
        )

    def _start_api(self, commands: Path) -> None:
        keys = {path.name: str(path) for path in (self.folder / "pki").iterdir()}
        self._spawn("etcd", [str(commands / "etcd"), *layout.etcd(self.folder / "etcd")])
        self._spawn("kube-apiserver", [str(commands / "kube-apiserver"), *layout.api_server(keys)])

    def _start_controllers(self, commands: Path) -> None:
        """Once the API server has made its roles: before that they are refused, and give up after 10 s."""
        deadline = time.monotonic() + 60
        while self._try_kubectl("get", "--raw", "/readyz") != "ok":
            if time.monotonic() > deadline:
                raise RigError(f"the API server is not ready after 60 s: {self.folder}/kube-apiserver.log")
            time.sleep(0.1)
        folder, pki = self.folder, self.folder / "pki"
        flags = [f"--kubeconfig={folder}/controllers.conf", f"--root-ca-file={pki}/ca.crt", "--leader-elect=false"]
        flags += [f"--service-account-private-key-file={pki}/sa.key", "--use-service-account-credentials"]
        flags += ["--node-monitor-grace-period=20s"]
        self._spawn("kube-controller-manager", [str(commands / "kube-controller-manager"), *flags])
        flags = [f"--kubeconfig={folder}/scheduler.conf", "--leader-elect=false"]
        self._spawn("kube-scheduler", [str(commands / "kube-scheduler"), *flags])

    def _try_kubectl(self, *arguments: str) -> str:
        try:
            return self.kubectl(*arguments, timeout=5)
        except CommandFailed:
            return ""

    def _spawn(self, name: str, argv: Sequence[str]) -> None:
        """A process that belongs to process 1 of the cluster; NAME.log has what it says, NAME.pid its number there."""
        script = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'
        log = self.folder / f"{name}.log"
        number = shell.run([*self._inside(), "sh", "-c", script, "sh", log, *argv])
        (self.folder / f"{name}.pid").write_text(number)

    def _signal(self, name: str, number: str) -> None:
        if not self._alive(name):
            raise RigError(f"{name} is not running")
        pid = (self.folder / f"{name}.pid").read_text().strip()
        shell.run([*self._inside(), "kill", f"-{number}", pid])  # a number of the cluster's own: it can hit nobody else

    def _alive(self, name: str) -> bool:
        place = self.folder / f"{name}.pid"
        if not place.exists():
            return False
        pid = place.read_text().strip()
        root = Path(f"/proc/{self._facts()['first']}/root/proc/{pid}/stat")
        try:
            return root.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
