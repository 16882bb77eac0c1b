"""The VRRPv3 codec against captured bytes, and every rung of the ladder of refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.vrrp.packet import (
    GROUP_V4,
    GROUP_V6,
    Advertisement,
    ChecksumForm,
    Dropped,
    DropReason,
    IPv4Packet,
    decode,
    encode,
    parse_ipv4,
)

pytestmark = pytest.mark.unit

SOURCE = bytes((10, 0, 0, 11))
SOURCE_V6 = bytes.fromhex("fe80000000000000000000fffe00000a")
VIP = bytes((10, 0, 0, 200))
# Captured from keepalived 2.2.7: VRID 51, priority 100, 1 s.
KEEPALIVED = bytes.fromhex("31336401 00647505 0a0000c8")
KEEPALIVED_LAST = bytes.fromhex("31330001 0064d905 0a0000c8")
RFC_9568 = bytes.fromhex("31336401 00645f9f 0a0000c8")
IP_HEADER = bytes.fromhex("45c00020 00010000 ff70d08f 0a00000b e0000012")


def advert(**changes: object) -> Advertisement:
    fields: dict[str, object] = {
        "virtual_router_id": 51,
        "priority": 100,
        "interval": 100,
        "addresses": (VIP,),
        "source": SOURCE,
    }
    return Advertisement(**{**fields, **changes})  # type: ignore[arg-type]


def read(payload: bytes, **changes: object) -> Advertisement | Dropped:
    fields: dict[str, object] = {"source": SOURCE, "destination": GROUP_V4, "hop_limit": 255}
    return decode(payload, **{**fields, **changes})  # type: ignore[arg-type]


def patched(payload: bytes, at: int, value: int) -> bytes:
    """One octet changed, the checksum made right for it (message form)."""
    changed = bytearray(payload)
    changed[at] = value
    changed[6:8] = b"\0\0"
    words = sum(int.from_bytes(changed[i : i + 2].ljust(2, b"\0")) for i in range(0, len(changed), 2))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    changed[6:8] = (~words & 0xFFFF).to_bytes(2)
    return bytes(changed)


@pytest.mark.clause("D6", "instead")
def test_we_send_what_keepalived_sends() -> None:
    assert encode(advert()) == KEEPALIVED
    assert encode(advert(priority=0)) == KEEPALIVED_LAST


@pytest.mark.clause("C11", "held")
def test_we_can_send_the_checksum_that_rfc_9568_writes() -> None:
    assert encode(advert(), checksum=ChecksumForm.MESSAGE) == RFC_9568


def test_we_read_both_forms_of_the_checksum_and_say_which() -> None:
    assert read(KEEPALIVED) == advert(checksum=ChecksumForm.PSEUDO_HEADER)
    assert read(RFC_9568) == advert(checksum=ChecksumForm.MESSAGE)


def test_an_ipv6_advert_is_what_keepalived_sends() -> None:
    source = SOURCE_V6
    addresses = (bytes.fromhex("fe80" + "00" * 12 + "0200"), bytes.fromhex("fd00" + "00" * 12 + "0200"))
    sent = encode(advert(source=source, addresses=addresses))
    assert sent[:8] == bytes.fromhex("313364020064 6dac")
    got = read(sent, source=source, destination=GROUP_V6)
    assert got == advert(source=source, addresses=addresses)


@pytest.mark.clause("C11", "breach")
def test_an_ipv6_advert_without_pseudo_header_is_refused() -> None:
    source = SOURCE_V6
    sent = encode(advert(source=source, addresses=(source,)))
    assert read(patched(sent, 2, 100), source=source, destination=GROUP_V6) == Dropped(DropReason.CHECKSUM)


def test_a_raw_packet_is_taken_apart() -> None:
    assert parse_ipv4(IP_HEADER + KEEPALIVED) == IPv4Packet(
        source=SOURCE, destination=GROUP_V4, ttl=255, protocol=112, payload=KEEPALIVED
    )


def test_options_in_the_ip_header_are_no_part_of_the_advert() -> None:
    header = bytearray(IP_HEADER + bytes.fromhex("94040000"))  # router alert
    header[0] = 0x46
    header[3] += 4
    outer = parse_ipv4(bytes(header) + KEEPALIVED)
    assert isinstance(outer, IPv4Packet)
    assert outer.payload == KEEPALIVED


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        IP_HEADER[:19],
        b"\x65" + IP_HEADER[1:] + KEEPALIVED,
        b"\x44" + IP_HEADER[1:] + KEEPALIVED,
        b"\x4f" + IP_HEADER[1:] + KEEPALIVED,
        IP_HEADER + KEEPALIVED[:-1],
        IP_HEADER + KEEPALIVED + b"\0",
        IP_HEADER[:6] + b"\x20\x00" + IP_HEADER[8:] + KEEPALIVED,
        IP_HEADER[:6] + b"\x00\x01" + IP_HEADER[8:] + KEEPALIVED,
    ],
    ids=["empty", "short", "version 6", "IHL 4", "IHL 15", "truncated", "padded", "more fragments", "offset"],
)
def test_a_wrong_ip_header_is_refused(packet: bytes) -> None:
    assert parse_ipv4(packet) == Dropped(DropReason.IP_HEADER)


def test_do_not_fragment_is_no_fragment() -> None:
    assert isinstance(parse_ipv4(IP_HEADER[:6] + b"\x40\x00" + IP_HEADER[8:] + KEEPALIVED), IPv4Packet)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        *((KEEPALIVED[:length], DropReason.TRUNCATED) for length in range(8)),
        *((patched(KEEPALIVED, 0, version << 4 | 1), DropReason.VERSION) for version in range(16) if version != 3),
        *((patched(KEEPALIVED, 0, 0x30 | kind), DropReason.TYPE) for kind in range(16) if kind != 1),
        (patched(KEEPALIVED, 1, 0), DropReason.VRID),
        (patched(KEEPALIVED, 1, 52), DropReason.VRID),
        (patched(KEEPALIVED, 3, 0), DropReason.COUNT_ZERO),
        (patched(KEEPALIVED, 3, 2), DropReason.LENGTH),
        (patched(KEEPALIVED, 3, 255), DropReason.LENGTH),
        (KEEPALIVED + b"\0", DropReason.LENGTH),
        (KEEPALIVED + b"\0" * 8, DropReason.LENGTH),
        (KEEPALIVED[:8] + KEEPALIVED[8:] * 2, DropReason.LENGTH),
        (KEEPALIVED[:7] + b"\x06" + KEEPALIVED[8:], DropReason.CHECKSUM),
        (KEEPALIVED[:6] + b"\0\0" + KEEPALIVED[8:], DropReason.CHECKSUM),
        (KEEPALIVED[:6] + b"\xff\xff" + KEEPALIVED[8:], DropReason.CHECKSUM),
        (patched(patched(KEEPALIVED, 4, 0), 5, 0), DropReason.INTERVAL),
        (patched(patched(KEEPALIVED, 4, 0xF0), 5, 0), DropReason.INTERVAL),
    ],
)
def test_a_wrong_advert_is_refused_by_name(payload: bytes, reason: DropReason) -> None:
    assert read(payload, virtual_router_ids=frozenset({51})) == Dropped(reason)


@pytest.mark.clause("D17", "instead")
@pytest.mark.parametrize("count", [64, 65])
def test_more_than_64_addresses_are_refused(count: int) -> None:
    got = read(encode(advert(addresses=(VIP,) * count)))
    assert isinstance(got, Advertisement) == (count == 64)


@pytest.mark.clause("C2", "breach")
@pytest.mark.parametrize("hop_limit", [0, 1, 254])
def test_an_advert_that_was_forwarded_is_refused(hop_limit: int) -> None:
    assert read(KEEPALIVED, hop_limit=hop_limit) == Dropped(DropReason.TTL)


def test_our_own_advert_looped_back_is_refused() -> None:
    assert read(KEEPALIVED, own_addresses=frozenset({SOURCE})) == Dropped(DropReason.SELF)


@pytest.mark.parametrize("source", ["00000000", "e0000012", "ffffffff", "ff02" + "00" * 13 + "01", "00" * 16])
def test_a_source_that_is_no_host_is_refused(source: str) -> None:
    sender = bytes.fromhex(source)
    sent = encode(advert(source=sender, addresses=(b"\xfe\x80" + bytes(len(sender) - 2),)))
    destination = GROUP_V4 if len(sender) == 4 else GROUP_V6
    assert read(sent, source=sender, destination=destination) == Dropped(DropReason.SOURCE)


@pytest.mark.clause("C13", "breach")
def test_an_ipv6_router_without_link_local_address_first_is_refused() -> None:
    source = bytes.fromhex("fe80" + "00" * 13 + "01")
    sent = encode(advert(source=source, addresses=(bytes.fromhex("fd00" + "00" * 13 + "02"), source)))
    assert read(sent, source=source, destination=GROUP_V6) == Dropped(DropReason.LINK_LOCAL)


@pytest.mark.clause("C10", "held")
def test_the_reserved_bits_are_ignored() -> None:
    assert read(patched(KEEPALIVED, 4, 0xF0)) == advert(checksum=ChecksumForm.MESSAGE)


def test_any_virtual_router_id_is_read_when_none_are_named() -> None:
    got = read(patched(KEEPALIVED, 1, 255))
    assert isinstance(got, Advertisement)
    assert got.virtual_router_id == 255


HOSTS_V4 = st.tuples(st.integers(1, 223), *[st.integers(0, 255)] * 3).map(bytes)
HOSTS_V6 = st.binary(min_size=14, max_size=14).map(lambda tail: b"\xfe\x80" + tail)


@st.composite
def adverts(draw: st.DrawFn) -> Advertisement:
    hosts = draw(st.sampled_from([HOSTS_V4, HOSTS_V6]))
    return Advertisement(
        virtual_router_id=draw(st.integers(1, 255)),
        priority=draw(st.integers(0, 255)),
        interval=draw(st.integers(1, 4095)),
        addresses=tuple(draw(st.lists(hosts, min_size=1, max_size=64))),
        source=draw(hosts),
    )


@settings(deadline=None)
@given(adverts())
def test_what_is_encoded_is_decoded(sent: Advertisement) -> None:
    destination = GROUP_V4 if len(sent.source) == 4 else GROUP_V6
    assert read(encode(sent), source=sent.source, destination=destination) == sent


@settings(deadline=None)
@given(adverts(), st.integers(0), st.integers(1, 255))
def test_one_changed_octet_is_never_the_same_advert(sent: Advertisement, at: int, flip: int) -> None:
    payload = bytearray(encode(sent))
    payload[at % len(payload)] ^= flip
    destination = GROUP_V4 if len(sent.source) == 4 else GROUP_V6
    assert read(bytes(payload), source=sent.source, destination=destination) != sent


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([SOURCE, SOURCE_V6]), st.integers(0, 255))
def test_no_payload_makes_the_decoder_raise(payload: bytes, source: bytes, hop_limit: int) -> None:
    got = read(payload, source=source, destination=GROUP_V4 if len(source) == 4 else GROUP_V6, hop_limit=hop_limit)
    assert isinstance(got, Advertisement | Dropped)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_no_packet_makes_the_header_parser_raise(packet: bytes) -> None:
    assert isinstance(parse_ipv4(packet), IPv4Packet | Dropped)
