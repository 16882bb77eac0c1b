"""What is believed of the API's lists and watches, and of endpoints that are gone all at once."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.core.brakes import BRAKE_SECONDS, GATHER_SECONDS
from lvsagent.core.cache import HOLD_SECONDS, Cache, Malformed
from lvsagent.core.vanished import Vanished
from lvsapi.model import EndpointSlice, ObjectKey, Problem
from tests.gen import endpoint, endpoint_slice

pytestmark = pytest.mark.unit


def key(name: str) -> ObjectKey:
    return ObjectKey("n", name)


def listed(*names: str) -> dict[ObjectKey, str | Malformed]:
    return {key(name): name for name in names}


def bad(name: str) -> Malformed:
    return Malformed(Problem(key=key(name), condition="Accepted", reason="Invalid", message="spec: bad"))


def everything(_: str) -> bool:
    return True


def cache(*names: str) -> Cache[str]:
    made: Cache[str] = Cache()
    made.replace(listed(*names), 0.0, everything)
    return made


def names(found: Cache[str]) -> str:
    return "".join(sorted(k.name for k in found.objects))


def test_what_a_list_lacks_goes_while_most_remain() -> None:
    it = cache("a", "b", "c")
    assert it.replace(listed("a", "b"), 1.0, everything)
    assert names(it) == "ab"
    assert not it.held


def test_a_list_that_lost_most_is_held_and_let_go_later() -> None:
    it = cache("a", "b", "c")
    assert not it.replace(listed(), 1.0, everything)
    assert names(it) == "abc"
    assert not it.expire(HOLD_SECONDS)
    assert not it.replace(listed(), 2.0, everything)
    assert it.expire(1.0 + HOLD_SECONDS)
    assert names(it) == ""


def test_what_another_server_does_not_have_is_held_until_as_much_is_back() -> None:
    """A restore takes longer than ten minutes, and nobody deleted anything."""
    it = cache("a", "b", "c", "d")
    it.replace(listed(), 1.0, everything)
    assert not it.expire(100 * HOLD_SECONDS, same=False)
    it.put(key("a"), "a")
    assert not it.expire(100 * HOLD_SECONDS, same=False)
    it.put(key("x"), "x")
    it.put(key("b"), "b")
    assert it.expire(100 * HOLD_SECONDS, same=False)
    assert names(it) == "abx"


def test_a_list_repeated_after_the_hold_lets_go() -> None:
    it = cache("a", "b", "c")
    it.replace(listed("c"), 1.0, everything)
    assert names(it) == "abc"
    it.replace(listed("c"), HOLD_SECONDS, everything)
    assert it.expire(1.0 + HOLD_SECONDS)
    assert names(it) == "c"


def test_one_object_alone_is_held_too() -> None:
    it = cache("a")
    it.replace(listed(), 1.0, everything)
    assert names(it) == "a"


def test_replaced_objects_do_not_brake() -> None:
    it = cache("a", "b")
    it.replace(listed("x", "y"), 1.0, everything)
    assert names(it) == "xy"


def test_the_brake_counts_within_a_group() -> None:
    it: Cache[str] = Cache(group=lambda item: item[0])
    it.replace(listed("x1", "x2", "y1"), 0.0, everything)
    it.replace(listed("x1", "x2"), 1.0, everything)
    assert sorted(k.name for k in it.objects) == ["x1", "x2", "y1"]
    assert list(it.held) == [key("y1")]


def test_what_nobody_wants_any_more_goes_without_a_brake() -> None:
    it = cache("a", "b", "c")
    it.replace(listed(), 1.0, lambda _: False)
    assert names(it) == ""


def test_a_watched_deletion_counts_at_once_even_of_what_is_held() -> None:
    it = cache("a", "b", "c")
    assert it.delete(key("a"), 0.0)
    it.replace(listed(), 1.0, everything)
    assert it.delete(key("b"), 2.0)
    assert names(it) == "c"
    assert list(it.held) == [key("c")]
    assert not it.delete(key("zz"), 2.0)


def test_an_event_frees_what_is_held() -> None:
    it = cache("a")
    it.replace(listed(), 1.0, everything)
    assert not it.put(key("a"), "a")
    assert not it.held
    assert not it.expire(1e9)


def test_an_object_that_no_longer_parses_stays_as_it_was() -> None:
    it = cache("a")
    assert it.put(key("a"), bad("a"))
    assert not it.put(key("a"), bad("a"))
    assert names(it) == "a"
    it.replace({key("a"): bad("a"), key("b"): bad("b")}, 1.0, everything)
    assert names(it) == "a"
    assert set(it.problems) == {key("a"), key("b")}
    assert it.put(key("a"), "a")
    assert set(it.problems) == {key("b")}
    assert it.delete(key("b"), 2.0)


def braked(*names: str) -> Cache[str]:
    made: Cache[str] = Cache(brake=True)
    made.replace(listed(*names), 0.0, everything)
    return made


@pytest.mark.parametrize("of", ["abc", "abcdefghij"])
def test_what_is_deleted_one_by_one_or_is_not_most_goes_half_a_second_later(of: str) -> None:
    it = braked(*of)
    for place, name in enumerate(of[:3]):
        assert not it.delete(key(name), 1.0 + place / 10)
    assert names(it) == of
    assert not it.expire(1.0 + GATHER_SECONDS - 0.01)
    assert it.expire(1.2 + GATHER_SECONDS)
    assert names(it) == of[3:]
    assert not it.delete(key("zz"), 2.0)
    for place, name in enumerate(of[3:]):
        it.delete(key(name), 100.0 * (place + 1))
        assert it.expire(100.0 * (place + 1) + GATHER_SECONDS)
    assert names(it) == ""


def test_deletions_of_most_objects_at_once_are_held_for_a_minute_and_can_be_undone() -> None:
    it = braked(*"abcdefgh")
    for place, name in enumerate("abcde"):
        it.delete(key(name), 1.0 + place / 10)
    assert it.braking(1.4)
    assert not it.expire(1.4 + GATHER_SECONDS)
    assert names(it) == "abcdefgh"
    it.put(key("a"), "a")
    it.replace(listed("a", "b", "f", "g", "h"), 30.0, everything)
    assert names(it) == "abcdefgh", "a list does not have them either"
    assert set(it.leaving) == {key("c"), key("d"), key("e")}
    it.put(key("a"), "a")
    it.delete(key("a"), 31.0)
    assert it.braking(31.0) is False, "three of eight, and one: half of them"
    assert it.expire(32.0)
    assert names(it) == "bfgh"


def test_a_mass_deletion_is_obeyed_after_a_minute_and_at_once_when_the_agent_goes_too() -> None:
    it = braked(*"abcdef")
    for name in "abcdef":
        it.delete(key(name), 1.0)
    assert not it.expire(1.0 + BRAKE_SECONDS - 0.1)
    assert it.expire(1.0 + BRAKE_SECONDS)
    assert names(it) == ""
    it = braked(*"abcdef")
    for name in "abcdef":
        it.delete(key(name), 1.0)
    assert it.release(1.1)
    assert names(it) == ""
    assert not it.release(1.2)


def test_a_slow_mass_deletion_is_held_from_the_middle_on() -> None:
    it = braked(*"abcdefgh")
    for place, name in enumerate("abcdefgh"):
        it.delete(key(name), float(place))
        it.expire(place + 0.9)
    assert names(it) == "efgh"
    assert it.braking(8.0)


# -- endpoints -------------------------------------------------------------------------------------------------------

WEB, SHOP = ObjectKey("default", "web"), ObjectKey("default", "shop")


class Endpoints:
    """The slices of two Services, and what is made of them."""

    def __init__(self, web: int = 8, shop: int = 1) -> None:
        self.it = Vanished()
        self.services = {WEB, SHOP}
        self.slices: dict[ObjectKey, EndpointSlice] = {}
        self.say("web", range(web))
        self.say("shop", range(100, 100 + shop))
        assert self.kept(0.0) == set()

    def say(self, service: str, numbers: Iterable[int], terminating: Iterable[int] = ()) -> None:
        made = [endpoint(f"10.244.0.{n}") for n in numbers]
        made += [endpoint(f"10.244.0.{n}", ready=False, terminating=True) for n in terminating]
        self.slices[ObjectKey("default", service)] = endpoint_slice(made, service=service, name=service)

    def kept(self, now: float) -> set[int]:
        found = self.it.over(self.slices, self.services, now)
        assert all(part.ports == endpoint_slice([]).ports for part in found)
        return {int(str(e.addresses[0]).rpartition(".")[2]) for part in found for e in part.endpoints}


@pytest.mark.parametrize("deleted", [False, True])
def test_endpoints_that_are_gone_at_once_are_kept_for_a_minute(deleted: bool) -> None:
    it = Endpoints()
    it.say("web", [])
    if deleted:
        del it.slices[WEB]
    assert it.kept(1.0) == set(range(8))
    assert it.it.held == {WEB: 8}
    assert it.it.until == 1.0 + BRAKE_SECONDS
    assert it.kept(BRAKE_SECONDS) == set(range(8))
    assert it.kept(1.0 + BRAKE_SECONDS) == set()
    assert it.it.held == {}
    assert it.it.until is None


def test_most_endpoints_at_once_are_kept_and_others_are_not() -> None:
    it = Endpoints()
    it.say("web", range(3))
    assert it.kept(1.0) == {3, 4, 5, 6, 7}
    it = Endpoints()
    it.say("web", range(4))
    assert it.kept(1.0) == set()
    it.say("web", range(1))
    assert it.kept(2.0) == set(), "what dies bit by bit is really gone while others are left"


def test_endpoints_that_terminate_before_they_go_are_not_kept() -> None:
    it = Endpoints()
    it.say("web", [], terminating=range(8))
    assert it.kept(1.0) == set()
    it.say("web", [])
    assert it.kept(2.0) == set()


def test_a_new_endpoint_ends_it_and_so_does_one_that_comes_back_for_itself() -> None:
    it = Endpoints()
    it.say("web", [])
    it.kept(1.0)
    it.say("web", [2])
    assert it.kept(2.0) == {0, 1, 3, 4, 5, 6, 7}
    it.say("web", [2, 50])
    assert it.kept(3.0) == set()
    it = Endpoints()
    it.say("web", range(20, 22))
    assert it.kept(1.0) == set(), "another set of pods takes their place"


def test_what_came_back_is_judged_anew() -> None:
    it = Endpoints(shop=20)
    it.say("web", [])
    it.kept(1.0)
    it.say("web", range(8))
    assert it.kept(2.0) == set()
    for number in range(1, 9):
        it.say("web", range(8 - number))
        assert it.kept(20.0 * number) == ({0} if number == 8 else set())
    assert it.it.held == {}, "the last one of those that went one by one"


def test_a_service_that_nobody_has_or_wants_keeps_nothing() -> None:
    it = Endpoints()
    it.say("web", [])
    it.kept(1.0)
    it.services = {SHOP}
    assert it.kept(2.0) == set()
    it.services = {WEB, SHOP}
    assert it.kept(3.0) == set()
    it.say("web", range(8))
    it.kept(4.0)
    it.say("web", [])
    assert it.kept(5.0) == set(range(8))


def test_the_last_endpoint_is_kept_for_a_moment_and_longer_when_all_services_lose_theirs() -> None:
    it = Endpoints(web=3, shop=3)
    it.say("web", [])
    assert it.kept(1.0) == {0, 1, 2}
    assert it.it.held == {}
    assert it.it.until == 1.0 + GATHER_SECONDS
    assert it.kept(1.0 + GATHER_SECONDS) == set(), "it is one Service's own affair"
    it.say("shop", [])
    assert it.kept(9.0) == {100, 101, 102}
    assert it.it.held == {SHOP: 3}, "six of six within ten seconds"
    assert it.kept(9.0 + BRAKE_SECONDS) == set()


def test_a_slice_that_is_deleted_while_another_has_its_endpoints_loses_nothing() -> None:
    it = Endpoints()
    other = ObjectKey("default", "web-2")
    it.slices[other] = replace(it.slices[WEB], key=other)
    it.kept(1.0)
    del it.slices[WEB]
    assert it.kept(2.0) == set()
    assert it.it.held == {}


@given(st.sets(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")))
def test_a_list_never_removes_more_than_half_at_once(before: set[str], after: set[str]) -> None:
    it = cache(*before)
    it.replace(listed(*after), 1.0, everything)
    removed = before - set(names(it))
    assert after <= set(names(it))
    assert len(removed) <= max(len(after), len(before) / 2)
