"""When a node looks for connections that other tables have placed elsewhere, and says which tables it has."""

import itertools
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.core.affinity import Tables
from lvsagent.core.agreement import FORGET, RENEW, REPEAT, SAY_AGAIN, SOON, Looks, Others, Said
from lvsagent.core.state import Destination, ForwardMethod, Service, ServiceKey
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit

VIP = ip_address("10.0.0.200")
STEP = 0.05


def moments(looks: Looks, since: float, until: float, took: float = 0.0, found: bool = False) -> list[float]:
    """When it looks, turning every 50 ms."""
    seen = []
    for tick in range(round(since / STEP), round(until / STEP)):
        now = tick * STEP
        if looks.due(now):
            looks.looked(now, now + took, found)
            seen.append(round(now, 2))
    return seen


# -- looks -----------------------------------------------------------------------------------------------------------


def test_nothing_is_looked_at_without_a_reason() -> None:
    looks = Looks()
    looks.compared(False, 0.0)
    assert moments(looks, 0, 100) == []


def test_a_change_is_followed_by_four_looks_and_by_one_now_and_then_for_what_was_found() -> None:
    looks = Looks()
    looks.changed(10.0)
    assert moments(looks, 10, 100) == [10.0, 11.0, 14.0, 18.0]
    looks.changed(200.0)
    assert moments(looks, 200, 270, found=True) == [200.0, 201.0, 204.0, 208.0, 208.0 + REPEAT, 208.0 + 2 * REPEAT]
    assert moments(looks, 270, 400) == [208.0 + 3 * REPEAT]  # nothing was found any more


def test_it_looks_for_as_long_as_an_active_node_has_other_tables_and_twice_more() -> None:
    looks = Looks()
    looks.compared(True, 10.0)
    looks.compared(True, 10.1)
    assert moments(looks, 10, 13) == [10.2, 11.2, 12.2]
    looks.compared(False, 13.0)
    assert moments(looks, 13, 60) == [13.0, 13.2, 14.0]


def test_a_difference_too_short_for_a_look_is_looked_at_when_it_is_over() -> None:
    looks = Looks()
    looks.compared(True, 10.0)
    looks.compared(False, 10.0)
    assert moments(looks, 10, 60) == [10.0, 10.0 + SOON, 11.0]


def test_looks_that_take_long_are_rare() -> None:
    looks = Looks()
    looks.compared(True, 0.0)
    seen = moments(looks, 0, 200, took=2.0)
    assert seen[0] == SOON
    assert {round(b - a) for a, b in itertools.pairwise(seen)} == {40}


def test_changes_all_the_time_do_not_keep_it_looking_all_the_time() -> None:
    looks, seen = Looks(), []
    for tick in range(100):
        looks.changed(tick * STEP)
        seen += moments(looks, tick * STEP, (tick + 1) * STEP, took=0.2)
    assert len(seen) == 5
    assert all(0.99 < b - a < 1.1 for a, b in itertools.pairwise(seen))


# -- who says what ---------------------------------------------------------------------------------------------------


def said(digests: dict[float, bytes], until: float, active: bool = True) -> list[float]:
    """When this node says it, whose digest is each from that moment on."""
    state, seen, digest = Said(), [], b""
    for tick in range(round(until / STEP)):
        now = round(tick * STEP, 2)
        digest = digests.get(now, digest)
        if state.due(digest, active, now):
            seen.append(now)
    return seen


def test_an_active_node_says_its_tables_at_once_again_soon_and_then_now_and_then() -> None:
    assert said({0.0: b"a"}, 15) == pytest.approx([0, *SAY_AGAIN, 3 + RENEW, 3 + 2 * RENEW], abs=0.06)
    assert said({0.0: b"a", 6.0: b"b", 6.05: b"a"}, 7) == pytest.approx([0, 0.3, 1, 3, 6, 6.05, 6.35], abs=0.06)


def test_a_node_that_holds_nothing_says_nothing_and_says_it_at_once_when_it_takes_over() -> None:
    assert said({0.0: b"a"}, 20, active=False) == []
    state = Said()
    assert not state.due(b"a", False, 1.0)
    assert state.due(b"a", True, 1.1)
    assert not state.due(b"a", False, 1.2)
    assert state.due(b"a", True, 1.3)


def test_nodes_that_differ_are_named_until_they_agree_or_say_nothing_any_more() -> None:
    others = Others()
    assert others.differing(b"a", 0.0) == frozenset()
    others.heard("n1", b"b", 1.0)
    others.heard("n2", b"a", 1.0)
    assert others.differing(b"a", 1.0) == {"n1"}
    assert others.differing(b"b", 1.0) == {"n2"}
    others.heard("n1", b"a", 2.0)
    assert others.differing(b"a", 2.0) == frozenset()
    others.heard("n1", b"b", 3.0)
    assert others.differing(b"a", 3.0 + FORGET - 0.1) == {"n1"}
    assert others.differing(b"a", 3.0 + FORGET) == frozenset()
    assert RENEW * 2 < FORGET, "one that is lost does not matter"


# -- the digest ------------------------------------------------------------------------------------------------------


def service(*weights: int, port: int = 80, method: ForwardMethod = ForwardMethod.DIRECT_ROUTE) -> Service:
    return Service(
        key=ServiceKey(address=VIP, protocol=Protocol.TCP, port=port),
        scheduler="mh",
        flags=0x18,
        destinations=tuple(
            Destination(ip_address(f"10.244.{k}.11"), 8080, method, weight) for k, weight in enumerate(weights, 1)
        ),
    )


def digest(*services: Service) -> bytes:
    tables = Tables()
    tables.use({each.key: each for each in services})
    return tables.digest


def test_tables_that_place_alike_have_one_digest_and_others_another() -> None:
    one, two = service(1, 1), service(1, 1, port=81)
    assert len(digest(one)) == 16
    assert digest(one, two) == digest(two, one)
    assert digest(one) == digest(service(1, 1, method=ForwardMethod.TUNNEL))
    others = [digest(), digest(one, two), digest(two), digest(service(1, 0)), digest(service(1)), digest(service(1, 2)),
              digest(replace(one, flags=0x8))]  # fmt: skip
    assert len({digest(one), *others}) == 1 + len(others)


def test_the_digest_does_not_depend_on_how_the_tables_came_about() -> None:
    tables = Tables()
    for services in ((service(1, 1),), (service(1, 0), service(1, port=81)), (service(1, 1), service(2, port=81))):
        tables.use({each.key: each for each in services})
    assert tables.digest == digest(service(1, 1), service(2, port=81))


def test_tables_that_differ_on_purpose_are_left_out() -> None:
    tables = Tables()
    assert tables.use({s.key: s for s in (service(1), service(1, port=81))}, {(Protocol.TCP, VIP, 81)})
    assert tables.digest == digest(service(1))
