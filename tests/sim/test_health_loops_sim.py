"""Nodes that think differently of each other's pods: a packet that is sent on arrives, whatever each of them thinks.

Each node's weights are those that the real decision gives it. A packet tries backends in one order everywhere, as mh
with mh-fallback does, and a node takes the first that has weight there.
"""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.checks.messages import Verdict
from lvsagent.core.health import Watch
from lvsapi.health import CheckType, Health, HealthCheck
from lvsapi.model import IPAddress, Resolved
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service
from tests.unit.test_health import ADDRESS, facts

pytestmark = pytest.mark.sim

NODES = 4
HEALTH = Health(checks=(HealthCheck(type=CheckType.TCP),), pods=True)


def pods(homes: list[int]) -> Resolved:
    """A pod on each of these nodes."""
    found = [endpoint(f"10.244.{home}.{number + 2}", f"node{home}") for number, home in enumerate(homes)]
    return resolve(snapshot(virtual_service(assigned=assignment(), health=HEALTH), slices=[endpoint_slice(found)]))


def weights(resolved: Resolved, node: int, active: bool, good: Mapping[int, bool]) -> dict[IPAddress, int]:
    """What a node's table has, by its verdicts on each pod."""
    watch, here = Watch(), facts(f"node{node}")
    for number, target in enumerate(watch.wish(resolved, here, {})):
        watch.heard(Verdict(generation=1, name=target.name, up=good[number]), 1.0)
    found = watch.over(resolved, here, {ADDRESS} if active else set(), 1.0)
    return {backend.address: backend.weight for backend in found.servers[0].backends}


def route(resolved: Resolved, tables: list[dict[IPAddress, int]], order: list[int], active: int) -> list[int]:
    """Nodes that a packet passes, the last one delivers; a node that is there twice: it goes round."""
    backends = resolved.servers[0].backends
    passed = [active]
    while True:
        chosen = next((backends[place] for place in order if tables[passed[-1]][backends[place].address]), None)
        if chosen is None or chosen.node == f"node{passed[-1]}":
            return passed
        home = int((chosen.node or "").removeprefix("node"))
        passed.append(home)
        if home in passed[:-1]:
            return passed


@settings(deadline=None, max_examples=300)
@given(data=st.data(), homes=st.lists(st.integers(0, NODES - 1), min_size=1, max_size=8))
def test_no_packet_goes_round_unless_the_active_gave_up_a_pod_of_its_own(data: st.DataObject, homes: list[int]) -> None:
    resolved = pods(homes)
    count = len(homes)
    order = data.draw(st.permutations(range(count)))
    tables = []
    for node in range(NODES):
        opinion = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
        named = [backend.node for backend in resolved.servers[0].backends]
        good = {number: opinion[number] or (node == 0 and named[number] == "node0") for number in range(count)}
        tables.append(weights(resolved, node, node == 0, good))
    passed = route(resolved, tables, order, 0)
    assert len(passed) == len(set(passed)), passed


def test_it_goes_round_when_a_node_that_is_not_active_believes_its_checks_of_its_own_pods() -> None:
    """Why rule 2 is there: the same without it."""
    resolved = pods([1, 2])
    everywhere = [weights(resolved, node, True, {0: node != 1, 1: True}) for node in range(NODES)]
    assert route(resolved, everywhere, [0, 1], 0) == [0, 1, 2, 1]
