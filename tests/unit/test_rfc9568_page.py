"""docs/rfc9568.md says what the tests show; every applicable clause is shown held and broken; the list does not rot."""

import functools

import pytest

from tests.clauses import breaking
from tests.clauses.clauses import APPLICABLE, CLAUSES
from tests.clauses.collect import Shown, collect
from tests.clauses.deviations import DEVIATIONS
from tests.clauses.model import Aspect, Clause, Mutation, Standing
from tests.clauses.mutations import MUTATIONS
from tests.clauses.page import PAGE, page

pytestmark = pytest.mark.unit

EVERY = [(clause, mutation) for clause, mutations in MUTATIONS.items() for mutation in mutations]


@functools.cache
def shown() -> tuple[Shown, ...]:
    return collect()


def test_every_clause_is_there_once() -> None:
    wanted = [f"C{number}" for number in range(1, 62)] + [f"V{number}" for number in range(1, 7)]
    assert [clause.id for clause in CLAUSES] == wanted
    assert [each.number for each in DEVIATIONS] == list(range(1, len(DEVIATIONS) + 1))


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.id)
def test_tests_show_what_the_clause_needs(clause: Clause) -> None:
    aspects = {each.aspect for each in shown() if each.clause == clause.id}
    assert set(clause.standing.needs) <= aspects
    if clause.standing is Standing.NOT_APPLICABLE:
        assert clause.reason
        assert not aspects
    if clause.standing is Standing.DEVIATION:
        assert clause.deviations
    assert set(clause.deviations) <= {each.number for each in DEVIATIONS}


def test_what_we_do_instead_is_shown_for_every_deviation() -> None:
    there = {each.clause for each in shown() if each.aspect is Aspect.INSTEAD}
    assert {f"D{each.number}" for each in DEVIATIONS} <= there


def test_there_is_a_way_to_break_every_applicable_clause_and_no_other() -> None:
    assert {clause.id for clause in APPLICABLE} == set(MUTATIONS)


@pytest.mark.parametrize(("clause", "mutation"), EVERY, ids=lambda word: word if isinstance(word, str) else word.says)
def test_what_is_to_be_broken_is_in_the_code_exactly_once(clause: str, mutation: Mutation) -> None:
    assert breaking.occurrences(mutation) == 1, f"{clause}: mend tests/clauses, then `make clauses ARGS={clause}`"
    assert mutation.old != mutation.new


def test_every_way_to_break_it_was_proved_and_the_test_that_turned_red_is_there() -> None:
    proved = {(proof.clause, proof.digest): proof.test for proof in breaking.load()}
    missing = {clause for clause, mutation in EVERY if (clause, mutation.digest) not in proved}
    assert missing == set(), f"run `make clauses ARGS='{' '.join(sorted(missing))}'`"
    names = {(each.clause, each.name) for each in shown()}
    assert {(clause, test) for (clause, _), test in proved.items()} <= names


def test_the_page_is_what_make_docs_writes() -> None:
    assert PAGE.read_text() == page(shown(), breaking.load()), "run `make docs`"
