"""Addresses that the kernel refuses an Active: who shall try next, and what is said."""

import errno
import os

import pytest

from lvsagent.election.lack import AGAIN, PATIENCE, Lack
from lvsagent.vrrp.damping import Damping

pytestmark = pytest.mark.unit

VIP, OTHER, SIX = bytes((10, 0, 0, 200)), bytes((10, 0, 0, 201)), bytes.fromhex("fd") + bytes(14) + b"\x01"
NO_MEMORY, DENIED = os.strerror(errno.ENOMEM), os.strerror(errno.EACCES)


def test_it_counts_what_is_new_and_says_when_something_was_taken() -> None:
    lack = Lack()
    assert lack.update({VIP: NO_MEMORY}, 0.0) == (1, False)
    assert lack.update({VIP: NO_MEMORY, OTHER: NO_MEMORY}, 0.5) == (1, False)
    assert lack.update({OTHER: NO_MEMORY}, 1.0) == (0, True)
    assert lack.update({}, 1.5) == (0, True)
    assert lack.update({}, 2.0) == (0, False)


def test_another_director_is_asked_for_when_it_lasts() -> None:
    lack = Lack()
    lack.update({VIP: NO_MEMORY}, 10.0)
    assert not lack.hands_over(10.0 + PATIENCE - 0.1, 0.0)
    assert lack.hands_over(10.0 + PATIENCE, 0.0)
    assert not lack.hands_over(10.0 + PATIENCE + 1.0, 0.0), "nobody came: it serves what it has"
    assert lack.hands_over(10.0 + PATIENCE + AGAIN, 0.0)


def test_what_was_short_or_is_over_moves_nothing() -> None:
    lack = Lack()
    lack.update({VIP: NO_MEMORY}, 0.0)
    lack.update({}, 0.5)
    assert not lack.hands_over(5.0, 0.0)
    lack.update({VIP: NO_MEMORY}, 6.0)
    assert not lack.hands_over(6.5, 0.0)
    lack.clear()
    assert not lack.hands_over(9.0, 0.0)


def test_directors_that_both_lack_it_hand_over_ever_less_often() -> None:
    """Each resigns to the other, which takes over at once because nobody serves."""
    lacks, dampings = (Lack(), Lack()), (Damping(), Damping())
    now, turns = 0.0, 0
    active = 0
    lacks[0].update({VIP: NO_MEMORY}, now)
    while now < 600.0:
        if lacks[active].hands_over(now, dampings[active].wait(now)):
            dampings[active].failed(now)
            lacks[active].clear()
            active = 1 - active
            turns += 1
            lacks[active].update({VIP: NO_MEMORY}, now)
        now += 0.5
    assert 4 <= turns <= 16


def test_the_sentence_names_addresses_interface_the_kernels_words_and_a_remedy() -> None:
    lack = Lack()
    lack.update({bytes((10, 0, 0, last)): NO_MEMORY for last in range(200, 205)}, 0.0)
    text = lack.sentence("eth0")
    assert all(word in text for word in ("10.0.0.200, 10.0.0.201", "2 more", "eth0", NO_MEMORY, "dmesg"))
    lack.update({SIX: DENIED}, 0.0)
    assert "net.ipv6.conf.eth1.disable_ipv6=0" in lack.sentence("eth1")
    lack.update({VIP: DENIED}, 0.0)
    assert "CAP_NET_ADMIN" in lack.sentence("eth1")
