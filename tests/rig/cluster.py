"""What tests and the demo may ask of a cluster, whoever provides it."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from .errors import RigError

Direction = Literal["in", "out", "both"]
"""``in``: nothing reaches the node; ``out``: nothing leaves it."""


class Cluster(Protocol):
    """A real Kubernetes whose nodes can be crashed. Nodes are named as kubectl names them.

    Everything goes when ``down`` is called or when the process that called ``up(owned=True)`` ends, however it ends.
    """

    name: str
    kubeconfig: Path
    """Usable from this machine."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes that carry pods, also those that are down."""

    @property
    def vips(self) -> tuple[str, ...]:
        """Addresses on the nodes' LAN that nobody has."""

    def up(self, nodes: int = 3, *, owned: bool = True) -> None:
        """Bring it up and wait until the nodes are Ready. Refuses when it is up."""

    def down(self) -> None:
        """Take everything away. May be called twice."""

    def load_images(self, archives: Sequence[Path]) -> None:
        """OCI archives for every node. Before ``up`` they are unpacked once, which is quicker."""

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Until the API server answers and every node that runs is Ready."""

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Standard output. Raises CommandFailed with what kubectl said."""

    def node_address(self, node: str) -> str:
        """Its address on the LAN."""

    def uplink(self, node: str) -> str:
        """The interface with that address."""

    def crash(self, node: str) -> None:
        """Power off: no packet, no goodbye. What it kept on disk it still has at ``boot``."""

    def boot(self, node: str) -> None:
        """Power on again."""

    def freeze(self, node: str) -> None:
        """The whole node stops for a while, as a machine that swaps or a paused virtual machine."""

    def thaw(self, node: str) -> None:
        """Undo ``freeze``."""

    def cut(self, node: str, direction: Direction = "both") -> None:
        """Frames on the node's LAN cable are lost; its link stays up."""

    def heal(self, node: str) -> None:
        """Undo ``cut``."""

    def freeze_api(self) -> None:
        """The API server accepts connections and says nothing."""

    def thaw_api(self) -> None:
        """Undo ``freeze_api``."""

    def waited(self, node: str) -> dict[str, float]:
        """Of each process of this machine that is the node's processor: seconds since it began for which it was ready
        to run and was not let. Empty when the node is down or nobody can tell."""

    def on_node(
        self, node: str, argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout: float = 30.0
    ) -> str:
        """Standard output of a command in the node's own namespaces, as root; also while its LAN is cut."""

    def client_run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0) -> str:
        """Standard output of a command on a host of the LAN that is not a node."""

    def client_popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """The same as a process of this machine: its pid is the command's own."""

    def dump(self, folder: Path) -> None:
        """What one wants to read after a failure: logs, objects, tables of each node."""


def cluster(name: str | None = None, *, provider: str | None = None, proxy: str | None = None) -> Cluster:
    """The cluster of that name (``LVS_RIG_NAME``, default "default"), up or not.

    ``provider``: "guests" or "kind" (``LVS_RIG``); when nobody says, kind where Docker runs and the kernel has ip_vs.
    ``proxy``: kube-proxy's mode, nftables (default), iptables or ipvs.
    """
    from .guests import Guests
    from .kind import Kind
    from .kind_program import kind_is_possible

    chosen = provider or os.environ.get("LVS_RIG") or ("kind" if kind_is_possible() else "guests")
    name = name or os.environ.get("LVS_RIG_NAME") or "default"
    proxy = proxy or os.environ.get("LVS_RIG_PROXY") or "nftables"
    if chosen == "kind":
        return Kind(name, proxy)
    if chosen == "guests":
        return Guests(name, proxy)
    raise RigError(f"LVS_RIG={chosen!r}: choose guests or kind")
