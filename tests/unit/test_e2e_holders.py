"""What looks at the kernels of a cluster say of who held the VIP: the worst that they allow."""

import pytest

from tests.e2e.holders import Look, alone_from, blind, both, first, holdings

pytestmark = pytest.mark.unit


def looks(text: str, begin: float = 0.0) -> list[Look]:
    """A look every half second, each of a quarter: ``#`` holds, ``.`` does not."""
    return [Look(begin + n / 2, begin + n / 2 + 0.25, mark == "#") for n, mark in enumerate(text)]


def test_a_node_may_have_held_from_the_look_before_to_the_look_after() -> None:
    assert holdings(looks("..##..#")) == [(0.5, 2.25), (2.5, 3.25)]
    assert holdings(looks("#")) == [(0.0, 0.25)]
    assert holdings(looks("...")) == []


def test_another_holds_when_it_was_seen_to() -> None:
    seen = {"node1": looks("####...."), "node2": looks("...#####"), "node3": looks("........")}
    assert first(seen, ["node2", "node3"], 0.25) == 1.5
    assert first(seen, ["node3"], 0.0) == float("inf")


def test_two_holders_are_seen_for_as_long_as_they_may_have_been_two() -> None:
    assert both({"node1": looks("####...."), "node2": looks("...#####")}) == 1.25
    assert both({"node1": looks("##......"), "node2": looks("....####")}) == 0.0
    assert both({"node1": looks("########"), "node2": looks("........")}) == 0.0


def test_one_holds_alone_from_the_last_change_on() -> None:
    assert alone_from({"node1": looks("#####..."), "node2": looks(".#######")}) == 2.75
    assert alone_from({"node1": looks("########"), "node2": looks("........")}) == 0.25
    assert alone_from({"node1": looks("#######."), "node2": looks("........")}) == float("inf")
    assert alone_from({"node1": looks("########"), "node2": looks("..######")}) == float("inf")


def test_a_time_without_a_look_is_seen_also_at_the_end() -> None:
    assert blind({"node1": [*looks("##"), *looks("#", 2.0)], "node2": looks("#####")}, 2.5) == 1.5
    assert blind({"node1": looks("#####"), "node2": looks("#")}, 2.5) == 2.5
