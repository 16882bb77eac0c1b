"""RFC 9568 section 6.4 under an independent judge: our router never breaks a clause, and every breach is named."""

import functools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from lvsagent.vrrp.events import (
    Acquire,
    Announce,
    Event,
    Output,
    Parameters,
    Reconfigure,
    Release,
    SendAdvert,
    Shutdown,
    Startup,
    State,
    Tick,
)
from lvsagent.vrrp.machine import VirtualRouter
from tests.clauses.states import Judge, doctored
from tests.fakes.vrrp import DOWN, HIGHER, LOWER, OURS, SKEW, VIP, VIP2, received

pytestmark = pytest.mark.unit

Step = tuple[Event, float]
Doctor = Callable[[tuple[Output, ...]], tuple[Output, ...]]

MICROSECOND = 1e-6
START: Step = (Startup(), 0.0)
TAKE_OVER: Step = (Tick(), DOWN)
CLAUSES = (
    "C8",
    "C17",
    "C18",
    "C24",
    "C25",
    "C26",
    "C27",
    "C28",
    "C35",
    "C36",
    "C37",
    "C38",
    "C39",
    "C40",
    "C51",
    "C56",
)


def pair(priority: int, preempt: bool = True, interval: float = 1.0) -> tuple[VirtualRouter, Judge]:
    """A router and its judge."""
    mine = Parameters(
        virtual_router_id=51, priority=priority, interval=interval, addresses=(VIP,), source=OURS, preempt=preempt
    )
    return VirtualRouter(mine), Judge(priority, interval, OURS, (VIP,), preempt)


@functools.cache
def breaches() -> dict[str, str]:
    """The first breach of each random walk: clause -> what happened then."""
    found: dict[str, str] = {}
    for seed in range(60):
        dice = random.Random(seed)
        machine, judge = pair(dice.choice([1, 100, 254, 255]), dice.random() < 0.5, dice.choice([0.1, 1.0]))
        now, broken = 0.0, set[str]()
        for _ in range(300):
            event, now = _next(dice, machine, judge, now)
            outputs = machine.handle(event, now)
            broken = judge.watch(event, now, outputs)
            if broken or machine.state is not judge.state:
                found |= dict.fromkeys(broken or {judge.armed_by}, f"seed {seed}: {event} at {now}: {outputs}")
                break
    return found


@pytest.mark.parametrize("clause", [pytest.param(name, marks=pytest.mark.clause(name, "held")) for name in CLAUSES])
def test_whatever_happens_a_router_does_not_break_this_clause(clause: str) -> None:
    assert breaches().get(clause) is None


def _next(dice: random.Random, machine: VirtualRouter, judge: Judge, now: float) -> tuple[Event, float]:
    """Something that can happen, not later than the router's timer."""
    if judge.state is State.INITIALIZE:
        early: list[Event] = [Startup(), Startup(), Shutdown(), received(200)]
        return dice.choice(early), now + dice.random()
    left = judge.due - now
    if left < 2 * MICROSECOND:
        return Tick(), judge.due + MICROSECOND
    match dice.randrange(16):
        case 0 | 1 | 2 | 3 | 4:
            # What the machine does at its own deadline, the judge sees: if it is early, that is a breach.
            deadline = machine.deadline or judge.due
            return Tick(), max(now, deadline if deadline < judge.due - MICROSECOND else judge.due + MICROSECOND)
        case 5:
            return Tick(), now + 0.999 * left
        case 6 if dice.random() < 0.3:
            return Shutdown(), now + left * dice.random()
        case 7 if judge.state is State.ACTIVE:
            addresses = (VIP, VIP2)[: dice.choice([1, 2])]
            return Reconfigure(replace(machine.parameters, addresses=addresses)), now + left * dice.random()
        case _:
            near = judge.priority + dice.choice([-1, 0, 0, 1])
            priority = max(0, min(255, dice.choice([0, 1, near, near, 255])))
            interval = dice.choice([1, 10, 100, 400, 4095])
            return received(priority, dice.choice([LOWER, HIGHER]), interval), now + left * dice.random()


def test_the_judge_waits_by_the_numbers_of_the_rfc() -> None:
    _, judge = pair(100)
    judge.watch(*START, ())
    judge.watch(received(100, interval=200), 1.0, ())
    assert judge.due == 1.0 + 3 * 2.0 + 156 / 256 * 2.0


def silent(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    """No advert leaves."""
    return tuple(each for each in outputs if not isinstance(each, SendAdvert))


def unannounced(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return tuple(each for each in outputs if not isinstance(each, Announce))


def announced_first(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return (*(each for each in outputs if isinstance(each, Announce)), *unannounced(outputs))


def holding_on(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return tuple(each for each in outputs if not isinstance(each, Release))


def nothing(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return ()


def talkative(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return (SendAdvert(100, 1.0, (VIP,)), *outputs)


def advert_last(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return (*silent(outputs), *(each for each in outputs if isinstance(each, SendAdvert)))


def too_strong(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return doctored(outputs, priority=255)


def breach(clause: str, doctor: Doctor, *steps: Step, priority: int = 100, also: tuple[str, ...] = ()) -> object:
    """The last step's outputs are doctored; the judge names the clause, and those that cannot be held then either."""
    named = f"{clause} {doctor.__name__}"
    return pytest.param(
        {clause, *also}, doctor, steps, priority, id=named, marks=pytest.mark.clause(clause, *also, "breach")
    )


WORSE, EQUAL, BETTER, GONE = received(99), received(100), received(101), received(0)
ACTIVE = (START, TAKE_OVER)


@pytest.mark.parametrize(
    ("named", "doctor", "steps", "priority"),
    [
        breach("C8", too_strong, *ACTIVE, (Tick(), DOWN + 1), also=("C36",)),
        breach("C17", silent, START, priority=255),
        breach("C17", advert_last, START, priority=255),
        breach("C17", unannounced, START, priority=255, also=("C56",)),
        breach("C18", talkative, START),
        breach("C18", nothing, START),
        breach("C18", nothing, *ACTIVE),
        breach("C24", talkative, START, (Shutdown(), 1.0)),
        breach("C25", silent, *ACTIVE),
        breach("C25", advert_last, *ACTIVE),
        breach("C25", unannounced, *ACTIVE, also=("C56",)),
        breach("C26", nothing, START, (GONE, 1.0), (Tick(), 1.0 + SKEW)),
        breach("C27", nothing, START, (EQUAL, 1.0), (Tick(), 1.0 + DOWN)),
        breach("C28", nothing, START, (WORSE, 1.0), (Tick(), DOWN)),
        breach("C35", silent, *ACTIVE, (Shutdown(), 4.0)),
        breach("C35", holding_on, *ACTIVE, (Shutdown(), 4.0)),
        breach("C36", silent, *ACTIVE, (Tick(), DOWN + 1)),
        breach("C37", silent, *ACTIVE, (GONE, 4.0)),
        breach("C38", nothing, *ACTIVE, (BETTER, 4.0)),
        breach("C38", holding_on, *ACTIVE, (BETTER, 4.0)),
        breach("C38", nothing, *ACTIVE, (BETTER, 4.0), (Tick(), 4.0 + DOWN)),
        breach("C39", nothing, *ACTIVE, (received(100, HIGHER), 4.0)),
        breach("C40", silent, *ACTIVE, (WORSE, 4.0)),
        breach("C51", announced_first, *ACTIVE, also=("C25",)),
        breach("C56", unannounced, *ACTIVE, (Reconfigure(replace(pair(100)[0].parameters, addresses=(VIP2,))), 4.0)),
    ],
)
def test_a_router_that_breaks_a_clause_is_named(
    named: set[str], doctor: Doctor, steps: tuple[Step, ...], priority: int
) -> None:
    machine, judge = pair(priority)
    for event, now in steps[:-1]:
        assert judge.watch(event, now, machine.handle(event, now)) == set()
    event, now = steps[-1]
    assert judge.watch(event, now, doctor(machine.handle(event, now))) == named


@pytest.mark.clause("C27", "breach")
def test_a_backup_that_takes_over_too_early_is_named_by_the_clause_that_told_it_to_wait() -> None:
    machine, judge = pair(100)
    for event, now in (START, (EQUAL, 1.0)):
        judge.watch(event, now, machine.handle(event, now))
    early = (Acquire((VIP,)), *machine.handle(Tick(), 1.0 + DOWN))
    assert judge.watch(Tick(), 1.0 + DOWN - 0.1, early) == {"C27"}
