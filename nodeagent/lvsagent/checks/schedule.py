"""When each backend is asked, and what its answers come to. Pure: time is an argument, in monotonic seconds.

Thousands of checks must not march in step: first questions are spread by a hash of the target's name, the second
follows after a part of the interval that is a hash, too, and each later one up to JITTER of the interval early (never
late: from a backend's death to the verdict at most ``fall`` intervals pass).
"""

import heapq
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from lvsagent.checks.answer import Answer, port_of
from lvsagent.checks.messages import Target, Targets, Verdict
from lvsapi.health import HealthCheck

JITTER: Final = 0.05
"""Of the interval."""
SPACING: Final = 0.005
"""Seconds between first questions on average, unless that would take longer than the interval: a few new backends are
asked at once, thousands over their interval."""
SHORTEST: Final = 0.01
"""Seconds between two questions, whatever the interval is."""
LONGEST_REASON: Final = 400
"""Characters."""


class Question:
    """One check of one target, asked again and again. What begins with an underscore belongs to the schedule."""

    __slots__ = (
        "_fails",
        "_passes",
        "_percent",
        "_rounds",
        "_seed",
        "_up",
        "begun",
        "check",
        "dropped",
        "due",
        "host",
        "port",
        "reason",
        "target",
    )

    def __init__(self, target: Target, check: HealthCheck, number: int) -> None:
        self.target = target
        self.check = check
        self.host = str(target.address)
        self.port = port_of(check, target)
        self.due = 0.0
        """When it ought to be asked next."""
        self.begun = 0.0
        """When it was asked last."""
        self.dropped = False
        """Nobody wants to know any more."""
        self.reason = ""
        self._up: bool | None = None
        self._passes = 0
        self._fails = 0
        self._percent: int | None = None
        self._rounds = 0
        self._seed = zlib.crc32(f"{target.name}#{number}".encode())

    def fraction(self) -> float:
        """The next of a row of numbers from 0 to 1 that depends on the target's name only."""
        self._seed = (self._seed * 1664525 + 1013904223) & 0xFFFFFFFF  # Numerical Recipes' "quick and dirty" generator
        return self._seed / (1 << 32)

    def count(self, answer: Answer) -> bool:
        """Rise and fall. Says whether the target's verdict may be another now."""
        before = (self._up, self._percent, self.reason)
        if answer.ok:
            self._fails = 0
            self._percent = answer.percent
            self._passes += 1
            if self._up is not True and self._passes >= self.check.rise:
                self._up = True
                self.reason = ""
        else:
            self._passes = 0
            self._fails += 1
            if self._up is False or self._fails >= self.check.fall:
                self._up = False
                self.reason = answer.reason[:LONGEST_REASON]
        return before != (self._up, self._percent, self.reason)

    def lack(self, answer: Answer) -> bool:
        """It could not be asked: the reason matters while nothing else is known."""
        before, self.reason = self.reason, answer.reason[:LONGEST_REASON] if self._up is None else self.reason
        return before != self.reason

    def gap(self) -> float:
        """Seconds from the begin of the last question to the begin of the next."""
        self._rounds += 1
        interval = self.check.interval_ms / 1000
        if self._fails and self._up is not False and self.check.retry_ms is not None:
            return max(SHORTEST, self.check.retry_ms / 1000)
        early = JITTER if self._rounds > 1 else 1.0
        return max(SHORTEST, interval * (1 - early * self.fraction()))

    @property
    def up(self) -> bool | None:
        """None: nothing is known yet."""
        return self._up

    @property
    def percent(self) -> int | None:
        """As the backend said last."""
        return self._percent


class _Asked:
    """A target with its questions and the verdict that was given last."""

    __slots__ = ("questions", "taken", "target", "verdict")

    def __init__(self, target: Target, questions: tuple[Question, ...], taken: bool) -> None:
        self.target = target
        self.questions = questions
        self.taken = taken
        """What it counts as until everything is known."""
        self.verdict: Verdict | None = None

    def judge(self, generation: int) -> Verdict:
        """All checks taken together: one that failed decides, one that is not known yet leaves it open."""
        bad = next((question for question in self.questions if question.up is False), None)
        if bad is not None:
            return Verdict(generation=generation, name=self.target.name, up=False, reason=bad.reason)
        unknown = next((question for question in self.questions if question.up is None), None)
        if unknown is not None:
            reason = "" if self.taken else unknown.reason or "not answered yet"
            return Verdict(generation=generation, name=self.target.name, up=self.taken, known=False, reason=reason)
        said = [question.percent for question in self.questions if question.percent is not None]
        return Verdict(generation=generation, name=self.target.name, up=True, percent=min(said, default=100))


class Schedule:
    """Of all targets. Never two questions of one check at a time."""

    def __init__(self) -> None:
        self._generation = 0
        self._targets: dict[str, _Asked] = {}
        self._queue: list[tuple[float, int, Question]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._targets)

    def want(self, wish: Targets, now: float) -> list[Verdict]:
        """Ask these from now on. What remains as it was keeps its state. Returns every target's verdict."""
        self._generation = wish.generation
        old = self._targets
        self._targets = {}
        fresh: list[Question] = []
        for target in wish.targets:
            asked = self._carry_over(old.get(target.name), target, fresh)
            self._targets[target.name] = asked
        kept = {id(question) for asked in self._targets.values() for question in asked.questions}
        for asked in old.values():
            for question in asked.questions:
                question.dropped = id(question) not in kept
        for question in fresh:
            window = min(question.check.interval_ms / 1000, len(fresh) * SPACING)
            self._put(question, now + window * question.fraction())
        return list(self._verdicts())

    def next_at(self) -> float | None:
        """When the next question is due. None: there is none that is not being asked."""
        while self._queue and self._queue[0][2].dropped:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def due(self, now: float, most: int) -> list[Question]:
        """Questions to ask now, the latest first in line, not more than so many. Each must be answered once."""
        found: list[Question] = []
        while len(found) < most and self._queue and self._queue[0][0] <= now:
            question = heapq.heappop(self._queue)[2]
            if not question.dropped:
                question.begun = now
                found.append(question)
        return found

    def answered(self, question: Question, answer: Answer, now: float) -> Verdict | None:
        """The target's verdict when it is another one now."""
        if question.dropped:
            return None
        changed = question.lack(answer) if answer.ours else question.count(answer)
        self._put(question, max(question.begun + question.gap(), now))
        if not changed:
            return None
        asked = self._targets[question.target.name]
        verdict = asked.judge(self._generation)
        if verdict == asked.verdict:
            return None
        asked.verdict = verdict
        return verdict

    def _put(self, question: Question, at: float) -> None:
        question.due = at
        self._serial += 1
        heapq.heappush(self._queue, (at, self._serial, question))

    def _verdicts(self) -> Iterator[Verdict]:
        for asked in self._targets.values():
            asked.verdict = asked.judge(self._generation)
            yield asked.verdict

    @staticmethod
    def _carry_over(old: _Asked | None, target: Target, fresh: list[Question]) -> _Asked:
        if old is None or not _same_place(old.target, target):
            return _Asked(target, _begin(target, enumerate(target.checks), fresh), target.up)
        # An edited check does not take down what is up, nor bring back what is down, before it is answered.
        taken = old.verdict.up if old.verdict and old.verdict.known else target.up
        free = list(old.questions)
        questions = []
        for number, check in enumerate(target.checks):
            same = next((question for question in free if question.check == check), None)
            if same is not None:
                free.remove(same)
                questions.append(same)
            else:
                questions += _begin(target, ((number, check),), fresh)
        return _Asked(target, tuple(questions), taken)


def _begin(target: Target, checks: Iterable[tuple[int, HealthCheck]], fresh: list[Question]) -> tuple[Question, ...]:
    questions = tuple(Question(target, check, number) for number, check in checks)
    fresh += questions
    return questions


def _same_place(one: Target, other: Target) -> bool:
    if one is other:
        return True
    return replace(one, checks=(), up=False) == replace(other, checks=(), up=False)
