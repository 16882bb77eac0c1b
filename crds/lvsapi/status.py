"""Conditions and the status that operator and agent apply. Pure: the time is an argument.

Both write by server-side apply to the status subresource, each only the fields it owns (``names``): a field that is
left out of the next apply is removed by the API server.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from lvsapi import names
from lvsapi.errors import SpecError
from lvsapi.model import Assignment, ObjectKey, Problem

MESSAGE_LENGTH = 1024
"""Longer messages are cut: the API takes 32768, a reader less."""


class ConditionType(StrEnum):
    """What is said about a VirtualService; True is good, Unknown means nobody has looked yet."""

    ACCEPTED = "Accepted"
    """The spec is valid, nothing conflicts, a VRID and directors are assigned. Written by the operator."""
    RESOLVED_REFS = "ResolvedRefs"
    """The Service and its ports exist and can be served. Written by the operator."""
    PROGRAMMED = "Programmed"
    """The Active node's kernel holds the tables, read back and compared. Written by its agent."""
    READY = "Ready"
    """A node is Active and at least one backend is ready. Written by the Active node's agent; by the operator while no
    node can be (False), and until one was (Unknown)."""
    CONNECTIONS_SURVIVE = "ConnectionsSurvive"
    """Every established connection outlives a takeover. False is a fact to know, not a fault: scheduler, persistence
    and limits decide it (``lvsapi.takeover``). Written by the Active node's agent."""
    BACKENDS_HEALTHY = "BackendsHealthy"
    """Every backend that is asked for its health answers well. False names those that do not, or says that too few do;
    Unknown: some have not answered yet. Only for objects with health checks. Written by the Active node's agent."""
    ELECTION_HEALTHY = "ElectionHealthy"
    """Nothing on the wire asks for a look. False is a warning: the addresses may well be served. Written by the Active
    node's agent; the reason is a finding of the election (``lvsagent.ipc.Finding``)."""
    NODE_HEALTHY = "NodeHealthy"
    """Nothing on the Active node spoils the data path or undoes our work. False is a warning. Written by the Active
    node's agent; the reason is a finding of it (``lvsagent.core.guard.NodeFinding``, or ``core.brakes.Held``)."""


class Reason(StrEnum):
    """Why. The same word stands in condition, event, log and metric."""

    ACCEPTED = "Accepted"
    RESOLVED_REFS = "ResolvedRefs"
    PROGRAMMED = "Programmed"
    READY = "Ready"
    """The four above: all is well."""
    AS_EXPECTED = "AsExpected"
    """The election, or the agent, found nothing that somebody should look into."""
    ROUTER_REFUSED = "RouterRefused"
    """The election does not run the virtual router; the message says why."""
    INVALID = "Invalid"
    """The object does not parse; the message names every field."""
    CLASS_NOT_FOUND = "ClassNotFound"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    """The class does not serve the object's namespace."""
    ADDRESS_NOT_IN_POOL = "AddressNotInPool"
    ADDRESS_OF_NODE = "AddressOfNode"
    """A VIP that is a node's own address would take the node away."""
    ADDRESS_CONFLICT = "AddressConflict"
    """An older object has the address and port, or the address in another namespace or class."""
    VIRTUAL_ROUTER_ID_CONFLICT = "VirtualRouterIDConflict"
    """The VRID that the object asks for belongs to another class, or its address has another one already."""
    NO_FREE_VIRTUAL_ROUTER_ID = "NoFreeVirtualRouterID"
    NO_DIRECTORS = "NoDirectors"
    """No node has the labels that the class asks of a director."""
    SERVICE_NOT_FOUND = "ServiceNotFound"
    PORT_NOT_FOUND = "PortNotFound"
    PORT_NOT_MAPPABLE = "PortNotMappable"
    """A backend listens on another port than the VIP, and its way of forwarding keeps the port."""
    ONE_PACKET_NEEDS_DIRECT_ROUTING = "OnePacketNeedsDirectRouting"
    """With one-packet scheduling nobody remembers whom to translate a pod's answer for."""
    CONNECTION_SYNC_NEEDS_REAL_SERVERS = "ConnectionSyncNeedsRealServers"
    """The class synchronises connections, which breaks those of pods."""
    TOO_MANY_RANGES = "TooManyRanges"
    """Firewall marks, one for each address and range of ports, are used up on the node."""
    SAME_TABLE = "SameTable"
    SYNCHRONISED = "Synchronised"
    ONE_PACKET = "OnePacket"
    """The three: established connections outlive a takeover."""
    LOCAL_BACKENDS_ONLY = "LocalBackendsOnly"
    NOT_SYNCHRONISED = "NotSynchronised"
    """The two: some of them, or none but by chance."""
    ANSWERS_NOT_TRANSLATED = "AnswersNotTranslated"
    """Those whose client speaks before its backend does."""
    LOCAL_TRAFFIC_POLICY = "LocalTrafficPolicy"
    """None: every node has its own pods only."""
    NOT_ACCEPTED = "NotAccepted"
    """Not looked at, or not ready, because the object is not accepted."""
    PENDING = "Pending"
    """Not known yet: no node has been Active for the object."""
    PROGRAMMING_FAILED = "ProgrammingFailed"
    NOT_RESOLVED = "NotResolved"
    """Nothing is programmed for the object, because the Service or a port is missing."""
    NOT_PROGRAMMED = "NotProgrammed"
    """Not ready, because the tables are not in place."""
    NO_ACTIVE = "NoActive"
    """Not ready, because no node is known to hold the addresses; the other conditions say what is wrong."""
    KERNEL_UNSUPPORTED = "KernelUnsupported"
    """No IPVS in the kernel, or no permission to use it; the message has the remedy."""
    NO_INTERFACE = "NoInterface"
    """The node has no interface of the class's name, or none whose network holds the VIP."""
    ADDRESS_FAMILY_NOT_ELECTED = "AddressFamilyNotElected"
    """The class's VRRP version does not carry IPv6."""
    PEERS_NOT_KNOWN = "PeersNotKnown"
    """Unicast adverts, and the address of another director is not known."""
    BACKENDS_DOWN = "BackendsDown"
    QUORUM_LOST = "QuorumLost"
    """Fewer backends live than the object's quorum asks for."""
    NOT_ANSWERED = "NotAnswered"
    """Some backends have not answered yet."""
    NO_ENDPOINTS = "NoEndpoints"
    """No backend is ready; draining ones may still serve their connections."""


OPERATORS_READY = (Reason.NOT_ACCEPTED, Reason.PENDING)
"""Reasons of Ready with which the operator speaks."""


def condition(
    type: ConditionType,  # noqa: A002 (the field's own name)
    status: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: str,
    previous: object = None,
) -> dict[str, object]:
    """One metav1.Condition.

    status: None is "Unknown". now: RFC 3339. previous: ``status.conditions`` as read (anything else counts as none);
    lastTransitionTime is kept while the status stays.
    """
    word = {True: "True", False: "False", None: "Unknown"}[status]
    since = now
    for old in previous if isinstance(previous, list | tuple) else ():
        if isinstance(old, Mapping) and old.get("type") == str(type) and old.get("status") == word:
            kept = old.get("lastTransitionTime")
            since = kept if isinstance(kept, str) and kept else now
    return {
        "type": str(type),
        "status": word,
        "reason": str(reason),
        "message": message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…",
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def refused(key: ObjectKey, error: SpecError) -> Problem:
    """The problem of an object that does not parse."""
    message = "; ".join(str(field) for field in error.errors)
    return Problem(key=key, condition=ConditionType.ACCEPTED, reason=Reason.INVALID, message=message)


def operator_status(
    obj: Mapping[str, object], assignment: Assignment | None, problems: Iterable[Problem], now: str
) -> dict[str, object]:
    """The operator's whole apply for one VirtualService.

    obj: the object as read. problems: of this object, from parse, assign and resolve. now: RFC 3339. With its
    resourceVersion the API server refuses what was decided about an object that was made anew meanwhile (it does not
    look at a uid), and a word on Ready that an agent has given meanwhile.
    """
    found = tuple(problems)
    head, generation, previous = _read(obj)
    metadata = obj.get("metadata")
    if isinstance(metadata, Mapping) and (version := metadata.get("resourceVersion")):
        head["metadata"] = {**head["metadata"], "uid": metadata.get("uid"), "resourceVersion": version}
    accepted = [p for p in found if p.condition == ConditionType.ACCEPTED]
    refs = [p for p in found if p.condition == ConditionType.RESOLVED_REFS]
    status: dict[str, object] = {"observedGeneration": generation}
    if assignment is not None:
        status["virtualRouterID"] = assignment.virtual_router_id
        status["directors"] = [{"node": d.node, "priority": d.priority} for d in assignment.directors]
    if accepted:
        first = condition(
            ConditionType.ACCEPTED, False, accepted[0].reason, _messages(accepted), generation, now, previous
        )
    else:
        text = "Valid, without conflict"
        if assignment is not None:
            text += f"; virtual router {assignment.virtual_router_id}, {len(assignment.directors)} directors"
        first = condition(ConditionType.ACCEPTED, True, Reason.ACCEPTED, text, generation, now, previous)
    if refs:
        second = condition(
            ConditionType.RESOLVED_REFS, False, refs[0].reason, _messages(refs), generation, now, previous
        )
    elif accepted:
        text = "Not looked at: the object is not accepted"
        second = condition(ConditionType.RESOLVED_REFS, None, Reason.NOT_ACCEPTED, text, generation, now, previous)
    else:
        text = "Every reference is found"
        second = condition(ConditionType.RESOLVED_REFS, True, Reason.RESOLVED_REFS, text, generation, now, previous)
    third = _ready(assignment is not None, generation, now, previous)
    status["conditions"] = [first, second, *([third] if third else [])]
    return {**head, "status": status}


def _ready(assigned: bool, generation: int, now: str, previous: object) -> dict[str, object] | None:
    """The operator's word on Ready, which is the agent's to give: while the object is not served, which no agent says,
    and until one has said anything. Tools take an object that was looked at and has no Ready for one that is ready."""
    if not assigned:
        text = "Not served: the object is not accepted"
        return condition(ConditionType.READY, False, Reason.NOT_ACCEPTED, text, generation, now, previous)
    said = ready_said(previous)
    if said is not None and said[1] not in OPERATORS_READY:
        return None
    text = "No node has said yet that it is Active"
    return condition(ConditionType.READY, None, Reason.PENDING, text, generation, now, previous)


def said_anew(body: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``operator_status`` said, for the object as it is now: its status has changed meanwhile. None: it is another
    object, or another spec, about which nothing is decided yet."""
    head, status, metadata = body["metadata"], body["status"], live.get("metadata") or {}
    if (metadata.get("uid"), metadata.get("generation")) != (head.get("uid"), status["observedGeneration"]):
        return None
    said = ready_said((live.get("status") or {}).get("conditions"))
    by_agent = said is not None and said[1] not in OPERATORS_READY
    conditions = [
        item
        for item in status["conditions"]
        if not (by_agent and item["type"] == ConditionType.READY and item["reason"] == Reason.PENDING)
    ]
    return {
        **body,
        "metadata": {**head, "resourceVersion": metadata.get("resourceVersion")},
        "status": {**status, "conditions": conditions},
    }


def ready_said(conditions: object) -> tuple[object, object] | None:
    """Status and reason of Ready in ``status.conditions`` as read; None: it is not there."""
    for item in conditions if isinstance(conditions, list | tuple) else ():
        if isinstance(item, Mapping) and item.get("type") == ConditionType.READY:
            return item.get("status"), item.get("reason")
    return None


def left_by_agents(obj: Mapping[str, object]) -> bool:
    """Whether the status tells of a node that was Active: what an agent wrote stays until somebody takes it away."""
    status = obj.get("status")
    found = status if isinstance(status, Mapping) else {}
    conditions = found.get("conditions")
    if found.get("active") or found.get("backends"):
        return True
    said = ready_said(conditions)
    if said is not None and said[1] not in OPERATORS_READY:
        return True
    own = (ConditionType.ACCEPTED, ConditionType.RESOLVED_REFS, ConditionType.READY)
    listed = conditions if isinstance(conditions, list | tuple) else ()
    return any(isinstance(item, Mapping) and item.get("type") not in own for item in listed)


def nothing_of_agents(obj: Mapping[str, object]) -> dict[str, object]:
    """The apply, in the agents' name, that takes away all that they wrote."""
    return {**_read(obj)[0], "status": {}}


def agent_status(
    obj: Mapping[str, object],
    *,
    node: str,
    since: str,
    ready: int,
    total: int,
    problems: Iterable[Problem],
    now: str,
    kept: tuple[bool, str, str] | None = None,
    health: tuple[bool | None, str, str] | None = None,
    active: bool = True,
) -> dict[str, object]:
    """The Active node's whole apply for one VirtualService; or, where no node is known to be ``active``, of one that
    says why it is not.

    since: when the node became Active, RFC 3339. ready, total: backends with weight above 0, and all. problems: those
    of this object; those with condition Programmed, Ready, ElectionHealthy or NodeHealthy count. kept: of
    ConnectionsSurvive.
    """
    head, generation, previous = _read(obj)
    found = tuple(problems)
    failed = [p for p in found if p.condition == ConditionType.PROGRAMMED]
    noticed = [p for p in found if p.condition == ConditionType.ELECTION_HEALTHY]
    spoiled = [p for p in found if p.condition == ConditionType.NODE_HEALTHY]
    lacking = [p for p in found if p.condition == ConditionType.READY]
    if failed:
        programmed: _Verdict = (False, failed[0].reason, _messages(failed))
    else:
        programmed = (True, Reason.PROGRAMMED, f"The tables of node {node} are complete")
    final: _Verdict
    if failed:
        final = (False, Reason.NOT_PROGRAMMED, f"The tables of node {node} are not complete")
    elif not active:
        final = (False, Reason.NO_ACTIVE, f"Node {node} is not Active, and knows of no node that is")
    elif lacking:
        final = (False, lacking[0].reason, _messages(lacking))
    elif ready == 0:
        text = f"No backend is ready ({total} draining)" if total else "No backend"
        final = (False, Reason.NO_ENDPOINTS, health[2] if health is not None and health[0] is False else text)
    else:
        final = (True, Reason.READY, f"Node {node} is Active with {ready} of {total} backends ready")
    if noticed:
        election: _Verdict = (False, noticed[0].reason, _messages(noticed))
    else:
        election = (True, Reason.AS_EXPECTED, f"Node {node} noticed nothing unusual")
    if spoiled:
        healthy: _Verdict = (False, spoiled[0].reason, _messages(spoiled))
    else:
        healthy = (True, Reason.AS_EXPECTED, f"Nothing on node {node} asks for a look")
    verdicts: list[tuple[ConditionType, _Verdict]] = [
        (ConditionType.PROGRAMMED, programmed),
        (ConditionType.READY, final),
        (ConditionType.ELECTION_HEALTHY, election),
        (ConditionType.NODE_HEALTHY, healthy),
    ]
    if health is not None:
        verdicts.append((ConditionType.BACKENDS_HEALTHY, health))
    if kept is not None:
        verdicts.append((ConditionType.CONNECTIONS_SURVIVE, kept))
    return {
        **head,
        "status": {
            **({"active": {"node": node, "since": since}} if active else {}),
            "backends": {"ready": ready, "total": total},
            "conditions": [condition(kind, *verdict, generation, now, previous) for kind, verdict in verdicts],
        },
    }


_Verdict = tuple[bool | None, str, str]
"""Status, reason and message of a condition."""


def _messages(problems: Sequence[Problem]) -> str:
    return "; ".join(problem.message for problem in problems)


def _read(obj: Mapping[str, object]) -> tuple[dict[str, Any], int, object]:
    """Head of the apply, generation, and the conditions as they stand."""
    found = obj.get("metadata")
    metadata = found if isinstance(found, Mapping) else {}
    head = {name: metadata[name] for name in ("name", "namespace") if metadata.get(name)}
    generation = metadata.get("generation")
    status = obj.get("status")
    conditions = status.get("conditions") if isinstance(status, Mapping) else None
    return (
        {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": head},
        generation if isinstance(generation, int) else 0,
        conditions,
    )
