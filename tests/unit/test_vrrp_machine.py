"""RFC 9568 section 6.4, a test a paragraph, at explicit times; then what we do beyond it."""

from dataclasses import replace

import pytest

from lvsagent.vrrp.events import (
    TRANSITIONS,
    Acquire,
    Announce,
    Cause,
    Claimed,
    Event,
    IllegalTransition,
    Output,
    Reconfigure,
    Release,
    SendAdvert,
    Shutdown,
    Startup,
    State,
    Tick,
)
from tests.fakes.vrrp import (
    ADVERT,
    DOWN,
    FAREWELL,
    HIGHER,
    LOWER,
    OURS,
    PARAMETERS,
    SKEW,
    TAKE_OVER,
    VIP,
    VIP2,
    active,
    backup,
    became,
    received,
    router,
)

pytestmark = pytest.mark.unit

# --- 6.4.1 Initialize ---------------------------------------------------------------------------------------------


@pytest.mark.clause("C17", "held")
def test_the_owner_becomes_active_at_startup() -> None:
    machine = router(priority=255)
    assert machine.handle(Startup(), 5.0) == (
        Acquire((VIP,)),
        SendAdvert(255, 1.0, (VIP,)),
        Announce((VIP,)),
        became(State.INITIALIZE, State.ACTIVE, Cause.STARTUP),
    )
    assert machine._timer == 6.0


@pytest.mark.clause("C18", "held")
def test_any_other_router_becomes_backup_at_startup_and_sends_nothing() -> None:
    machine = router()
    assert machine.handle(Startup(), 5.0) == (became(State.INITIALIZE, State.BACKUP, Cause.STARTUP),)
    assert machine.deadline == 5.0 + DOWN


@pytest.mark.parametrize("event", [Shutdown(), Tick(), received(200), Claimed(), Reconfigure(PARAMETERS)])
def test_nothing_else_happens_before_startup(event: Event) -> None:
    machine = router()
    assert machine.handle(event, 1.0) == ()
    assert machine.state is State.INITIALIZE
    assert machine.deadline is None


# --- 6.4.2 Backup -------------------------------------------------------------------------------------------------


@pytest.mark.clause("C24", "held")
def test_a_backup_that_is_shut_down_says_nothing() -> None:
    machine = backup()
    assert machine.handle(Shutdown(), 1.0) == (became(State.BACKUP, State.INITIALIZE, Cause.SHUTDOWN),)
    assert machine.deadline is None


@pytest.mark.clause("C25", "C51", "C56", "held")
@pytest.mark.clause("D7", "instead")
def test_a_backup_that_hears_nothing_takes_over_address_first_then_advert_then_announcement() -> None:
    machine = backup()
    assert machine.handle(Tick(), DOWN - 0.001) == ()
    assert machine.handle(Tick(), DOWN) == (
        *TAKE_OVER,
        became(State.BACKUP, State.ACTIVE, Cause.ACTIVE_SILENT),
    )
    assert machine._timer == DOWN + 1
    assert machine.active_address == OURS


@pytest.mark.clause("C26", "held")
def test_a_backup_takes_over_after_the_skew_time_when_the_active_says_farewell() -> None:
    machine = backup()
    machine.handle(received(200), 2.0)
    assert machine.handle(received(0), 2.5) == ()
    assert machine.deadline == 2.5 + SKEW
    assert machine.active_address is None
    assert machine.handle(Tick(), 2.5 + SKEW)[-1] == became(State.BACKUP, State.ACTIVE, Cause.ACTIVE_RELEASED)


@pytest.mark.clause("C27", "held")
@pytest.mark.parametrize("priority", [100, 101, 255])
def test_an_advert_of_equal_or_higher_priority_keeps_a_backup_waiting(priority: int) -> None:
    machine = backup()
    assert machine.handle(received(priority, source=LOWER), 3.0) == ()
    assert machine.deadline == 3.0 + DOWN
    assert machine.active_address == LOWER


@pytest.mark.clause("C27", "held")
def test_a_backup_waits_by_the_interval_of_the_active() -> None:
    machine = backup()
    machine.handle(received(200, interval=50), 3.0)
    assert machine.deadline == 3.0 + 0.5 * DOWN


@pytest.mark.clause("C28", "held")
def test_a_backup_of_higher_priority_does_not_let_a_lower_one_put_it_off() -> None:
    machine = backup()
    machine.handle(received(99), 3.0)
    assert machine.deadline == DOWN
    assert machine.handle(Tick(), DOWN)[-1] == became(State.BACKUP, State.ACTIVE, Cause.PREEMPTION)


@pytest.mark.clause("C27", "held")
def test_without_preemption_a_lower_active_is_left_alone() -> None:
    machine = backup(preempt=False)
    machine.handle(received(2), 3.0)
    assert machine.deadline == 3.0 + DOWN


def test_the_owner_preempts_even_when_told_not_to() -> None:
    machine = backup()
    machine.handle(Reconfigure(replace(PARAMETERS, priority=255, preempt=False)), 0.0)
    deadline = machine.deadline
    machine.handle(received(254), 1.0)
    assert machine.deadline == deadline


# --- 6.4.3 Active -------------------------------------------------------------------------------------------------


@pytest.mark.clause("C35", "held")
def test_an_active_that_is_shut_down_says_farewell_and_lets_go() -> None:
    machine = active()
    assert machine.handle(Shutdown(), 0.5) == (
        FAREWELL,
        Release((VIP,)),
        became(State.ACTIVE, State.INITIALIZE, Cause.SHUTDOWN),
    )
    assert machine.deadline is None
    assert machine.active_address is None


@pytest.mark.clause("C36", "held")
def test_an_active_advertises_every_interval_counted_from_the_deadline() -> None:
    machine = active()
    assert machine.handle(Tick(), 1.25) == (ADVERT,)
    assert machine.deadline == 2.0
    assert machine.handle(Tick(), 1.5) == ()


def test_an_active_that_missed_an_advert_does_not_send_two() -> None:
    machine = active()
    assert machine.handle(Tick(), 3.5) == (ADVERT,)
    assert machine.deadline == 4.5


@pytest.mark.clause("C37", "held")
def test_an_active_answers_anothers_farewell_at_once() -> None:
    machine = active()
    assert machine.handle(received(0), 0.1) == (ADVERT,)
    assert machine._timer == 1.1


@pytest.mark.clause("C38", "held")
@pytest.mark.clause("D8", "instead")
def test_an_active_gives_way_to_a_higher_priority_and_takes_its_interval() -> None:
    machine = active()
    assert machine.handle(received(101, interval=200), 0.5) == (
        ADVERT,
        Release((VIP,)),
        became(State.ACTIVE, State.BACKUP, Cause.HIGHER_PRIORITY),
    )
    assert machine.deadline == 0.5 + 2 * DOWN
    assert machine.active_address == LOWER


@pytest.mark.clause("C39", "held")
def test_of_equal_priority_the_greater_sender_address_wins_compared_unsigned() -> None:
    machine = active()
    assert machine.handle(received(100, source=HIGHER), 0.5)[-1] == became(
        State.ACTIVE, State.BACKUP, Cause.HIGHER_ADDRESS
    )
    assert active().handle(received(100, source=LOWER), 0.5)[0] == ADVERT
    machine = active(source=bytes.fromhex("fe80" + "00" * 13 + "7f"))
    assert machine.handle(received(100, source=bytes.fromhex("fe80" + "00" * 13 + "80")), 0.5)[-1] == became(
        State.ACTIVE, State.BACKUP, Cause.HIGHER_ADDRESS
    )


@pytest.mark.clause("C40", "held")
def test_a_losing_advert_is_answered_at_once_and_the_address_announced_again() -> None:
    machine = active()
    assert machine.handle(received(99), 0.5) == (ADVERT, Announce((VIP,)))
    assert machine._timer == 1.0  # rearming is not asked for


# --- beyond the RFC -----------------------------------------------------------------------------------------------


def test_our_own_advert_is_ignored_in_every_state() -> None:
    for machine in (router(), backup(), active()):
        before = machine.deadline
        assert machine.handle(received(255, source=OURS), 0.5) == ()
        assert machine.deadline == before


@pytest.mark.clause("D9", "instead")
def test_a_flood_of_losing_adverts_is_not_answered_with_a_flood() -> None:
    machine = active()
    sent = [output for step in range(100) for output in machine.handle(received(99), 0.5 + step / 1000)]
    assert sent.count(ADVERT) == 1


def test_a_take_over_is_announced_by_the_schedule() -> None:
    machine = backup()
    machine.handle(Tick(), DOWN)
    times = []
    while machine.deadline is not None and machine.deadline < DOWN + 1.5:
        now = machine.deadline
        times += [round(now - DOWN, 3) for output in machine.handle(Tick(), now) if isinstance(output, Announce)]
    assert times == [0.05, 0.1, 0.2, 0.5, 1.0, 1.2]


def test_a_claim_of_another_is_answered_while_active_only() -> None:
    assert backup().handle(Claimed(), 5.0) == ()
    machine = active()
    assert machine.handle(Claimed(), 0.5) == (Announce((VIP,)),)
    assert machine.handle(Claimed(), 0.6) == ()


@pytest.mark.clause("D10", "instead")
def test_an_interval_far_above_ours_counts_as_four_of_ours() -> None:
    machine = backup()
    machine.handle(received(200, interval=400), 0.0)
    assert (machine.deadline, machine.clamped_intervals) == (4 * DOWN, 0)
    machine.handle(received(200, interval=4095), 0.0)
    assert (machine.deadline, machine.clamped_intervals) == (4 * DOWN, 1)


@pytest.mark.clause("D14", "instead")
def test_repeated_farewells_do_not_put_the_take_over_off() -> None:
    machine = backup()
    machine.handle(received(0), 1.0)
    machine.handle(received(0), 1.3)
    assert machine.deadline == 1.0 + SKEW


@pytest.mark.clause("D11", "instead")
@pytest.mark.parametrize("event", [Tick(), Claimed(), received(99)])
def test_an_active_that_slept_too_long_listens_before_it_says_anything(event: Event) -> None:
    machine = active()
    assert machine.handle(event, 1.0 + DOWN + 0.01) == (
        Release((VIP,)),
        became(State.ACTIVE, State.BACKUP, Cause.LATE_TIMER),
    )
    assert machine.deadline == pytest.approx(1.0 + DOWN + 0.01 + DOWN)


def test_an_active_that_slept_less_than_its_peers_wait_goes_on() -> None:
    assert active().handle(Tick(), 1.0 + DOWN - 0.01) == (ADVERT,)


def test_other_parameters_do_not_end_the_active_state() -> None:
    machine = active()
    changed = replace(PARAMETERS, priority=50, interval=0.5, addresses=(VIP2,))
    assert machine.handle(Reconfigure(changed), 0.5) == (
        Release((VIP,)),
        Acquire((VIP2,)),
        SendAdvert(50, 0.5, (VIP2,)),
        Announce((VIP2,)),
    )
    assert machine.state is State.ACTIVE
    assert machine._timer == 1.0


@pytest.mark.clause("C56", "held")
def test_an_address_more_leaves_the_others_alone_and_another_priority_leaves_all_alone() -> None:
    machine = active()
    more = replace(PARAMETERS, addresses=(VIP, VIP2))
    both = (VIP, VIP2)
    assert machine.handle(Reconfigure(more), 0.5) == (Acquire((VIP2,)), SendAdvert(100, 1.0, both), Announce(both))
    assert machine.handle(Reconfigure(replace(more, priority=90)), 0.51) == (SendAdvert(90, 1.0, both),)


def test_the_same_parameters_change_nothing() -> None:
    for machine in (backup(), active()):
        before = machine.deadline
        assert machine.handle(Reconfigure(PARAMETERS), 0.5) == ()
        assert machine.deadline == before


def test_a_backup_counts_by_its_new_priority_from_the_last_advert() -> None:
    machine = backup()
    machine.handle(received(200), 1.0)
    machine.handle(Reconfigure(replace(PARAMETERS, priority=156)), 2.0)
    assert machine.deadline == 1.0 + 3 + 100 / 256


def test_a_backup_goes_on_counting_by_the_interval_it_learned() -> None:
    machine = backup()
    machine.handle(received(200, interval=200), 1.0)
    machine.handle(Reconfigure(replace(PARAMETERS, interval=0.5)), 2.0)
    assert machine.deadline == 1.0 + 2 * DOWN


def test_a_backup_that_was_told_of_the_farewell_does_not_start_counting_anew() -> None:
    machine = backup()
    machine.handle(received(0), 1.0)
    machine.handle(Reconfigure(replace(PARAMETERS, priority=50)), 1.1)
    assert machine.deadline == 1.0 + SKEW


def test_startup_while_running_and_a_lost_interface() -> None:
    machine = backup()
    assert machine.handle(Startup(), 1.0) == ()
    lost: tuple[Output, ...] = machine.handle(Shutdown(Cause.INTERFACE_LOST), 2.0)
    assert lost == (became(State.BACKUP, State.INITIALIZE, Cause.INTERFACE_LOST),)


def test_every_transition_is_between_different_states_and_others_raise() -> None:
    assert all(previous is not state for pairs in TRANSITIONS.values() for previous, state in pairs)
    assert set(TRANSITIONS) == set(Cause)
    with pytest.raises(IllegalTransition):
        router()._change(State.ACTIVE, Cause.ACTIVE_SILENT, 0.0)
