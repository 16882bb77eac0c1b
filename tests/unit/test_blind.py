"""When a director that reaches no backend leaves the addresses to another one, and when it does not."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.checks.messages import Verdict
from lvsagent.core.blind import RETURN_SECONDS, WHY, Blindness, View, bit_of, standing_by, views
from lvsagent.core.health import Watch
from lvsagent.core.targets import slowness
from lvsapi.health import CheckType, Health, HealthCheck
from lvsapi.model import Director, Resolved, VirtualRouter
from lvsapi.resolve import resolve
from lvsapi.vrrp import VrrpSettings
from tests.gen import VIP, assignment, snapshot, virtual_service
from tests.unit.test_health import HERE, asking

pytestmark = pytest.mark.unit

PATIENCE = 5.0


def router(vrid: int = 200, directors: tuple[str, ...] = ("node1", "node2")) -> VirtualRouter:
    return VirtualRouter(
        class_name="default",
        virtual_router_id=vrid,
        family=4,
        addresses=(ip_address(VIP),),
        owners=(),
        directors=tuple(Director(node=node, priority=100) for node in directors),
        interface="",
        vip_interface="",
        vip_prefix_length=None,
        vrrp=VrrpSettings(),
    )


ROUTER = router()
HELP = {"node2": bit_of(ROUTER)}


class Node:
    """One director and its clock."""

    def __init__(self) -> None:
        self.blindness = Blindness()
        self.now = 100.0

    def sees(
        self, living: bool, told: Mapping[str, int] = HELP, *, after: float = 0.0, known: bool = True
    ) -> frozenset[str]:
        self.now += after
        view = View(router=ROUTER, known=known, living=living, patience=PATIENCE)
        return self.blindness.judge([view], "node1", told, self.now)


def test_a_director_that_sees_none_stands_by_when_another_goes_on_seeing_some() -> None:
    node = Node()
    assert not node.sees(True)
    assert node.blindness.bits == bit_of(ROUTER)
    assert not node.sees(False)
    assert node.blindness.bits == 0
    assert node.blindness.waits == node.now + PATIENCE
    assert not node.sees(False, after=PATIENCE - 0.1)
    assert node.sees(False, after=0.1) == {ROUTER.name}
    assert node.blindness.waits is None


def test_nobody_moves_when_the_others_see_none_either() -> None:
    node = Node()
    node.sees(True)
    assert not node.sees(False)
    assert not node.sees(False, {}, after=PATIENCE - 0.5)  # the other one has noticed, too
    assert not node.sees(False, {}, after=1000.0)
    assert node.blindness.waits is None


def test_what_another_sees_must_last() -> None:
    node = Node()
    node.sees(False)
    node.sees(False, {}, after=PATIENCE - 1)
    assert not node.sees(False, after=1.0)
    assert not node.sees(False, after=PATIENCE - 1)
    assert node.sees(False, after=1.0)


def test_a_director_that_does_not_know_yet_does_not_move() -> None:
    node = Node()
    node.sees(False, known=False)
    assert not node.sees(False, known=False, after=100.0)


def test_it_stands_up_when_it_has_seen_some_for_longer() -> None:
    node = Node()
    node.sees(False)
    assert node.sees(False, after=PATIENCE)
    assert node.sees(True, after=1.0)
    assert node.blindness.waits == node.now + PATIENCE + RETURN_SECONDS
    assert node.sees(True, after=PATIENCE + RETURN_SECONDS - 0.1)
    assert node.sees(False, after=0.05), "from the beginning"
    assert node.sees(True, after=1.0)
    assert node.sees(True, after=PATIENCE)
    assert not node.sees(True, after=RETURN_SECONDS + 0.01)


def test_it_stays_down_when_the_other_one_goes_blind_too() -> None:
    node = Node()
    node.sees(False)
    assert node.sees(False, after=PATIENCE)
    assert node.sees(False, {}, after=100.0), "to return would move the address for nothing"


@pytest.mark.parametrize("told", [{"node3": 0xFFFF}, {"node1": 0xFFFF}, {"node2": 0xFFFF ^ bit_of(ROUTER)}])
def test_only_another_director_of_the_router_counts(told: Mapping[str, int]) -> None:
    node = Node()
    node.sees(False, told)
    assert not node.sees(False, told, after=100.0)


def test_two_routers_with_one_bit_are_told_as_the_worse_one() -> None:
    other = next(one for one in map(router, range(1, 200)) if bit_of(one) == bit_of(ROUTER))
    seen = [
        View(router=ROUTER, known=True, living=True, patience=1.0),
        View(router=other, known=True, living=False, patience=1.0),
    ]
    blindness = Blindness()
    blindness.judge(seen, "node1", {}, 1.0)
    assert blindness.bits == 0
    blindness.judge(seen[:1], "node1", {}, 1.0)
    assert blindness.bits == bit_of(ROUTER)
    blindness.judge(seen, "node7", {}, 1.0)
    assert blindness.bits == 0, "a node that is no director has nothing to say"


def test_a_director_waits_as_long_as_any_other_may_need_to_notice() -> None:
    quick = HealthCheck(type=CheckType.TCP, interval_ms=1000, timeout_ms=500, fall=3, retry_ms=200)
    slow = HealthCheck(type=CheckType.TCP, interval_ms=3000, timeout_ms=3000, fall=2)
    assert slowness([quick]) == pytest.approx(1.0 + 1.0 + 0.4 + 0.5)
    assert slowness([quick, slow]) == 1.0 + 3.0 + 3.0 + 3.0


def test_routers_are_seen_by_what_they_carry() -> None:
    resolved = asking("192.168.139.201", "192.168.139.202")
    watch = Watch()
    targets = watch.wish(resolved, HERE, {})
    (view,) = views(resolved, watch)
    assert (view.router.name, view.known, view.living) == ("default/200/v4", False, False)
    watch.heard(Verdict(generation=1, name=targets[0].name, up=True), 1.0)
    (view,) = views(resolved, watch)
    assert (view.known, view.living) == (False, True)
    watch.heard(Verdict(generation=1, name=targets[0].name, up=False), 1.0)
    watch.heard(Verdict(generation=1, name=targets[1].name, up=False), 1.0)
    (view,) = views(resolved, watch)
    assert (view.known, view.living) == (True, False)


def test_a_router_without_checks_is_nobodys_affair() -> None:
    resolved = resolve(snapshot(virtual_service(assigned=assignment(), health=Health())))
    assert views(resolved, Watch()) == ()


def test_standing_by_is_the_routers_and_gives_its_reason() -> None:
    resolved = Resolved(servers=(), routers=(ROUTER, replace(ROUTER, virtual_router_id=7)), problems=())
    assert standing_by(resolved, "node1", frozenset()) is resolved
    first, second = standing_by(resolved, "node1", frozenset({ROUTER.name})).routers
    assert first.standby == {"node1": WHY}
    assert second.standby == {}
    drained = replace(resolved, routers=(replace(ROUTER, standby={"node1": "cordoned"}),))
    assert standing_by(drained, "node1", frozenset({ROUTER.name})).routers[0].standby == {"node1": "cordoned"}
