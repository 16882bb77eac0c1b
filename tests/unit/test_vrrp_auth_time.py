"""What clocks that step and keys that are rotated may do to HMAC trailers: nothing that lasts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.vrrp import auth
from lvsagent.vrrp.auth import KeyRing, parse_key, window_for
from lvsagent.vrrp.packet import Dropped, DropReason, encode
from tests.fakes.signing_node import HOUR, KEY, NOON, OTHER_KEY, RING, SOURCE, STRANGER, Node, advert

pytestmark = pytest.mark.unit

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


def test_one_that_follows_its_wall_clock_does_not_cost_us_the_others() -> None:
    """All clocks step, keepalived goes along with its own, we and a third do not: both are heard."""
    ours, third, keepalived = Node(), Node(), Node()
    assert ours.takes(third.send(0.0), 0.0)
    assert ours.takes(keepalived.send(0.0, STRANGER), 0.0)
    for node in (ours, third, keepalived):
        node.step += 600
    keepalived.clock.adopt(NOON + 600, 0.0)
    for second in range(1, 60):
        assert ours.takes(keepalived.send(second, STRANGER), second)
        assert ours.takes(third.send(second), second)


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


def test_fault_59_a_process_that_starts_amid_a_rotation_signs_with_the_key_that_every_node_has() -> None:
    """A new pod has the new key at once, the other nodes have it when their kubelets look."""
    old, both = KeyRing({1: KEY}), KeyRing({1: KEY, 2: OTHER_KEY})
    other, started = Node(ring=old), auth.Signer(both, auth.Clock(NOON, 0.0), monotonic=1000.0)
    assert started.signing == 1
    for second in range(1000, 1300):
        if second == 1090:
            other.verifier.use(both)
        sent = advert(STRANGER)
        trailer = started.sign(encode(sent), STRANGER, NOON + second, second)
        assert other.takes((encode(sent, trailer=trailer), STRANGER), second)
    assert started.signing == 2


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
