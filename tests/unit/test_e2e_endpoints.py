"""How the cluster's test judges that a node's table follows the endpoints."""

import pytest

from tests.e2e.test_endpoints import followed

pytestmark = pytest.mark.unit

ONE, TWO, THREE = (frozenset(names.split()) for names in ("a", "a b", "a b c"))


def never(since: float, until: float) -> float:
    """The machine stood still."""
    return 0.0


def test_each_change_is_paired_with_its_first_appearance_in_the_table() -> None:
    events = [(10.0, TWO), (15.0, THREE), (20.0, TWO)]
    table = [(0.0, ONE), (10.03, TWO), (15.2, THREE), (20.5, TWO)]
    assert followed(events, table, never) == [(10.0, 10.03), (15.0, 15.2), (20.0, 20.5)]


def test_a_set_that_lasted_long_enough_and_was_never_in_the_table_is_a_failure() -> None:
    with pytest.raises(AssertionError, match=r"never in the table: \['a', 'b', 'c'\], told at 15.000"):
        followed([(10.0, TWO), (15.0, THREE), (20.0, TWO)], [(10.03, TWO)], never)
    with pytest.raises(AssertionError, match="never in the table"):  # the last one lasts for ever
        followed([(10.0, TWO), (15.0, THREE)], [(10.03, TWO)], never)
    with pytest.raises(AssertionError, match="never in the table"):  # it came only with the second time of that set
        followed([(10.0, TWO), (15.0, THREE), (20.0, TWO)], [(15.2, THREE), (20.5, TWO)], never)


def test_a_set_that_was_too_short_may_be_overlooked() -> None:
    events = [(10.0, TWO), (10.5, THREE)]
    assert followed(events, [(10.6, THREE)], never) == [(10.5, 10.6)]


def test_a_machine_that_stood_still_may_have_overlooked_it() -> None:
    events = [(10.0, TWO), (12.0, THREE)]
    assert followed(events, [(12.1, THREE)], lambda since, until: 1.1) == [(12.0, 12.1)]
    with pytest.raises(AssertionError, match="never in the table"):
        followed(events, [(12.1, THREE)], lambda since, until: 0.9)
