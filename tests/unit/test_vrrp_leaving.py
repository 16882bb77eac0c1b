"""An Active that ends, resigns or restarts: the successor serves before it lets go (keepalived has none of this)."""

from dataclasses import replace

import pytest

from lvsagent.vrrp.events import (
    Cause,
    Reconfigure,
    Release,
    Resign,
    SendAdvert,
    Shutdown,
    Startup,
    State,
    Suspend,
    Tick,
)
from lvsagent.vrrp.machine import PATIENCE, VirtualRouter
from tests.fakes.vrrp import (
    ADVERT,
    DOWN,
    FAREWELL,
    LOWER,
    PARAMETERS,
    TAKE_OVER,
    VIP,
    active,
    backup,
    became,
    received,
    router,
)

pytestmark = pytest.mark.unit

STANDBY = replace(PARAMETERS, standby=True)


def shutting_down() -> VirtualRouter:
    machine = active()
    assert machine.handle(Shutdown(patience=1.0), 0.5) == (FAREWELL,)
    return machine


@pytest.mark.clause("D12", "instead")
def test_an_active_that_ends_says_farewell_three_times_and_serves_on() -> None:
    machine = shutting_down()
    assert machine.state is State.ACTIVE
    assert machine.leaving
    assert machine.handle(Tick(), 0.505) == ()
    assert machine.handle(Tick(), 0.511) == (FAREWELL,)
    assert machine.handle(Tick(), 0.522) == (FAREWELL,)
    assert machine.handle(Tick(), 0.6) == ()
    assert machine.handle(Tick(), 1.1) == (), "no advert of ours any more"


def test_it_lets_go_when_the_successor_speaks_whoever_that_is() -> None:
    machine = shutting_down()
    assert machine.handle(received(1), 0.55) == (
        Release((VIP,)),
        became(State.ACTIVE, State.INITIALIZE, Cause.SHUTDOWN),
    )
    assert machine.deadline is None


def test_anothers_farewell_is_no_successor() -> None:
    machine = shutting_down()
    assert machine.handle(received(0), 0.55) == ()
    assert machine.leaving


def test_it_lets_go_when_no_successor_speaks_in_time() -> None:
    machine = shutting_down()
    machine.handle(Tick(), 0.52)
    machine.handle(Tick(), 0.54)
    assert machine.handle(Tick(), 1.5)[-2:] == (
        Release((VIP,)),
        became(State.ACTIVE, State.INITIALIZE, Cause.SHUTDOWN),
    )


def test_a_backup_ends_at_once() -> None:
    assert backup().handle(Shutdown(patience=1.0), 0.5) == (became(State.BACKUP, State.INITIALIZE, Cause.SHUTDOWN),)


def test_a_second_order_to_end_in_patience_changes_nothing_and_one_without_ends_at_once() -> None:
    machine = shutting_down()
    assert machine.handle(Shutdown(patience=1.0), 0.9) == ()
    assert machine._leaving is not None
    assert machine._leaving.until == 1.5
    assert machine.handle(Shutdown(Cause.INTERFACE_LOST), 1.0) == (
        Release((VIP,)),
        became(State.ACTIVE, State.INITIALIZE, Cause.INTERFACE_LOST),
    )


def test_an_active_that_is_wanted_again_while_it_leaves_stays() -> None:
    machine = shutting_down()
    assert machine.handle(Startup(), 0.6) == (ADVERT,)
    assert not machine.leaving
    assert machine.deadline == 1.6
    assert machine.handle(Startup(), 0.7) == ()


def test_one_that_overslept_its_leaving_just_ends() -> None:
    machine = shutting_down()
    assert machine.handle(received(200), 1.5 + PATIENCE + 0.1)[-1] == became(
        State.ACTIVE, State.INITIALIZE, Cause.SHUTDOWN
    )
    machine = active()
    machine.handle(Resign(Cause.RESIGNED), 0.5)
    assert machine.handle(Tick(), 10.0)[-1] == became(State.ACTIVE, State.BACKUP, Cause.LATE_TIMER)


# --- resigning ----------------------------------------------------------------------------------------------------


def test_a_node_told_to_stand_by_hands_over_and_becomes_backup() -> None:
    machine = active()
    assert machine.handle(Reconfigure(STANDBY), 0.5) == (FAREWELL,)
    assert machine.handle(received(50), 0.6) == (Release((VIP,)), became(State.ACTIVE, State.BACKUP, Cause.RESIGNED))
    assert machine.active_address == LOWER
    assert machine.deadline == pytest.approx(0.6 + 3 + 255 / 256), "it waits with the lowest priority"


@pytest.mark.clause("D15", "instead")
def test_it_never_preempts_while_it_stands_by_and_takes_back_afterwards() -> None:
    machine = backup(standby=True)
    machine.handle(received(1, source=LOWER), 1.0)
    machine.handle(received(1, source=LOWER), 2.0)
    assert machine.deadline == pytest.approx(2.0 + 3 + 255 / 256)
    machine.handle(Reconfigure(PARAMETERS), 2.1)
    machine.handle(received(1, source=LOWER), 3.0)
    assert machine.handle(Tick(), 2.0 + DOWN)[-1] == became(State.BACKUP, State.ACTIVE, Cause.PREEMPTION)


@pytest.mark.clause("D15", "instead")
def test_whoever_stands_by_is_replaced_also_by_a_router_that_does_not_preempt_others() -> None:
    for priority, preempted in ((1, True), (2, False)):
        machine = backup(preempt=False)
        machine.handle(received(priority, source=LOWER), 1.0)
        assert (machine.deadline == pytest.approx(DOWN)) == preempted
    machine = backup(preempt_delay=60.0)
    machine.handle(received(1, source=LOWER), 1.0)
    assert machine.deadline == pytest.approx(DOWN), "nobody waits to relieve it"
    machine = backup(preempt=False, standby=True)
    machine.handle(received(1, source=LOWER), 1.0)
    assert machine.deadline == pytest.approx(1.0 + 3 + 255 / 256), "who stands by itself waits"


def test_where_no_other_can_it_goes_on_with_the_lowest_priority() -> None:
    machine = active()
    machine.handle(Reconfigure(STANDBY), 0.5)
    sent = [output for at in (0.52, 0.54, 0.5 + PATIENCE) for output in machine.handle(Tick(), at)]
    assert sent == [FAREWELL, FAREWELL, SendAdvert(1, 1.0, (VIP,))]
    assert machine.state is State.ACTIVE
    assert not machine.leaving
    assert machine.handle(received(2), 1.7)[-1] == became(State.ACTIVE, State.BACKUP, Cause.HIGHER_PRIORITY)


def test_told_to_serve_again_while_it_hands_over_it_stays() -> None:
    machine = active()
    machine.handle(Reconfigure(STANDBY), 0.5)
    assert machine.handle(Reconfigure(PARAMETERS), 0.55) == (ADVERT,)
    assert not machine.leaving


def test_an_owner_that_stands_by_waits_like_any_other() -> None:
    machine = router(priority=255, standby=True)
    machine.handle(Startup(), 0.0)
    assert machine.state is State.BACKUP


def test_a_resigning_router_may_still_be_ended() -> None:
    machine = active()
    machine.handle(Resign(Cause.SYNC_GROUP), 0.5)
    assert machine.handle(Resign(Cause.RESIGNED), 0.6) == ()
    assert machine.handle(Shutdown(patience=1.0), 0.7) == (FAREWELL,)
    assert machine.handle(received(50), 0.8)[-1] == became(State.ACTIVE, State.INITIALIZE, Cause.SHUTDOWN)
    assert backup().handle(Resign(Cause.RESIGNED), 0.5) == ()


# --- graceful restart ---------------------------------------------------------------------------------------------


def test_before_a_restart_the_backups_are_asked_to_wait_three_times() -> None:
    machine = active()
    notice = SendAdvert(100, 2.0, (VIP,))
    assert machine.handle(Suspend(6.0), 0.5) == (notice,)
    assert machine.handle(Tick(), 0.51) == (notice,)
    assert machine.handle(Tick(), 0.52) == (notice,)
    assert machine.handle(Tick(), 2.0) == (), "no short interval follows"
    assert backup().handle(Suspend(6.0), 0.5) == ()


@pytest.mark.clause("D15", "instead")
def test_the_process_that_comes_back_is_active_at_once_and_says_the_old_interval() -> None:
    machine = router()
    assert machine.handle(Startup(resume=True), 7.0) == (
        *TAKE_OVER,
        became(State.INITIALIZE, State.ACTIVE, Cause.RESTARTED),
    )


def test_a_backup_believes_a_long_interval_only_of_a_sender_that_proved_itself() -> None:
    machine = backup()
    machine.handle(received(200, interval=900), 1.0)
    assert machine.deadline == 1.0 + 4 * DOWN
    machine.handle(replace(received(200, interval=900), authenticated=True), 1.0)
    assert machine.deadline == 1.0 + 9 * DOWN
    machine.handle(replace(received(200, interval=4095), authenticated=True), 1.0)
    assert machine.deadline == 1.0 + 10 * DOWN
    machine.handle(received(200, interval=100), 2.0)
    assert machine.deadline == 2.0 + DOWN, "undone as soon as it speaks again"
