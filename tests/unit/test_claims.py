"""The exit status of a demonstration: 0 only if something was claimed and all of it was true."""

import io

import pytest

from tests.claims import Claims

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("made", "status"),
    [([], 1), ([True], 0), ([True, True], 0), ([False], 1), ([True, False, True], 1), ([True, True, False], 1)],
)
def test_the_status_is_0_only_if_something_was_claimed_and_all_was_true(made: list[bool], status: int) -> None:
    claims = Claims(io.StringIO())
    assert [claims.check(f"claim {number}", true) for number, true in enumerate(made)] == made
    assert claims.status == status
    assert claims.close() == status


def test_what_was_not_true_is_said_again_at_the_end_with_its_figure() -> None:
    out = io.StringIO()
    claims = Claims(out)
    claims.check("the VIP answers", True, "12 ms")
    claims.check("nothing is left", False, "an address")
    assert claims.close() == 1
    assert "✓ the VIP answers: 12 ms" in out.getvalue()
    assert "✗ nothing is left: an address" in out.getvalue()
    assert "1 of 2 claims were true" in out.getvalue()
    assert out.getvalue().splitlines()[-1] == "  not true: nothing is left: an address"
