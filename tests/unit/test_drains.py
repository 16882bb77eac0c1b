"""How long a backend that drains keeps its connections."""

import pytest

from lvsagent.core.drains import Drains
from lvsagent.core.plan import plan
from lvsagent.core.state import Service, ServiceKey
from lvsapi.errors import SpecError
from lvsapi.model import Resolved
from lvsapi.parse import parse_virtual_service
from lvsapi.resolve import resolve
from tests.fakes.kernel import FakeKernel
from tests.gen import assignment, endpoint, endpoint_slice, port, raw_virtual_service, snapshot, virtual_service
from tests.unit.test_agent_loop import Rig, Story, story

pytestmark = pytest.mark.unit
__all__ = ["story"]
READY, LEAVING = endpoint("10.244.1.2"), endpoint("10.244.2.2", ready=False, serving=True, terminating=True)
LATER = endpoint("10.244.3.2", ready=False, serving=True, terminating=True)


def objects(*endpoints: object, seconds: int | None = 10, **more: object) -> Resolved:
    item = virtual_service(assigned=assignment(), drain_seconds=seconds, **more)  # type: ignore[arg-type]
    return resolve(snapshot(item, slices=[endpoint_slice(endpoints)]))  # type: ignore[arg-type]


def tables(resolved: Resolved) -> dict[ServiceKey, Service]:
    return dict(plan(resolved, FakeKernel().facts(), frozenset()).state.services)


def names(resolved: Resolved) -> list[str]:
    return [str(backend.address) for server in resolved.servers for backend in server.backends]


def test_a_backend_goes_when_its_time_is_over_and_others_stay() -> None:
    drains, both = Drains(), objects(READY, LEAVING, LATER)
    one = objects(READY, LEAVING)
    assert drains.over(one, 100.0, tables(one)) is one
    assert drains.until == 110.0
    assert drains.over(both, 104.0, tables(both)) is both
    assert drains.until == 110.0
    assert drains.over(both, 109.0, tables(both)) is both
    assert names(drains.over(both, 110.0, tables(both))) == ["10.244.1.2", "10.244.3.2"]
    assert drains.until == 114.0
    assert names(drains.over(both, 200.0, tables(both))) == ["10.244.1.2"]
    assert drains.until is None


def test_without_the_field_nothing_goes_and_at_0_everything_at_once() -> None:
    never, at_once = objects(READY, LEAVING, seconds=None), objects(READY, LEAVING, seconds=0)
    assert Drains().over(never, 1e9, tables(never)) is never
    assert names(Drains().over(at_once, 100.0, tables(at_once))) == ["10.244.1.2"]


def test_who_is_ready_again_begins_anew() -> None:
    drains, leaving, back = Drains(), objects(READY, LEAVING), objects(READY, endpoint("10.244.2.2"))
    drains.over(leaving, 100.0, tables(leaving))
    drains.over(back, 105.0, tables(back))
    assert drains.over(leaving, 112.0, tables(leaving)) is leaving
    assert drains.until == 122.0


def test_who_gets_the_connections_for_want_of_better_ones_does_not_go() -> None:
    alone = objects(LEAVING)
    drains = Drains()
    assert drains.over(alone, 100.0, tables(alone)) is alone
    assert drains.over(alone, 1e9, tables(alone)) is alone


def test_what_a_standing_table_does_not_have_is_gone_already() -> None:
    leaving, bare = objects(READY, LEAVING), objects(READY)
    assert names(Drains().over(leaving, 100.0, tables(bare))) == ["10.244.1.2"]
    assert Drains().over(leaving, 100.0, {}) is leaving, "there is no table"
    ranged = objects(READY, LEAVING, ports=[port(30000, end=30010)])
    assert Drains().over(ranged, 100.0, tables(ranged)) is ranged


def test_the_field_is_read_and_refused_for_real_servers() -> None:
    assert parse_virtual_service(raw_virtual_service(drainSeconds=7)).drain_seconds == 7
    assert parse_virtual_service(raw_virtual_service()).drain_seconds is None
    servers = [{"address": "192.168.139.7"}]
    with pytest.raises(SpecError, match=r"spec\.drainSeconds: 7: goes with serviceRef"):
        parse_virtual_service(raw_virtual_service(serviceRef=None, realServers=servers, drainSeconds=7))


def test_the_loop_takes_it_out_of_the_table_in_time(story: Story) -> None:
    async def act(rig: Rig) -> None:
        item = virtual_service(assigned=assignment(), drain_seconds=10)
        rig.source.current = snapshot(item, slices=[endpoint_slice([READY, LEAVING])])
        await rig.turn()
        (table,) = rig.kernel.state.services.values()
        assert len(table.destinations) == 2
        await rig.turn(9.0)
        (table,) = rig.kernel.state.services.values()
        assert len(table.destinations) == 2
        await rig.turn(1.0)
        (table,) = rig.kernel.state.services.values()
        assert [str(d.address) for d in table.destinations] == ["10.244.1.2"]

    story(act)
