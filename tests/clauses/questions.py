"""Frames that a client sends to learn who serves an address, and what the answers in a capture say. Pure."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from tests.clauses.frames import NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, ROUTER_ADVERTISEMENT, icmp6, sum_of

BROADCAST: Final = b"\xff" * 6
ARP: Final = b"\x08\x06\x00\x01\x08\x00\x06\x04"
REQUEST, REPLY = 1, 2
ECHO_MARK: Final = 0x9568
ROUTER_FLAG, SOLICITED_FLAG = 0x80, 0x40


@dataclass(frozen=True, slots=True)
class Host:
    """Who asks."""

    mac: bytes
    address: bytes


def arp_request(client: Host, address: str) -> bytes:
    """Who has this IPv4 address?"""
    body = struct.pack("!H", REQUEST) + client.mac + client.address + bytes(6) + ip_address(address).packed
    return BROADCAST + client.mac + ARP + body


def solicitation(client: Host, address: str) -> bytes:
    """Who has this IPv6 address?"""
    target = ip_address(address).packed
    group = ip_address("ff02::1:ff00:0").packed[:13] + target[13:]
    body = struct.pack("!BBHI", NEIGHBOR_SOLICITATION, 0, 0, 0) + target + b"\x01\x01" + client.mac
    return _icmp6(client, group, b"\x33\x33" + group[12:], body)


def unsolicited(client: Host, address: str, mac: bytes) -> bytes:
    """The neighbour advertisement, with the override flag, that this address is at this MAC now."""
    body = struct.pack("!BBHI", NEIGHBOR_ADVERTISEMENT, 0, 0, 0x20000000) + ip_address(address).packed
    group = ip_address("ff02::1").packed
    return _icmp6(client, group, b"\x33\x33" + group[12:], body + b"\x02\x01" + mac)


def echo(client: Host, to_mac: bytes, address: str, number: int) -> bytes:
    """An ICMP echo request to an IPv4 address behind this MAC, whoever has it."""
    body = struct.pack("!BBHHH", 8, 0, 0, ECHO_MARK, number)
    body = body[:2] + _checksum(body) + body[4:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0) + client.address
    header += ip_address(address).packed
    return to_mac + client.mac + b"\x08\x00" + header[:10] + _checksum(header) + header[12:] + body


def arp_answers(frames: Iterable[bytes], address: str) -> set[bytes]:
    """MACs that answered for this IPv4 address."""
    wanted = ARP + struct.pack("!H", REPLY), ip_address(address).packed
    return {frame[22:28] for frame in frames if (frame[12:22], frame[28:32]) == wanted}


def advertisements(frames: Iterable[bytes], address: str) -> dict[bytes, int]:
    """MAC -> flags of the solicited neighbour advertisements for this IPv6 address."""
    target = ip_address(address).packed
    return {
        frame[80:86]: frame[58]
        for frame in frames
        if icmp6(frame) == NEIGHBOR_ADVERTISEMENT and frame[62:78] == target and frame[58] & SOLICITED_FLAG
    }


def announced(frames: Iterable[bytes], mac: bytes) -> set[str]:
    """Addresses that this MAC announced without being asked: gratuitous ARP, unsolicited NA."""
    found = set()
    for frame in frames:
        if frame[6:12] != mac:
            continue
        if frame[12:20] == ARP and frame[28:32] == frame[38:42]:
            found.add(str(ip_address(frame[28:32])))
        elif icmp6(frame) == NEIGHBOR_ADVERTISEMENT and not frame[58] & SOLICITED_FLAG:
            found.add(str(ip_address(frame[62:78])))
    return found


def router_advertisements(frames: Iterable[bytes]) -> set[bytes]:
    """MACs that sent some."""
    return {frame[6:12] for frame in frames if icmp6(frame) == ROUTER_ADVERTISEMENT}


def echo_answers(frames: Iterable[bytes], number: int) -> set[bytes]:
    """MACs that answered the echo request of that number."""
    wanted = struct.pack("!HH", ECHO_MARK, number)
    return {
        frame[6:12]
        for frame in frames
        if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 0 and frame[38:42] == wanted
    }


def _icmp6(client: Host, destination: bytes, to_mac: bytes, body: bytes) -> bytes:
    pseudo = client.address + destination + struct.pack("!IHBB", len(body), 0, 0, 58)
    body = body[:2] + _checksum(pseudo + body) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + client.address + destination
    return to_mac + client.mac + b"\x86\xdd" + header + body


def _checksum(octets: bytes) -> bytes:
    return (~sum_of(octets) & 0xFFFF).to_bytes(2)
