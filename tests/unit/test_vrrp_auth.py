"""HMAC trailers against the vectors of the draft, and what clocks, keys and replays may do to them."""

import pytest

from lvsagent.ipc import AuthenticationMode
from lvsagent.vrrp import auth
from lvsagent.vrrp.auth import KeyRing
from lvsagent.vrrp.packet import (
    GROUP_V4,
    Advertisement,
    Dropped,
    DropReason,
    Expectation,
    Policy,
    encode,
)
from tests.fakes.signing_node import HOUR, NOON, OTHER_KEY, SOURCE, STRANGER, Node, advert
from tests.fuzz.vrrp import genuine

pytestmark = pytest.mark.unit

# Appendix of draft-cassen-vrrp-auth-hmac, as in keepalived's test/auth_hmac_test.c (2.4.3): key 00..1f with id 1,
# VRID 51, priority 200, sequence 0x6800000080000000; IPv6 to fe80::20.
VECTOR_TIME = 0x68000000
VECTOR_V4 = bytes.fromhex("3133c80100644402 c0000264 010100006800000080000000 1b84bc4e8e43892dc6d98448f8ee2265")
VECTOR_V6 = bytes.fromhex(
    "3133c8010064a2e9 fe800000000000000000000000000100 010100006800000080000000 c8c56146ebfd66ee10ec4d8186461b78"
)
VECTOR_SOURCE_V4 = bytes((198, 51, 100, 10))
VECTOR_SOURCE_V6 = bytes.fromhex("fe80" + "00" * 13 + "10")
VECTOR_TARGET_V6 = bytes.fromhex("fe80" + "00" * 13 + "20")


@pytest.mark.parametrize(
    ("vector", "source", "destination"),
    [(VECTOR_V4, VECTOR_SOURCE_V4, GROUP_V4), (VECTOR_V6, VECTOR_SOURCE_V6, VECTOR_TARGET_V6)],
    ids=["IPv4", "IPv6"],
)
def test_we_read_and_write_the_vectors_of_the_draft(vector: bytes, source: bytes, destination: bytes) -> None:
    now = VECTOR_TIME + 0.5
    node = Node(wall=now)
    got = node.hear((vector, source), 0.0, destination=destination)
    assert isinstance(got, Advertisement)
    assert (got.priority, got.authenticated) == (200, True)
    trailer = node.signer.sign(vector[:-28], source, now, 0.0)
    assert trailer == vector[-28:]
    assert encode(got, destination=destination, trailer=trailer) == vector


# The table of mutations in keepalived's test/auth_hmac_test.c; its checksum case is ours to refuse by the checksum.
@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (2, DropReason.AUTH_HMAC),
        (5, DropReason.AUTH_HMAC),
        (8 + 15, DropReason.AUTH_HMAC),
        (24, DropReason.AUTH_MALFORMED),
        (25, DropReason.AUTH_KEY),
        (26, DropReason.AUTH_MALFORMED),
        (28, DropReason.STALE),
        (31, DropReason.AUTH_HMAC),
        (35, DropReason.AUTH_HMAC),
        (36, DropReason.AUTH_HMAC),
        (6, None),
    ],
)
def test_one_changed_octet_has_the_same_verdict_as_in_keepalived(at: int, reason: DropReason | None) -> None:
    changed = bytearray(VECTOR_V6)
    changed[at] ^= 1
    node = Node(wall=VECTOR_TIME)
    message, trailer = bytes(changed[:-28]), bytes(changed[-28:])
    if node.verifier.fresh(trailer, VECTOR_SOURCE_V6, VECTOR_TIME, 0.0):
        assert node.verifier.verify(message, trailer, VECTOR_SOURCE_V6, VECTOR_TIME, 0.0) == reason
    else:
        assert reason is DropReason.STALE


@pytest.mark.parametrize("bit", range(28 * 8))
def test_no_bit_of_the_trailer_can_be_changed(bit: int) -> None:
    node = Node()
    payload, source = node.send(0.0)
    changed = bytearray(payload)
    changed[len(payload) - 28 + bit // 8] ^= 1 << bit % 8
    got = node.hear((bytes(changed), source), 0.0)
    assert isinstance(got, Dropped)
    assert got.reason in {
        DropReason.STALE,
        DropReason.AUTH_MALFORMED,
        DropReason.AUTH_KEY,
        DropReason.AUTH_HMAC,
    }
    assert node.takes((payload, source), 0.0), "and a refused one does not spoil the right one"


@pytest.mark.parametrize("length", [0, 1, 12, 27, 29, 56])
def test_half_a_trailer_is_no_trailer(length: int) -> None:
    node = Node(mode=AuthenticationMode.RECEIVE_ONLY)
    payload, source = node.send(0.0)
    cut = (payload + payload)[: len(payload) - 28 + length]
    got = node.hear((cut, source), 0.0)
    assert isinstance(got, Advertisement) if length == 0 else got == Dropped(DropReason.LENGTH)


def test_a_trailer_belongs_to_one_sender_one_router_and_one_version() -> None:
    """Splicing: the HMAC covers source, VRID, version and family, and keepalived's two cases are among these."""
    node = Node()
    payload, source = node.send(0.0)
    message, trailer = payload[:-28], payload[-28:]
    verify = node.verifier.verify
    assert verify(message, trailer, STRANGER, NOON, 0.0) is DropReason.AUTH_HMAC
    assert verify(message[:1] + b"\x34" + message[2:], trailer, source, NOON, 0.0) is DropReason.AUTH_HMAC
    assert verify(b"\x21" + message[1:], trailer, source, NOON, 0.0) is DropReason.AUTH_HMAC
    assert verify(message, trailer, source + bytes(12), NOON, 0.0) is DropReason.AUTH_HMAC
    assert verify(message, trailer[:12] + bytes(16), source, NOON, 0.0) is DropReason.AUTH_HMAC
    assert verify(message, trailer, source, NOON, 0.0) is None


def test_a_trailer_behind_an_advert_is_too_long_for_who_expects_none() -> None:
    payload, source = Node().send(0.0)
    plain = Policy({51: Expectation()})
    assert Node().hear((payload, source), 0.0, policy=plain) == Dropped(DropReason.LENGTH)


@pytest.mark.parametrize(("version", "source"), [(2, SOURCE), (3, SOURCE), (3, b"\xfe\x80" + bytes(13) + b"\x0b")])
def test_every_version_and_family_can_be_signed(version: int, source: bytes) -> None:
    node = Node()
    sent = node.send(0.0, source, version=version)
    assert genuine(sent[0], source), "by a digest that is not ours"
    got = node.hear(sent, 0.0)
    assert isinstance(got, Advertisement)
    assert (got.authenticated, got.version, got.source) == (True, version, source)


def test_the_ipv6_checksum_covers_the_trailer_and_that_of_ipv4_does_not() -> None:
    node = Node()
    six = b"\xfe\x80" + bytes(13) + b"\x0b"
    payload, _ = node.send(0.0, six)
    assert payload[6:8] != encode(advert(six))[6:8]
    assert node.send(0.0)[0][6:8] == encode(advert())[6:8]


@pytest.mark.parametrize(
    ("mode", "plain"),
    [
        (AuthenticationMode.ENFORCE, Dropped(DropReason.AUTH_MISSING)),
        (AuthenticationMode.PERMISSIVE, advert()),
        (AuthenticationMode.RECEIVE_ONLY, advert()),
    ],
)
def test_the_mode_decides_about_missing_trailers_and_not_about_bad_ones(
    mode: AuthenticationMode, plain: Advertisement | Dropped
) -> None:
    node = Node(mode=mode)
    assert node.hear((encode(advert()), SOURCE), 0.0) == plain
    forged, _ = Node(ring=KeyRing({1: OTHER_KEY})).send(0.0)
    assert node.hear((forged, SOURCE), 0.0) == Dropped(DropReason.AUTH_HMAC)


def test_a_refusal_names_the_router_that_it_is_about() -> None:
    got = Node().hear((encode(advert()), SOURCE), 0.0)
    assert isinstance(got, Dropped)
    assert got.virtual_router_id == 51


# --- replay --------------------------------------------------------------------------------------------------------


def test_fault_33_a_replay_is_refused_one_second_and_one_hour_later() -> None:
    node = Node()
    sent = node.send(0.0)
    assert node.takes(sent, 0.0)
    assert node.hear(sent, 1.0) == Dropped(DropReason.REPLAY)
    assert node.hear(sent, HOUR) == Dropped(DropReason.STALE)


def test_one_trailer_serves_every_receiver() -> None:
    sent = Node().send(0.0)
    assert Node().takes(sent, 0.0)
    assert Node().takes(sent, 0.0)


@pytest.mark.no_cover  # of the same few lines, 70,000 times
def test_the_sequence_grows_even_when_the_clock_does_not() -> None:
    node = Node()
    assert all(node.takes(node.send(0.0), 0.0) for _ in range(70_000)), "past the 16 bits of the counter"


def test_adverts_in_the_wrong_order_do_not_go_back() -> None:
    node = Node()
    first, second = node.send(0.0), node.send(0.1)
    assert node.takes(second, 0.1)
    assert node.hear(first, 0.1) == Dropped(DropReason.REPLAY)


def test_each_sender_has_a_mark_of_its_own() -> None:
    receiver, one, other = Node(), Node(), Node()
    late = other.send(0.0, STRANGER)
    assert receiver.takes(one.send(1.0), 1.0)
    assert receiver.takes(late, 1.0)


def test_senders_without_end_do_not_fill_the_memory() -> None:
    receiver = Node()
    for number in range(1000):
        assert receiver.takes(Node().send(0.0, bytes((10, 1, number >> 8, number & 0xFF))), 0.0)
    assert len(receiver.verifier._marks) == auth.SENDERS
    newest = Node().send(0.0, bytes((10, 1, 999 >> 8, 999 & 0xFF)))
    assert receiver.hear(newest, 0.0) == Dropped(DropReason.REPLAY)


def test_forgers_do_not_push_senders_out_of_the_memory() -> None:
    receiver = Node()
    sent = Node().send(0.0)
    assert receiver.takes(sent, 0.0)
    for number in range(100):
        forged = Node(ring=KeyRing({1: OTHER_KEY})).send(0.0, bytes((10, 1, 0, number)))
        assert receiver.hear(forged, 0.0) == Dropped(DropReason.AUTH_HMAC)
    assert receiver.hear(sent, 0.0) == Dropped(DropReason.REPLAY)


def test_who_speaks_again_pushes_nobody_out() -> None:
    receiver, sender = Node(), Node()
    sources = [bytes((10, 1, 0, number)) for number in range(auth.SENDERS)]
    for source in [*sources, sources[-1]]:
        assert receiver.takes(sender.send(0.0, source), 0.0)
    assert {*receiver.verifier._marks} == {*sources}


def test_who_was_silent_longest_gives_way() -> None:
    receiver, sender = Node(), Node()
    sources = [bytes((10, 1, 0, number)) for number in range(auth.SENDERS)]
    for source in [*sources, sources[0], STRANGER]:
        assert receiver.takes(sender.send(0.0, source), 0.0)
    assert {*receiver.verifier._marks} == {*sources, STRANGER} - {sources[1]}


def test_a_sender_that_is_heard_is_not_the_one_that_gives_way() -> None:
    receiver, sender = Node(), Node()
    for number in range(auth.SENDERS * 2):
        assert receiver.takes(sender.send(0.0), 0.0)
        assert receiver.takes(Node().send(0.0, bytes((10, 1, 0, number))), 0.0)
    assert SOURCE in receiver.verifier._marks
