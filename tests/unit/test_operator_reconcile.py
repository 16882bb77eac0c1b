"""The operator's thinking, without a cluster: objects in, writes out."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsapi.model import ObjectKey
from lvsoperator.core.manifests import agent_daemonset
from lvsoperator.core.reconcile import Decision, Observed, is_written, reconcile
from lvsoperator.settings import Settings

pytestmark = pytest.mark.unit

SETTINGS = Settings()
NOW = "2026-11-23T10:00:00Z"
LATER = "2026-11-23T11:00:00Z"


def virtual_service(name: str, address: str, *, created: int = 0, service: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lvsdr.io/v1alpha1",
        "kind": "VirtualService",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "generation": 1,
            "creationTimestamp": f"2026-11-23T09:00:{created:02}Z",
        },
        "spec": {"addresses": [address], "ports": [{"port": 80}], "serviceRef": {"name": service}, **spec},
    }


def vsc(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lvsdr.io/v1alpha1",
        "kind": "VirtualServiceClass",
        "metadata": {"name": name, "uid": f"uid-{name}", "generation": 1},
        "spec": spec,
    }


def service(name: str = "web", *ports: dict[str, Any]) -> dict[str, Any]:
    listed = list(ports) or [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"ports": listed}}


def node(number: int, *more: str) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": address} for address in (f"192.168.139.{100 + number}", *more)]
    return {
        "metadata": {"name": f"node{number}", "labels": {"kubernetes.io/os": "linux"}},
        "status": {"addresses": addresses},
    }


NODES = (node(1), node(2), node(3))


def cluster(*objects: dict[str, Any], **more: Any) -> Observed:
    return Observed(**{"virtual_services": objects, "services": (service(),), "nodes": NODES, **more})


def decide(observed: Observed, now: str = NOW) -> Decision:
    return reconcile(observed, SETTINGS, now)


def carried_out(observed: Observed, decision: Decision) -> Observed:
    """What the API server would answer after the writes: own fields replaced, the agents' kept."""
    bodies = {body["metadata"]["name"]: body["status"] for body in decision.statuses}
    objects = []
    for listed in observed.virtual_services:
        obj: dict[str, Any] = copy.deepcopy(dict(listed))
        if (body := bodies.get(obj["metadata"]["name"])) is not None:
            old = obj.get("status", {})
            own = {c["type"] for c in body["conditions"]} | {"Accepted", "ResolvedRefs"}
            foreign = [c for c in old.get("conditions", []) if c["type"] not in own]
            kept = {k: v for k, v in old.items() if k in ("active", "backends")}
            obj["status"] = {**kept, **body, "conditions": body["conditions"] + foreign}
        objects.append(obj)
    return Observed(
        virtual_services=tuple(objects),
        classes=observed.classes,
        services=observed.services,
        nodes=observed.nodes,
        daemonset=decision.daemonset or observed.daemonset,
        owner_uid=observed.owner_uid,
    )


def settled(observed: Observed) -> Observed:
    return carried_out(observed, decide(observed))


def replaced(observed: Observed, **more: Any) -> Observed:
    parts = {name: getattr(observed, name) for name in Observed.__dataclass_fields__}
    return Observed(**{**parts, **more})


def status(decision: Decision, name: str = "web") -> dict[str, Any]:
    (body,) = [body for body in decision.statuses if body["metadata"]["name"] == name]
    found: dict[str, Any] = body["status"]
    return found


def condition(decision: Decision, type_: str, name: str = "web") -> Mapping[str, Any]:
    (found,) = [item for item in status(decision, name)["conditions"] if item["type"] == type_]
    return dict(found)


def test_a_lone_virtual_service_is_accepted_with_a_virtual_router_and_every_node_as_director() -> None:
    decision = decide(cluster(virtual_service("web", "192.168.139.123")))
    found = status(decision)
    assert found["virtualRouterID"] == 200
    assert {d["node"] for d in found["directors"]} == {"node1", "node2", "node3"}
    assert len({d["priority"] for d in found["directors"]}) == 3
    assert condition(decision, "Accepted")["status"] == "True"
    assert condition(decision, "ResolvedRefs")["status"] == "True"
    assert condition(decision, "Accepted")["observedGeneration"] == 1
    assert condition(decision, "Accepted")["lastTransitionTime"] == NOW
    assert [(i.key, i.virtual_router_id, i.class_name) for i in decision.infos] == [
        (ObjectKey("default", "web"), 200, "default")
    ]
    assert decision.notes == ()


def test_a_write_carries_the_name_of_its_object_and_its_status_and_nothing_of_the_users() -> None:
    (body,) = decide(cluster(virtual_service("web", "192.168.139.123"))).statuses
    assert body["metadata"] == {"name": "web", "namespace": "default"}
    assert set(body) == {"apiVersion", "kind", "metadata", "status"}


def test_a_write_is_for_the_object_as_it_was_read() -> None:
    obj = virtual_service("web", "192.168.139.123")
    obj["metadata"]["resourceVersion"] = "17"
    (body,) = decide(cluster(obj)).statuses
    assert body["metadata"]["resourceVersion"] == "17"


def test_a_second_pass_writes_nothing_at_any_later_time() -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123"), virtual_service("bad", "127.0.0.1")))
    again = decide(observed, LATER)
    assert (again.statuses, again.daemonset, again.notes) == ((), None, ())
    assert [info.key.name for info in again.infos] == ["web"]


def test_what_the_agents_write_into_status_is_no_reason_to_write() -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123")))
    obj = copy.deepcopy(dict(observed.virtual_services[0]))
    obj["status"] |= {"active": {"node": "node1", "since": NOW}, "backends": {"ready": 3, "total": 3}}
    by_agent = {"type": "Ready", "status": "True", "reason": "Ready"}
    obj["status"]["conditions"] = [by_agent, *(c for c in obj["status"]["conditions"] if c["type"] != "Ready")]
    decision = decide(replaced(observed, virtual_services=(obj,)))
    assert (decision.statuses, decision.withdrawn) == ((), ())


def test_an_object_is_not_ready_while_it_is_refused_and_not_known_to_be_until_a_node_is_active() -> None:
    decision = decide(cluster(virtual_service("web", "192.168.139.123"), virtual_service("bad", "127.0.0.1")))
    said = {name: condition(decision, "Ready", name) for name in ("web", "bad")}
    assert {name: (ready["status"], ready["reason"]) for name, ready in said.items()} == {
        "web": ("Unknown", "Pending"),
        "bad": ("False", "NotAccepted"),
    }


def test_what_agents_said_of_an_object_is_taken_away_when_nobody_serves_it_any_more() -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123")))
    obj = copy.deepcopy(dict(observed.virtual_services[0]))
    obj["status"] |= {"active": {"node": "node1", "since": NOW}, "backends": {"ready": 3, "total": 3}}
    obj["status"]["conditions"][2] |= {"status": "True", "reason": "Ready"}
    served = decide(replaced(observed, virtual_services=(obj,)))
    assert (served.statuses, served.withdrawn) == ((), ())
    obj["metadata"]["generation"] = 2
    obj["spec"]["addresses"] = ["192.168.139.101"]
    refused = decide(replaced(observed, virtual_services=(obj,)))
    assert condition(refused, "Ready")["status"] == "False"
    (body,) = refused.withdrawn
    assert body["metadata"] == {"name": "web", "namespace": "default"}
    assert body["status"] == {}


@pytest.mark.parametrize("left", [{"active": {"node": "node1"}}, {"backends": {"ready": 1}}, {"Programmed": "True"}])
def test_whatever_is_left_of_the_agents_word_is_taken_away(left: dict[str, Any]) -> None:
    observed = settled(cluster(virtual_service("bad", "127.0.0.1")))
    obj = copy.deepcopy(dict(observed.virtual_services[0]))
    assert decide(replaced(observed, virtual_services=(obj,))).withdrawn == ()
    if "Programmed" in left:
        obj["status"]["conditions"].append({"type": "Programmed", "status": "True"})
    else:
        obj["status"] |= left
    assert len(decide(replaced(observed, virtual_services=(obj,))).withdrawn) == 1


@pytest.mark.parametrize("tamper", ["virtualRouterID", "directors", "observedGeneration", "condition"])
def test_a_status_that_somebody_changed_is_written_again(tamper: str) -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123")))
    obj = copy.deepcopy(dict(observed.virtual_services[0]))
    if tamper == "condition":
        obj["status"]["conditions"] = obj["status"]["conditions"][1:]
    else:
        del obj["status"][tamper]
    assert len(decide(replaced(observed, virtual_services=(obj,))).statuses) == 1


def test_a_new_generation_is_observed_and_a_steady_condition_keeps_its_time() -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123")))
    obj = copy.deepcopy(dict(observed.virtual_services[0]))
    obj["metadata"]["generation"] = 2
    obj["spec"]["scheduler"] = "wlc"
    decision = decide(replaced(observed, virtual_services=(obj,)), LATER)
    assert status(decision)["observedGeneration"] == 2
    assert condition(decision, "Accepted")["observedGeneration"] == 2
    assert condition(decision, "Accepted")["lastTransitionTime"] == NOW


def test_one_bad_object_stops_no_other_and_names_all_its_fields() -> None:
    bad = virtual_service("bad", "127.0.0.1", scheduler="best")
    decision = decide(cluster(bad, virtual_service("web", "192.168.139.123")))
    assert condition(decision, "Accepted")["status"] == "True"
    refused = condition(decision, "Accepted", "bad")
    assert (refused["status"], refused["reason"]) == ("False", "Invalid")
    assert "spec.addresses[0]: '127.0.0.1'" in refused["message"]
    assert "spec.scheduler: 'best'" in refused["message"]
    assert "virtualRouterID" not in status(decision, "bad")
    assert [info.key.name for info in decision.infos] == ["web"]


def test_a_refused_object_gets_one_event_and_no_second_one_for_the_same_reason() -> None:
    observed = cluster(virtual_service("bad", "127.0.0.1"))
    (note,) = decide(observed).notes
    assert (note.key.name, note.uid, note.reason) == ("bad", "uid-bad", "Invalid")
    assert note.name.startswith("bad.")
    assert len(note.name) <= 253
    after = settled(observed)
    changed = copy.deepcopy(dict(after.virtual_services[0]))
    changed["metadata"]["generation"] = 2  # the same mistake in a newer spec: the status is news, the refusal is not
    again = decide(replaced(after, virtual_services=(changed,)), LATER)
    assert (len(again.statuses), again.notes) == (1, ())
    changed["spec"]["addresses"] = ["224.0.0.1"]
    (other,) = decide(replaced(after, virtual_services=(changed,)), LATER).notes
    assert other.name != note.name


def test_a_missing_service_is_a_condition_and_takes_no_virtual_router_away() -> None:
    decision = decide(cluster(virtual_service("web", "192.168.139.123", service="absent")))
    assert condition(decision, "Accepted")["status"] == "True"
    refs = condition(decision, "ResolvedRefs")
    assert (refs["status"], refs["reason"]) == ("False", "ServiceNotFound")
    assert "default/absent" in refs["message"]
    assert status(decision)["virtualRouterID"] == 200


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ([{"port": 80, "targetPort": "metrics"}], "http (TCP 80)"),
        ([{"port": 53, "protocol": "UDP"}], "no UDP port 53"),
    ],
)
def test_a_port_that_the_service_does_not_have_is_a_condition_that_names_those_it_has(
    ports: list[dict[str, Any]], words: str
) -> None:
    decision = decide(cluster(virtual_service("web", "192.168.139.123", ports=ports)))
    refs = condition(decision, "ResolvedRefs")
    assert (refs["status"], refs["reason"]) == ("False", "PortNotFound")
    assert words in refs["message"]


def test_a_service_that_appears_heals_the_condition() -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123"), services=()))
    decision = decide(replaced(observed, services=(service(),)), LATER)
    assert condition(decision, "ResolvedRefs")["status"] == "True"
    assert condition(decision, "ResolvedRefs")["lastTransitionTime"] == LATER
    assert condition(decision, "Accepted")["lastTransitionTime"] == NOW


def test_the_older_of_two_objects_with_one_address_and_port_wins_and_the_other_names_it() -> None:
    decision = decide(
        cluster(
            virtual_service("young", "192.168.139.123", created=9), virtual_service("old", "192.168.139.123", created=1)
        )
    )
    assert condition(decision, "Accepted", "old")["status"] == "True"
    refused = condition(decision, "Accepted", "young")
    assert (refused["status"], refused["reason"]) == ("False", "AddressConflict")
    assert "default/old" in refused["message"]
    assert condition(decision, "ResolvedRefs", "young")["status"] == "Unknown"


def test_the_loser_takes_over_when_the_winner_is_gone() -> None:
    observed = settled(
        cluster(
            virtual_service("young", "192.168.139.123", created=9), virtual_service("old", "192.168.139.123", created=1)
        )
    )
    decision = decide(replaced(observed, virtual_services=observed.virtual_services[:1]), LATER)
    assert condition(decision, "Accepted", "young")["status"] == "True"


def test_a_vip_that_is_a_nodes_own_address_is_refused() -> None:
    refused = condition(decide(cluster(virtual_service("web", "192.168.139.102"))), "Accepted")
    assert (refused["status"], refused["reason"]) == ("False", "AddressOfNode")
    assert "node2" in refused["message"]


def test_an_empty_list_of_virtual_services_writes_nothing() -> None:
    served = settled(cluster(virtual_service("web", "192.168.139.123")))
    decision = decide(replaced(served, virtual_services=()))
    assert (decision.statuses, decision.notes, decision.infos, decision.daemonset) == ((), (), (), None)


def test_objects_without_a_name_are_passed_over() -> None:
    observed = cluster(virtual_service("web", "192.168.139.123"))
    observed = replaced(
        observed,
        virtual_services=({}, {"metadata": {"name": 7}}, *observed.virtual_services),
        services=({}, *observed.services),
        nodes=({}, *observed.nodes),
        classes=({},),
    )
    assert condition(decide(observed), "Accepted")["status"] == "True"


def test_the_daemonset_is_applied_when_it_is_missing_or_differs_and_not_otherwise() -> None:
    wanted = agent_daemonset(SETTINGS, "uid")
    assert decide(cluster(owner_uid="uid")).daemonset == wanted
    assert decide(cluster(owner_uid="uid", daemonset=wanted)).daemonset is None
    assert decide(cluster(owner_uid="another", daemonset=wanted)).daemonset is not None


def test_agents_that_go_with_the_operators_deployment_are_not_made_anew() -> None:
    assert decide(cluster()).daemonset is not None
    assert decide(cluster(disowned=True)).daemonset is None


def test_a_status_that_is_null_counts_as_none() -> None:
    obj = virtual_service("web", "192.168.139.123")
    obj["status"] = None
    (body,) = decide(cluster(obj)).statuses
    assert not is_written(obj, body)


addresses = st.sampled_from([f"192.168.139.{n}" for n in (101, 120, 121, 122, 123)] + ["127.0.0.1", "nonsense"])
objects = st.builds(
    virtual_service,
    st.sampled_from("abcdef"),
    addresses,
    created=st.integers(0, 3),
    service=st.sampled_from(["web", "absent"]),
    className=st.sampled_from(["default", "edge", "absent", "broken"]),
    virtualRouterID=st.sampled_from([None, 200, 201, 250]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(objects, max_size=5, unique_by=lambda obj: obj["metadata"]["name"]), st.integers(0, 3), st.data())
def test_any_cluster_settles_after_a_pass_or_two_and_no_order_of_the_list_matters(
    found: list[dict[str, Any]], nodes: int, data: st.DataObject
) -> None:
    classes = (vsc("edge", addressPools=["192.168.139.120/29"]), vsc("broken", interface="a/b"))
    observed = cluster(*found, nodes=NODES[:nodes], classes=classes)
    first = decide(observed)
    shuffled = data.draw(st.permutations(found))
    other = decide(replaced(observed, virtual_services=tuple(shuffled)))
    by_name = {body["metadata"]["name"]: body for body in first.statuses}
    assert {body["metadata"]["name"]: body for body in other.statuses} == by_name
    after = carried_out(observed, first)
    second = decide(after, LATER)
    assert second.statuses == ()
    assert second.daemonset is None
