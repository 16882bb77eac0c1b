"""The cluster's LAN: a bridge with the control plane, a cable to each node, a client; and the management bridge."""

from collections.abc import Sequence

from . import layout, shell
from .cluster import Direction

CHAIN = "{{ type filter hook {hook} device {device} priority 0; policy drop; }}"


class Lan:
    """``inside``: the words in front of a command that put it into the cluster's namespaces."""

    def __init__(self, inside: Sequence[str]) -> None:
        self._inside = list(inside)

    def create(self, nodes: int) -> None:
        """Bridges, routes to the pods, and the client with its own namespace."""
        client = ["netns", "exec", "client", "ip"]
        self._batch(
            "link set lo up",
            "link add lan type bridge mcast_snooping 0",
            f"address add {layout.CONTROL_PLANE}/24 dev lan",
            "link set lan up",
            "link add management type bridge mcast_snooping 0",
            f"address add {layout.MANAGEMENT}.254/24 dev management",
            "link set management up",
            *(f"route add {layout.pod_network(n)} via {layout.node_address(n)}" for n in range(1, nodes + 1)),
            "netns add client",
            "link add swclient type veth peer name eth0 netns client",
            "link set swclient master lan up",
        )
        for words in ("link set lo up", "link set eth0 up", f"address add {layout.CLIENT}/24 dev eth0"):
            self._ip(*client, *words.split())
        self._ip(*client, "route", "add", "default", "via", layout.CONTROL_PLANE)
        self._run("nft", "add table netdev cuts")
        self._run("sysctl", "-qw net.ipv4.ip_forward=1")  # the LAN's router knows the way to the pods

    def plug(self, number: int) -> None:
        """Fresh cables for a node. The guest's end of a veth carries its frames unchanged: no offloads there."""
        self.heal(number)
        for port in ("port", "wire"):
            self._ip("link", "delete", f"{port}{number}", check=False)
        commands = []
        for port, switch, bridge in (("port", "sw", "lan"), ("wire", "mg", "management")):
            commands += [
                f"link add {port}{number} type veth peer name {switch}{number}",
                f"link set {switch}{number} master {bridge} up",
                f"link set {port}{number} up",
            ]
        self._batch(*commands)
        for port, switch in (("port", "sw"), ("wire", "mg")):
            self._run("ethtool", f"-K {port}{number} gro off gso off tso off", check=False)
            self._run("ethtool", f"-K {switch}{number} tx off rx off gso off tso off", check=False)

    def cut(self, number: int, direction: Direction) -> None:
        """Drop what leaves the node, what goes to it, or both, at the bridge's end of its cable."""
        for way, hook in (("out", "ingress"), ("in", "egress")):
            if direction in (way, "both"):
                chain = CHAIN.format(hook=hook, device=f"sw{number}")
                self._run("nft", f"add chain netdev cuts {way}{number} {chain}")

    def heal(self, number: int) -> None:
        """Undo ``cut``."""
        for way in ("out", "in"):
            self._run("nft", f"delete chain netdev cuts {way}{number}", check=False)

    def _batch(self, *commands: str) -> None:
        shell.run([*self._inside, "ip", "-batch", "-"], stdin="\n".join(commands) + "\n")

    def _ip(self, *words: str, check: bool = True) -> None:
        shell.run([*self._inside, "ip", *words], check=check)

    def _run(self, program: str, text: str, check: bool = True) -> None:
        words = [text] if program == "nft" else text.split()
        shell.run([*self._inside, program, *words], check=check)
