"""What one wants to read after a failure, collected into a folder."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .errors import RigError

OBJECTS = (
    ("get", "nodes,pods,services,endpointslices", "-A", "-o", "wide"),
    ("get", "lvs", "-A", "-o", "yaml"),
    ("get", "lvsvirtualserviceclasses", "-o", "yaml"),
    ("get", "daemonsets,deployments", "-A", "-o", "yaml"),
    ("get", "events", "-A", "--sort-by=.lastTimestamp"),
    (
        "logs",
        "-n",
        "lvs-system",
        "--all-containers",
        "--prefix",
        "--tail=2000",
        "-l",
        "app.kubernetes.io/part-of=lvs-dr-operator",
    ),
)
NODE = (
    "ip address; ip route; ip neigh; ipvsadm -Sn; ipvsadm -Lnc; "
    "nft list ruleset; sysctl -a 2>/dev/null | grep -E 'ipv4.(vs|conf)'; dmesg"
)


class Source(Protocol):
    """The part of a cluster that this needs."""

    @property
    def nodes(self) -> tuple[str, ...]: ...

    def kubectl(self, *arguments: str, timeout: float = ...) -> str: ...

    def on_node(self, node: str, argv: Sequence[str], *, check: bool = ..., timeout: float = ...) -> str: ...


def dump(source: Source, logs: Path | None, folder: Path) -> None:
    """Objects, logs, and each node's tables. What cannot be had is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*logs.glob("*.log"), *logs.glob("node*/*.log")] if logs else []:
        with contextlib.suppress(OSError):
            shutil.copy(path, folder / "-".join(path.relative_to(logs).parts if logs else path.parts))
    for arguments in OBJECTS:
        with contextlib.suppress(RigError):
            (folder / f"{arguments[0]}-{arguments[1].split(',')[0].strip('-')}.txt").write_text(
                source.kubectl(*arguments, timeout=20)
            )
    for node in source.nodes:
        with contextlib.suppress(RigError):
            (folder / f"{node}.txt").write_text(source.on_node(node, ["sh", "-c", NODE], check=False, timeout=20))
            script = 'for f in /var/log/pods/*/*/*.log; do echo "== $f"; tail -n 300 $f; done'
            (folder / f"{node}-pods.txt").write_text(
                source.on_node(node, ["sh", "-c", script], check=False, timeout=20)
            )
