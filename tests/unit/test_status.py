"""Conditions and the two applies: each writes only what it owns, and times move only with the status."""

from typing import Any

import pytest

from lvsapi.errors import SpecError
from lvsapi.model import ObjectKey, Problem
from lvsapi.parse import parse_virtual_service
from lvsapi.status import (
    MESSAGE_LENGTH,
    ConditionType,
    Reason,
    agent_status,
    condition,
    operator_status,
    refused,
    said_anew,
)
from tests.gen import assignment, raw_virtual_service

pytestmark = pytest.mark.unit

KEY = ObjectKey("default", "web")
WARNINGS = ("ElectionHealthy", "NodeHealthy")
THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def problem(kind: str, reason: str, message: str = "it is so") -> Problem:
    return Problem(key=KEY, condition=kind, reason=reason, message=message)


def conditions(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """(status, reason) by type."""
    return {c["type"]: (c["status"], c["reason"]) for c in found["status"]["conditions"]}


def test_a_condition_has_the_fields_of_metav1() -> None:
    assert condition(ConditionType.READY, None, Reason.READY, "m", 3, NOW) == {
        "type": "Ready",
        "status": "Unknown",
        "reason": "Ready",
        "message": "m",
        "observedGeneration": 3,
        "lastTransitionTime": NOW,
    }


@pytest.mark.parametrize(
    ("previous", "since"),
    [
        ([{"type": "Ready", "status": "True", "lastTransitionTime": THEN}], THEN),
        ([{"type": "Ready", "status": "False", "lastTransitionTime": THEN}], NOW),
        ([{"type": "Accepted", "status": "True", "lastTransitionTime": THEN}], NOW),
        ([{"type": "Ready", "status": "True", "lastTransitionTime": None}, 7], NOW),
        ("x", NOW),
        (None, NOW),
    ],
)
def test_the_transition_time_moves_only_with_the_status(previous: object, since: str) -> None:
    found = condition(ConditionType.READY, True, Reason.READY, "another message", 1, NOW, previous)
    assert found["lastTransitionTime"] == since


def test_a_long_message_is_cut() -> None:
    found = condition(ConditionType.READY, True, Reason.READY, "x" * 5000, 1, NOW)
    assert len(str(found["message"])) == MESSAGE_LENGTH


def test_the_operator_applies_what_it_decided() -> None:
    found = operator_status(raw_virtual_service(), assignment(203, {"n1": 250}), (), NOW)
    assert found["apiVersion"] == "lvsdr.io/v1alpha1"
    assert found["kind"] == "VirtualService"
    assert found["metadata"] == {"name": "web", "namespace": "default"}
    status = found["status"]
    assert isinstance(status, dict)
    assert set(status) == {"observedGeneration", "virtualRouterID", "directors", "conditions"}
    assert status["directors"] == [{"node": "n1", "priority": 250}]
    assert conditions(found) == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
        "Ready": ("Unknown", "Pending"),
    }
    again = {**raw_virtual_service(), "status": status}
    assert parse_virtual_service(again).assigned == assignment(203, {"n1": 250})
    assert operator_status(again, assignment(203, {"n1": 250}), (), "2027-01-01T00:00:00Z") == found


def test_a_refused_object_loses_its_assignment_and_says_every_reason() -> None:
    problems = (
        problem("Accepted", "AddressConflict", "one"),
        problem("Accepted", "AddressNotInPool", "two"),
        problem("Programmed", "ProgrammingFailed", "not for the operator"),
    )
    found = operator_status(raw_virtual_service(), None, problems, NOW)
    assert set(found["status"]) == {"observedGeneration", "conditions"}  # type: ignore[call-overload]
    assert conditions(found) == {
        "Accepted": ("False", "AddressConflict"),
        "ResolvedRefs": ("Unknown", "NotAccepted"),
        "Ready": ("False", "NotAccepted"),
    }
    assert found["status"]["conditions"][0]["message"] == "one; two"  # type: ignore[index]


def test_what_was_said_is_said_of_the_same_object_whose_status_has_changed_and_of_no_other() -> None:
    obj = raw_virtual_service()
    metadata = {**obj["metadata"], "resourceVersion": "1"}  # type: ignore[dict-item]
    body = operator_status({**obj, "metadata": metadata}, assignment(203, {"n1": 250}), (), NOW)
    assert said_anew(body, {**obj, "metadata": {**metadata, "uid": "another", "resourceVersion": "2"}}) is None
    assert said_anew(body, {**obj, "metadata": {**metadata, "generation": 2, "resourceVersion": "2"}}) is None
    assert said_anew(body, {}) is None
    live = {**obj, "metadata": {**metadata, "resourceVersion": "2"}}
    anew = said_anew(body, live)
    assert anew == {**body, "metadata": {**body["metadata"], "resourceVersion": "2"}}  # type: ignore[dict-item]
    served = {**live, "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready"}]}}
    anew = said_anew(body, served)
    assert anew is not None
    assert conditions(anew).keys() == {"Accepted", "ResolvedRefs"}
    refused = operator_status({**obj, "metadata": metadata}, None, (problem("Accepted", "Invalid"),), NOW)
    anew = said_anew(refused, served)
    assert anew is not None
    assert conditions(anew)["Ready"] == ("False", "NotAccepted")


def test_references_that_do_not_resolve_do_not_touch_acceptance() -> None:
    missing = (problem("ResolvedRefs", "ServiceNotFound"),)
    found = operator_status(raw_virtual_service(), assignment(203, {"n1": 250}), missing, NOW)
    assert conditions(found) == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("False", "ServiceNotFound"),
        "Ready": ("Unknown", "Pending"),
    }


def test_an_object_that_does_not_parse_is_refused_with_every_field() -> None:
    with pytest.raises(SpecError) as caught:
        parse_virtual_service(raw_virtual_service(scheduler="x", forwarding="y"))
    found = refused(KEY, caught.value)
    assert (found.condition, found.reason) == ("Accepted", "Invalid")
    assert "spec.scheduler: 'x'" in found.message
    assert "spec.forwarding: 'y'" in found.message


@pytest.mark.parametrize(
    ("ready", "total", "problems", "wanted"),
    [
        (2, 3, (), {"Programmed": ("True", "Programmed"), "Ready": ("True", "Ready")}),
        (0, 2, (), {"Programmed": ("True", "Programmed"), "Ready": ("False", "NoEndpoints")}),
        (0, 0, (), {"Programmed": ("True", "Programmed"), "Ready": ("False", "NoEndpoints")}),
        (
            2,
            2,
            (problem("Programmed", "ProgrammingFailed"), problem("ResolvedRefs", "PortNotFound")),
            {"Programmed": ("False", "ProgrammingFailed"), "Ready": ("False", "NotProgrammed")},
        ),
    ],
)
def test_the_active_nodes_agent_applies_what_it_holds(
    ready: int, total: int, problems: tuple[Problem, ...], wanted: dict[str, tuple[str, str]]
) -> None:
    obj = raw_virtual_service()
    found = agent_status(obj, node="n1", since=THEN, ready=ready, total=total, problems=problems, now=NOW)
    status = found["status"]
    assert isinstance(status, dict)
    assert set(status) == {"active", "backends", "conditions"}
    assert status["active"] == {"node": "n1", "since": THEN}
    assert status["backends"] == {"ready": ready, "total": total}
    assert conditions(found) == {**wanted, **dict.fromkeys(WARNINGS, ("True", "AsExpected"))}


def test_a_node_that_is_not_active_does_not_say_that_the_object_is_ready() -> None:
    """The first director speaks where nobody is known to be Active, whatever it is that it noticed."""
    noticed = (problem("ElectionHealthy", "AddressConflict", "02:00:00:00:00:09 has 10.0.0.1"),)
    found = agent_status(
        raw_virtual_service(), node="n1", since=THEN, ready=3, total=3, problems=noticed, now=NOW, active=False
    )
    assert conditions(found)["Ready"] == ("False", "NoActive")
    assert conditions(found)["ElectionHealthy"] == ("False", "AddressConflict")
    assert "active" not in found["status"]  # type: ignore[operator]
    assert "is Active with" not in str(found)


def test_an_address_that_is_not_served_makes_the_object_not_ready() -> None:
    lacking = (problem("Ready", "AddressConflict", "10.0.0.1 is not served"),)
    found = agent_status(raw_virtual_service(), node="n1", since=THEN, ready=3, total=3, problems=lacking, now=NOW)
    assert conditions(found)["Ready"] == ("False", "AddressConflict")
    assert "10.0.0.1 is not served" in str(found)


def test_what_the_election_noticed_is_a_condition_of_its_own() -> None:
    noticed = (problem("ElectionHealthy", "ForeignVRID", "10.0.0.9 speaks on VRID 51"),)
    found = agent_status(raw_virtual_service(), node="n1", since=THEN, ready=1, total=1, problems=noticed, now=NOW)
    assert conditions(found) == {
        "Programmed": ("True", "Programmed"),
        "Ready": ("True", "Ready"),
        "ElectionHealthy": ("False", "ForeignVRID"),
        "NodeHealthy": ("True", "AsExpected"),
    }
    assert "10.0.0.9 speaks on VRID 51" in str(found)


def test_what_spoils_the_nodes_data_path_is_a_condition_of_its_own() -> None:
    spoiled = (problem("NodeHealthy", "TablesContested", "Probably kube-proxy"),)
    found = agent_status(raw_virtual_service(), node="n1", since=THEN, ready=1, total=1, problems=spoiled, now=NOW)
    assert conditions(found)["NodeHealthy"] == ("False", "TablesContested")
    assert conditions(found)["Ready"] == ("True", "Ready")
    assert "Probably kube-proxy" in str(found)


def test_a_damaged_object_still_gets_a_status() -> None:
    found = operator_status({"metadata": "x", "status": 3}, None, (), NOW)
    assert found["metadata"] == {}
    assert found["status"]["observedGeneration"] == 0  # type: ignore[index]
