"""What others do takes nothing from whoever is served: the operator holds assignments (docs/decisions/0012)."""

import copy
from typing import Any

import pytest

from lvsapi.model import Snapshot
from lvsapi.parse import parse_virtual_service
from lvsapi.resolve import resolve
from tests.unit.test_operator_reconcile import (
    LATER,
    NODES,
    carried_out,
    cluster,
    condition,
    decide,
    node,
    replaced,
    settled,
    status,
    virtual_service,
    vsc,
)

pytestmark = pytest.mark.unit


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
