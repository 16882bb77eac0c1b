"""What this node has to say about each VirtualService: only the Active node speaks. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from lvsapi.model import ObjectKey, Problem, Resolved, VirtualRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What this node says about one VirtualService."""

    active: bool
    """False: only why it cannot serve; nobody is known to be Active."""
    ready: int
    total: int
    problems: tuple[Problem, ...] = ()


def reports(
    resolved: Resolved,
    active: frozenset[str],
    problems: tuple[Problem, ...],
    node: str,
    active_nodes: Mapping[ObjectKey, str],
) -> Mapping[ObjectKey, Report]:
    """By object. ``active``: routers that are Active here. ``active_nodes``: what the objects' status says now.

    The director of the highest priority also speaks when it cannot serve and the status names no other node: then there
    may be no Active at all to say why.
    """
    counts: defaultdict[ObjectKey, list[int]] = defaultdict(lambda: [0, 0])
    for server in resolved.servers:
        count = counts[server.owner]
        count[0] += sum(backend.weight > 0 for backend in server.backends)
        count[1] += len(server.backends)
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
                found[owner] = Report(active=here, ready=ready, total=total, problems=tuple(by_object[owner]))
    return found


def _first(router: VirtualRouter) -> str:
    return max(router.directors, key=lambda director: director.priority).node if router.directors else ""
