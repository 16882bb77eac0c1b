"""What this node says about pods that wait for their path. Pure.

A pod may belong to several objects. The Active node of the first of their addresses speaks for it, by what it has found
out itself about all of them: so no two nodes write different things.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from lvsagent.checks.messages import Verdict
from lvsagent.core.targets import name_of
from lvsapi.gates import Waiting
from lvsapi.model import IPAddress, ObjectKey

PROVED, NOT_PROVED, NOT_ANSWERED = "PathProved", "PathNotProved", "NotAnswered"
LONGEST = 1024
"""Characters of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The condition of one pod."""

    pod: ObjectKey
    uid: str
    status: bool
    reason: str
    message: str


def gates(
    waiting: Iterable[Waiting], verdicts: Mapping[str, Verdict], active: Set[IPAddress], node: str
) -> tuple[Gate, ...]:
    """``verdicts``: by target. ``active``: addresses that this node has."""
    by_pod: defaultdict[tuple[ObjectKey, str], list[Waiting]] = defaultdict(list)
    for one in waiting:
        by_pod[one.pod, one.uid].append(one)
    found = []
    for (pod, uid), parts in by_pod.items():
        first = min(parts, key=lambda one: (one.server.owner, one.server.address.version, int(one.server.address)))
        if first.server.address in active:
            found.append(_gate(pod, uid, parts, verdicts, node))
    return tuple(found)


def _gate(pod: ObjectKey, uid: str, parts: list[Waiting], verdicts: Mapping[str, Verdict], node: str) -> Gate:
    said = [(one, verdicts.get(name_of(one.server, one.backend))) for one in parts]
    wrong = [(one, verdict) for one, verdict in said if verdict is not None and verdict.known and not verdict.up]
    open_ = [one for one, verdict in said if verdict is None or not verdict.known]
    status, reason = False, NOT_PROVED
    if wrong:
        message = "; ".join(f"{one.server.owner}: {verdict.reason}" for one, verdict in wrong)
    elif open_:
        reason = NOT_ANSWERED
        message = f"{open_[0].server.owner} at {open_[0].server.address} has not been answered yet"
    else:
        status, reason = True, PROVED
        places = ", ".join(sorted({str(one.server.address) for one in parts}))
        message = f"It gets what clients send to {places}, found out by node {node}"
    return Gate(pod=pod, uid=uid, status=status, reason=reason, message=message[:LONGEST])
