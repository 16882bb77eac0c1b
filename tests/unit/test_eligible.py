"""For which routers a node is the last choice, and the numbers by which tables are compared."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.core.diff import AddDestination
from lvsagent.core.eligible import behind, last_choice
from lvsagent.core.plan import plan
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Persistent, Refusal
from lvsagent.core.tablehash import Hash, Hashes
from lvsagent.ipc import RouterConfig
from lvsagent.runtime.guard import Guard
from lvsapi.ipvs import Tunnel, TunnelType
from lvsapi.model import Protocol
from lvsapi.resolve import resolve
from tests.fakes.kernel import FakeKernel
from tests.gen import VIP, assignment, endpoint_slice, snapshot, virtual_service
from tests.unit.test_agent_loop import CHANGED, Rig, Story, story

pytestmark = pytest.mark.unit
__all__ = ["story"]

A, B = ip_address("10.0.0.1"), ip_address("10.0.0.2")
NOBODY: frozenset[str] = frozenset()
ONE = RouterConfig(
    name="one",
    virtual_router_id=1,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.1/32", "10.0.0.2/32"),
    priority=100,
)
OTHER = replace(ONE, name="other", virtual_router_id=2, addresses=("10.0.0.3/32",))


def test_a_router_with_a_table_that_differs_is_left_to_others_and_no_other_router() -> None:
    assert behind([ONE, OTHER], frozenset({B}), NOBODY, [ONE]) == {"one": ("10.0.0.2/32",)}
    assert behind([ONE, OTHER], frozenset(), NOBODY, [replace(ONE, standby=True)]) == {}


def test_the_active_is_not_left_for_a_difference_unless_it_was_the_last_choice_already() -> None:
    assert behind([ONE], frozenset({A}), frozenset({"one"}), [ONE]) == {}
    assert behind([ONE], frozenset({A}), frozenset({"one"}), []) == {}
    assert behind([ONE], frozenset({A}), frozenset({"one"}), [replace(ONE, standby=True)]).keys() == {"one"}
    assert behind([ONE], frozenset({A}), frozenset({"other"}), [ONE]).keys() == {"one"}


def test_routers_of_a_group_are_left_together() -> None:
    group = [replace(router, sync_group="both") for router in (ONE, OTHER)]
    assert behind(group, frozenset({A}), NOBODY, []) == dict.fromkeys(("one", "other"), ("10.0.0.1/32",))


def test_who_is_the_last_choice_stands_by_and_nothing_else_changes() -> None:
    assert last_choice([ONE, OTHER], {"one"}) == (replace(ONE, standby=True), OTHER)


def test_who_is_not_active_and_has_other_tables_than_wanted_is_the_last_choice_until_they_are_as_wanted(
    story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(rig: Rig) -> None:
        rig.loop.guard = Guard(worker=rig.worker, view=rig.loop.view)
        await rig.turn()
        rig.kernel.refuse = AddDestination
        rig.source.current = CHANGED
        await rig.turn()
        assert [(router.ready, router.standby) for router in rig.election.wishes[-1].routers] == [(True, True)]
        rig.become_active()
        await rig.turn()
        assert len(rig.election.wishes) == 2, "who became Active as the last choice gives way to any other"
        said = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [record.getMessage() for record in said] == [
            "this node cannot be Active while another director can: its tables are not as wanted"
        ]
        assert said[0].__dict__["addresses"] == f"{VIP}/32"
        rig.kernel.refuse = None
        caplog.set_level("INFO")
        await rig.turn(2.0)
        assert [(router.ready, router.standby) for router in rig.election.wishes[-1].routers] == [(True, False)]
        assert "this node can be Active again" in caplog.text

    story(act)


def test_a_change_of_backends_that_the_kernel_takes_is_no_reason_to_stand_by(story: Story) -> None:
    async def act(rig: Rig) -> None:
        await rig.turn()
        for number in range(2, 9):
            slices = [endpoint_slice([f"10.244.1.{number}", f"10.244.2.{number + 1}"])]
            rig.source.current = snapshot(virtual_service(assigned=assignment()), slices=slices)
            await rig.turn()
        assert len(rig.election.wishes) == 1

    story(act)


RESOLVED = resolve(
    snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(["10.244.1.2", "10.244.2.2"])])
)


def state_of(node: str = "node1") -> KernelState:
    return plan(RESOLVED, replace(FakeKernel().facts(), node=node), frozenset()).state


def number(state: KernelState) -> Hash:
    (found,) = Hashes().of(RESOLVED, state).values()
    return found


def test_nodes_that_send_the_same_clients_to_the_same_backends_have_one_number_however_they_reach_them() -> None:
    one, other = state_of("node1"), state_of("node2")
    assert one != other
    assert number(one).alike == number(other).alike
    assert number(one).whole != number(other).whole
    assert [str(owner) for owner in Hashes().of(RESOLVED, one)] == ["default/web"]
    assert Hashes().of(RESOLVED, KernelState()) == {}
    assert Hashes().of(replace(RESOLVED, servers=()), one) == {}


def test_a_table_of_no_object_is_in_no_number() -> None:
    state = state_of()
    ((key, table),) = state.services.items()
    strange = replace(key, port=key.port + 1)
    more = replace(state, services={**state.services, strange: replace(table, key=strange)})
    assert Hashes().of(RESOLVED, more) == Hashes().of(RESOLVED, state)


def changed(**fields: object) -> KernelState:
    """With another first destination."""
    state = state_of()
    ((key, table),) = state.services.items()
    first: Destination = replace(table.destinations[0], **fields)  # type: ignore[arg-type]
    return replace(state, services={key: replace(table, destinations=(first, *table.destinations[1:]))})


@pytest.mark.parametrize(
    "fields",
    [
        {"method": ForwardMethod.TUNNEL},
        {"method": ForwardMethod.TUNNEL, "tunnel": Tunnel(type=TunnelType.GRE)},
        {"upper": 9},
        {"upper": 9, "lower": 3},
    ],
)
def test_how_a_backend_is_reached_and_its_limits_count_for_the_node_itself_only(fields: dict[str, object]) -> None:
    assert number(changed(**fields)).whole != number(state_of()).whole
    assert number(changed(**fields)).alike == number(state_of()).alike


def test_every_change_gives_another_number() -> None:
    state = state_of()
    ((key, table),) = state.services.items()
    refusal = Refusal(address=key.address, protocol=Protocol.TCP, first=80, last=80)
    states = [
        state,
        changed(weight=0),
        changed(method=ForwardMethod.TUNNEL),
        changed(method=ForwardMethod.TUNNEL, tunnel=Tunnel(type=TunnelType.GRE)),
        changed(upper=9),
        replace(state, loopback=frozenset()),
        replace(state, refusals=frozenset({refusal})),
        replace(state, refusals=frozenset({replace(refusal, drop=True)})),
        replace(state, services={key: replace(table, destinations=tuple(reversed(table.destinations)))}),
        replace(state, services={key: replace(table, destinations=table.destinations[1:])}),
        replace(state, services={key: replace(table, scheduler="rr")}),
        replace(state, services={key: replace(table, flags=0)}),
        replace(state, services={key: replace(table, persistent=Persistent(60, 32))}),
    ]
    numbers = [number(each).whole for each in states]
    assert len(set(numbers)) == len(states)
    again = Hashes()
    assert [again.of(RESOLVED, each)[next(iter(again.of(RESOLVED, each)))].whole for each in states] == numbers


def test_an_order_that_says_nothing_is_no_difference() -> None:
    """The kernel's own order is left as it is with such schedulers."""
    state = state_of()
    ((key, table),) = state.services.items()
    one, other = (
        replace(state, services={key: replace(table, scheduler="rr", destinations=order)})
        for order in (table.destinations, tuple(reversed(table.destinations)))
    )
    assert number(one) == number(other)
