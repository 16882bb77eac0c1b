"""scapy as the judge of our VRRPv2, of both versions under one policy, and of what an HMAC trailer leaves as it was."""

import pytest

from lvsagent.vrrp import auth
from lvsagent.vrrp.packet import (
    GROUP_V4,
    GROUP_V6,
    Advertisement,
    ChecksumForm,
    Expectation,
    IPv4Packet,
    Policy,
    decode,
    encode,
    parse_ipv4,
)
from tests.contract.layers import IP, VRRP, IPv6, Raw, VRRPv3

pytestmark = pytest.mark.contract

SOURCE = bytes((10, 0, 0, 11))
SOURCE_V6 = bytes.fromhex("fe80" + "00" * 13 + "0b")
VIPS = (bytes((10, 0, 0, 200)), bytes((10, 0, 0, 201)))
PASSWORD = b"k8s-lvs-"
NAMES = ["10.0.0.200", "10.0.0.201"]


def ours(priority: int, seconds: int) -> Advertisement:
    return Advertisement(
        version=2,
        virtual_router_id=51,
        priority=priority,
        interval=seconds * 100,
        addresses=VIPS,
        source=SOURCE,
        checksum=ChecksumForm.MESSAGE,
    )


@pytest.mark.parametrize("password", [None, PASSWORD, b"short"])
@pytest.mark.parametrize(("priority", "seconds"), [(100, 1), (0, 1), (255, 255)])
def test_scapy_reads_our_version_2(priority: int, seconds: int, password: bytes | None) -> None:
    payload = encode(ours(priority, seconds), password=password)
    read = IP(bytes(IP(src="10.0.0.11", dst="224.0.0.18", proto=112, ttl=255) / payload))
    advert = read[VRRP]
    assert (advert.version, advert.type, advert.vrid, advert.priority) == (2, 1, 51, priority)
    assert (advert.authtype, advert.adv, advert.ipcount) == (0 if password is None else 1, seconds, 2)
    assert advert.addrlist == NAMES
    assert (advert.auth1.to_bytes(4) + advert.auth2.to_bytes(4)).rstrip(b"\0") == (password or b"")
    del advert.chksum  # scapy computes it anew
    assert bytes(IP(bytes(read))[VRRP]) == payload


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_we_read_scapys_version_2(password: bytes | None) -> None:
    data = (password or b"").ljust(8, b"\0")
    built = bytes(
        IP(src="10.0.0.11", dst="224.0.0.18", ttl=255)
        / VRRP(
            vrid=51,
            priority=100,
            adv=3,
            addrlist=NAMES,
            authtype=0 if password is None else 1,
            auth1=int.from_bytes(data[:4]),
            auth2=int.from_bytes(data[4:]),
        )
    )
    outer = parse_ipv4(built)
    assert isinstance(outer, IPv4Packet)
    got = decode(
        outer.payload,
        source=outer.source,
        destination=outer.destination,
        hop_limit=outer.ttl,
        policy=Policy({51: Expectation(version=2, interval=300, password=password)}),
    )
    assert got == ours(100, 3)


def test_we_read_scapys_version_3_of_both_families_by_a_policy() -> None:
    policy = Policy({51: Expectation(sources=frozenset({SOURCE, SOURCE_V6}))})
    four = bytes(IP(src="10.0.0.11", dst="224.0.0.18", ttl=255) / VRRPv3(vrid=51, priority=7, adv=10, addrlist=NAMES))
    six = bytes(
        IPv6(src="fe80::b", dst="ff02::12", hlim=255) / VRRPv3(vrid=51, priority=7, adv=10, addrlist=["fe80::2"])
    )
    got = decode(four[20:], source=SOURCE, destination=GROUP_V4, hop_limit=255, policy=policy)
    assert isinstance(got, Advertisement)
    assert (got.version, got.priority, got.interval, got.addresses) == (3, 7, 10, VIPS)
    got = decode(six[40:], source=SOURCE_V6, destination=GROUP_V6, hop_limit=255, policy=policy)
    assert isinstance(got, Advertisement)
    assert (got.version, got.priority, got.addresses) == (3, 7, (bytes.fromhex("fe80" + "00" * 13 + "02"),))


def test_scapy_finds_the_trailer_behind_a_right_advert() -> None:
    """The message keeps its length, its address count and the checksum that it has without a trailer."""
    sent = Advertisement(virtual_router_id=51, priority=100, interval=100, addresses=VIPS, source=SOURCE)
    signer = auth.Signer(auth.KeyRing({1: bytes(range(32))}), auth.Clock(1.75e9, 0.0))
    trailer = signer.sign(encode(sent), SOURCE, 1.75e9, 0.0)
    read = IP(bytes(IP(src="10.0.0.11", dst="224.0.0.18", proto=112, ttl=255) / encode(sent, trailer=trailer)))
    assert read[VRRPv3].addrlist == NAMES
    assert bytes(read[VRRPv3].payload if Raw not in read else read[Raw]) == trailer
    assert read[VRRPv3].chksum == int.from_bytes(encode(sent)[6:8])
