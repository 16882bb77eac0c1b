"""HMAC trailers against the vectors of the draft, and what clocks, keys and replays may do to them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.ipc import AuthenticationMode
from lvsagent.vrrp import auth
from lvsagent.vrrp.auth import Clock, KeyRing, Signer, Verifier, parse_key, window_for
from lvsagent.vrrp.packet import (
    GROUP_V4,
    GROUP_V6,
    Advertisement,
    ChecksumForm,
    Dropped,
    DropReason,
    Expectation,
    Policy,
    decode,
    encode,
)

pytestmark = pytest.mark.unit

# Appendix of draft-cassen-vrrp-auth-hmac, as in keepalived's test/auth_hmac_test.c (2.4.3): key 00..1f with id 1,
# VRID 51, priority 200, sequence 0x6800000080000000; IPv6 to fe80::20.
KEY = bytes(range(32))
VECTOR_TIME = 0x68000000
VECTOR_V4 = bytes.fromhex("3133c80100644402 c0000264 010100006800000080000000 1b84bc4e8e43892dc6d98448f8ee2265")
VECTOR_V6 = bytes.fromhex(
    "3133c8010064a2e9 fe800000000000000000000000000100 010100006800000080000000 c8c56146ebfd66ee10ec4d8186461b78"
)
VECTOR_SOURCE_V4 = bytes((198, 51, 100, 10))
VECTOR_SOURCE_V6 = bytes.fromhex("fe80" + "00" * 13 + "10")
VECTOR_TARGET_V6 = bytes.fromhex("fe80" + "00" * 13 + "20")

OTHER_KEY = b"another key of thirty-two octets"
RING = KeyRing({1: KEY})
SOURCE = bytes((10, 0, 0, 11))
STRANGER = bytes((10, 0, 0, 12))
VIP = bytes((10, 0, 0, 200))
NOON = 1_750_000_000.0
HOUR = 3600.0


def advert(source: bytes = SOURCE, priority: int = 100, version: int = 3) -> Advertisement:
    form = ChecksumForm.MESSAGE if version == 2 else ChecksumForm.PSEUDO_HEADER
    return Advertisement(
        virtual_router_id=51,
        priority=priority,
        interval=100,
        addresses=(VIP,) if len(source) == 4 else (b"\xfe\x80" + bytes(14),),
        source=source,
        version=version,
        checksum=form,
    )


class Node:
    """A node with a wall clock that can be set; a second of it is a second of ``now``."""

    def __init__(self, *, wall: float = NOON, boot: float = 0.0, ring: KeyRing = RING, **kept: object) -> None:
        self.step = wall - boot
        """Wall clock less monotonic clock."""
        self.clock = Clock(wall, boot)
        self.signer = Signer(ring, self.clock)
        self.verifier = Verifier(ring, self.clock, **kept)  # type: ignore[arg-type]

    def send(self, now: float, source: bytes = SOURCE, **changes: int) -> tuple[bytes, bytes]:
        sent = advert(source, **changes)
        trailer = self.signer.sign(encode(sent), source, now + self.step, now)
        return encode(sent, trailer=trailer), source

    def hear(self, sent: tuple[bytes, bytes], now: float, **changes: object) -> Advertisement | Dropped:
        payload, source = sent
        fields: dict[str, object] = {
            "source": source,
            "destination": GROUP_V4 if len(source) == 4 else GROUP_V6,
            "hop_limit": 255,
            "policy": Policy({51: Expectation(version=payload[0] >> 4, verifier=self.verifier)}),
            "wall": now + self.step,
            "monotonic": now,
        }
        return decode(payload, **{**fields, **changes})  # type: ignore[arg-type]

    def takes(self, sent: tuple[bytes, bytes], now: float) -> bool:
        return isinstance(self.hear(sent, now), Advertisement)


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
    got = node.hear(node.send(0.0, source, version=version), 0.0)
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


def test_a_sender_that_is_heard_is_not_the_one_that_gives_way() -> None:
    receiver, sender = Node(), Node()
    for number in range(auth.SENDERS * 2):
        assert receiver.takes(sender.send(0.0), 0.0)
        assert receiver.takes(Node().send(0.0, bytes((10, 1, 0, number))), 0.0)
    assert SOURCE in receiver.verifier._marks


# --- clocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "taken"), [(-6, False), (-5, True), (0, True), (5, True), (6, False)])
def test_the_window_is_five_seconds_to_both_sides(ahead: int, taken: bool) -> None:
    assert Node().takes(Node(wall=NOON + ahead).send(0.0), 0.0) == taken


@pytest.mark.parametrize(("interval", "window"), [(0.01, 5), (1.0, 5), (1.7, 6), (2.0, 6), (40.0, 120)])
def test_the_window_follows_the_interval_as_in_keepalived(interval: float, window: int) -> None:
    assert window_for(interval) == window


def test_the_skew_of_the_last_sender_is_known() -> None:
    receiver = Node()
    assert receiver.takes(Node(wall=NOON - 3).send(0.0), 0.0)
    assert receiver.verifier.skew == 3


@pytest.mark.parametrize("step", [HOUR, -HOUR, 3.2e8, -3.2e8])
def test_fault_11_a_stepped_clock_of_the_active_is_noticed_by_nobody(step: float) -> None:
    active, backup = Node(), Node()
    assert backup.takes(active.send(0.0), 0.0)
    active.step += step
    for second in range(1, 1000):
        assert backup.takes(active.send(second), second)
    active.step -= step
    assert backup.takes(active.send(1000), 1000)


@pytest.mark.parametrize("step", [HOUR, -HOUR, 3.2e8, -3.2e8])
def test_fault_11_a_stepped_clock_of_a_backup_keeps_it_listening(step: float) -> None:
    active, backup = Node(), Node()
    assert backup.takes(active.send(0.0), 0.0)
    backup.step += step
    for second in range(1, 1000):
        assert backup.takes(active.send(second), second)
    backup.step -= step
    assert backup.takes(active.send(1000), 1000)


def test_fault_11_a_backup_with_a_stepped_clock_takes_no_recordings_of_that_hour() -> None:
    """Its wall clock calls them fresh, but the Active lives by the other time."""
    active, backup = Node(), Node()
    recorded = Node().send(10.0, STRANGER)
    assert backup.takes(active.send(HOUR), HOUR)
    backup.step -= HOUR - 10.0
    assert backup.hear(recorded, HOUR) == Dropped(DropReason.STALE)
    assert backup.takes(active.send(HOUR + 1), HOUR + 1)


def test_fault_11_an_advert_heard_long_ago_does_not_come_back_with_the_clock() -> None:
    active, backup = Node(), Node()
    recorded = active.send(0.0)
    assert backup.takes(active.send(HOUR), HOUR)
    backup.step -= HOUR
    assert backup.hear(recorded, HOUR) == Dropped(DropReason.REPLAY)


@pytest.mark.parametrize("late", [-600.0, 600.0])
def test_a_clock_that_ntp_corrects_after_boot_is_followed_once_others_are_heard(late: float) -> None:
    right, booted = Node(), Node(wall=NOON + late)
    assert booted.hear(right.send(1.0), 1.0) == Dropped(DropReason.STALE)
    booted.step -= late
    assert booted.takes(right.send(2.0), 2.0)
    assert right.takes(booted.send(2.0, STRANGER), 2.0)


def test_a_newcomer_with_the_right_time_is_followed_by_an_active_that_kept_the_wrong_one() -> None:
    """All of an old group were 10 minutes late at boot; NTP came, nobody steps; then a node with the right time."""
    active, backup = Node(wall=NOON - 600), Node(wall=NOON - 600)
    assert backup.takes(active.send(0.0), 0.0)
    active.step += 600
    backup.step += 600
    assert backup.takes(active.send(60.0), 60.0)
    newcomer = Node(wall=NOON + 60, boot=60.0)
    assert not newcomer.takes(active.send(60.1), 60.1)
    assert active.takes(newcomer.send(60.2, STRANGER), 60.2)
    assert newcomer.takes(active.send(60.3), 60.3)
    assert backup.takes(active.send(60.4), 60.4), "the Active is known, and what it says now is newer"
    assert all(backup.takes(active.send(61.0 + second), 61.0 + second) for second in range(20))
    assert newcomer.takes(backup.send(82.0, bytes((10, 0, 0, 13))), 82.0)


def test_fault_11_a_sender_whose_clock_was_ahead_is_heard_again_when_it_is_right() -> None:
    """keepalived's case (2.4.3): a mark in the future expires, and a sequence in the future starts anew."""
    receiver, sender = Node(), Node()
    receiver.verifier._marks[SOURCE] = int(NOON + HOUR) << 32
    sent = sender.send(0.0)
    assert receiver.takes(sent, 0.0)
    assert receiver.hear(sent, 0.0) == Dropped(DropReason.REPLAY)
    sender.signer._sequence = int(NOON + HOUR) << 32
    assert receiver.takes(sender.send(1.0), 1.0)


def test_a_sequence_a_little_ahead_of_the_clock_is_counted_on() -> None:
    sender = Node()
    sender.signer._sequence = (int(NOON) + 5) << 32
    payload, _ = sender.send(0.0)
    assert payload[-24:-16] == ((int(NOON) + 5) << 32 | 1).to_bytes(8)


@pytest.mark.parametrize("start", [2.0**32 - 3, 2.0**33 - 3])
def test_the_wrap_of_the_seconds_is_no_event(start: float) -> None:
    sender, receiver = Node(wall=start), Node(wall=start)
    assert all(receiver.takes(sender.send(moment / 4), moment / 4) for moment in range(60))


def test_a_slewed_clock_is_no_step() -> None:
    node = Node()
    for second in range(100):
        node.step += 0.5
        assert node.clock.read(second + node.step, second) == second + node.step
        assert not node.clock.stepped


# --- keys ----------------------------------------------------------------------------------------------------------


def test_fault_59_keys_are_rotated_without_a_refused_advert() -> None:
    """Old and new key reach the nodes one after the other within 90 s; then the old one is taken away so."""
    old, both, new = KeyRing({1: KEY}), KeyRing({1: KEY, 2: OTHER_KEY}), KeyRing({2: OTHER_KEY})
    one, other = Node(ring=old), Node(ring=old)
    plan = {10: (one, both), 100: (other, both), 400: (other, new), 490: (one, new)}
    signed = set()
    for second in range(600):
        if second in plan:
            node, ring = plan[second]
            node.signer.use(ring, second)
            node.verifier.use(ring)
        assert other.takes(one.send(second), second)
        assert one.takes(other.send(second, STRANGER), second)
        signed.add((one.signer.signing, other.signer.signing))
    assert signed == {(1, 1), (2, 1), (2, 2)}


def test_a_key_that_is_gone_signs_no_more() -> None:
    node = Node()
    node.signer.use(KeyRing({7: OTHER_KEY}), 0.0)
    assert node.signer.signing == 7
    assert Node(ring=KeyRing({7: OTHER_KEY})).takes(node.send(0.0), 0.0)


def test_a_still_newer_key_waits_from_when_it_came() -> None:
    node = Node()
    node.signer.use(KeyRing({1: KEY, 2: OTHER_KEY}), 0.0)
    node.signer.use(KeyRing({1: KEY, 2: OTHER_KEY}), 100.0)
    node.signer.use(KeyRing({1: KEY, 2: OTHER_KEY, 3: OTHER_KEY}), 119.0)
    node.send(120.0)
    assert node.signer.signing == 1
    node.send(119.0 + auth.SETTLE)
    assert node.signer.signing == 3


def test_a_new_key_that_is_taken_back_never_signs() -> None:
    node = Node()
    node.signer.use(KeyRing({1: KEY, 2: OTHER_KEY}), 0.0)
    node.signer.use(RING, 60.0)
    node.send(1000.0)
    assert node.signer.signing == 1


def test_a_key_that_we_do_not_have_is_named_so() -> None:
    sent = Node(ring=KeyRing({2: KEY})).send(0.0)
    assert Node().hear(sent, 0.0) == Dropped(DropReason.AUTH_KEY)


def test_a_ring_does_not_print_its_keys() -> None:
    assert repr(KeyRing({2: OTHER_KEY, 1: KEY})) == "KeyRing(1, 2)"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "HMAC keys: at least one is needed"),
        ({256: KEY}, "HMAC key 256: the id must be 0-255"),
        ({-1: KEY}, "HMAC key -1: the id must be 0-255"),
        ({3: KEY[1:]}, "HMAC key 3: 32-64 octets needed, got 31"),
        ({3: bytes(65)}, "HMAC key 3: 32-64 octets needed, got 65"),
    ],
)
def test_a_ring_refuses_what_is_no_key(keys: dict[int, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        KeyRing(keys)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"hex:" + KEY.hex().encode(), KEY),
        (b"hex:" + KEY.hex().encode() + b"\n", KEY),
        (OTHER_KEY + b"\n", OTHER_KEY),
        (OTHER_KEY, OTHER_KEY),
        (KEY, KEY),
        (KEY[:31] + b"\n", KEY[:31] + b"\n"),
    ],
    ids=["hex", "hex and newline", "text and newline", "text", "binary", "binary that ends like a line"],
)
def test_a_key_file_is_read_as_keepalived_reads_it(content: bytes, key: bytes) -> None:
    assert parse_key(content) == key


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "HMAC key: 32-64 octets needed, got 0"),
        (b"t0psecret\n", "HMAC key: 32-64 octets needed, got 9"),
        (b"hex:00zz", "HMAC key: hexadecimal digits needed after hex:"),
        (b"hex:\xff", "HMAC key: hexadecimal digits needed after hex:"),
        (b"hex:0011", "HMAC key: 32-64 octets needed, got 2"),
    ],
)
def test_a_file_that_is_no_key_is_refused_without_printing_it(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        parse_key(content)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 30), st.floats(-1e4, 1e4)), max_size=40))
def test_no_clock_that_was_wrong_and_is_right_again_is_refused_for_long(
    events: list[tuple[int, float, float]],
) -> None:
    """Nodes that speak and step at random; when all clocks are right again, all hear all within two windows."""
    sources = [bytes((10, 0, 0, 11 + number)) for number in range(4)]
    nodes = [Node() for _ in sources]
    now = 0.0
    for number, pause, step in events:
        now += pause
        nodes[number].step = NOON + step
        sent = nodes[number].send(now, sources[number])
        for receiver in nodes:
            receiver.hear(sent, now)
    for node in nodes:
        node.step = NOON
    for _ in range(2 * auth.WINDOW_MINIMUM + 2):
        now += 1.0
        for number, node in enumerate(nodes):
            sent = node.send(now, sources[number])
            for receiver in nodes:
                receiver.hear(sent, now)
    for number, node in enumerate(nodes):
        sent = node.send(now + 1, sources[number])
        assert all(receiver.takes(sent, now + 1) for receiver in nodes)
