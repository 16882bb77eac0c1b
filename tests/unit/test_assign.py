"""Assignment: who gets an address, which virtual router carries it, which nodes may hold it; the same everywhere."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsapi.assign import assign, rank, with_assignments
from lvsapi.model import Snapshot, VirtualService, VirtualServiceClass
from lvsapi.resolve import resolve
from lvsapi.status import ConditionType, Reason
from tests.gen import assignment, node, nodes, port, service_class, snapshot, virtual_service

pytestmark = pytest.mark.unit

OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def reasons(found: Snapshot) -> dict[str, str]:
    """Reason by object; all are about Accepted."""
    problems = assign(found).problems
    assert {p.condition for p in problems} <= {ConditionType.ACCEPTED}
    return {str(p.key): str(p.reason) for p in problems}


def vrids(found: Snapshot) -> dict[str, int]:
    return {key.name: a.virtual_router_id for key, a in assign(found).assignments.items()}


def test_one_object_alone_gets_the_first_vrid_and_every_node_as_director() -> None:
    found = assign(snapshot(virtual_service()))
    (given_,) = found.assignments.values()
    assert given_.virtual_router_id == 200
    assert sorted(d.node for d in given_.directors) == ["node1", "node2", "node3"]
    assert [d.priority for d in given_.directors] == [250, 238, 226]
    assert found.problems == ()


def test_objects_spread_over_the_least_loaded_routers() -> None:
    services = [virtual_service(f"s{n:02}", addresses=[f"10.0.0.{n}"]) for n in range(1, 19)]
    found = vrids(snapshot(*services))
    assert [found[f"s{n:02}"] for n in range(1, 19)] == [*range(200, 216), 200, 201]


def test_who_has_a_vrid_keeps_it_while_the_class_allows_it() -> None:
    kept = virtual_service("kept", addresses=["10.0.0.1"], assigned=assignment(209), created=NEW)
    moved = virtual_service("moved", addresses=["10.0.0.2"], assigned=assignment(9))
    assert vrids(snapshot(kept, moved)) == {"kept": 209, "moved": 200}


def test_the_vrid_that_is_asked_for_wins_also_outside_the_range() -> None:
    asked = virtual_service(vrid=7, assigned=assignment(201))
    assert vrids(snapshot(asked)) == {"web": 7}


def test_objects_that_share_an_address_share_the_router() -> None:
    first = virtual_service("first", assigned=assignment(205))
    second = virtual_service("second", ports=[443], created=NEW, assigned=assignment(206))
    bridge = virtual_service("bridge", ports=[22], addresses=["192.168.139.123", "10.0.0.1"], created=NEW)
    third = virtual_service("third", ports=[25], addresses=["10.0.0.1"], assigned=assignment(207))
    assert vrids(snapshot(second, bridge, first, third)) == dict.fromkeys(("first", "second", "bridge", "third"), 205)


def test_sharing_objects_that_ask_for_two_vrids_cannot_both_have_theirs() -> None:
    found = snapshot(virtual_service("a", vrid=5), virtual_service("b", vrid=6, ports=[443], created=NEW))
    assert reasons(found) == {"default/b": "VirtualRouterIDConflict"}
    assert vrids(found) == {"a": 5}


def test_a_router_carries_64_addresses_of_each_family() -> None:
    full = virtual_service("full", addresses=[f"10.0.0.{n}" for n in range(1, 65)])
    six = virtual_service("six", addresses=["2001:db8::1"], created=NEW)
    more = virtual_service("more", addresses=["10.0.1.1"], created=NEW, assigned=assignment(200))
    small = service_class(vrids=(200, 200))
    found = snapshot(full, six, more, classes=[small])
    assert vrids(found) == {"more": 200, "six": 200}
    (problem,) = assign(found).problems
    assert problem.reason == "NoFreeVirtualRouterID"
    assert "class default has no free virtual router: each of 200-200" in problem.message
    assert vrids(snapshot(full, more)) == {"full": 201, "more": 200}


def test_a_full_router_that_is_asked_for_refuses_the_youngest() -> None:
    full = virtual_service("full", vrid=9, addresses=[f"10.0.0.{n}" for n in range(1, 65)])
    late = virtual_service("late", vrid=9, addresses=["10.0.1.1"], created=NEW)
    assert reasons(snapshot(full, late)) == {"default/late": "NoFreeVirtualRouterID"}


def test_two_classes_never_use_one_vrid_on_a_network_they_may_share() -> None:
    classes = [service_class("a", vrids=(10, 10)), service_class("b", vrids=(10, 10))]
    one = virtual_service("one", class_name="a", addresses=["10.0.0.1"])
    two = virtual_service("two", class_name="b", addresses=["10.0.0.2"], created=NEW)
    asks = virtual_service("asks", class_name="b", addresses=["10.0.0.3"], vrid=11)
    rival = virtual_service("rival", class_name="a", addresses=["10.0.0.4"], vrid=11, created=NEW)
    found = snapshot(one, two, asks, rival, classes=classes)
    assert reasons(found) == {"default/two": "NoFreeVirtualRouterID", "default/rival": "VirtualRouterIDConflict"}
    apart = [service_class("a", vrids=(10, 10), interface="eth0"), service_class("b", vrids=(10, 10), interface="eth1")]
    assert vrids(snapshot(one, two, classes=apart)) == {"one": 10, "two": 10}


@pytest.mark.parametrize(
    ("loser", "named"),
    [
        (virtual_service("new", created=NEW), "TCP port 80 of 192.168.139.123 is in use by the older VirtualService "),
        (virtual_service("new", namespace="shop", ports=[443], created=NEW), "in another namespace"),
        (virtual_service("new", class_name="edge", ports=[443], created=NEW), "with class default"),
        (virtual_service("new", uid="uid-default-z"), "TCP port 80"),
    ],
)
def test_the_older_object_has_the_address_and_the_loser_is_told_who(loser: VirtualService, named: str) -> None:
    found = assign(snapshot(loser, virtual_service("web"), classes=[service_class("edge")]))
    assert [key.name for key in found.assignments] == ["web"]
    (problem,) = found.problems
    assert (problem.key, problem.reason) == (loser.key, "AddressConflict")
    assert "default/web" in problem.message
    assert named in problem.message


def test_one_address_serves_several_ports_and_protocols() -> None:
    services = [
        virtual_service("tcp", ports=[53]),
        virtual_service("udp", ports=[port(53, "UDP")]),
        virtual_service("other", ports=[54]),
    ]
    assert reasons(snapshot(*services)) == {}


def test_a_refused_object_claims_nothing() -> None:
    refused = virtual_service("a", class_name="none")
    younger = virtual_service("b", created=NEW)
    found = snapshot(refused, younger)
    assert reasons(found) == {"default/a": "ClassNotFound"}
    assert vrids(found) == {"b": 200}


def test_what_the_class_does_not_allow_is_refused() -> None:
    strict = service_class("edge", pools=["10.0.0.0/24"], namespaces=["shop"])
    found = snapshot(virtual_service(class_name="edge"), classes=[strict])
    assert [p.reason for p in assign(found).problems] == ["NamespaceNotAllowed", "AddressNotInPool"]
    assert "10.0.0.0/24" in assign(found).problems[1].message
    good = virtual_service(class_name="edge", namespace="shop", addresses=["10.0.0.5"])
    assert reasons(snapshot(good, classes=[strict])) == {}


def test_the_address_of_a_node_is_refused_with_its_name() -> None:
    found = assign(snapshot(virtual_service(addresses=["192.168.139.102"])))
    assert found.assignments == {}
    assert [p.reason for p in found.problems] == ["AddressOfNode"]
    assert "192.168.139.102 is the address of node node2" in found.problems[0].message


def test_a_class_with_version_2_takes_no_ipv6_address() -> None:
    item = virtual_service(addresses=["192.168.139.123", "2001:db8::1"])
    found = assign(snapshot(item, classes=[service_class(version=2, interval_ms=1000)]))
    (problem,) = found.problems
    assert (problem.condition, problem.reason) == ("Accepted", "AddressFamilyNotElected")
    for word in ("2001:db8::1", "class default", "version 3"):
        assert word in problem.message


def test_routers_of_a_sync_group_are_ranked_alike() -> None:
    items = [virtual_service(f"s{n}", addresses=[f"192.168.139.{120 + n}"], vrid=n) for n in range(1, 9)]

    def rankings(group: str) -> set[tuple[str, ...]]:
        found = assign(snapshot(*items, classes=[service_class(sync_group=group)])).assignments.values()
        return {tuple(d.node for d in each.directors) for each in found}

    assert len(rankings("edge")) == 1
    assert len(rankings("")) > 1


def test_named_directors_are_the_only_ones() -> None:
    fixed = service_class(directors={"dr2": 100, "dr1": 150}, selector={"no": "such"})
    (found,) = assign(snapshot(virtual_service(), classes=[fixed])).assignments.values()
    assert found.directors == assignment(200, {"dr1": 150, "dr2": 100}).directors


def test_the_selector_picks_directors_by_their_labels() -> None:
    labelled = [node("a", labels={"edge": "yes"}), node("b", labels={"edge": "no"}), node("c")]
    assert [d.node for d in rank(service_class(selector={"edge": "yes"}), 1, labelled)] == ["a"]


def test_without_any_node_directors_are_kept_and_the_problem_is_named() -> None:
    new = virtual_service("new", addresses=["10.0.0.1"])
    kept = virtual_service("kept", assigned=assignment(203))
    found = snapshot(new, kept, nodes=[], classes=[service_class(selector={"edge": "yes"})])
    assert reasons(found) == {"default/new": "NoDirectors", "default/kept": "NoDirectors"}
    assert {key.name: a for key, a in assign(found).assignments.items()} == {"kept": assignment(203)}
    assert "edge=yes" in assign(found).problems[0].message


def test_priorities_end_at_one() -> None:
    assert [d.priority for d in rank(service_class(), 1, nodes(30))][-10:] == [10] + [1] * 9


def test_ranking_spreads_routers_and_a_lost_node_moves_nothing_else() -> None:
    routers = range(1, 256)
    before = {v: [d.node for d in rank(service_class(), v, nodes(4))] for v in routers}
    tops = [order[0] for order in before.values()]
    assert min(tops.count(f"node{n}") for n in range(1, 5)) > 255 / 4 / 2
    after = {v: [d.node for d in rank(service_class(), v, nodes(3))] for v in routers}
    assert all(after[v] == [n for n in before[v] if n != "node4"] for v in routers)


objects = st.builds(
    virtual_service,
    st.sampled_from("abcdefgh"),
    namespace=st.sampled_from(["default", "shop"]),
    addresses=st.lists(st.sampled_from([f"10.0.0.{n}" for n in range(1, 7)] + ["2001:db8::1"]), min_size=1, max_size=3),
    ports=st.lists(st.integers(80, 82), min_size=1, max_size=2, unique=True),
    class_name=st.sampled_from(["default", "edge", "none"]),
    vrid=st.one_of(st.none(), st.integers(1, 3)),
    assigned=st.one_of(st.none(), st.builds(assignment, st.integers(1, 4))),
    created=st.sampled_from([OLD, NEW]),
)
CLASSES = (service_class(vrids=(1, 2)), service_class("edge", vrids=(2, 4)))


@given(st.lists(objects, max_size=8, unique_by=lambda item: item.key), st.randoms(use_true_random=False))
def test_the_order_of_the_snapshot_decides_nothing_and_deciding_again_changes_nothing(
    services: list[VirtualService], rng: random.Random
) -> None:
    found = snapshot(*services, classes=CLASSES)
    decided = assign(found)
    shuffled = list(services)
    rng.shuffle(shuffled)
    mixed = snapshot(*shuffled, classes=CLASSES[::-1], nodes=nodes()[::-1])
    assert assign(mixed) == decided
    again = assign(with_assignments(found, decided.assignments))
    assert again == decided
    assert {p.key for p in decided.problems} | set(decided.assignments) == {item.key for item in services}
    owners: dict[tuple[int, str], str] = {}
    for item in services:
        if item.key in decided.assignments:
            vrid = decided.assignments[item.key].virtual_router_id
            for address in item.addresses:
                assert owners.setdefault((0, str(address)), f"{vrid}/{item.class_name}") == f"{vrid}/{item.class_name}"
            assert owners.setdefault((vrid, ""), item.class_name) == item.class_name


def test_a_class_whose_range_is_taken_from_under_it_loses_nobody() -> None:
    served = snapshot(
        virtual_service("a", assigned=assignment(2), class_name="edge", observed_generation=1),
        virtual_service("b", addresses=["10.0.0.1"], assigned=assignment(9), observed_generation=1),
        classes=[service_class("edge", vrids=(9, 9)), service_class(vrids=(9, 9))],
    )
    assert vrids(served) == {"a": 2, "b": 9}
    assert reasons(served) == {"default/a": "NoFreeVirtualRouterID"}


def test_who_has_the_virtual_router_that_it_asks_for_keeps_it() -> None:
    late = virtual_service("late", vrid=9, assigned=assignment(9), observed_generation=1, created=NEW)
    early = virtual_service("early", addresses=["10.0.0.1"], vrid=9, class_name="edge", created=OLD)
    found = snapshot(late, early, classes=[service_class(), service_class("edge")])
    assert vrids(found) == {"late": 9}
    assert reasons(found) == {"default/early": "VirtualRouterIDConflict"}


@pytest.mark.parametrize("asks", [9, None])
def test_nobody_is_moved_from_its_virtual_router_by_another_class_that_asks_for_it(asks: int | None) -> None:
    served = virtual_service("served", vrid=asks, assigned=assignment(9), observed_generation=1, created=NEW)
    asking = virtual_service("asking", addresses=["10.0.0.1"], vrid=9, class_name="edge", created=OLD)
    found = snapshot(served, asking, classes=[service_class(vrids=(9, 10)), service_class("edge")])
    assert vrids(found) == {"served": 9}
    (problem,) = assign(found).problems
    assert problem.message == "spec.virtualRouterID: 9 is used by class default on the same network; ask for another"


WHATEVER = st.tuples(
    *(
        st.one_of(
            st.none(),
            st.builds(
                service_class,
                st.just(name),
                pools=st.sampled_from([(), ("10.0.0.0/30",), ("172.16.0.0/16",)]),
                namespaces=st.sampled_from([(), ("shop",)]),
                vrids=st.sampled_from([(1, 2), (2, 4), (9, 9), (10, 255)]),
                version=st.sampled_from([2, 3]),
                connection_sync=st.booleans(),
                directors=st.sampled_from([None, {"node2": 100}]),
            ),
        )
        for name in ("default", "edge")
    )
)


@given(
    st.lists(objects, max_size=8, unique_by=lambda item: item.key),
    WHATEVER,
    st.sampled_from([{}, {"default": "spec.interface: bad"}, {"edge": "spec.interface: bad"}]),
    st.sets(st.sampled_from([f"10.0.0.{n}" for n in range(1, 7)])),
)
def test_nothing_that_others_do_takes_an_assignment_from_whoever_is_served(
    services: list[VirtualService],
    classes: tuple[VirtualServiceClass | None, ...],
    broken: dict[str, str],
    on: set[str],
) -> None:
    """Classes are edited, broken or deleted, and a Node lists addresses that it has because it is Active."""
    before = snapshot(*services, classes=CLASSES)
    decided = assign(before)
    served = with_assignments(before, decided.assignments)
    left = [found for found in classes if found is not None and found.name not in broken]
    active = node("node1", "192.168.139.101", *sorted(on))
    after = replace(served, classes=tuple(left), nodes=(active, *nodes()[1:]))
    held = assign(after, broken)
    assert held.assignments.keys() >= decided.assignments.keys()
    for key, had in decided.assignments.items():
        assert held.assignments[key].directors
        if any(problem.key == key and problem.reason != Reason.NO_DIRECTORS for problem in held.problems):
            assert held.assignments[key].virtual_router_id == had.virtual_router_id
    again = with_assignments(after, held.assignments)
    assert assign(again, broken) == held
    resolved = resolve(again)
    assert {item.owner for item in resolved.servers} >= decided.assignments.keys()
