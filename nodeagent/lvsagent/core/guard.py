"""What others do to what is ours on this node, and what they have set that spoils it. Pure: time is an argument.

Putting back is ``core.diff``'s: it wants the same as before. Here is counted what was missing, remembered how often,
and said who does it and what ends it. A foreign thing is none of our business, whatever becomes of it.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lvsagent.core.diff import Owned
from lvsagent.core.state import KernelState, Service
from lvsagent.core.sysctl import CONF, CONF6, IP6_FORWARD, REQUIRED, STRICT, dotted, satisfied
from lvsapi.model import Problem, Resolved
from lvsapi.status import ConditionType

WINDOW_SECONDS = 120.0
"""kube-proxy in IPVS mode comes every 30 s when nothing changes, so a minute would see two of its visits."""
FIGHTS = 3
KEPT = "where your distribution keeps it (/etc/sysctl.d)"
NEARLY_FULL = 0.8
"""Of conntrack's table."""


class Thing(StrEnum):
    """What of ours was removed or changed: a label of ``lvs_repairs_total``."""

    SERVICE = "service"
    DESTINATION = "destination"
    ADDRESS = "address"
    """On ``lo``."""
    SETTING = "setting"
    """A sysctl."""
    MARK = "mark"
    REFUSAL = "refusal"
    SYNC_DAEMON = "sync_daemon"
    CLIENT_PATH = "client_path"
    """Routes, rules and settings for clients inside the cluster (``core.clients``)."""
    LOOP_GUARD = "loop_guard"
    """Services for packets that other nodes sent on (``core.loops``)."""


class NodeFinding(StrEnum):
    """What somebody should look into on this node: reason of ``NodeHealthy``, label of ``lvs_node_finding``."""

    TABLES_CONTESTED = "TablesContested"
    REVERSE_PATH_STRICT = "ReversePathStrict"
    CONNTRACK_NEARLY_FULL = "ConntrackNearlyFull"
    FORWARDING6_OFF = "IPv6ForwardingOff"
    TUNNEL_TOO_NARROW = "TunnelTooNarrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """Who probably does it, and what ends it."""

    name: str
    remedy: str
    certain: bool = False
    """It says itself that it does such things: one visit is enough to complain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReadings:
    """Settings of the node that are not ours to change, read every few seconds."""

    reverse_path: Mapping[str, int] = field(default_factory=dict)
    """Effective ``rp_filter`` of the interfaces, other than the uplink, over which pods of other nodes are reached."""
    inside: Mapping[str, int] = field(default_factory=dict)
    """The same of those over which answers to clients inside the cluster come (``core.clients``)."""
    forwarding6: bool = False
    """``net.ipv6.conf.all.forwarding``."""
    advertised: frozenset[str] | None = None
    """Interfaces that take routes from router advertisements, and would not if the node forwarded IPv6 (``accept_ra``
    is 1). None: not read yet."""
    entries: int = 0
    limit: int = 0
    """Of conntrack; 0: it is not there."""

    @property
    def fill(self) -> float:
        """Share of conntrack's table that is used."""
        return self.entries / self.limit if self.limit else 0.0


def disturbed(before: KernelState, now: KernelState, owned: Owned) -> Counter[Thing]:
    """How many things of ours are no longer as we left them. ``before``: as read back after our last operation."""
    found: Counter[Thing] = Counter()
    for key in owned.services & before.services.keys():
        left, there = before.services[key], now.services.get(key)
        if there is None or _kind(left) != _kind(there):
            found[Thing.SERVICE] += 1
        if there is not None:
            found[Thing.DESTINATION] += len(set(left.destinations) ^ set(there.destinations))
    found[Thing.ADDRESS] = len((owned.loopback & before.loopback) - now.loopback)
    found[Thing.SETTING] = sum(
        satisfied(key, before.sysctls.get(key), value) and not satisfied(key, now.sysctls.get(key), value)
        for key, value in REQUIRED.items()
    )
    found[Thing.MARK] = len(before.marks - now.marks)
    found[Thing.REFUSAL] = len(before.refusals - now.refusals)
    found[Thing.SYNC_DAEMON] = len((owned.daemons & before.daemons) - now.daemons)
    return +found


def _kind(service: Service) -> tuple[object, ...]:
    return (service.scheduler, service.flags, service.persistent)


@dataclass(slots=True)
class Fights:
    """When others touched our tables lately."""

    moments: deque[float] = field(default_factory=deque)

    def noticed(self, now: float) -> None:
        """Once more."""
        self.moments.append(now)

    def count(self, now: float) -> int:
        """How often within WINDOW_SECONDS."""
        while self.moments and self.moments[0] <= now - WINDOW_SECONDS:
            self.moments.popleft()
        return len(self.moments)


def findings(
    node: str,
    fights: int,
    culprit: Culprit | None,
    readings: NodeReadings,
    narrow: str = "",
    forwards6: bool = False,
) -> Mapping[str, str]:
    """What is to be looked into, by name (``NodeFinding``), with a sentence each. ``narrow``: of ``core.tunnels``.
    ``forwards6``: IPv6 must be forwarded."""
    found: dict[str, str] = {NodeFinding.TUNNEL_TOO_NARROW: narrow} if narrow else {}
    if fights >= FIGHTS or (fights and culprit is not None and culprit.certain):
        found[NodeFinding.TABLES_CONTESTED] = (
            f"{node}: something removed or changed our tables {times(fights)} in the last {WINDOW_SECONDS:.0f} s;"
            f" they are put back each time, and clients notice. {blame(culprit)}"
        )
    if strict := [*_strict(node, readings)]:
        found[NodeFinding.REVERSE_PATH_STRICT] = ". ".join(strict)
    if forwards6 and readings.advertised and not readings.forwarding6:
        names = sorted(readings.advertised)
        keys = " ".join(f"{dotted(f'{CONF6}/{name}/accept_ra')}=2" for name in names)
        found[NodeFinding.FORWARDING6_OFF] = (
            f"{node}: {dotted(IP6_FORWARD)} is 0: answers of IPv6 backends that come back through this node are"
            f" dropped. It is not set for you, because {', '.join(names)} takes routes from router advertisements,"
            f" which a node that forwards ignores. Set {keys}, {KEPT}: then it is"
        )
    if readings.fill >= NEARLY_FULL:
        found[NodeFinding.CONNTRACK_NEARLY_FULL] = (
            f"{node}: conntrack holds {readings.entries} of {readings.limit} connections: when it is full the kernel"
            " drops new ones, ours too. Raise net.netfilter.nf_conntrack_max (kube-proxy: conntrack.maxPerCore), or see"
            " who opens so many (conntrack -S)"
        )
    return found


def _strict(node: str, readings: NodeReadings) -> Iterator[str]:
    """Sentences about interfaces with a strict reverse path."""
    for values, what in (
        (readings.reverse_path, "packets for pods of this node that another node sends over it"),
        (readings.inside, "answers of other nodes' pods to clients on this node (pods, processes)"),
    ):
        strict = sorted(name for name, value in values.items() if value == int(STRICT))
        if strict:
            keys = ", ".join(dotted(f"{CONF}/{name}/rp_filter") for name in strict)
            yield (
                f"{node}: {keys} is effectively 1 (the maximum of all and the interface): {what} are dropped. Set"
                f" net.ipv4.conf.all.rp_filter=0 and 2 on the interface, {KEPT}"
            )


def times(number: int) -> str:
    """In words."""
    return "once" if number == 1 else f"{number} times"


def blame(culprit: Culprit | None) -> str:
    """A sentence or two about who it is."""
    if culprit is None:
        return "Look for who programs IPVS on the node: another load balancer, a script with ipvsadm"
    return f"Probably {culprit.name}: {culprit.remedy}"


def node_problems(resolved: Resolved, found: Mapping[str, str]) -> tuple[Problem, ...]:
    """The findings as problems of every object: all of them have their tables here."""
    owners = {server.owner for server in resolved.servers}
    return tuple(
        Problem(key=owner, condition=ConditionType.NODE_HEALTHY, reason=reason, message=message)
        for owner in sorted(owners)
        for reason, message in sorted(found.items())
    )
