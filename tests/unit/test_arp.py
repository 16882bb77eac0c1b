"""Gratuitous ARP: the bytes, the claims of others, the times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.vrrp.arp import REFRESH, SCHEDULE, Announcements, Claim, announcement, announcing_reply, parse

pytestmark = pytest.mark.unit

MAC = bytes.fromhex("0200000000aa")
VIP = bytes((10, 0, 0, 200))
# What keepalived 2.2.7 sends.
GOLDEN = bytes.fromhex(
    "ffffffffffff 0200000000aa 0806 0001 0800 06 04 0001 0200000000aa 0a0000c8 ffffffffffff 0a0000c8"
)


def patched(at: int, *values: int) -> bytes:
    return GOLDEN[:at] + bytes(values) + GOLDEN[at + len(values) :]


def test_the_announcement_is_a_gratuitous_request_to_all() -> None:
    assert announcement(VIP, MAC) == GOLDEN


def test_fault_36_the_other_form_is_a_gratuitous_reply_to_all() -> None:
    assert announcing_reply(VIP, MAC) == patched(20, 0, 2, *MAC, *VIP, *MAC, *VIP)
    assert parse(announcing_reply(VIP, MAC)) == Claim(VIP, MAC)


@pytest.mark.parametrize("operation", [1, 2])
def test_requests_and_replies_are_claims(operation: int) -> None:
    assert parse(patched(20, 0, operation)) == Claim(VIP, MAC)


def test_padding_behind_the_packet_is_ignored() -> None:
    assert parse(GOLDEN + bytes(18)) == Claim(VIP, MAC)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        GOLDEN[:41],
        patched(12, 8, 0),
        patched(12, 0x81, 0),
        patched(14, 0, 6),
        patched(16, 0x86, 0xDD),
        patched(18, 8),
        patched(19, 16),
        patched(20, 0, 0),
        patched(20, 255, 255),
        patched(28, 0, 0, 0, 0),
    ],
    ids=["empty", "short", "IPv4", "VLAN", "hardware", "protocol", "hlen", "plen", "op 0", "op 65535", "probe"],
)
def test_anything_else_claims_nothing(frame: bytes) -> None:
    assert parse(frame) is None


@given(st.binary(max_size=80))
def test_no_frame_makes_the_parser_raise(frame: bytes) -> None:
    parse(frame)


def rounds(announcements: Announcements, until: float) -> list[float]:
    times = []
    while announcements.deadline is not None and announcements.deadline <= until:
        now = announcements.deadline
        assert announcements.due(now)
        times.append(now)
    return times


def test_a_take_over_is_announced_by_schedule_and_then_every_ten_seconds() -> None:
    announcements = Announcements()
    announcements.start(100.0)
    assert rounds(announcements, 122.0) == pytest.approx([100 + offset for offset in SCHEDULE] + [111.2, 121.2])
    assert REFRESH == 10


def test_rounds_that_were_missed_are_one() -> None:
    announcements = Announcements()
    announcements.start(0.0)
    assert announcements.due(0.3)
    assert announcements.deadline == 0.5


def test_nothing_is_announced_before_its_time_or_after_the_end() -> None:
    announcements = Announcements()
    assert not announcements.due(1.0)
    announcements.start(2.0)
    assert not announcements.due(1.9)
    announcements.stop()
    assert not announcements.due(3.0)


def test_a_claim_is_answered_at_once_but_not_more_than_once_a_second() -> None:
    announcements = Announcements()
    announcements.start(0.0)
    rounds(announcements, 5.0)
    announcements.claimed(5.0)
    assert announcements.due(5.0)
    announcements.claimed(5.1)
    assert announcements.deadline == 6.0
    announcements.claimed(5.2)
    assert announcements.deadline == 6.0


def test_a_first_claim_does_not_wait_for_the_schedule() -> None:
    announcements = Announcements()
    announcements.start(0.0)
    rounds(announcements, 0.6)
    announcements.claimed(0.7)
    assert announcements.due(0.7)
    assert announcements.deadline == 1.0


def test_a_round_of_the_schedule_answers_a_claim_that_waits() -> None:
    announcements = Announcements()
    announcements.start(0.0)
    announcements.claimed(0.0)
    assert announcements.due(0.0)
    announcements.claimed(0.01)
    assert announcements.due(0.05)
    assert announcements.deadline == 0.1


def test_a_claim_while_not_active_is_nobodys_business() -> None:
    announcements = Announcements()
    announcements.claimed(5.0)
    assert announcements.deadline is None
