"""Neighbour Discovery as frames: what we send, whose claims we hear."""

import ipaddress

import pytest

from lvsagent.vrrp import ndp
from lvsagent.vrrp.arp import Claim

pytestmark = pytest.mark.unit

VIP = ipaddress.ip_address("fd00::200").packed
MAC = bytes.fromhex("0200000000aa")
OTHER = bytes.fromhex("0200000000bb")


def solicitation(source: bytes = VIP, option: bytes = b"") -> bytes:
    """Somebody asks for an address, from ``source``."""
    frame = bytearray(ndp.probe(ipaddress.ip_address("fd00::1").packed, MAC) + option)
    frame[18:20] = (24 + len(option)).to_bytes(2)
    frame[22:38] = source
    return bytes(frame)


@pytest.mark.clause("D16", "instead")
@pytest.mark.parametrize(("forwards", "flags"), [(False, 0x20), (True, 0xA0)])
def test_an_announcement_is_the_unsolicited_advertisement_of_the_rfc(forwards: bool, flags: int) -> None:
    frame = ndp.announcement(VIP, MAC, forwards=forwards)
    assert frame[:14] == bytes.fromhex("333300000001") + MAC + b"\x86\xdd"
    assert frame[14:22] == bytes((0x60, 0, 0, 0, 0, 32, 58, 255))
    assert frame[22:38] == VIP
    assert frame[38:54] == ipaddress.ip_address("ff02::1").packed
    assert frame[54:56] + frame[58:62] == bytes((136, 0, flags, 0, 0, 0))
    assert frame[62:] == VIP + bytes((2, 1)) + MAC
    assert checksum(frame) == 0xFFFF


def test_a_probe_comes_from_nowhere_and_asks_the_solicited_node_group() -> None:
    frame = ndp.probe(VIP, MAC)
    assert frame[:6] == bytes.fromhex("3333ff000200")
    assert frame[22:38] == bytes(16)
    assert frame[38:54] == ipaddress.ip_address("ff02::1:ff00:200").packed
    assert frame[54] == 135
    assert frame[62:] == VIP
    assert checksum(frame) == 0xFFFF


def test_an_advertisement_claims_its_target() -> None:
    assert ndp.parse(ndp.announcement(VIP, MAC, forwards=False)) == Claim(VIP, MAC)
    without_option = bytearray(ndp.announcement(VIP, MAC, forwards=False)[:-8])
    without_option[18:20] = (24).to_bytes(2)
    without_option[6:12] = OTHER
    assert ndp.parse(bytes(without_option)) == Claim(VIP, OTHER)


def test_a_solicitation_claims_its_source_and_a_probe_nothing() -> None:
    assert ndp.parse(solicitation()) == Claim(VIP, MAC)
    assert ndp.parse(solicitation(option=bytes((1, 1)) + OTHER)) == Claim(VIP, OTHER)
    assert ndp.parse(solicitation(option=bytes((14, 1)) + MAC + bytes((1, 1)) + OTHER)) == Claim(VIP, OTHER)
    assert ndp.parse(solicitation(option=bytes((14, 0)) + OTHER)) == Claim(VIP, MAC)
    assert ndp.parse(ndp.probe(VIP, MAC)) is None


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (12, 0x08),
        (14, 0x40),
        (19, 64),
        (19, 8),
        (20, 17),
        (21, 254),
        (54, 128),
        (55, 1),
    ],
)
def test_anything_else_claims_nothing(at: int, value: int) -> None:
    frame = bytearray(ndp.announcement(VIP, MAC, forwards=False))
    frame[at] = value
    assert ndp.parse(bytes(frame)) is None


def test_no_length_of_a_frame_is_too_short_for_the_parser() -> None:
    frame = ndp.announcement(VIP, MAC, forwards=False)
    assert all(ndp.parse(frame[:length]) is None for length in range(len(frame)))


def checksum(frame: bytes) -> int:
    """RFC 1071's sum over the pseudo-header and the message; 0xFFFF when the checksum is right."""
    body = frame[54:]
    total = int.from_bytes(frame[22:54] + len(body).to_bytes(4) + bytes((0, 0, 0, 58))) + int.from_bytes(body)
    return total % 0xFFFF or 0xFFFF
