"""VRRPv2 (RFC 3768) with authentication none and password, and what one policy for both versions lets through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.vrrp import v2
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

SOURCE = bytes((10, 0, 0, 11))
SOURCE_V6 = bytes.fromhex("fe80" + "00" * 13 + "0b")
VIP = bytes((10, 0, 0, 200))
PASSWORD = b"k8s-lvs-"
# Captured from keepalived 2.2.7: VRID 51, priority 100, 1 s.
KEEPALIVED = bytes.fromhex("21336401 00017002 0a0000c8 0000000000000000")
KEEPALIVED_PASS = bytes.fromhex("21336401 0101b0f8 0a0000c8 6b38732d6c76732d")
KEEPALIVED_V3 = bytes.fromhex("31336401 00647505 0a0000c8")


def advert(**changes: object) -> Advertisement:
    fields: dict[str, object] = {
        "version": 2,
        "virtual_router_id": 51,
        "priority": 100,
        "interval": 100,
        "addresses": (VIP,),
        "source": SOURCE,
        "checksum": ChecksumForm.MESSAGE,
    }
    return Advertisement(**{**fields, **changes})  # type: ignore[arg-type]


def read(
    payload: bytes, expected: Expectation | None = None, *, source: bytes = SOURCE, **changes: object
) -> Advertisement | Dropped:
    fields: dict[str, object] = {
        "source": source,
        "destination": GROUP_V4 if len(source) == 4 else GROUP_V6,
        "hop_limit": 255,
        "policy": Policy({51: expected or Expectation(version=2, interval=100)}),
    }
    return decode(payload, **{**fields, **changes})  # type: ignore[arg-type]


def patched(payload: bytes, at: int, value: int) -> bytes:
    """One octet changed, the checksum made right for it."""
    changed = bytearray(payload)
    changed[at] = value
    changed[6:8] = b"\0\0"
    words = sum(int.from_bytes(changed[i : i + 2].ljust(2, b"\0")) for i in range(0, len(changed), 2))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    changed[6:8] = (~words & 0xFFFF).to_bytes(2)
    return bytes(changed)


def test_we_send_what_keepalived_sends() -> None:
    assert encode(advert()) == KEEPALIVED
    assert encode(advert(), password=PASSWORD) == KEEPALIVED_PASS


def test_we_read_what_keepalived_sends() -> None:
    assert read(KEEPALIVED) == advert()
    assert read(KEEPALIVED_PASS, Expectation(version=2, interval=100, password=PASSWORD)) == advert()


def test_a_password_is_no_proof() -> None:
    got = read(KEEPALIVED_PASS, Expectation(version=2, password=PASSWORD))
    assert isinstance(got, Advertisement)
    assert not got.authenticated


@pytest.mark.parametrize(("sent", "octets"), [(b"abc", b"abc\0\0\0\0\0"), (b"0123456789", b"01234567")])
def test_a_password_is_filled_with_zeros_and_cut_to_eight_octets(sent: bytes, octets: bytes) -> None:
    payload = encode(advert(), password=sent)
    assert payload[-8:] == octets
    assert read(payload, Expectation(version=2, password=sent)) == advert()


@pytest.mark.parametrize("theirs", [b"k8s-lvs", b"k8s-lvs+", b"K8S-LVS-", b"x"])
def test_another_password_is_refused(theirs: bytes) -> None:
    payload = encode(advert(), password=theirs)
    expected = Expectation(version=2, interval=100, password=PASSWORD)
    assert read(payload, expected) == Dropped(DropReason.PASSWORD)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (KEEPALIVED, Expectation(version=2, password=PASSWORD)),
        (KEEPALIVED_PASS, Expectation(version=2)),
        (patched(KEEPALIVED, 4, 2), Expectation(version=2)),
        (patched(KEEPALIVED_PASS, 4, 2), Expectation(version=2, password=PASSWORD)),
        (patched(KEEPALIVED, 4, 255), Expectation(version=2)),
    ],
    ids=["none for password", "password for none", "AH for none", "AH for password", "255"],
)
def test_another_type_of_authentication_is_refused(payload: bytes, expected: Expectation) -> None:
    assert read(payload, expected) == Dropped(DropReason.AUTH_TYPE)


def test_the_data_of_authentication_none_are_ignored() -> None:
    assert read(patched(KEEPALIVED, 15, 0x5A)) == advert()


def test_the_checksum_covers_the_password() -> None:
    changed = KEEPALIVED_PASS[:-1] + b"+"
    expected = Expectation(version=2, password=PASSWORD)
    assert read(changed, expected) == Dropped(DropReason.CHECKSUM)


def test_the_checksum_never_has_a_pseudo_header() -> None:
    words = sum(int.from_bytes((SOURCE + GROUP_V4 + bytes((0, 112, 0, 20)))[i : i + 2]) for i in range(0, 12, 2))
    total = (~int.from_bytes(KEEPALIVED[6:8]) & 0xFFFF) + words
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    with_header = KEEPALIVED[:6] + (~total & 0xFFFF).to_bytes(2) + KEEPALIVED[8:]
    assert read(with_header) == Dropped(DropReason.CHECKSUM)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        *((KEEPALIVED[:length], DropReason.TRUNCATED) for length in range(8)),
        *((patched(KEEPALIVED, 0, version << 4 | 1), DropReason.VERSION) for version in range(16) if version != 2),
        *((patched(KEEPALIVED, 0, 0x20 | kind), DropReason.TYPE) for kind in range(16) if kind != 1),
        (patched(KEEPALIVED, 1, 0), DropReason.VRID),
        (patched(KEEPALIVED, 1, 52), DropReason.VRID),
        (patched(KEEPALIVED, 3, 0), DropReason.COUNT_ZERO),
        (patched(KEEPALIVED, 3, 2), DropReason.LENGTH),
        (patched(KEEPALIVED, 3, 255), DropReason.LENGTH),
        (KEEPALIVED[:12], DropReason.LENGTH),
        (KEEPALIVED[:-1], DropReason.LENGTH),
        (KEEPALIVED + b"\0", DropReason.LENGTH),
        (KEEPALIVED + bytes(28), DropReason.LENGTH),
        (KEEPALIVED[:7] + b"\x03" + KEEPALIVED[8:], DropReason.CHECKSUM),
        (patched(KEEPALIVED, 5, 0), DropReason.INTERVAL),
        (patched(KEEPALIVED, 5, 2), DropReason.INTERVAL),
        (patched(KEEPALIVED, 5, 255), DropReason.INTERVAL),
    ],
)
def test_a_wrong_advert_is_refused_by_name(payload: bytes, reason: DropReason) -> None:
    assert read(payload) == Dropped(reason)


@pytest.mark.parametrize("hop_limit", [0, 1, 254])
def test_an_advert_that_was_forwarded_is_refused(hop_limit: int) -> None:
    assert read(KEEPALIVED, hop_limit=hop_limit) == Dropped(DropReason.TTL)


def test_any_interval_but_zero_is_taken_when_none_is_expected() -> None:
    assert read(patched(KEEPALIVED, 5, 7), Expectation(version=2)) == advert(interval=700)
    assert read(patched(KEEPALIVED, 5, 0), Expectation(version=2)) == Dropped(DropReason.INTERVAL)


def test_there_is_no_version_2_for_ipv6() -> None:
    payload = KEEPALIVED[:8] + SOURCE_V6 + bytes(8)
    assert read(payload, source=SOURCE_V6) == Dropped(DropReason.VERSION)
    with pytest.raises(ValueError, match=r"^VRRPv2 virtual router 51: has no IPv6; take version 3$"):
        encode(advert(source=SOURCE_V6))


@pytest.mark.parametrize("interval", [0, 10, 150, 25600])
def test_an_interval_that_is_no_whole_second_cannot_be_said(interval: int) -> None:
    with pytest.raises(ValueError, match=f"an interval of {interval} centiseconds cannot be said; take whole seconds"):
        encode(advert(interval=interval))


def test_version_2_is_refused_where_nobody_asked_for_it() -> None:
    assert read(KEEPALIVED, Expectation()) == Dropped(DropReason.VERSION)
    assert read(KEEPALIVED, policy=None) == Dropped(DropReason.VERSION)
    assert read(KEEPALIVED, policy=Policy({})) == Dropped(DropReason.VERSION)


def test_each_router_has_its_own_version() -> None:
    both = Policy({51: Expectation(version=2), 52: Expectation()})
    assert read(KEEPALIVED, policy=both) == advert()
    assert read(KEEPALIVED_V3, policy=both) == Dropped(DropReason.VERSION)
    assert read(patched(KEEPALIVED, 1, 52), policy=both) == Dropped(DropReason.VERSION)
    got = read(patched(KEEPALIVED_V3, 1, 52), policy=both)
    assert isinstance(got, Advertisement)
    assert (got.version, got.virtual_router_id) == (3, 52)


def test_the_interface_can_narrow_the_policy() -> None:
    policy = Policy({51: Expectation(version=2)})
    assert read(KEEPALIVED, policy=policy, virtual_router_ids=frozenset({52})) == Dropped(DropReason.VRID)


def test_only_directors_are_listened_to_when_they_are_known() -> None:
    known = Expectation(version=2, sources=frozenset({SOURCE}))
    others = Expectation(version=2, sources=frozenset({bytes((10, 0, 0, 12))}))
    assert read(KEEPALIVED, known) == advert()
    got = read(KEEPALIVED, others)
    assert got == Dropped(DropReason.SOURCE)
    assert isinstance(got, Dropped)
    assert got.virtual_router_id == 51
    own = frozenset({SOURCE})
    assert read(KEEPALIVED, others, own_addresses=own) == Dropped(DropReason.SELF), "our own is no stranger's"


def test_the_words_are_in_the_order_in_which_they_are_found() -> None:
    """An advert with everything wrong, mended from the top: each rung is found before those below it."""
    expected = Expectation(version=2, interval=100, password=PASSWORD, sources=frozenset())
    found = []
    rungs: list[tuple[bytes, int]] = [
        (b"\x42", 1),
        (b"\x42\x34\x64\x00\x02\x07\0\0", 1),
        (b"\x22\x34\x64\x00\x02\x07\0\0", 1),
        (b"\x21\x34\x64\x00\x02\x07\0\0", 1),
        (b"\x21\x33\x64\x00\x02\x07\0\0", 1),
        (b"\x21\x33\x64\x01\x02\x07\0\0", 1),
        (b"\x21\x33\x64\x01\x02\x07\0\0" + bytes(12), 1),
        (patched(b"\x21\x33\x64\x01\x02\x07\0\0" + bytes(12), 2, 100), 1),
        (patched(b"\x21\x33\x64\x01\x02\x07\0\0" + bytes(12), 2, 100), 255),
        (patched(b"\x21\x33\x64\x01\x02\x01\0\0" + bytes(12), 2, 100), 255),
        (patched(b"\x21\x33\x64\x01\x01\x01\0\0" + bytes(12), 2, 100), 255),
        (KEEPALIVED_PASS, 255),
    ]
    for payload, hop_limit in rungs:
        got = read(payload, expected, hop_limit=hop_limit)
        assert isinstance(got, Dropped)
        found.append(got.reason)
    order = list(DropReason)
    assert found == sorted(found, key=order.index)
    assert found == [
        DropReason.TRUNCATED,
        DropReason.VERSION,
        DropReason.TYPE,
        DropReason.VRID,
        DropReason.COUNT_ZERO,
        DropReason.LENGTH,
        DropReason.CHECKSUM,
        DropReason.TTL,
        DropReason.INTERVAL,
        DropReason.AUTH_TYPE,
        DropReason.PASSWORD,
        DropReason.SOURCE,
    ]


@pytest.mark.parametrize(
    ("content", "password"), [(b"k8s-lvs-", PASSWORD), (b"a\n", b"a"), (b"pass word\r\n"[:8], b"pass wor")]
)
def test_a_password_file_is_read(content: bytes, password: bytes) -> None:
    assert v2.parse_password(content) == password


@pytest.mark.parametrize("content", [b"", b"\n", b"k8s-lvs-123", b"a\0b"])
def test_a_file_that_is_no_password_is_refused_without_printing_it(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a VRRPv2 password has 1-8 octets and no zero octet, got \d+: every router"):
        v2.parse_password(content)


@settings(deadline=None)
@given(
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(1, 255),
    st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=64),
    st.none() | st.binary(min_size=1, max_size=8),
)
def test_what_is_encoded_is_decoded(
    identifier: int, priority: int, seconds: int, addresses: list[bytes], password: bytes | None
) -> None:
    sent = advert(virtual_router_id=identifier, priority=priority, interval=seconds * 100, addresses=tuple(addresses))
    payload = encode(sent, password=password)
    policy = Policy({identifier: Expectation(version=2, interval=seconds * 100, password=password)})
    assert read(payload, policy=policy) == sent


@settings(deadline=None)
@given(st.binary(max_size=64), st.sampled_from([None, PASSWORD]))
def test_no_payload_makes_the_decoder_raise(tail: bytes, password: bytes | None) -> None:
    expected = Expectation(version=2, password=password)
    assert isinstance(read(b"\x21\x33" + tail, expected), Advertisement | Dropped)
