"""What is believed of the API's lists and watches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.core.cache import HOLD_SECONDS, Cache, Malformed
from lvsapi.model import ObjectKey, Problem

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


def test_a_list_repeated_after_the_hold_lets_go() -> None:
    it = cache("a", "b", "c")
    it.replace(listed("c"), 1.0, everything)
    assert names(it) == "abc"
    assert it.replace(listed("c"), 1.0 + HOLD_SECONDS, everything)
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
    assert it.delete(key("a"))
    it.replace(listed(), 1.0, everything)
    assert it.delete(key("b"))
    assert names(it) == "c"
    assert list(it.held) == [key("c")]
    assert not it.delete(key("zz"))


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
    assert it.delete(key("b"))


@given(st.sets(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")))
def test_a_list_never_removes_more_than_half_at_once(before: set[str], after: set[str]) -> None:
    it = cache(*before)
    it.replace(listed(*after), 1.0, everything)
    removed = before - set(names(it))
    assert after <= set(names(it))
    assert len(removed) <= max(len(after), len(before) / 2)
