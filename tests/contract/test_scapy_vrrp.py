"""scapy as the independent judge of our bytes: it reads ours field by field, and we read its."""

import pytest

from lvsagent.vrrp import arp, ndp
from lvsagent.vrrp.packet import (
    GROUP_V4,
    GROUP_V6,
    Advertisement,
    ChecksumForm,
    IPv4Packet,
    decode,
    encode,
    parse_ipv4,
)
from tests.contract.layers import ARP, IP, Ether, ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6, VRRPv3

pytestmark = pytest.mark.contract

SOURCE = bytes((10, 0, 0, 11))
SOURCE_V6 = bytes.fromhex("fe80" + "00" * 13 + "0b")
VIPS = (bytes((10, 0, 0, 200)), bytes((10, 0, 0, 201)))
VIPS_V6 = (bytes.fromhex("fe80" + "00" * 12 + "0200"), bytes.fromhex("fd00" + "00" * 12 + "0200"))
MAC = bytes.fromhex("0200000000aa")


def ours(priority: int, interval: int, *, six: bool = False) -> Advertisement:
    return Advertisement(
        virtual_router_id=51,
        priority=priority,
        interval=interval,
        addresses=VIPS_V6 if six else VIPS,
        source=SOURCE_V6 if six else SOURCE,
    )


@pytest.mark.parametrize(("priority", "interval"), [(100, 100), (0, 10), (255, 4095), (1, 1)])
def test_scapy_reads_our_ipv4_adverts(priority: int, interval: int) -> None:
    payload = encode(ours(priority, interval))
    header = IP(src="10.0.0.11", dst="224.0.0.18", proto=112, ttl=255)
    read = IP(bytes(header / payload))
    advert = read[VRRPv3]
    assert (advert.version, advert.type, advert.vrid, advert.priority) == (3, 1, 51, priority)
    assert (advert.res, advert.adv, advert.ipcount) == (0, interval, 2)
    assert advert.addrlist == ["10.0.0.200", "10.0.0.201"]
    del advert.chksum  # scapy computes it anew
    assert bytes(IP(bytes(read))[VRRPv3]) == payload


def test_scapy_reads_our_ipv6_adverts() -> None:
    payload = encode(ours(100, 10, six=True))
    read = IPv6(bytes(IPv6(src="fe80::b", dst="ff02::12", nh=112, hlim=255) / payload))
    advert = read[VRRPv3]
    assert (advert.vrid, advert.priority, advert.adv, advert.ipcount) == (51, 100, 10, 2)
    assert advert.addrlist == ["fe80::200", "fd00::200"]
    del advert.chksum
    assert bytes(IPv6(bytes(read))[VRRPv3]) == payload


@pytest.mark.parametrize("options", [[], [bytes.fromhex("94040000")]])
def test_we_read_scapys_ipv4_adverts(options: list[bytes]) -> None:
    built = bytes(
        IP(src="10.0.0.11", dst="224.0.0.18", ttl=255, options=b"".join(options))
        / VRRPv3(vrid=51, priority=100, adv=100, addrlist=["10.0.0.200", "10.0.0.201"])
    )
    outer = parse_ipv4(built)
    assert isinstance(outer, IPv4Packet)
    assert (outer.source, outer.destination, outer.ttl, outer.protocol) == (SOURCE, GROUP_V4, 255, 112)
    got = decode(outer.payload, source=outer.source, destination=outer.destination, hop_limit=outer.ttl)
    assert got == ours(100, 100)
    assert isinstance(got, Advertisement)
    assert got.checksum is ChecksumForm.PSEUDO_HEADER


def test_we_read_scapys_ipv6_adverts() -> None:
    built = bytes(
        IPv6(src="fe80::b", dst="ff02::12", hlim=255)
        / VRRPv3(vrid=51, priority=7, adv=10, addrlist=["fe80::200", "fd00::200"])
    )
    got = decode(built[40:], source=SOURCE_V6, destination=GROUP_V6, hop_limit=255)
    assert got == ours(7, 10, six=True)


@pytest.mark.parametrize(
    ("frame", "operation", "target"),
    [
        (arp.announcement(VIPS[0], MAC), 1, "ff:ff:ff:ff:ff:ff"),
        (arp.announcing_reply(VIPS[0], MAC), 2, "02:00:00:00:00:aa"),
    ],
    ids=["request", "reply"],
)
def test_scapy_reads_our_announcement_as_gratuitous_arp_in_both_forms(
    frame: bytes, operation: int, target: str
) -> None:
    read = Ether(frame)
    assert (read.dst, read.src, read.type) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:aa", 0x0806)
    packet = read[ARP]
    assert (packet.hwtype, packet.ptype, packet.hwlen, packet.plen, packet.op) == (1, 0x0800, 6, 4, operation)
    assert (packet.hwsrc, packet.psrc) == ("02:00:00:00:00:aa", "10.0.0.200")
    assert (packet.hwdst, packet.pdst) == (target, "10.0.0.200")
    assert bytes(packet.payload) == b"", "nothing beyond it"


@pytest.mark.parametrize("forwards", [False, True])
def test_scapy_reads_our_announcement_as_an_unsolicited_neighbour_advertisement(forwards: bool) -> None:
    read = Ether(ndp.announcement(VIPS_V6[1], MAC, forwards=forwards))
    assert (read.dst, read.src, read.type) == ("33:33:00:00:00:01", "02:00:00:00:00:aa", 0x86DD)
    outer = read[IPv6]
    assert (outer.version, outer.src, outer.dst, outer.nh, outer.hlim) == (6, "fd00::200", "ff02::1", 58, 255)
    said = read[ICMPv6ND_NA]
    assert (said.type, said.code, said.R, said.S, said.O, said.res) == (136, 0, int(forwards), 0, 1, 0)
    assert said.tgt == "fd00::200"
    option = read[ICMPv6NDOptDstLLAddr]
    assert (option.type, option.len, option.lladdr) == (2, 1, "02:00:00:00:00:aa")
    given = outer.copy()
    del given[ICMPv6ND_NA].cksum, given.plen  # scapy computes them anew
    assert bytes(given) == bytes(outer)


@pytest.mark.parametrize("operation", ["who-has", "is-at"])
def test_we_read_scapys_arp_as_a_claim(operation: str) -> None:
    frame = Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(op=operation, hwsrc="02:00:00:00:00:aa", psrc="10.0.0.200")
    assert arp.parse(bytes(frame)) == arp.Claim(VIPS[0], MAC)
