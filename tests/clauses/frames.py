"""An independent judge of adverts on the wire: reads Ethernet frames, names the clauses that their sender broke.

Written from RFC 9568 sections 5 and 7.2, without the product's codec. Deviations: the source MAC is the interface's
(D1), and of IPv4 both forms of the checksum pass unless one is demanded (D6).
"""

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

PROTOCOL: Final = 112
IPV4, IPV6 = 0x0800, 0x86DD
GROUPS: Final = {4: ip_address("224.0.0.18").packed, 6: ip_address("ff02::12").packed}
GROUP_MACS: Final = {4: bytes.fromhex("01005e000012"), 6: bytes.fromhex("333300000012")}
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 135, 136


@dataclass(frozen=True, slots=True)
class Advert:
    """A frame taken apart, nothing checked."""

    destination_mac: bytes
    source_mac: bytes
    family: int
    hops: int
    source: bytes
    destination: bytes
    payload: bytes

    @property
    def virtual_router_id(self) -> int:
        return self.payload[1]

    @property
    def priority(self) -> int:
        return self.payload[2]

    @property
    def addresses(self) -> list[bytes]:
        size = len(self.source)
        return [self.payload[at : at + size] for at in range(8, len(self.payload), size)]


def advert(frame: bytes) -> Advert | None:
    """The advert in an Ethernet frame; None: there is none."""
    kind = int.from_bytes(frame[12:14])
    if kind == IPV4 and frame[23] == PROTOCOL:
        header, total = 4 * (frame[14] & 15), int.from_bytes(frame[16:18])
        payload = frame[14 + header : 14 + total]
        return Advert(frame[:6], frame[6:12], 4, frame[22], frame[26:30], frame[30:34], payload)
    if kind == IPV6 and frame[20] == PROTOCOL:
        payload = frame[54 : 54 + int.from_bytes(frame[18:20])]
        return Advert(frame[:6], frame[6:12], 6, frame[21], frame[22:38], frame[38:54], payload)
    return None


def icmp6(frame: bytes) -> int | None:
    """The type of the ICMPv6 message in an Ethernet frame; None: there is none."""
    return frame[54] if len(frame) > 54 and frame[12:14] == b"\x86\xdd" and frame[20] == 58 else None


def broken(
    said: Advert, *, virtual_router_id: int, source: str, addresses: tuple[str, ...], message_form: bool = False
) -> set[str]:
    """The clauses that the sender of this advert broke.

    ``source``: the primary (IPv6: link-local) address of its interface. ``addresses``: of the virtual router.
    ``message_form``: the IPv4 checksum is to be the RFC's.
    """
    found: set[str] = set()
    size = len(said.source)
    if said.hops != 255:
        found.add("C1" if said.family == 4 else "C3")
    first, router, priority, count, interval, _ = struct.unpack_from("!BBBBHH", said.payload)
    if (said.destination, said.destination_mac) != (GROUPS[said.family], GROUP_MACS[said.family]):
        found.add("C48")
    if said.source != ip_address(source).packed or (first, router) != (0x31, virtual_router_id):
        found.add("C48")
    if priority == 255:
        found |= {"C7", "C8"}
    if interval & 0xF000:
        found.add("C10")
    if not interval & 0x0FFF:
        found.add("C16")
    if not _sums_up(said, message_form):
        found.add("C11")
    if len(said.payload) != 8 + count * size:
        return found | {"C14"}
    if set(said.addresses) != {ip_address(address).packed for address in addresses}:
        found.add("C48")
    if said.family == 6 and not ip_address(said.addresses[0]).is_link_local:
        found.add("C13")
    return found


def _sums_up(said: Advert, message_form: bool) -> bool:
    length = len(said.payload)
    if said.family == 6:
        heads = [said.source + said.destination + struct.pack("!IHBB", length, 0, 0, PROTOCOL)]
    else:
        heads = [b""] if message_form else [b"", said.source + said.destination + struct.pack("!BBH", 0, 112, length)]
    return any(sum_of(head + said.payload) == 0xFFFF for head in heads)


def sum_of(octets: bytes) -> int:
    """RFC 1071's sum: 0xFFFF when the checksum in it is right."""
    total = 0
    for word in struct.unpack(f"!{len(octets) // 2}H", octets[: len(octets) // 2 * 2]):
        total = (total & 0xFFFF) + (total >> 16) + word
    return (total & 0xFFFF) + (total >> 16)
