"""What this node has to say about each VirtualService: only the Active node speaks. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lvsagent.core.agent import ACTIVE, address_of
from lvsagent.ipc import Finding, RouterStatistics
from lvsapi.model import ObjectKey, Problem, Resolved, VirtualRouter, VirtualServer
from lvsapi.status import ConditionType, Reason
from lvsapi.takeover import ALL, Kept, kept_of, synchronised_class
from lvsapi.vrrp import AuthenticationType

PASSWORD_SENTENCE = (
    "VirtualServiceClass {}: spec.vrrp.authentication.type: Password goes over the wire in clear text and keeps nobody"
    " out who can listen: use HMAC where the peers can"
)
NOT_HELD = (Finding.ADDRESS_CONFLICT, Finding.ADDRESS_REFUSED)
"""Findings that say why an Active does not have an address."""
NOTHING_ASKED: Mapping[ObjectKey, tuple[bool | None, str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What this node says about one VirtualService."""

    active: bool
    """False: only why it cannot serve; nobody is known to be Active."""
    ready: int
    total: int
    problems: tuple[Problem, ...] = ()
    kept: Kept = ALL
    """What a takeover would keep of its connections."""
    health: tuple[bool | None, str, str] | None = None
    """Status, reason and message of ``BackendsHealthy``; None: nothing is asked."""


def reports(
    resolved: Resolved,
    active: frozenset[str],
    problems: tuple[Problem, ...],
    node: str,
    active_nodes: Mapping[ObjectKey, str],
    serving: Resolved | None = None,
    health: Mapping[ObjectKey, tuple[bool | None, str, str]] = NOTHING_ASKED,
) -> Mapping[ObjectKey, Report]:
    """By object. ``active``: routers that are Active here. ``active_nodes``: what the objects' status says now.
    ``serving``: with the weights that are in force; None: those of ``resolved``. ``health``: ``BackendsHealthy``.

    The director of the highest priority also speaks when it cannot serve and the status names no other node: then there
    may be no Active at all to say why.
    """
    counts: defaultdict[ObjectKey, list[int]] = defaultdict(lambda: [0, 0])
    servers: defaultdict[ObjectKey, list[VirtualServer]] = defaultdict(list)
    synchronised, why_not = synchronised_class(resolved)
    for server in resolved.servers:
        servers[server.owner].append(server)
        count = counts[server.owner]
        count[1] += len(server.backends)
    for server in (serving or resolved).servers:
        counts[server.owner][0] += sum(backend.weight > 0 for backend in server.backends)
    by_object: defaultdict[ObjectKey, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_object[problem.key].append(problem)
    found: dict[ObjectKey, Report] = {}
    for router in resolved.routers:
        here = router.name in active
        for owner in router.owners:
            speaks = here or (
                bool(by_object[owner])
                and _first(router) == node
                and active_nodes.get(owner, "") in ("", node)
                and not (owner in found and found[owner].active)
            )
            if speaks:
                ready, total = counts[owner]
                found[owner] = Report(
                    active=here,
                    ready=ready,
                    total=total,
                    problems=tuple(by_object[owner]),
                    kept=kept_of(servers[owner], router.connection_sync, router.class_name == synchronised, why_not),
                    health=health.get(owner),
                )
    return found


def findings_of(router: VirtualRouter, heard: RouterStatistics | None) -> Mapping[str, str]:
    """What is to be looked into at a router, by name (``ipc.Finding``), with a sentence each."""
    found = dict(heard.findings) if heard is not None else {}
    if router.vrrp.authentication is AuthenticationType.PASSWORD:
        found.setdefault(Finding.PASSWORD_INSECURE, PASSWORD_SENTENCE.format(router.class_name))
    return found


def election_problems(resolved: Resolved, heard: Mapping[str, RouterStatistics]) -> tuple[Problem, ...]:
    """The election's findings, and why it refuses a router, as problems of the objects that the router carries.
    ``heard``: statistics by the router's name."""
    problems: list[Problem] = []
    for router in resolved.routers:
        statistics = heard.get(router.name)
        words = sorted(findings_of(router, statistics).items())
        if statistics is not None and statistics.problem:
            words.insert(0, (Reason.ROUTER_REFUSED, statistics.problem))
        problems += (
            Problem(key=owner, condition=ConditionType.ELECTION_HEALTHY, reason=word, message=sentence)
            for owner in router.owners
            for word, sentence in words
        )
    return tuple(problems)


def unserved(resolved: Resolved, heard: Mapping[str, RouterStatistics]) -> tuple[Problem, ...]:
    """Objects that are not ready, because this node is Active for them and cannot have all of their addresses."""
    problems = []
    for router in resolved.routers:
        statistics = heard.get(router.name)
        # The Active has its addresses a moment after the state: only what the election says that it cannot have counts.
        words = [word for word in NOT_HELD if statistics is not None and word in statistics.findings]
        if statistics is None or statistics.state != ACTIVE or not words:
            continue
        why = "; ".join(statistics.findings[word] for word in words)
        missing = set(router.addresses) - {address_of(address) for address in statistics.addresses_held}
        for owner in router.owners:
            of_owner = {server.address for server in resolved.servers if server.owner == owner} & missing
            if of_owner:
                named = ", ".join(str(address) for address in sorted(of_owner, key=int))
                text = f"{named} is not served: {why}"
                problems.append(Problem(key=owner, condition=ConditionType.READY, reason=words[0], message=text))
    return tuple(problems)


def _first(router: VirtualRouter) -> str:
    return max(router.directors, key=lambda director: director.priority).node if router.directors else ""
