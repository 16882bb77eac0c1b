"""keepalived's knobs in the state machine: preempt delay, state MASTER, faster adverts, version 2, sync groups."""

from dataclasses import replace

import pytest

from lvsagent.vrrp import group
from lvsagent.vrrp.arp import Announcing
from lvsagent.vrrp.events import (
    Announce,
    Cause,
    Output,
    Promote,
    Reconfigure,
    Resign,
    SendAdvert,
    Shutdown,
    Startup,
    State,
    Tick,
)
from lvsagent.vrrp.machine import VirtualRouter
from tests.fakes.vrrp import ADVERT, DOWN, HIGHER, PARAMETERS, SKEW, VIP, active, backup, became, received, router

pytestmark = pytest.mark.unit


@pytest.mark.clause("D15", "instead")
def test_a_better_router_waits_the_preempt_delay_from_the_first_advert_of_the_worse_one() -> None:
    machine = backup(preempt_delay=5.0)
    for second in range(1, 6):
        assert machine.handle(received(50), float(second)) == ()
        assert machine.deadline == second + DOWN
    machine.handle(received(50), 6.0)
    assert machine.deadline == 5.0 + DOWN
    assert machine.handle(Tick(), 5.0 + DOWN)[-1] == became(State.BACKUP, State.ACTIVE, Cause.PREEMPTION)


def test_a_better_active_in_between_starts_the_preempt_delay_anew() -> None:
    machine = backup(preempt_delay=5.0)
    machine.handle(received(50), 1.0)
    machine.handle(received(150), 5.0)
    machine.handle(received(50), 6.5)
    assert machine.deadline == 6.5 + DOWN


def test_the_preempt_delay_does_not_put_off_a_take_over_from_a_dead_one() -> None:
    machine = backup(preempt_delay=5.0)
    machine.handle(received(50), 1.0)
    assert machine.handle(Tick(), 1.0 + DOWN)[-1] == became(State.BACKUP, State.ACTIVE, Cause.ACTIVE_SILENT)


@pytest.mark.clause("D15", "instead")
def test_who_is_configured_active_waits_one_interval_only_and_still_gives_way() -> None:
    machine = backup(initially_active=True)
    assert machine.deadline == 1.0 + SKEW
    machine.handle(received(200), 0.5)
    assert machine.deadline == 0.5 + DOWN
    assert backup(initially_active=True, standby=True).deadline == pytest.approx(3 + 255 / 256)


@pytest.mark.clause("D13", "instead")
def test_adverts_may_be_sent_more_often_than_the_interval_that_they_announce() -> None:
    machine = active(send_interval=0.25)
    assert machine._timer == 0.25
    assert machine.handle(Tick(), 0.26) == (ADVERT,)
    assert machine._timer == 0.5
    assert machine.handle(Tick(), 0.5) == (ADVERT,)
    machine.handle(received(0), 0.6)
    assert machine._timer == 0.85
    assert backup(send_interval=0.25).deadline == DOWN, "who waits, waits by what is announced"


def test_the_skew_time_of_version_2_does_not_shrink_with_the_interval() -> None:
    assert backup(version=2, interval=2.0).deadline == 6 + SKEW
    machine = backup(version=2)
    machine.handle(received(200, interval=400), 1.0)
    assert machine.deadline == 1.0 + DOWN
    assert machine.clamped_intervals == 0


@pytest.mark.clause("V5", "held")
def test_version_2_discards_a_losing_advert_in_silence_but_announces() -> None:
    assert active(version=2).handle(received(99), 0.5) == (Announce((VIP,)),)


def test_announcements_are_as_configured() -> None:
    machine = backup(announcing=Announcing(delay=5.0, refresh=0.0, on_lower_priority=False))
    machine.handle(Tick(), DOWN)
    rounds = []
    while machine.deadline is not None and machine.deadline < DOWN + 30:
        now = machine.deadline
        rounds += [round(now - DOWN, 3) for output in machine.handle(Tick(), now) if isinstance(output, Announce)]
    assert rounds == [0.05, 0.1, 0.2, 0.5, 1.0, 1.2, 5.0]
    assert machine.handle(received(99), DOWN + 29.9) == (ADVERT,)
    changed = replace(PARAMETERS, announcing=Announcing(refresh=2.0))
    machine.handle(Reconfigure(changed), DOWN + 30)
    assert Announce((VIP,)) in machine.handle(received(99), DOWN + 30.5), "answered although no round was due"
    assert machine._announcements.deadline == DOWN + 32.5


# --- sync groups --------------------------------------------------------------------------------------------------


def step(*members: VirtualRouter, now: float) -> list[Output]:
    return [output for router, event in group.decisions(members) for output in router.handle(event, now)]


@pytest.mark.clause("D15", "instead")
def test_routers_of_a_group_become_active_together_when_each_would_be() -> None:
    one, two = backup(grouped=True), backup(grouped=True)
    two.handle(received(200), 3.0)
    assert one.handle(Tick(), DOWN) == ()
    assert one.willing
    assert one.deadline is None
    assert step(one, two, now=DOWN) == []
    two.handle(Tick(), 3.0 + DOWN)
    changes = step(one, two, now=3.0 + DOWN)
    assert changes.count(became(State.BACKUP, State.ACTIVE, Cause.ACTIVE_SILENT)) == 2
    assert step(one, two, now=7.0) == []


def test_a_willing_router_waits_again_when_it_hears_its_active() -> None:
    machine = backup(grouped=True)
    machine.handle(Tick(), DOWN)
    machine.handle(received(200), 4.0)
    assert not machine.willing
    assert machine.deadline == 4.0 + DOWN
    assert machine.handle(Promote(), 4.1) == ()


def test_a_willing_router_whose_group_is_given_up_becomes_active_by_itself() -> None:
    machine = backup(grouped=True)
    machine.handle(Tick(), DOWN)
    machine.handle(Reconfigure(replace(PARAMETERS, grouped=True, preempt=False)), 10.0)
    assert machine.willing, "still of a group: it waits for the others"
    machine.handle(Reconfigure(PARAMETERS), 60.0)
    assert machine.deadline is not None
    assert machine.deadline <= 60.0
    assert machine.handle(Tick(), 60.0)[-1] == became(State.BACKUP, State.ACTIVE, Cause.ACTIVE_SILENT)


def pair_of_actives() -> tuple[VirtualRouter, VirtualRouter]:
    one, two = backup(grouped=True), backup(grouped=True)
    for machine in (one, two):
        machine.handle(Tick(), DOWN)
    step(one, two, now=DOWN)
    return one, two


@pytest.mark.parametrize("loss", [received(200, source=HIGHER), Shutdown(Cause.INTERFACE_LOST)])
def test_when_one_of_a_group_is_lost_the_others_hand_over(loss: Shutdown) -> None:
    one, two = pair_of_actives()
    one.handle(loss, 4.0)
    assert step(one, two, now=4.0) == [SendAdvert(0, 1.0, (VIP,))]
    assert step(one, two, now=4.1) == []
    assert two.handle(received(50), 4.2)[-1] == became(State.ACTIVE, State.BACKUP, Cause.SYNC_GROUP)


def test_an_owner_in_a_group_waits_for_the_group_and_is_then_active() -> None:
    machine = router(priority=255, grouped=True)
    assert machine.handle(Startup(), 0.0) == (became(State.INITIALIZE, State.BACKUP, Cause.STARTUP),)
    assert list(group.decisions([active()])) == []
    one, two = pair_of_actives()
    two.handle(Shutdown(Cause.INTERFACE_LOST), 5.0)
    assert list(group.decisions([one, two])) == [(one, Resign(Cause.SYNC_GROUP))]


# --- damping ------------------------------------------------------------------------------------------------------


def flap(machine: VirtualRouter, at: float) -> None:
    machine._timer = at  # it was on time until now
    machine.handle(Shutdown(Cause.INTERFACE_LOST), at)
    machine.handle(Startup(), at + 1)


def waits_to_preempt(machine: VirtualRouter, at: float) -> float:
    """Seconds after ``at`` at which the router takes over from a worse Active that is heard every second."""
    now = at
    while machine.state is State.BACKUP:
        machine.handle(received(50), now)
        now += 1.0
        machine.handle(Tick(), now)
    return now - at


@pytest.mark.clause("D19", "instead")
def test_the_first_failure_costs_nothing_and_further_ones_ever_more() -> None:
    machine = backup()
    waits: list[float] = []
    at = 0.0
    for _ in range(7):
        flap(machine, at)
        waits.append(waits_to_preempt(machine, at + 1))
        at += waits[-1] + 10
    assert waits[0] < 5
    assert waits[1] == pytest.approx(5 + DOWN, abs=1.5)
    assert all(5 <= later <= 310 for later in waits[1:])
    assert waits[4] == pytest.approx(8 * waits[1], rel=0.5)


def test_failures_are_forgotten_after_ten_minutes_and_never_put_off_a_takeover_from_a_dead_one() -> None:
    machine = backup()
    for at in (10.0, 20.0, 30.0):
        flap(machine, at)
    machine.handle(received(50), 32.0)
    assert machine.handle(Tick(), 32.0 + DOWN)[-1] == became(State.BACKUP, State.ACTIVE, Cause.ACTIVE_SILENT)
    flap(machine, 700.0)
    assert waits_to_preempt(machine, 701.0) < 5


def test_a_router_that_overslept_twice_waits_too() -> None:
    machine = backup()
    for begin in (0.0, 100.0):
        machine._timer = begin
        assert machine.handle(Tick(), begin)[-1] == became(State.BACKUP, State.ACTIVE, Cause.ACTIVE_SILENT)
        assert machine.handle(Tick(), begin + 50)[-1] == became(State.ACTIVE, State.BACKUP, Cause.LATE_TIMER)
    assert waits_to_preempt(machine, 150.0) >= 5
