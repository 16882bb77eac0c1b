"""What cannot be served is refused with a message that names field, value and remedy, and nothing of it is done."""

import re
from typing import Any

import pytest
import yaml

from tests.demo.world import World, wait_for
from tests.e2e.conftest import VIP
from tests.rig.errors import CommandFailed

pytestmark = pytest.mark.e2e

UNUSED = "192.168.139.130"
GOOD: dict[str, Any] = {"addresses": [UNUSED], "ports": [{"port": 80}], "serviceRef": {"name": "web"}}
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


def refusal(world: World, name: str) -> str:
    """What the API server said, or else the condition that is False; one line. Empty when nobody refuses."""
    spec = {field: value for field, value in {**GOOD, **BAD[name][0]}.items() if value is not None}
    manifest = {"apiVersion": "lvsdr.io/v1alpha1", "kind": "VirtualService", "metadata": {"name": name}, "spec": spec}
    try:
        world.apply(yaml.safe_dump(manifest))
    except CommandFailed as refused:
        return " ".join(str(refused).split())

    def said() -> str:
        for kind in ("Accepted", "ResolvedRefs"):
            condition = world.condition(kind, name)
            if condition.get("status") == "False":
                return condition["message"]
        return ""

    return wait_for(said, 10.0)


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_in_words_and_nothing_of_it_is_done(world: World, name: str) -> None:
    before = world.states()
    try:
        message = refusal(world, name)
        assert re.search(BAD[name][1], message), message
        if name in WAITING:
            return
        after = world.states()
        assert {node: s.tables.keys() for node, s in after.items()} == {n: s.tables.keys() for n, s in before.items()}
        assert {node: s.addresses for node, s in after.items()} == {n: s.addresses for n, s in before.items()}
    finally:
        world.cluster.kubectl("delete", "lvsvs", name, "--ignore-not-found")
