"""What is said of an object's backends: its condition ``BackendsHealthy``, and the lines of log and events. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from lvsagent.core.health import Change, QuorumChange, Watch
from lvsagent.core.targets import is_asked, name_of, place_of
from lvsapi.model import ObjectKey, Resolved
from lvsapi.status import Reason

Verdict = tuple[bool | None, str, str]
"""Status, reason and message of a condition."""
MOST_NAMED = 8
"""Backends in a message."""


@dataclass(slots=True)
class _Found:
    asked: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    down: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def conditions(resolved: Resolved, watch: Watch) -> Mapping[ObjectKey, Verdict]:
    """``BackendsHealthy`` of each object that asks anything."""
    found: defaultdict[ObjectKey, _Found] = defaultdict(_Found)
    for server in resolved.servers:
        if not server.health.checks:
            continue
        known = True
        about = found[server.owner]
        for backend in server.backends:
            if not is_asked(server, backend):
                continue
            place = place_of(backend.address, backend.port)
            about.asked.add(place)
            standing = watch.standings.get(name_of(server, backend))
            if standing is None or not standing.known:
                about.waiting.add(place)
                known = False
            elif not standing.up:
                about.down[place] = standing.reason
        if known and watch.quorums.get((server.owner, server.address, server.protocol, server.port)) is False:
            about.lost.append(place_of(server.address, server.ports))
    return {owner: _condition(about) for owner, about in found.items()}


def _condition(about: _Found) -> Verdict:
    offenders = [f"{place}: {reason}" for place, reason in sorted(about.down.items())]
    named = "; ".join(offenders[:MOST_NAMED])
    if len(offenders) > MOST_NAMED:
        named += f"; and {len(offenders) - MOST_NAMED} more"
    if about.lost:
        return (
            False,
            Reason.QUORUM_LOST,
            f"Too few backends live for {', '.join(about.lost)}" + (f": {named}" if named else ""),
        )
    if about.down:
        return False, Reason.BACKENDS_DOWN, f"{len(about.down)} of {len(about.asked)} backends fail: {named}"
    if about.waiting:
        text = f"{len(about.waiting)} of {len(about.asked)} backends have not answered yet"
        return None, Reason.NOT_ANSWERED, text
    return True, Reason.AS_EXPECTED, f"All {len(about.asked)} backends answer"


def line_of(change: Change) -> str:
    """As keepalived logs it."""
    verb = ("Adding", "Removing") if change.removed else ("Enabling", "Disabling")
    preposition = ("to" if change.up else "from") if change.removed else "of"
    return f"{verb[0 if change.up else 1]} service {change.service} {preposition} VS {change.virtual}"


def quorum_line(change: QuorumChange) -> str:
    """As keepalived logs it."""
    word = "Gained" if change.up else "Lost"
    text = f"{word} quorum {change.quorum} of VS {change.virtual} with living weight {change.weight}"
    return text + (f"; sorry server {change.sorry}" if change.sorry else "")
