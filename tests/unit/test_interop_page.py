"""docs/interop.md says what the tests with real peers do, no more and no less."""

import pytest

from tests.net import interop

pytestmark = pytest.mark.unit


def test_the_page_is_what_make_docs_writes() -> None:
    assert interop.PAGE.read_text() == interop.page(), "run `make docs`"


def test_every_profile_has_a_row_for_each_direction() -> None:
    rows = [line for line in interop.page().splitlines() if line.startswith(("| keepalived", "| FRR"))]
    assert len(rows) == len(set(rows)) == 2 * len(interop.PROFILES)
