"""docs/matrix.md says what the tests of IPVS do, no more and no less."""

from itertools import product

import pytest

from lvsapi.ipvs import Forwarding, Scheduler
from lvsapi.parse import parse_virtual_service
from lvsapi.schema_ipvs import ipvs_parts
from lvsapi.status import Reason
from lvsapi.takeover import ALL, NONE_HELD, SYNCHRONISED
from tests.net import matrix, matrix_page, matrix_results

pytestmark = pytest.mark.unit


def test_the_page_is_what_make_docs_writes() -> None:
    assert matrix_page.PAGE.read_text() == matrix_page.page(), "run `make docs`"


def test_what_is_recorded_is_what_is_tried() -> None:
    recorded = matrix_results.recorded()
    assert list(recorded["spread"]) == [case.name for case in matrix.CASES]
    assert list(recorded["kept"]) == [case.name for case in matrix.OVER_TAKEOVERS]
    assert list(recorded["pods"]) == [case.name for case in matrix.WITH_PODS]
    assert {tuple(steps) for steps in recorded["kept"].values()} == {(*matrix.STEPS, matrix.SYNCHRONISED)}


def test_every_scheduler_is_tried_by_every_way_of_forwarding_in_both_families() -> None:
    tried = {(case.scheduler, case.forwarding, case.family) for case in matrix.GRID}
    assert tried == set(product(Scheduler, Forwarding, (4, 6)))
    assert len({case.name for case in matrix.CASES}) == len(matrix.CASES)


@pytest.mark.parametrize("case", matrix.CASES, ids=lambda case: case.name)
def test_every_object_is_one_that_users_may_write(case: matrix.Case) -> None:
    assert parse_virtual_service(case.object(matrix.FIRST_PORT)).scheduler is case.scheduler


def test_every_field_is_explained_and_every_verdict_of_a_takeover_too() -> None:
    text = (matrix_page.PAGE.parent / "ipvs.md").read_text()
    fields = set(ipvs_parts()) - {"ports"}
    assert {name for name in fields if name not in text} == set()
    for kept in (ALL, NONE_HELD, SYNCHRONISED):
        assert f"| `{kept.reason}` | True |" in text
    for reason in (Reason.LOCAL_BACKENDS_ONLY, Reason.NOT_SYNCHRONISED, Reason.ANSWERS_NOT_TRANSLATED):
        assert f"| `{reason}` | False |" in text
