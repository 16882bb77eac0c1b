"""Addresses of the node that look like ours: NetworkManager adds a lease of DHCP with an end of its life and without a
route (``dynamic noprefixroute``), as the election adds a virtual address."""

import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lvsagent.election import netlink
from lvsagent.election.netlink import FENCE_LONGEST, Address, AddressEvent, Link, attribute, event_of
from lvsagent.election.wire import Wire

pytestmark = pytest.mark.unit

LEASE = bytes((10, 0, 0, 11))
VIP = bytes((10, 0, 0, 200))
LAN = ("eth0", 4)


def address(octets: bytes, length: int, left: int, flags: int = netlink.IFA_F_NOPREFIXROUTE) -> Address:
    return Address(index=2, address=octets, prefix_length=length, scope=0, flags=flags, left=left)


@dataclass
class Kernel:
    there: list[Address] = field(default_factory=list)
    port: int = 0

    def links(self) -> list[Link]:
        return [Link(index=2, name="eth0", mac=bytes(6), up=True, running=True)]

    def addresses(self) -> list[Address]:
        return self.there


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def wire(kernel: Kernel) -> Iterator[Wire]:
    with select.epoll() as epoll:
        found = Wire(kernel, epoll)  # type: ignore[arg-type]
        yield found
        found.close()


def source(wire: Wire, preferred: bytes = b"") -> bytes | None:
    wire.watch([LAN], [LAN])
    return wire.source(LAN, frozenset({VIP}), preferred, link_local=False)


@pytest.mark.parametrize("left", [86400, FENCE_LONGEST + 1, FENCE_LONGEST, 1])
def test_adverts_come_from_a_lease_of_networkmanager_to_its_last_second(wire: Wire, kernel: Kernel, left: int) -> None:
    kernel.there = [address(VIP, 32, 2), address(LEASE, 24, left)]
    assert source(wire) == LEASE


def test_a_lease_in_its_last_minute_gives_way_to_another_address_unless_it_was_the_source(
    wire: Wire, kernel: Kernel
) -> None:
    other = address(bytes((10, 0, 0, 12)), 24, 0, netlink.IFA_F_PERMANENT)
    kernel.there = [address(LEASE, 24, 30), other]
    assert source(wire) == other.address
    assert source(wire, LEASE) == LEASE


def test_a_lease_is_not_ours_and_what_the_election_added_is(wire: Wire, kernel: Kernel) -> None:
    lease, ours = address(LEASE, 24, 3600), address(VIP, 32, 2)
    kernel.there = [lease, ours]
    wire.watch([LAN], [LAN])
    assert wire.foreign(2) == [lease]
    assert wire.fenced == {(2, VIP, 32)}


@pytest.mark.parametrize("left", [2, 31, 3600, 0xFFFFFFFF])
def test_the_kernel_says_how_long_an_address_has_left(left: int) -> None:
    body = struct.pack("=BBBBI", 2, 24, 0, 0, 2) + attribute(netlink.IFA_LOCAL, LEASE)
    body += attribute(netlink.IFA_FLAGS, struct.pack("=I", netlink.IFA_F_NOPREFIXROUTE))
    body += attribute(netlink.IFA_CACHEINFO, struct.pack("=IIII", left, left, 1, 1))
    assert event_of(netlink.RTM_NEWADDR, body) == AddressEvent(address(LEASE, 24, left), gone=False)
