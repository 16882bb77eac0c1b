"""Our adverts under an independent judge of frames, which finds nothing; scapy's, broken at a clause, are named."""

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from lvsagent.vrrp.packet import GROUP_V4, GROUP_V6, Advertisement, ChecksumForm, encode
from tests.clauses import frames, questions
from tests.contract.layers import IP, Ether, ICMPv6ND_NS, ICMPv6ND_RA, IPv6, Packet, VRRPv3

pytestmark = pytest.mark.contract

SOURCES = {4: "10.0.0.11", 6: "fe80::b"}
VIPS = {4: ("10.0.0.200", "10.0.0.201"), 6: ("fe80::200", "fd00::200")}
MAC = "02:00:00:00:00:aa"
FIELDS = ("C8", "C10", "C11", "C14", "C16", "C48")


def judged(frame: bytes, family: int, *, message_form: bool = False) -> set[str]:
    said = frames.advert(frame)
    assert said is not None
    return frames.broken(
        said, virtual_router_id=51, source=SOURCES[family], addresses=VIPS[family], message_form=message_form
    )


def ours(family: int, priority: int, interval: int, checksum: ChecksumForm = ChecksumForm.PSEUDO_HEADER) -> bytes:
    """Our advert in a frame of scapy's: IP and Ethernet are the kernel's business."""
    said = Advertisement(
        virtual_router_id=51,
        priority=priority,
        interval=interval,
        addresses=tuple(ip_address(address).packed for address in VIPS[family]),
        source=ip_address(SOURCES[family]).packed,
        checksum=checksum,
    )
    payload = encode(said, destination=GROUP_V4 if family == 4 else GROUP_V6)
    return bytes(outer(family) / payload)


def outer(family: int) -> Packet:
    if family == 4:
        return Ether(src=MAC, dst="01:00:5e:00:00:12") / IP(src=SOURCES[4], dst="224.0.0.18", proto=112, ttl=255)
    return Ether(src=MAC, dst="33:33:00:00:00:12") / IPv6(src=SOURCES[6], dst="ff02::12", nh=112, hlim=255)


@pytest.mark.clause(*FIELDS, "C13", "held")
@pytest.mark.parametrize("interval", [1, 100, 4095])
@pytest.mark.parametrize("priority", [0, 1, 100, 254])
@pytest.mark.parametrize("family", [4, 6])
def test_the_judge_finds_nothing_in_our_adverts(family: int, priority: int, interval: int) -> None:
    assert judged(ours(family, priority, interval), family) == set()


@pytest.mark.clause("C11", "held")
def test_where_a_class_asks_for_it_the_ipv4_checksum_is_that_of_the_rfc() -> None:
    assert judged(ours(4, 100, 10, ChecksumForm.MESSAGE), 4, message_form=True) == set()
    assert judged(ours(4, 100, 10), 4, message_form=True) == {"C11"}


Doctor = Callable[[Packet], None]


def in_outer(name: str, value: object) -> Doctor:
    return lambda packet: setattr(packet.payload, name, value)


def in_ether(name: str, value: object) -> Doctor:
    return lambda packet: setattr(packet, name, value)


def in_advert(name: str, value: object) -> Doctor:
    return lambda packet: setattr(packet[VRRPv3], name, value)


def breach(clause: str, family: int, doctor: Doctor, *also: str) -> object:
    return pytest.param({clause, *also}, family, doctor, marks=pytest.mark.clause(clause, *also, "breach"))


@pytest.mark.parametrize(
    ("named", "family", "doctor"),
    [
        breach("C1", 4, in_outer("ttl", 254)),
        breach("C3", 6, in_outer("hlim", 64)),
        breach("C8", 4, in_advert("priority", 255), "C7"),
        breach("C10", 4, in_advert("res", 1)),
        breach("C10", 6, in_advert("res", 8)),
        breach("C11", 4, in_advert("chksum", 0)),
        breach("C11", 6, in_advert("chksum", 0x1234)),
        breach("C13", 6, in_advert("addrlist", ["fd00::200", "fe80::200"])),
        breach("C14", 4, in_advert("ipcount", 1)),
        breach("C14", 6, in_advert("ipcount", 8)),
        breach("C16", 4, in_advert("adv", 0)),
        breach("C48", 4, in_advert("version", 2)),
        breach("C48", 4, in_advert("type", 2)),
        breach("C48", 4, in_advert("vrid", 52)),
        breach("C48", 4, in_advert("addrlist", ["10.0.0.200", "10.0.0.202"])),
        breach("C48", 4, in_outer("src", "10.0.0.200")),
        breach("C48", 6, in_outer("src", "fd00::b")),
        breach("C48", 4, in_outer("dst", "224.0.0.1")),
        breach("C48", 6, in_ether("dst", "33:33:00:00:00:01")),
    ],
)
def test_an_advert_that_breaks_a_clause_is_named(named: set[str], family: int, doctor: Doctor) -> None:
    packet = outer(family) / VRRPv3(vrid=51, priority=100, adv=10, addrlist=list(VIPS[family]))
    assert judged(bytes(packet), family) == set()
    doctor(packet)
    assert judged(bytes(packet), family) == named


@pytest.mark.clause("C21", "breach")
def test_a_router_that_sends_router_advertisements_is_named() -> None:
    outer = Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src="fe80::b", dst="ff02::1", hlim=255)
    advertisement, solicitation = bytes(outer / ICMPv6ND_RA()), bytes(outer / ICMPv6ND_NS(tgt="fd00::200"))
    mac = bytes.fromhex(MAC.replace(":", ""))
    assert questions.router_advertisements([solicitation, ours(6, 100, 10)]) == set()
    assert questions.router_advertisements([solicitation, advertisement]) == {mac}
