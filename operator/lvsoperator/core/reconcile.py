"""The whole of the operator's thinking: everything that is, in; everything that is to be written, out. Pure.

Run again on its own result it decides nothing. It never decides to delete anything, and what it cannot understand
(an object that does not parse) concerns that object alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lvsapi import names
from lvsapi.assign import assign, with_assignments
from lvsapi.errors import SpecError
from lvsapi.model import Assignment, ObjectKey, Problem, Snapshot, VirtualService
from lvsapi.parse import assigned_in, parse_class, parse_node, parse_service, parse_virtual_service
from lvsapi.resolve import resolve
from lvsapi.status import ConditionType, left_by_agents, nothing_of_agents, operator_status, refused
from lvsapi.vrrp import AuthenticationType
from lvsoperator.core.manifests import agent_daemonset, is_applied
from lvsoperator.settings import Settings

Object = Mapping[str, Any]
T = TypeVar("T")

OWN_FIELDS = ("observedGeneration", "virtualRouterID", "directors")
"""Fields of status that only the operator writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The cluster as listed: objects as plain dicts."""

    virtual_services: tuple[Object, ...] = ()
    classes: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    nodes: tuple[Object, ...] = ()
    daemonset: Object | None = None
    owner_uid: str | None = None
    """uid of the operator's Deployment; None outside of a cluster."""
    disowned: bool = False
    """The operator's Deployment is being deleted, or is gone: the agents go with it."""
    keys: frozenset[str] | None = None
    """Names of the entries of the Secret with the election's keys, never their values; None: not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A Kubernetes Event about a refused object. The same refusal has the same name, so it is written once."""

    key: ObjectKey
    uid: str
    reason: str
    message: str

    @property
    def name(self) -> str:
        """Name of the Event."""
        text = f"{self.uid} {self.reason} {self.message}"
        return f"{self.key.name[:200]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """An accepted VirtualService, for the metric lvs_virtualservice_info."""

    key: ObjectKey
    virtual_router_id: int
    class_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A VirtualService that is not accepted, for the metric lvs_virtualservice_refused."""

    key: ObjectKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be written. Empty when everything is as it should be."""

    statuses: tuple[dict[str, Any], ...]
    """Bodies for server-side apply to the status subresource."""
    daemonset: dict[str, Any] | None
    """Body for server-side apply; None when it is in place."""
    notes: tuple[Note, ...]
    infos: tuple[Info, ...]
    keys: tuple[str, ...] = ()
    """Entries to be made, with a random key each, in the Secret with the election's keys."""
    refusals: tuple[Refusal, ...] = ()
    withdrawn: tuple[dict[str, Any], ...] = ()
    """As ``statuses``, in the agents' name: nobody serves these objects, and no agent is left who says so."""


def reconcile(observed: Observed, settings: Settings, now: str) -> Decision:
    """Everything to be written. now: RFC 3339, for lastTransitionTime."""
    raw = {key: obj for obj in observed.virtual_services if (key := _key(obj)) is not None}
    assignments, problems, infos = _decide(observed, raw)
    statuses = []
    withdrawn = []
    notes = []
    for key, obj in raw.items():
        assignment = assignments.get(key)
        if assignment is None and left_by_agents(obj):
            withdrawn.append(nothing_of_agents(obj))
        body = operator_status(obj, assignment, problems.get(key, ()), now)
        if is_written(obj, body):
            continue
        statuses.append(body)
        note = _note(key, obj, body)
        if note is not None:
            notes.append(note)
    daemonset = agent_daemonset(settings, observed.owner_uid)
    return Decision(
        statuses=tuple(statuses),
        daemonset=None if observed.disowned or is_applied(daemonset, observed.daemonset) else daemonset,
        notes=tuple(notes),
        infos=infos,
        keys=missing_keys(observed),
        refusals=tuple(
            Refusal(key=key, reason=reason)
            for key in raw
            if (reason := _why_refused(problems.get(key, ()))) is not None
        ),
        withdrawn=tuple(withdrawn),
    )


def uses_hmac(obj: Object) -> bool:
    """Whether a class, which need not parse, asks for HMAC."""
    level: Any = obj.get("spec")
    for name in ("vrrp", "authentication", "type"):
        level = level.get(name) if isinstance(level, Mapping) else None
    return bool(level == AuthenticationType.HMAC)


def missing_keys(observed: Observed) -> tuple[str, ...]:
    """First keys of classes that use HMAC and have none. Where there is any, it is somebody's, and left alone."""
    if observed.keys is None:
        return ()
    classes, _ = _classes(filter(uses_hmac, observed.classes))
    wanted = sorted(f"{item.name}.hmac." for item in classes)
    return tuple(f"{head}1" for head in wanted if not any(_numbered(name, head) for name in observed.keys))


def _numbered(name: str, head: str) -> bool:
    return name.startswith(head) and name[len(head) :].isdecimal()


def is_written(obj: Object, body: Object) -> bool:
    """Whether the object's status already says what ``body`` says; the agents' fields do not count."""
    have, want = obj.get("status") or {}, body["status"]
    if any(have.get(field) != want.get(field) for field in OWN_FIELDS):
        return False
    return all(_condition(have, item["type"]) == item for item in want["conditions"])


def _decide(
    observed: Observed, raw: Mapping[ObjectKey, Object]
) -> tuple[dict[ObjectKey, Assignment], dict[ObjectKey, list[Problem]], tuple[Info, ...]]:
    """Assignments and problems by object, and who is served."""
    problems: dict[ObjectKey, list[Problem]] = {}
    parsed: list[VirtualService] = []
    for key, obj in raw.items():
        try:
            parsed.append(parse_virtual_service(obj, pruned=True))
        except SpecError as error:
            problems.setdefault(key, []).append(refused(key, error))
    classes, broken = _classes(observed.classes)
    snapshot = Snapshot(
        virtual_services=tuple(parsed),
        classes=classes,
        services=_parsed(parse_service, observed.services),
        nodes=_parsed(parse_node, observed.nodes),
    )
    decided = assign(snapshot, broken)
    # Agents go on with what they last could read of an object: so its assignment stays.
    unread = {key: assigned for key in problems if (assigned := assigned_in(raw[key].get("status"))) is not None}
    assignments = {**unread, **decided.assignments}
    for problem in decided.problems:
        problems.setdefault(problem.key, []).append(problem)
    for problem in resolve(with_assignments(snapshot, assignments)).problems:
        if problem.condition == ConditionType.RESOLVED_REFS:
            problems.setdefault(problem.key, []).append(problem)
    infos = tuple(
        Info(
            key=item.key,
            virtual_router_id=assignments[item.key].virtual_router_id,
            class_name=item.class_name,
        )
        for item in parsed
        if item.key in assignments
    )
    return assignments, problems, infos


def _classes(objects: Iterable[Object]) -> tuple[tuple[Any, ...], dict[str, str]]:
    """Usable classes, and what is wrong with the others, by name."""
    usable = []
    broken: dict[str, str] = {}
    for obj in objects:
        try:
            usable.append(parse_class(obj, pruned=True))
        except SpecError as error:
            broken[str((obj.get("metadata") or {}).get("name"))] = "; ".join(map(str, error.errors))
    return tuple(usable), broken


def _parsed(parse: Callable[[Object], T], objects: Iterable[Object]) -> tuple[T, ...]:
    """Kubernetes' own objects, those without a name left out."""
    found = []
    for obj in objects:
        try:
            found.append(parse(obj))
        except SpecError:
            continue
    return tuple(found)


def _why_refused(problems: Iterable[Problem]) -> str | None:
    return next((str(problem.reason) for problem in problems if problem.condition == ConditionType.ACCEPTED), None)


def _key(obj: Object) -> ObjectKey | None:
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        return None
    return ObjectKey(str(metadata.get("namespace") or names.DEFAULT_NAMESPACE), metadata["name"])


def _condition(status: Object, type_: ConditionType) -> Object | None:
    return next((item for item in status.get("conditions") or () if item.get("type") == type_), None)


def _note(key: ObjectKey, obj: Object, body: Object) -> Note | None:
    """An Event when the object is refused for a reason that its status does not give yet."""
    wanted = _condition(body["status"], ConditionType.ACCEPTED)
    before = _condition(obj.get("status") or {}, ConditionType.ACCEPTED)
    assert wanted is not None
    said = before is not None and all(before.get(k) == wanted[k] for k in ("status", "reason", "message"))
    if wanted["status"] != "False" or said:
        return None
    uid = str(obj["metadata"].get("uid", ""))
    return Note(key=key, uid=uid, reason=wanted["reason"], message=wanted["message"])
