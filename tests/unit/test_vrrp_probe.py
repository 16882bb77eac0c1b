"""Asking whether an address is taken: the frame, the times, what an answer means."""

import pytest

from lvsagent.vrrp.arp import parse
from lvsagent.vrrp.probe import AGAIN, PROBES, SPACING, Probing, arp_probe

pytestmark = pytest.mark.unit

A, B = bytes((10, 0, 0, 200)), bytes((10, 0, 0, 201))
MAC = bytes.fromhex("0200000000aa")
OTHER = bytes.fromhex("0200000000bb")


def series(probing: Probing, begin: float) -> tuple[list[float], list[bytes], float]:
    """(when A was asked for, what was free, when) from now until the series ends."""
    asked: list[float] = []
    for _ in range(PROBES + 1):
        now = probing.deadline
        assert now is not None
        ask, free = probing.step(now)
        if not ask:
            return asked, free, now
        asked.append(round(now - begin, 3))
    raise AssertionError("the series does not end")


def test_the_probe_of_the_rfc_names_no_sender_and_claims_nothing() -> None:
    frame = arp_probe(A, MAC)
    assert frame == bytes.fromhex(
        "ffffffffffff 0200000000aa 0806 0001 0800 06 04 0001 0200000000aa 00000000 000000000000 0a0000c8"
    )
    assert parse(frame) is None


def test_an_address_that_nobody_has_is_free_after_three_probes() -> None:
    probing = Probing()
    assert probing.deadline is None
    probing.start([A], 100.0)
    assert probing.withheld == {A}
    asked, free, end = series(probing, 100.0)
    assert asked == [0.0, SPACING, 2 * SPACING]
    assert (free, round(end - 100.0, 3)) == ([A], round(3 * SPACING, 3))
    assert not probing.withheld
    assert not probing.owners
    assert probing.deadline is None


def test_an_address_that_a_host_has_is_withheld_and_asked_for_again_every_second() -> None:
    probing = Probing()
    probing.start([A], 100.0)
    for begin in (100.0, 100.0 + AGAIN):
        probing.answered(A, OTHER)
        asked, free, _ = series(probing, begin)
        assert (asked, free) == ([0.0, SPACING, 2 * SPACING], [])
        assert (probing.withheld, probing.owners) == (frozenset((A,)), {A: OTHER})
    _, free, _ = series(probing, 100.0 + 2 * AGAIN)
    assert free == [A]
    assert probing.owners == {}


def test_an_answer_of_our_own_real_server_does_not_keep_an_address_from_being_free() -> None:
    probing = Probing()
    probing.start([A], 100.0)
    probing.answered(A, OTHER)
    for now in (100.0, 100.1, 100.2):
        assert probing.step(now, ignored={OTHER}) == ([A], [])
    assert probing.step(100.3, ignored={OTHER}) == ([], [A])


@pytest.mark.parametrize("order", [(MAC, OTHER), (OTHER, MAC)])
def test_a_foreign_host_is_noticed_beside_a_real_server_that_answers_too(order: tuple[bytes, bytes]) -> None:
    probing = Probing()
    probing.start([A], 100.0)
    for mac in order:
        probing.answered(A, mac)
    for now in (100.0, 100.1, 100.2, 100.3):
        _, free = probing.step(now, ignored={OTHER})
        assert free == []
    assert probing.owners == {A: MAC}


def test_too_early_a_step_does_nothing_and_starting_again_changes_nothing() -> None:
    probing = Probing()
    probing.start([A], 100.0)
    assert probing.step(99.9) == ([], [])
    assert probing.step(100.0) == ([A], [])
    probing.start([A, B], 100.05)
    assert probing.step(100.05) == ([B], [])


def test_answers_about_other_addresses_and_addresses_given_up_do_not_count() -> None:
    probing = Probing()
    probing.start([A, B], 100.0)
    probing.stop(kept=[B])
    probing.answered(A, OTHER)
    assert (probing.withheld, probing.owners) == (frozenset((B,)), {})
    probing.stop()
    assert probing.withheld == frozenset()


def test_it_is_known_who_answered_and_for_which_addresses_there_was_no_time_yet() -> None:
    probing = Probing()
    probing.start([A, B], 0.0)
    probing.step(0.0)
    probing.answered(A, MAC)
    assert probing.answers(SPACING / 2) == {A: frozenset({MAC})}
    assert probing.answers(SPACING) == {A: frozenset({MAC}), B: frozenset()}
    for now in (0.1, 0.2, 0.3, 0.4):
        probing.step(now)
    assert probing.answers(AGAIN / 2) == {A: frozenset({MAC})}, "remembered until it is asked again"
