"""What cannot be served is refused with a message that names field, value and remedy, and nothing of it is done."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.demo.nodes import NodeState
from tests.demo.world import SYSTEM, World, wait_for
from tests.e2e.conftest import VIP
from tests.rig.errors import CommandFailed

pytestmark = pytest.mark.e2e

GOOD: dict[str, Any] = {"ports": [{"port": 80}], "serviceRef": {"name": "web"}}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "bad-address": ({"addresses": ["192.168.139.999"]}, r"spec\.addresses\[0\].*192\.168\.139\.999.*must be an IPv4"),
    "duplicate-port": ({"ports": [{"port": 80}, {"port": 80}]}, r"spec\.ports\[1\].*Duplicate.*80"),
    "unknown-scheduler": ({"scheduler": "lru"}, r"spec\.scheduler.*\"lru\".*supported values.*\"mh\""),
    "mapped-port": (
        {"serviceRef": None, "realServers": [{"address": "192.168.139.9", "port": 8080}]},
        r"spec\.realServers.*cannot map ports.*Masquerade",
    ),
    "missing-service": (
        {"serviceRef": {"name": "nothing"}},
        r"spec\.serviceRef\.name: there is no Service default/nothing; create it",
    ),
    "missing-named-port": (
        {"ports": [{"port": 80, "targetPort": "admin"}]},
        r"spec\.ports.*targetPort admin: Service default/web has no TCP port of that name.*http",
    ),
    "address-of-a-node": ({"addresses": ["192.168.139.102"]}, r"spec\.addresses: 192\.168\.139\.102 .*node2.*unused"),
    "address-of-another": ({"addresses": [VIP]}, rf"spec\.ports: TCP port 80 of {VIP} is in use by .*default/web"),
    "missing-class": ({"className": "gold"}, r"spec\.className: there is no VirtualServiceClass gold; create it"),
}

WAITING = ("missing-service", "missing-named-port")
"""Nothing is wrong with these in themselves: they wait, with an empty table, for what they name."""
ADDRESSES = {name: f"192.168.139.{130 + number}" for number, name in enumerate(BAD)}
"""An address of its own for each that does not name another one, which nobody has."""
LAST = "192.168.139.139"
"""Of an object with which nothing is wrong, made after all of them: who serves it has seen them."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of all of them."""

    messages: dict[str, str]
    """What the API server said, or else the condition that is False; one line. Empty when nobody refuses."""
    before: dict[str, NodeState]
    after: dict[str, NodeState]
    restarts: tuple[dict[str, int], dict[str, int]]
    """Of the containers of each of our pods, before and after."""


def manifest(name: str, spec: dict[str, Any]) -> str:
    used = {field: value for field, value in spec.items() if value is not None}
    head = {"apiVersion": "lvsdr.io/v1alpha1", "kind": "VirtualService", "metadata": {"name": name}}
    return yaml.safe_dump({**head, "spec": used})


def refusal(world: World, name: str) -> str:
    """Empty when the API server takes it."""
    try:
        world.apply(manifest(name, {**GOOD, "addresses": [ADDRESSES[name]], **BAD[name][0]}))
    except CommandFailed as refused:
        return " ".join(str(refused).split())
    return ""


def said(world: World, name: str) -> str:
    """The condition that is False."""
    for kind in ("Accepted", "ResolvedRefs"):
        condition = world.condition(kind, name)
        if condition.get("status") == "False":
            return condition["message"]
    return ""


def restarts(world: World) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", ()))
        for pod in world.api.items("pods", SYSTEM)
    }


@pytest.fixture(scope="module")
def seen(world: World) -> Iterator[Seen]:
    """All of them are made, and one that is good; then they go."""
    before, began = world.states(), restarts(world)
    names = [*BAD, "good"]
    try:
        messages = {name: refusal(world, name) for name in BAD}
        world.apply(manifest("good", {**GOOD, "addresses": [LAST]}))
        assert wait_for(lambda: all(world.tables(LAST).values()), 20.0), "the good one is not served"
        for name in BAD:
            messages[name] = messages[name] or wait_for(lambda name=name: said(world, name), 10.0)  # type: ignore[misc]
        yield Seen(messages, before, world.states(), (began, restarts(world)))
    finally:
        world.cluster.kubectl("delete", "lvsvs", *names, "--ignore-not-found")


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_in_words(seen: Seen, name: str) -> None:
    assert re.search(BAD[name][1], seen.messages[name]), seen.messages[name]


def test_nothing_of_them_is_done_by_nodes_that_saw_them(seen: Seen) -> None:
    """Of those that wait there is an empty table; of the others there is nothing."""
    waiting = {f"TCP {ADDRESSES[name]}:80" for name in WAITING}
    for node, after in seen.after.items():
        before = seen.before[node]
        new = after.tables.keys() - before.tables.keys() - {f"TCP {LAST}:80"} - waiting
        assert len(new) <= 1, (node, new)
        assert all(table.startswith("FWM") for table in new), (node, new)  # the loop guard of the good one
        assert before.tables.keys() <= after.tables.keys(), node
        assert all(after.tables.get(table, {}) == {} for table in waiting), node
        allowed = {LAST, *(ADDRESSES[name] for name in WAITING)}
        had, has = ({one.split()[1].partition("/")[0] for one in state.addresses} for state in (before, after))
        assert has - had <= allowed, (node, has - had)
        assert had <= has, (node, had - has)


def test_none_of_our_processes_died_of_them(seen: Seen) -> None:
    before, after = seen.restarts
    assert before == after
    assert len(before) >= 3
