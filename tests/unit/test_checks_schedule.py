"""When backends are asked, and what their answers come to."""

import ipaddress
from dataclasses import replace

import pytest

from lvsagent.checks.answer import WELL, Answer
from lvsagent.checks.messages import Target, Targets, Verdict
from lvsagent.checks.schedule import JITTER, SHORTEST, SPACING, Question, Schedule
from lvsapi.health import CheckType, HealthCheck
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit

CHECK = HealthCheck(type=CheckType.TCP)
BAD = Answer(ok=False, reason="refused")
MANY = 100_000


def target(name: str = "a", *checks: HealthCheck, up: bool = False, address: str = "10.0.0.21") -> Target:
    return Target(
        name=name,
        address=ipaddress.ip_address(address),
        port=80,
        protocol=Protocol.TCP,
        checks=checks or (CHECK,),
        up=up,
    )


def wish(*targets: Target, generation: int = 1) -> Targets:
    return Targets(generation=generation, targets=targets)


class World:
    """A schedule and its clock."""

    def __init__(self, *targets: Target) -> None:
        self.schedule = Schedule()
        self.now = 100.0
        self.first = self.schedule.want(wish(*targets), self.now)

    def questions(self) -> list[Question]:
        """The next ones, at their time."""
        at = self.schedule.next_at()
        assert at is not None
        self.now = max(self.now, at)
        return self.schedule.due(self.now, MANY)

    def answer(self, answer: Answer, took: float = 0.0) -> Verdict | None:
        """To the one question that is next."""
        (question,) = self.questions()
        self.now += took
        return self.schedule.answered(question, answer, self.now)


def test_a_backend_is_what_it_was_taken_for_until_the_first_answer() -> None:
    world = World(target("a"), target("b", up=True))
    assert world.first == [
        Verdict(generation=1, name="a", up=False, known=False, reason="not answered yet"),
        Verdict(generation=1, name="b", up=True, known=False),
    ]


def test_the_first_answer_decides_where_rise_and_fall_are_one() -> None:
    assert World(target()).answer(WELL) == Verdict(generation=1, name="a", up=True)
    assert World(target(up=True)).answer(BAD) == Verdict(generation=1, name="a", up=False, reason="refused")


def test_the_same_answer_again_is_not_said_again_but_another_reason_is() -> None:
    world = World(target())
    world.answer(BAD)
    assert world.answer(BAD) is None
    other = world.answer(Answer(ok=False, reason="no answer"))
    assert other
    assert other.reason == "no answer"


def test_failures_in_a_row_take_a_backend_out_and_one_answer_between_them_begins_the_count_again() -> None:
    world = World(target("a", replace(CHECK, fall=3)))
    assert world.answer(WELL)
    assert [world.answer(each) for each in (BAD, BAD, WELL, BAD, BAD)] == [None] * 5
    verdict = world.answer(BAD)
    assert verdict
    assert not verdict.up


def test_answers_in_a_row_bring_it_back_and_one_failure_between_them_begins_the_count_again() -> None:
    world = World(target("a", replace(CHECK, rise=2)))
    assert world.answer(BAD)
    assert [world.answer(each) for each in (WELL, BAD, WELL)] == [None] * 3
    verdict = world.answer(WELL)
    assert verdict
    assert verdict.up


def test_every_check_of_a_backend_must_hold_and_the_first_that_fails_gives_the_reason() -> None:
    checks = (CHECK, replace(CHECK, port=81), replace(CHECK, port=82))
    world = World(target("a", *checks))
    said: list[Verdict | None] = []
    while len(said) < 3:
        for question in world.questions():
            answer = WELL if question.port == 80 else Answer(ok=False, reason=f"port {question.port}")
            said.append(world.schedule.answered(question, answer, world.now))
    verdict = world.schedule.want(wish(target("a", *checks), generation=2), world.now)[0]
    assert verdict == Verdict(generation=2, name="a", up=False, reason="port 81")


def test_a_backend_with_several_checks_is_known_when_all_were_answered() -> None:
    world = World(target("a", CHECK, replace(CHECK, port=81)))
    first, second = sorted((world.questions() + world.questions()), key=lambda question: question.due)
    assert world.schedule.answered(first, WELL, world.now) is None
    assert world.schedule.answered(second, WELL, world.now) == Verdict(generation=1, name="a", up=True)


def test_the_lowest_weight_that_backends_say_counts() -> None:
    world = World(target("a", CHECK, replace(CHECK, port=81), replace(CHECK, port=82)))
    said = {80: None, 81: 60, 82: 30}
    verdicts: list[Verdict | None] = []
    while len(verdicts) < 3:
        for question in world.questions():
            verdicts.append(world.schedule.answered(question, Answer(ok=True, percent=said[question.port]), world.now))
    assert verdicts[-1] == Verdict(generation=1, name="a", up=True, percent=30)


def test_a_change_of_weight_is_said_at_once() -> None:
    world = World(target("a", replace(CHECK, rise=2)))
    world.answer(WELL)
    world.answer(Answer(ok=True, percent=100))
    verdict = world.answer(Answer(ok=True, percent=0))
    assert verdict == Verdict(generation=1, name="a", up=True, percent=0)


def test_what_this_node_could_not_ask_counts_for_nothing() -> None:
    world = World(target("a", up=True))
    assert world.answer(Answer(ok=False, ours=True)) is None
    assert world.answer(WELL) == Verdict(generation=1, name="a", up=True)
    assert [world.answer(Answer(ok=False, ours=True)) for _ in range(5)] == [None] * 5


def test_why_this_node_cannot_ask_is_said_while_nothing_else_is_known() -> None:
    world = World(target())
    lacking = Answer(ok=False, ours=True, reason="no socket")
    assert world.answer(lacking) == Verdict(generation=1, name="a", up=False, known=False, reason="no socket")
    assert world.answer(lacking) is None
    assert world.answer(WELL)
    assert world.answer(lacking) is None


def test_the_next_question_begins_an_interval_after_the_one_before_began_and_never_later() -> None:
    world = World(target("a", replace(CHECK, interval_ms=2000)))
    world.answer(WELL)
    gaps = []
    for _ in range(200):
        begun = world.questions()[0]
        world.now += 0.5
        world.schedule.answered(begun, WELL, world.now)
        at = world.schedule.next_at()
        assert at is not None
        gaps.append(at - begun.begun)
    assert all(2.0 * (1 - JITTER) <= gap <= 2.0 for gap in gaps[1:])
    assert max(gaps[1:]) - min(gaps[1:]) > JITTER


def test_questions_of_a_check_never_overlap() -> None:
    world = World(target("a", replace(CHECK, interval_ms=1000, timeout_ms=5000)))
    (question,) = world.questions()
    assert world.schedule.next_at() is None
    assert world.schedule.due(world.now + 60, MANY) == []
    world.schedule.answered(question, BAD, world.now + 5)
    assert world.schedule.next_at() == world.now + 5


def test_while_failures_are_counted_the_next_question_comes_after_the_retry_time() -> None:
    world = World(target("a", replace(CHECK, fall=3, retry_ms=200)))
    gaps = []
    for answer in (WELL, BAD, BAD, BAD, WELL):
        (question,) = world.questions()
        world.schedule.answered(question, answer, world.now)
        at = world.schedule.next_at()
        assert at is not None
        gaps.append(round(at - question.begun, 3))
    assert gaps[1:3] == [0.2, 0.2]
    assert gaps[3] >= 3 * (1 - JITTER)


def test_an_interval_of_nothing_does_not_spin() -> None:
    world = World(target("a", replace(CHECK, interval_ms=0)))
    world.answer(WELL)
    assert (world.schedule.next_at() or 0) >= world.now + SHORTEST


def test_a_few_new_backends_are_asked_at_once_and_thousands_spread_over_their_interval() -> None:
    few = World(target("a"), target("b"))
    assert max(question.due for question in few.schedule.due(few.now + 3, MANY)) <= few.now + 2 * SPACING
    many = World(*(target(f"t{number}") for number in range(3000)))
    due = [question.due - many.now for question in many.schedule.due(many.now + 3, MANY)]
    tenths = [sum(number / 10 <= at / 3 < (number + 1) / 10 for at in due) for number in range(10)]
    assert len(due) == 3000
    assert all(200 < count < 400 for count in tenths)


def test_those_that_were_asked_together_are_soon_asked_apart() -> None:
    world = World(*(target(f"t{number}") for number in range(20)))
    for question in world.schedule.due(world.now + 1, MANY):
        world.schedule.answered(question, WELL, world.now + 1)
    second = sorted(question.due for question in world.schedule.due(world.now + 10, MANY))
    assert second[-1] - second[0] > 1.5


def test_not_more_are_given_out_than_may_be_open_and_the_latest_comes_first() -> None:
    world = World(*(target(f"t{number}") for number in range(10)))
    first = world.schedule.due(world.now + 3, 4)
    rest = world.schedule.due(world.now + 3, MANY)
    assert (len(first), len(rest)) == (4, 6)
    assert max(question.due for question in first) <= min(question.due for question in rest)


def test_what_remains_in_the_next_wish_keeps_its_state_and_its_time() -> None:
    world = World(target("a"), target("b"))
    for question in world.schedule.due(world.now + 1, MANY):
        world.schedule.answered(question, WELL, world.now + 1)
    at = world.schedule.next_at()
    verdicts = world.schedule.want(wish(target("a", up=True), target("b"), target("c"), generation=2), world.now + 1)
    assert [(each.up, each.known, each.generation) for each in verdicts] == [(True, True, 2)] * 2 + [(False, False, 2)]
    (fresh,) = world.schedule.due(world.now + 1.01, MANY)
    assert fresh.target.name == "c"
    assert world.schedule.next_at() == at


def test_what_is_gone_is_not_asked_and_its_late_answer_says_nothing() -> None:
    world = World(target("a"), target("b"))
    asked = world.questions()[0]
    assert world.schedule.want(wish(generation=2), world.now) == []
    assert world.schedule.due(world.now + 10, MANY) == []
    assert world.schedule.answered(asked, WELL, world.now) is None
    assert world.schedule.next_at() is None
    assert len(world.schedule) == 0


def test_the_queue_forgets_what_is_gone() -> None:
    world = World(target("a"), target("b"))
    world.schedule.want(wish(target("b"), generation=2), world.now)
    assert world.schedule.due(world.now + 10, MANY)[0].target.name == "b"


def test_a_backend_whose_check_is_edited_stays_what_it_was_until_the_answer() -> None:
    world = World(target("a"))
    world.answer(WELL)
    edited = target("a", replace(CHECK, interval_ms=1000), up=False)
    assert world.schedule.want(wish(edited, generation=2), world.now) == [
        Verdict(generation=2, name="a", up=True, known=False)
    ]
    assert world.answer(BAD) == Verdict(generation=2, name="a", up=False, reason="refused")


def test_a_check_that_is_added_leaves_the_others_their_state() -> None:
    world = World(target("a"))
    world.answer(WELL)
    world.schedule.want(wish(target("a", replace(CHECK, port=81), CHECK), generation=2), world.now)
    (question,) = world.questions()
    assert question.port == 81
    assert world.schedule.answered(question, WELL, world.now) == Verdict(generation=2, name="a", up=True)


def test_a_name_that_now_means_another_address_begins_anew() -> None:
    world = World(target("a"))
    world.answer(WELL)
    moved = target("a", address="10.0.0.22")
    assert not world.schedule.want(wish(moved, generation=2), world.now)[0].known
    assert world.questions()[0].host == "10.0.0.22"


def test_a_backend_without_checks_is_well() -> None:
    bare = replace(target("a"), checks=())
    assert World(bare).first == [Verdict(generation=1, name="a", up=True)]
