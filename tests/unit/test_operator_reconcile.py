"""The operator's thinking, without a cluster: objects in, writes out."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsapi.model import ObjectKey, Snapshot
from lvsapi.parse import parse_virtual_service
from lvsapi.resolve import resolve
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
            foreign = [c for c in old.get("conditions", []) if c["type"] not in ("Accepted", "ResolvedRefs")]
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


def test_a_second_pass_writes_nothing_at_any_later_time() -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123"), virtual_service("bad", "127.0.0.1")))
    again = decide(observed, LATER)
    assert (again.statuses, again.daemonset, again.notes) == ((), None, ())
    assert [info.key.name for info in again.infos] == ["web"]


def test_what_the_agents_write_into_status_is_no_reason_to_write() -> None:
    observed = settled(cluster(virtual_service("web", "192.168.139.123")))
    obj = copy.deepcopy(dict(observed.virtual_services[0]))
    obj["status"] |= {"active": {"node": "node1", "since": NOW}, "backends": {"ready": 3, "total": 3}}
    obj["status"]["conditions"].insert(0, {"type": "Ready", "status": "True"})
    assert decide(replaced(observed, virtual_services=(obj,))).statuses == ()


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


def test_a_class_that_vanishes_or_breaks_takes_nothing_from_whoever_is_served() -> None:
    served = settled(cluster(virtual_service("web", "192.168.139.123", className="edge"), classes=(vsc("edge"),)))
    before = served.virtual_services[0]["status"]
    for classes in ((), (vsc("edge", interface="a name that is far too long"),)):
        decision = decide(replaced(served, classes=classes), LATER)
        refused = condition(decision, "Accepted")
        assert (refused["status"], refused["reason"]) == ("False", "ClassNotFound")
        assert "edge" in refused["message"]
        assert status(decision)["virtualRouterID"] == before["virtualRouterID"]
        assert status(decision)["directors"] == before["directors"]
        assert [info.key.name for info in decision.infos] == ["web"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nodes": (*NODES[:-1], node(3, "192.168.139.123"))}, "AddressOfNode"),
        ({"classes": (vsc("default", addressPools=["10.0.0.0/24"]),)}, "AddressNotInPool"),
        ({"classes": (vsc("default", namespaces=["shop"]),)}, "NamespaceNotAllowed"),
    ],
)
def test_what_others_change_takes_nothing_from_whoever_is_served_and_refuses_who_is_new(
    change: dict[str, Any], reason: str
) -> None:
    """A component that writes into a Node's addresses what it finds on its interfaces withdrew the VIP everywhere."""
    served = settled(cluster(virtual_service("web", "192.168.139.123")))
    decision = decide(replaced(served, **change), LATER)
    assert (condition(decision, "Accepted")["status"], condition(decision, "Accepted")["reason"]) == ("False", reason)
    assert status(decision)["virtualRouterID"] == served.virtual_services[0]["status"]["virtualRouterID"]
    assert status(decision)["directors"] == served.virtual_services[0]["status"]["directors"]
    again = decide(replaced(carried_out(served, decision), **change), LATER)
    assert again.statuses == ()
    assert [info.key.name for info in again.infos] == ["web"]
    back = decide(carried_out(served, decision), LATER)
    assert condition(back, "Accepted")["status"] == "True"
    fresh = decide(cluster(virtual_service("web", "192.168.139.123"), **change))
    assert "virtualRouterID" not in status(fresh)


def test_an_older_object_that_is_changed_takes_no_address_from_whoever_has_it() -> None:
    served = settled(
        cluster(
            virtual_service("young", "192.168.139.123", created=9), virtual_service("old", "192.168.139.124", created=1)
        )
    )
    young, old = map(dict, copy.deepcopy(served.virtual_services))
    old["spec"]["addresses"] = ["192.168.139.123"]
    old["metadata"]["generation"] = 2
    observed = replaced(served, virtual_services=(young, old))
    parsed = Snapshot(virtual_services=tuple(map(parse_virtual_service, (young, old))))
    assert {item.owner.name for item in resolve(parsed).servers} == {"young"}, "nor for agents, which do not wait"
    decision = decide(observed, LATER)
    assert [body["metadata"]["name"] for body in decision.statuses] == ["old"]
    assert condition(decision, "Accepted", "old")["reason"] == "AddressConflict"
    assert "default/young, which had it first" in condition(decision, "Accepted", "old")["message"]
    assert "virtualRouterID" not in status(decision, "old")
    assert decide(carried_out(observed, decision), LATER).statuses == ()


def test_an_object_that_no_longer_parses_keeps_its_assignment_as_agents_keep_what_they_read() -> None:
    served = settled(cluster(virtual_service("web", "192.168.139.123")))
    obj = copy.deepcopy(dict(served.virtual_services[0]))
    obj["metadata"]["generation"] = 2
    obj["spec"]["addresses"] = ["nonsense"]
    decision = decide(replaced(served, virtual_services=(obj,)), LATER)
    assert condition(decision, "Accepted")["reason"] == "Invalid"
    assert status(decision)["virtualRouterID"] == obj["status"]["virtualRouterID"]
    assert status(decision)["directors"] == obj["status"]["directors"]


def test_a_broken_class_stops_only_its_own_objects_and_names_the_field() -> None:
    decision = decide(
        cluster(
            virtual_service("web", "192.168.139.123"),
            virtual_service("edge", "192.168.139.124", className="edge"),
            classes=(vsc("edge", interface="a/b"),),
        )
    )
    assert condition(decision, "Accepted", "web")["status"] == "True"
    refused = condition(decision, "Accepted", "edge")
    assert "spec.interface: 'a/b'" in refused["message"]
    assert "virtualRouterID" not in status(decision, "edge")


def test_a_broken_default_class_is_not_replaced_by_the_built_in_one() -> None:
    served = settled(cluster(virtual_service("web", "192.168.139.123")))
    broken = vsc("default", vrrp={"virtualRouterIDs": {"first": 9, "last": 2}})
    observed = replaced(
        served,
        classes=(broken,),
        virtual_services=(*served.virtual_services, virtual_service("new", "192.168.139.124", created=5)),
    )
    decision = decide(observed, LATER)
    assert condition(decision, "Accepted", "new")["reason"] == "ClassNotFound"
    assert "virtualRouterID" not in status(decision, "new")
    assert status(decision)["virtualRouterID"] == served.virtual_services[0]["status"]["virtualRouterID"]


def test_an_object_that_its_user_changed_is_not_held_by_what_it_had() -> None:
    served = settled(cluster(virtual_service("web", "192.168.139.123")))
    obj = copy.deepcopy(dict(served.virtual_services[0]))
    obj["metadata"]["generation"] = 2
    obj["spec"]["className"] = "absent"
    assert "virtualRouterID" not in status(decide(replaced(served, virtual_services=(obj,))))


def test_an_empty_list_of_nodes_takes_no_director_away() -> None:
    served = settled(cluster(virtual_service("web", "192.168.139.123")))
    decision = decide(replaced(served, nodes=()), LATER)
    assert condition(decision, "Accepted")["reason"] == "NoDirectors"
    assert status(decision)["directors"] == served.virtual_services[0]["status"]["directors"]


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
