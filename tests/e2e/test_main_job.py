"""What the product is for, on a real cluster."""

import time

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET, VIP
from tests.e2e.deaths import places
from tests.load.outage import TIMEOUT, Outage
from tests.load.report import distribution, translated

pytestmark = pytest.mark.e2e


def test_each_pod_answers_on_the_vip_and_sees_the_clients_own_address_and_port(world: World) -> None:
    begin = time.monotonic()
    with world.load(TARGET, hold=0, duration=6.0, timeout=TIMEOUT) as load, world.witness(30.0) as witness:
        report = load.wait(30.0)
    outage = Outage(report, begin, report.ended, places(witness, report), 0.0, "the start")
    print(outage)
    assert set(distribution(report.attempts)) == set(world.ready_pods("app=web"))
    assert outage.failed.of > 100
    assert not outage.late, str(outage)
    assert translated(report) == 0


def test_every_node_holds_the_same_table_with_the_pods_own_port(world: World) -> None:
    tables = list(world.tables(VIP).values())
    assert all(table == tables[0] for table in tables)
    assert {destination.rpartition(":")[2] for destination in tables[0]} == {"8080"}


def test_the_vip_is_on_lo_of_every_node_and_on_the_uplink_of_one(world: World) -> None:
    states = world.states()
    assert all(f"lo {VIP}/32" in state.addresses for state in states.values())
    uplinks = [node for node, s in states.items() if f"{world.cluster.uplink(node)} {VIP}/32" in s.addresses]
    assert uplinks == world.holders(VIP)
    assert len(uplinks) == 1


def test_the_object_says_who_is_active_and_that_all_is_well(world: World) -> None:
    for kind in ("Accepted", "ResolvedRefs", "Programmed", "Ready"):
        assert wait_for(lambda kind=kind: world.condition(kind).get("status") == "True", 10.0), world.condition(kind)  # type: ignore[misc]
    status = world.virtual_service("web")["status"]
    assert [status["active"]["node"]] == world.holders(VIP)
    assert status["backends"] == {"ready": 3, "total": 3}
    assert status["active"]["node"] in world.cluster.kubectl("get", "lvsvs", "web")
