"""What of a node's addresses is its own: not those that the election holds, but a lease of DHCP that ends soon."""

from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Any, cast

import pytest

from lvsagent.adapters.addresses import Addresses, Link, LinkAddress
from lvsagent.adapters.facts import read_facts

pytestmark = pytest.mark.unit

LO, ETH0 = 1, 2
VIP = ip_address("192.168.139.123")


@dataclass
class FakeAddresses:
    """As ``adapters.addresses.Addresses``."""

    standing: list[LinkAddress]

    def addresses(self) -> list[LinkAddress]:
        return self.standing

    def links(self) -> list[Link]:
        return [
            Link(index=LO, name="lo", mac="", up=True, mtu=65536),
            Link(index=ETH0, name="eth0", mac="02:00:00:00:00:01", up=True, mtu=1500),
        ]

    def default_routes(self) -> dict[int, int]:
        return {4: ETH0}


def own(*standing: tuple[int, str, bool], virtual: Any = ()) -> list[str]:
    """Of eth0. standing: interface, address, whether it ends within five minutes."""
    found = FakeAddresses([LinkAddress(index, ip_interface(text), soon) for index, text, soon in standing])
    facts = read_facts("node1", cast(Addresses, found), virtual)
    return [str(address) for card in facts.interfaces if card.name == "eth0" for address in card.addresses]


def test_a_lease_that_ends_soon_is_the_nodes_own_address() -> None:
    """Ten minutes of lease, renewed after five: for a moment every five minutes the node had no address, and with
    leases of five minutes none at all."""
    lease = (ETH0, "192.168.139.101/24", True)
    assert own(lease) == ["192.168.139.101/24"]
    assert own(lease, virtual=[VIP]) == ["192.168.139.101/24"]


def test_an_address_that_the_election_holds_is_not() -> None:
    lease = (ETH0, "192.168.139.101/24", True)
    held = (ETH0, f"{VIP}/32", True)
    assert own(lease, held, virtual=[VIP]) == ["192.168.139.101/24"]
    assert own(lease, held, (LO, f"{VIP}/32", False)) == ["192.168.139.101/24"]
    # Somebody flushed lo: no reason to take it for the node's and to take its tables away.
    assert own((ETH0, f"{VIP}/24", True), lease, virtual=[VIP]) == ["192.168.139.101/24"]


def test_an_address_that_stays_is_the_nodes_whatever_the_objects_say() -> None:
    assert own((ETH0, f"{VIP}/32", False), (LO, f"{VIP}/32", False), virtual=[VIP]) == [f"{VIP}/32"]
