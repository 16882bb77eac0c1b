"""Asks what is due and says what becomes of it: the loop's end of the schedule."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from lvsagent.checks.answer import Answer, Checker, failed, no_answer
from lvsagent.checks.errors import OURS, ours, spoken
from lvsagent.checks.messages import LATE_BUCKETS_MS, Statistics, Target, Targets
from lvsagent.checks.outlet import Outlet
from lvsagent.checks.schedule import Question, Schedule
from lvsagent.checks.tcp import Connector
from lvsagent.runtime.logs import Throttle
from lvsapi.health import CheckType, HealthCheck

GATHER: Final = 0.01
"""Seconds: what is due within one such time is asked in one turn of the loop."""
STARVED: Final = 0.5
"""Of the timeout: when it is noticed so much later, we did not run, and the answer may have come meanwhile."""

_log = logging.getLogger(__name__)


class Asker:
    """``want`` as often as the wish changes; answers come by themselves. ``close`` at the end."""

    def __init__(
        self,
        *,
        outlet: Outlet,
        loop: asyncio.AbstractEventLoop,
        checkers: Mapping[CheckType, Checker],
        at_once: Mapping[CheckType, int],
        most: int,
    ) -> None:
        self._outlet = outlet
        self._loop = loop
        self._checkers = checkers
        self._gates = {kind: asyncio.Semaphore(count) for kind, count in at_once.items()}
        self._most = most
        self._schedule = Schedule()
        self._connector = Connector(self._answered)
        loop.add_reader(self._connector.fileno(), self._connector.ready)
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._asked: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._unasked = 0
        self._held_back = 0
        self._late = [0] * (len(LATE_BUCKETS_MS) + 1)
        self._late_total = 0.0
        self._throttle = Throttle()

    def want(self, wish: Targets) -> None:
        """Ask these from now on; every verdict is said again."""
        verdicts = self._schedule.want(wish, self._loop.time())
        self._outlet.only(verdict.name for verdict in verdicts)
        self._outlet.say(*verdicts)
        self._turn()

    def statistics(self) -> Statistics:
        """Up to now."""
        return Statistics(
            targets=len(self._schedule),
            asked=dict(self._asked),
            failed=dict(self._failed),
            unasked=self._unasked,
            held_back=self._held_back,
            late=tuple(self._late),
            late_total_us=int(self._late_total * 1e6),
        )

    async def close(self) -> None:
        """Ask nothing more; commands that run are killed."""
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._connector.fileno())
        self._connector.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _turn(self) -> None:
        now = self._loop.time()
        self._connector.ready()  # first: what was answered while we did not run has not timed out
        self._connector.expire(now)
        for question in self._schedule.due(now, self._most - self._open):
            self._open += 1
            if question.check.type is CheckType.TCP:
                self._begins(question, now)
                self._connector.ask(question, now)
            else:
                task = self._loop.create_task(self._ask(question))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._arm(now)

    def _arm(self, now: float) -> None:
        times = [self._connector.next_deadline()]
        due = self._schedule.next_at()
        if self._open < self._most:
            times.append(due)
        elif due is not None and due <= now:
            self._held_back += 1
            times.append(now + GATHER)
            if self._throttle.allows("full", now):
                _log.warning("checks wait: too many are open", extra={"open": self._open, "limit": self._most})
        known = [at for at in times if at is not None]
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(min(known), now + GATHER), self._turn) if known else None

    def _begins(self, question: Question, now: float) -> None:
        late = max(0.0, now - question.due)
        self._late_total += late
        place = 0
        while place < len(LATE_BUCKETS_MS) and late * 1000 > LATE_BUCKETS_MS[place]:
            place += 1
        self._late[place] += 1

    async def _ask(self, question: Question) -> None:
        gate = self._gates.get(question.check.type)
        if gate is None:
            answer = await self._answer(question)
        else:
            async with gate:
                answer = await self._answer(question)
        self._answered(question, answer)

    async def _answer(self, question: Question) -> Answer:
        self._begins(question, self._loop.time())
        check, target = question.check, question.target
        try:
            return await ask(self._checkers[check.type], check, target)
        except Exception as error:  # whatever a backend makes a library do: the other checks go on
            if self._throttle.allows(f"{check.type} {error!r}", self._loop.time()):
                _log.exception("a checker failed in a way it should not", extra={"target": target.name})
            return failed(check, target, f"{type(error).__name__}: {error}")

    def _answered(self, question: Question, answer: Answer) -> None:
        self._open -= 1
        now = self._loop.time()
        if answer.ours:
            self._unasked += 1
            if self._throttle.allows(answer.reason, now):
                _log.warning("a check could not be asked", extra={"target": question.target.name, "why": answer.reason})
        else:
            self._asked[question.check.type] += 1
            if not answer.ok:
                self._failed[question.check.type] += 1
        verdict = self._schedule.answered(question, answer, now)
        if verdict is not None:
            self._outlet.say(verdict)
        self._sooner()

    def _sooner(self) -> None:
        """The timer stands where the next question was due before this answer; bring it forward if need be."""
        due = self._schedule.next_at()
        if due is not None and (self._timer is None or due < self._timer.when()):
            self._arm(self._loop.time())


async def ask(checker: Checker, check: HealthCheck, target: Target) -> Answer:
    """One question, with its timeout and the words for errors of sockets. What else is raised is a fault of ours."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + check.timeout_ms / 1000
    try:
        async with asyncio.timeout_at(deadline):
            return await checker(check, target)
    except TimeoutError:
        if loop.time() - deadline > check.timeout_ms / 1000 * STARVED:
            return Answer(ok=False, ours=True, reason="this node was too busy to hear the answer")
        return no_answer(check, target)
    except OSError as error:
        if error.errno in OURS:
            return ours(error)
        return failed(check, target, spoken(error.errno) if error.errno and error.errno > 0 else str(error))
