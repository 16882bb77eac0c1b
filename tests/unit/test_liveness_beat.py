"""The heartbeat on the wire, its proof, and how a key is rolled out."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.liveness import beat
from lvsagent.liveness.beat import Beat, DropReason, decode, encode, node_id
from lvsagent.liveness.proof import ROLL_OUT, Proofs
from lvsagent.vrrp import auth

pytestmark = pytest.mark.unit

A, B = node_id("a"), node_id("b")
ONE = Beat(node=A, incarnation=1_700_000_000_000, sequence=7, interval=0.1, serving=True)
OLD, NEW = auth.KeyRing({1: b"x" * 32}), auth.KeyRing({1: b"x" * 32, 2: b"y" * 32})
WALL = 1_700_000_000.0


def test_the_octets_are_those_of_the_description() -> None:
    expected = b"lvsB" + bytes((1, 1, 0, 0)) + A + struct.pack("!QIHH", 1_700_000_000_000, 7, 100, 0)
    assert encode(ONE) == expected
    assert len(expected) == beat.LENGTH
    assert encode(ONE._replace(serving=False, leaving=True))[5] == 2


@given(
    st.builds(
        Beat,
        node=st.binary(min_size=8, max_size=8),
        incarnation=st.integers(0, 2**64 - 1),
        sequence=st.integers(0, 2**32 - 1),
        interval=st.integers(10, 1000).map(lambda milliseconds: milliseconds / 1000),
        serving=st.booleans(),
        leaving=st.booleans(),
        healthy=st.integers(0, 2**16 - 1),
    )
)
def test_what_is_encoded_is_decoded(one: Beat) -> None:
    assert decode(encode(one)) == one
    assert decode(encode(one) + bytes(auth.TRAILER_LENGTH)) == one


@pytest.mark.parametrize(
    ("place", "octets", "reason"),
    [
        (0, b"lvsC", DropReason.MAGIC),
        (4, b"\x02", DropReason.VERSION),
        (6, b"\x01", DropReason.RESERVED),
        (7, b"\x01", DropReason.RESERVED),
        (28, struct.pack("!H", 9), DropReason.INTERVAL),
        (28, struct.pack("!H", 1001), DropReason.INTERVAL),
    ],
)
def test_each_refusal_has_its_name(place: int, octets: bytes, reason: DropReason) -> None:
    payload = encode(ONE)
    assert decode(payload[:place] + octets + payload[place + len(octets) :]) is reason


@pytest.mark.parametrize("length", [0, 31, 33, 59, 61, 1500])
def test_another_length_is_refused(length: int) -> None:
    assert decode((encode(ONE) * 50)[:length]) is DropReason.LENGTH


def test_unknown_flags_are_left_to_later_versions_and_the_last_octets_say_whose_backends_are_reached() -> None:
    payload = bytearray(encode(ONE))
    payload[5] |= 0xFC
    payload[30:32] = b"\x12\x34"
    assert decode(bytes(payload)) == ONE._replace(healthy=0x1234)


@given(st.binary(max_size=64) | st.binary(max_size=60).map(lambda rest: beat.MAGIC + b"\x01" + rest))
def test_no_octets_raise(payload: bytes) -> None:
    assert isinstance(decode(payload), Beat | DropReason)


def proofs(node: bytes, ring: auth.KeyRing | None, now: float = 0.0) -> Proofs:
    made = Proofs(node, auth.Clock(WALL, 0.0))
    made.use(ring, now)
    return made


def at(one: Proofs, other: Proofs, now: float, message: bytes | None = None) -> DropReason | None:
    """What one thinks of a beat that the other sends."""
    payload = other.sign(encode(ONE) if message is None else message, WALL + now, now)
    return one.judge(A, payload, WALL + now, now)


def test_a_proved_beat_is_believed_once() -> None:
    one, other = proofs(B, OLD), proofs(A, OLD)
    payload = other.sign(encode(ONE), WALL, 0.0)
    assert len(payload) == beat.SIGNED_LENGTH
    assert decode(payload) == ONE
    assert one.judge(A, payload, WALL, 0.0) is None
    assert one.judge(A, payload, WALL, 0.1) is DropReason.REPLAY
    assert at(one, other, 0.2) is None


def test_another_key_another_node_and_another_content_are_refused() -> None:
    one, other = proofs(B, OLD), proofs(A, OLD)
    assert at(one, proofs(A, auth.KeyRing({1: b"z" * 32})), 0.1) is DropReason.AUTH_HMAC
    assert at(one, proofs(A, auth.KeyRing({3: b"z" * 32})), 0.1) is DropReason.AUTH_KEY
    assert at(one, proofs(B, OLD), 0.1) is DropReason.AUTH_HMAC
    payload = bytearray(other.sign(encode(ONE._replace(serving=False)), WALL, 0.0))
    payload[5] |= beat.SERVING
    assert one.judge(A, bytes(payload), WALL, 0.0) is DropReason.AUTH_HMAC
    payload[beat.LENGTH] = 9
    assert one.judge(A, bytes(payload), WALL, 0.0) is DropReason.AUTH_MALFORMED
    assert at(one, other, 0.2) is None, "a refused beat is no proof, and no mark"


def test_an_old_beat_is_stale() -> None:
    one, other = proofs(B, OLD), proofs(A, OLD)
    payload = other.sign(encode(ONE), WALL, 0.0)
    assert one.judge(A, payload, WALL + 10.0, 10.0) is DropReason.STALE


def test_a_key_is_rolled_out_without_a_gap() -> None:
    without, first, second = proofs(B, None), proofs(B, OLD), proofs(A, OLD)
    bare = encode(ONE)
    assert len(without.sign(bare, WALL, 0.0)) == beat.LENGTH
    assert at(without, second, 0.1) is None, "who has no key ignores proofs"
    assert first.judge(A, bare, WALL, 0.1) is None, "the other may not have the key yet"
    assert at(first, second, 0.2) is None
    assert first.judge(A, bare, WALL, 0.3) is DropReason.AUTH_MISSING, "it has the key"
    other = node_id("c")
    assert first.judge(other, bare, WALL, ROLL_OUT - 1) is None
    assert first.judge(other, bare, WALL, ROLL_OUT) is DropReason.AUTH_MISSING, "everybody has it"


def test_a_newer_key_signs_when_everybody_has_it_and_a_lost_one_stays_in_force() -> None:
    one, other = proofs(B, OLD), proofs(A, OLD)
    assert at(one, other, 0.1) is None
    other.use(NEW, 1.0)
    other.use(NEW, 2.0)
    assert at(one, other, 2.0) is None, "still signed with the old one"
    one.use(NEW, 60.0)
    one.use(None, 61.0)
    assert at(one, other, 1.0 + auth.SETTLE) is None
    assert one.judge(A, encode(ONE), WALL, 200.0) is DropReason.AUTH_MISSING
