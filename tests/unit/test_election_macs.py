"""Who was heard with which MAC: forgotten in time, and never more of it than a few for each address."""

import pytest

from lvsagent.election.macs import MEMORY, MOST, Macs

pytestmark = pytest.mark.unit

DIRECTOR, SERVER = bytes((10, 0, 0, 11)), bytes((10, 0, 0, 31))


def mac(number: int) -> bytes:
    return b"\2\0" + number.to_bytes(4)


def test_a_host_is_known_by_the_mac_that_it_was_heard_with() -> None:
    macs = Macs()
    macs.heard(DIRECTOR, mac(1), 0.0)
    assert macs.owner(mac(1), {DIRECTOR}, 1.0) == DIRECTOR
    assert macs.owner(mac(1), {SERVER}, 1.0) is None, "nobody asked for it"
    assert macs.owner(mac(2), {DIRECTOR}, 1.0) is None


def test_a_host_may_have_several_addresses_and_an_address_several_macs() -> None:
    macs = Macs()
    macs.heard(DIRECTOR, mac(1), 0.0)
    macs.heard(SERVER, mac(1), 0.0)
    macs.heard(DIRECTOR, mac(2), 0.0)
    assert macs.owner(mac(1), {DIRECTOR}, 1.0) == DIRECTOR
    assert macs.owner(mac(1), {SERVER}, 1.0) == SERVER
    assert macs.owner(mac(2), {DIRECTOR, SERVER}, 1.0) == DIRECTOR


def test_who_claimed_an_address_once_is_not_its_owner_for_ever() -> None:
    macs = Macs()
    macs.heard(DIRECTOR, mac(1), 0.0)
    macs.heard(DIRECTOR, mac(2), MEMORY)
    assert macs.owner(mac(1), {DIRECTOR}, MEMORY) == DIRECTOR
    assert macs.owner(mac(1), {DIRECTOR}, MEMORY + 1.0) is None
    assert macs.owner(mac(2), {DIRECTOR}, MEMORY + 1.0) == DIRECTOR
    macs.heard(DIRECTOR, mac(2), MEMORY + 1.0)
    assert len(macs) == 1


def test_a_hundred_thousand_macs_of_one_address_leave_the_last_few() -> None:
    macs = Macs()
    for number in range(100_000):
        macs.heard(DIRECTOR, mac(number), number / 1000)
    assert len(macs) == MOST
    assert len(macs._addresses) == MOST
    assert macs.owner(mac(99_999), {DIRECTOR}, 100.0) == DIRECTOR
    assert macs.owner(mac(0), {DIRECTOR}, 100.0) is None


def test_who_is_heard_again_stays_before_those_heard_once() -> None:
    macs = Macs()
    macs.heard(DIRECTOR, mac(0), 0.0)
    for number in range(1, 50):
        macs.heard(DIRECTOR, mac(number), number)
        macs.heard(DIRECTOR, mac(0), number)
    assert macs.owner(mac(0), {DIRECTOR}, 50.0) == DIRECTOR


def test_addresses_that_nobody_asks_about_are_forgotten() -> None:
    macs = Macs()
    macs.heard(DIRECTOR, mac(1), 0.0)
    macs.heard(SERVER, mac(1), 0.0)
    macs.keep({SERVER})
    assert macs.owner(mac(1), {DIRECTOR, SERVER}, 1.0) == SERVER
    macs.keep(())
    assert len(macs) == 0
    assert macs._addresses == {}
