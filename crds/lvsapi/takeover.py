"""What a takeover keeps of the established connections of an object. Pure.

All of it was measured, and is again by the tests (docs/matrix.md): a node that becomes Active knows the connections
that it served itself, chooses like its predecessor where the choice depends on the packet alone, and has heard of the
others only from the kernel's sync daemon. What it does not know it learns from the client's next packet, not from the
backend's: it cannot translate an answer that comes before.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lvsapi.ipvs import Forwarding, Scheduler
from lvsapi.model import Protocol, Resolved, VirtualServer
from lvsapi.status import Reason


@dataclass(frozen=True, slots=True)
class Kept:
    """The condition ConnectionsSurvive of an object."""

    all: bool
    reason: Reason
    message: str


ALL = Kept(True, Reason.SAME_TABLE, "Every director chooses alike: a takeover keeps all established connections")
NONE_HELD = Kept(True, Reason.ONE_PACKET, "Every datagram is scheduled on its own: there are no connections to keep")
SYNCHRONISED = Kept(
    True,
    Reason.SYNCHRONISED,
    "The directors tell each other about connections: a takeover keeps those that are a few seconds old",
)
BY_PACKET = (Scheduler.SH, Scheduler.DH, Scheduler.FO)
"""Beside ``mh``: with one table everywhere these choose by the packet and the table alone (ip_vs_fo.c: always the
greatest weight)."""


def pods_of(server: VirtualServer) -> bool:
    """Whether it has backends that only their own node can reach as they are: pods."""
    return any(not backend.host_network for backend in server.backends)


def two_tiers(server: VirtualServer) -> bool:
    """Whether a packet passes two tables: the Active node's, and that of the backend's node."""
    return any(backend.node is not None for backend in server.backends)


def synchronised_class(resolved: Resolved) -> tuple[str, str]:
    """The class whose directors run the sync daemon (empty: none), and why no other class does.

    The kernel has one daemon a node for each direction, which tells of all connections: those of pods would be broken
    on the pods' nodes, whose own entries it replaces.
    """
    asked = sorted({router.class_name for router in resolved.routers if router.connection_sync})
    pods = sorted({server.owner for server in resolved.servers if pods_of(server)})
    if asked and pods:
        return "", f"VirtualService {pods[0]} has pods as backends, whose connections the sync daemon would break"
    return (asked[0], f"the nodes synchronise for class {asked[0]}, and can for one class only") if asked else ("", "")


def kept_of(servers: Iterable[VirtualServer], asked: bool, synchronised: bool, why_not: str) -> Kept:
    """Of one object, by all its virtual servers. ``asked``: its class has connectionSync; ``synchronised``: and the
    daemon runs for it; ``why_not``: else."""
    verdicts = [_kept(server, asked, synchronised, why_not) for server in servers if server.backends]
    worst = min(verdicts, key=_rank, default=ALL)
    return worst


def _rank(kept: Kept) -> tuple[bool, bool, bool]:
    return (kept.all, kept.reason in (Reason.SAME_TABLE, Reason.ONE_PACKET), kept.reason is Reason.SAME_TABLE)


def _kept(server: VirtualServer, asked: bool, synchronised: bool, why_not: str) -> Kept:
    if server.one_packet:
        return NONE_HELD
    alike = server.alike or _by_packet(server)
    translated = any(
        backend.node is None and (backend.forwarding or server.forwarding) is Forwarding.MASQUERADE
        for backend in server.backends
    )
    if alike and not translated:
        return ALL
    if server.local:
        text = "With externalTrafficPolicy Local connections end when the address moves: its new node has other pods"
        return Kept(False, Reason.LOCAL_TRAFFIC_POLICY, text)
    if two_tiers(server):
        what = _what(server)
        text = f"With {what} a takeover keeps the connections to backends on the new Active node only; mh keeps all"
        return Kept(False, Reason.LOCAL_BACKENDS_ONLY, text)
    # The daemon tells of a connection's second packet, where it is established by then (core/sysctl.py). Of SCTP with
    # translation the director sees that only by the backend's second answer.
    told = not (translated and server.protocol in (Protocol.SCTP, None))
    if synchronised and told:
        return SYNCHRONISED
    remedy = (
        "use DirectRouting or Tunnel" if alike else "use mh with DirectRouting or Tunnel" if translated else "use mh"
    )
    if told:
        remedy = f"connectionSync is not in force: {why_not}" if asked else f"{remedy}, or connectionSync in the class"
    if alike:
        text = (
            "With forwarding Masquerade a takeover costs established connections whose backend speaks next:"
            f" the new Active node cannot translate what it has not seen the client say; {remedy}"
        )
        return Kept(False, Reason.ANSWERS_NOT_TRANSLATED, text)
    text = f"With {_what(server)} a takeover keeps established connections by chance only; {remedy}"
    return Kept(False, Reason.NOT_SYNCHRONISED, text)


def _by_packet(server: VirtualServer) -> bool:
    plain = server.persistence is None and not any(backend.limits.upper for backend in server.backends)
    return plain and server.scheduler in BY_PACKET and not two_tiers(server) and not server.local


def _what(server: VirtualServer) -> str:
    if server.scheduler is not Scheduler.MH:
        return f"scheduler {server.scheduler}"
    return "persistence" if server.persistence is not None else "connectionLimits"
