"""What RFC 9568 section 7.1 and RFC 3768 section 7.1 ask of an advert: taken as it is, dropped when broken."""

import struct
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from lvsagent.vrrp.ip import IPv4Packet, parse_ipv4
from lvsagent.vrrp.packet import Advertisement, Dropped, DropReason, Expectation, Policy, decode, encode
from tests.clauses.frames import GROUPS, sum_of

pytestmark = pytest.mark.unit

SOURCES = {4: ip_address("10.0.0.12").packed, 6: ip_address("fe80::c").packed}
VIP, OTHER = ip_address("10.0.0.200").packed, ip_address("10.0.0.201").packed
LINK_LOCAL, GLOBAL = ip_address("fe80::200").packed, ip_address("fd00::200").packed
LISTS = {4: VIP + OTHER, 6: LINK_LOCAL + GLOBAL}
PASSWORD = b"k8s-lvs-"
V2 = Expectation(version=2, interval=100)
WITH_PASSWORD = Expectation(version=2, interval=100, password=PASSWORD)


def message(family: int = 4, **fields: object) -> bytes:
    """A good VRRPv3 message, with these fields otherwise; its checksum is right, or changed by ``spoil``."""
    said: Mapping[str, object] = {
        "version": 3, "type": 1, "vrid": 51, "priority": 100, "count": 2, "reserved": 0, "interval": 100,
        "addresses": LISTS[family], "spoil": 0, **fields,
    }  # fmt: skip
    first, timing = int(f"0x{said['version']:x}{said['type']:x}", 16), int(f"0x{said['reserved']:x}000", 16)
    assert isinstance(said["interval"], int)
    return _summed(
        [first, said["vrid"], said["priority"], said["count"], timing | said["interval"]], said, GROUPS[family], family
    )


def message_2(**fields: object) -> bytes:
    """The same for VRRPv2."""
    said: Mapping[str, object] = {
        "version": 2, "type": 1, "vrid": 51, "priority": 100, "count": 2, "auth": 0, "seconds": 1,
        "addresses": LISTS[4], "data": bytes(8), "spoil": 0, **fields,
    }  # fmt: skip
    first = int(f"0x{said['version']:x}{said['type']:x}", 16)
    assert isinstance(said["auth"], int)
    assert isinstance(said["seconds"], int)
    timing = said["auth"] << 8 | said["seconds"]
    return _summed([first, said["vrid"], said["priority"], said["count"], timing], said, None, 4)


def _summed(head: list[object], said: Mapping[str, object], group: bytes | None, family: int) -> bytes:
    addresses, data = said["addresses"], said.get("data", b"")
    assert isinstance(addresses, bytes)
    assert isinstance(data, bytes)
    assert isinstance(said["spoil"], int)
    body = addresses + data
    pseudo = b""
    if family == 6 and group is not None:
        pseudo = SOURCES[6] + group + struct.pack("!IHBB", 8 + len(body), 0, 0, 112)
    blank = struct.pack("!BBBBHH", *head, 0) + body
    right = ~sum_of(pseudo + blank) & 0xFFFF
    return blank[:6] + (right ^ said["spoil"]).to_bytes(2) + blank[8:]


def read(payload: bytes, family: int = 4, hops: int = 255, expected: Expectation | None = None) -> object:
    return decode(
        payload,
        source=SOURCES[family],
        destination=GROUPS[family],
        hop_limit=hops,
        virtual_router_ids=frozenset({51}),
        policy=None if expected is None else Policy({51: expected, 52: expected}),
    )


TAKEN_4 = ("C2", "C6", "C9", "C12", "C14", "C16", "C41", "C42", "C43")


@pytest.mark.parametrize(
    ("payload", "family"),
    [
        pytest.param(message(), 4, marks=pytest.mark.clause(*TAKEN_4, "held"), id="IPv4"),
        pytest.param(message(6), 6, marks=pytest.mark.clause("C4", "C12", "C13", "C14", "held"), id="IPv6"),
        pytest.param(message(reserved=15), 4, marks=pytest.mark.clause("C10", "held"), id="reserved bits"),
        pytest.param(message(6, reserved=5), 6, marks=pytest.mark.clause("C10", "held"), id="reserved bits, IPv6"),
        pytest.param(message(interval=1), 4, marks=pytest.mark.clause("C16", "held"), id="shortest"),
        pytest.param(message(interval=4095), 4, marks=pytest.mark.clause("C16", "held"), id="longest"),
    ],
)
def test_a_good_advert_is_taken(payload: bytes, family: int) -> None:
    got = read(payload, family)
    assert isinstance(got, Advertisement)
    assert b"".join(got.addresses) == LISTS[family]
    assert (got.virtual_router_id, got.priority, got.interval) == (51, 100, int.from_bytes(payload[4:6]) & 0xFFF)


def dropped(clause: str, payload: bytes, reason: DropReason, family: int = 4, hops: int = 255) -> object:
    return pytest.param(
        payload, family, hops, reason, id=f"{clause} IPv{family} {reason}", marks=pytest.mark.clause(clause, "breach")
    )


@pytest.mark.parametrize(
    ("payload", "family", "hops", "reason"),
    [
        *(dropped("C2", message(), DropReason.TTL, hops=hops) for hops in (0, 1, 254)),
        *(dropped("C4", message(6), DropReason.TTL, 6, hops) for hops in (0, 64, 254)),
        *(dropped("C5", message(family), DropReason.TTL, family, 254) for family in (4, 6)),
        *(dropped("C6", message(type=kind), DropReason.TYPE) for kind in (0, 2, 15)),
        dropped("C9", message(count=0, addresses=b""), DropReason.COUNT_ZERO),
        dropped("C9", message(6, count=0, addresses=b""), DropReason.COUNT_ZERO, 6),
        dropped("C9", message(count=0), DropReason.COUNT_ZERO),
        *(dropped("C12", message(spoil=bit), DropReason.CHECKSUM) for bit in (1, 0x8000)),
        dropped("C12", message(6, spoil=1), DropReason.CHECKSUM, 6),
        dropped("C13", message(6, addresses=GLOBAL + LINK_LOCAL), DropReason.LINK_LOCAL, 6),
        dropped("C14", message(count=2, addresses=LISTS[6]), DropReason.LENGTH),
        dropped("C14", message(6, count=2, addresses=LISTS[4]), DropReason.LENGTH, 6),
        dropped("C16", message(interval=0), DropReason.INTERVAL),
        dropped("C16", message(6, interval=0), DropReason.INTERVAL, 6),
        dropped("C10", message(interval=0, reserved=15), DropReason.INTERVAL),
        *(dropped("C41", message(version=version), DropReason.VERSION) for version in (0, 2, 4, 15)),
        *(dropped("C42", message()[:length], DropReason.TRUNCATED) for length in (0, 7)),
        *(dropped("C42", message(count=3), DropReason.LENGTH, family) for family in (4, 6)),
        dropped("C42", message(addresses=VIP + OTHER[:2]), DropReason.LENGTH),
        *(dropped("C43", message(vrid=vrid), DropReason.VRID) for vrid in (0, 52, 255)),
    ],
)
def test_an_advert_that_breaks_a_clause_is_dropped_by_name(
    payload: bytes, family: int, hops: int, reason: DropReason
) -> None:
    assert read(payload, family, hops) == Dropped(reason)


# --- VRRPv2 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(message_2(), V2, marks=pytest.mark.clause("V1", "V2", "V3", "held"), id="plain"),
        pytest.param(
            message_2(auth=1, data=PASSWORD), WITH_PASSWORD, marks=pytest.mark.clause("V2", "held"), id="password"
        ),
        pytest.param(message_2(data=b"whatever"), V2, marks=pytest.mark.clause("V6", "held"), id="data of type 0"),
    ],
)
def test_a_good_advert_of_version_2_is_taken(payload: bytes, expected: Expectation) -> None:
    got = read(payload, expected=expected)
    assert isinstance(got, Advertisement)
    assert (got.version, got.interval, got.addresses) == (2, 100, (VIP, OTHER))


def dropped_2(clause: str, payload: bytes, reason: DropReason, expected: Expectation = V2, hops: int = 255) -> object:
    return pytest.param(
        payload, expected, hops, reason, id=f"{clause} {reason}", marks=pytest.mark.clause(clause, "breach")
    )


@pytest.mark.parametrize(
    ("payload", "expected", "hops", "reason"),
    [
        dropped_2("V1", message_2(version=3), DropReason.VERSION),
        dropped_2("V1", message_2(), DropReason.TTL, hops=254),
        dropped_2("V1", message_2()[:-8], DropReason.LENGTH),
        dropped_2("V1", message_2()[:-1], DropReason.LENGTH),
        dropped_2("V1", message_2(spoil=1), DropReason.CHECKSUM),
        dropped_2("V1", message_2(vrid=52), DropReason.VRID),
        *(dropped_2("V2", message_2(auth=kind), DropReason.AUTH_TYPE) for kind in (1, 2, 255)),
        dropped_2("V2", message_2(), DropReason.AUTH_TYPE, WITH_PASSWORD),
        dropped_2("V2", message_2(auth=1, data=b"k8s-lvs!"), DropReason.PASSWORD, WITH_PASSWORD),
        dropped_2("V2", message_2(auth=1), DropReason.PASSWORD, WITH_PASSWORD),
        *(dropped_2("V3", message_2(seconds=seconds), DropReason.INTERVAL) for seconds in (0, 2, 255)),
        dropped_2("V6", message_2(data=b"whatever", spoil=1), DropReason.CHECKSUM),
    ],
)
def test_an_advert_of_version_2_that_breaks_a_clause_is_dropped_by_name(
    payload: bytes, expected: Expectation, hops: int, reason: DropReason
) -> None:
    assert read(payload, hops=hops, expected=expected) == Dropped(reason)


@pytest.mark.clause("V1", "V2", "V6", "held")
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_what_we_send_in_version_2_is_what_the_rfc_says(password: bytes | None) -> None:
    said = Advertisement(
        version=2, virtual_router_id=51, priority=100, interval=100, addresses=(VIP, OTHER), source=SOURCES[4]
    )
    wanted = message_2() if password is None else message_2(auth=1, data=PASSWORD)
    assert encode(said, password=password) == wanted


@pytest.mark.clause("C42", "breach")
def test_an_ip_packet_that_is_cut_short_or_a_fragment_is_dropped() -> None:
    header = bytearray(bytes.fromhex("45c00024 00010000 ff700000 0a00000c e0000012"))
    assert isinstance(parse_ipv4(bytes(header) + message()), IPv4Packet)
    assert parse_ipv4(bytes(header) + message()[:-1]) == Dropped(DropReason.IP_HEADER)
    header[6] = 0x20
    assert parse_ipv4(bytes(header) + message()) == Dropped(DropReason.IP_HEADER)
