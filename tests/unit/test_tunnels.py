"""What a tunnel adds, and when a client's packet does not fit."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from lvsagent.core.guard import NodeFinding, NodeReadings, findings
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    Interface,
    KernelState,
    NodeFacts,
    Service,
    ServiceKey,
)
from lvsagent.core.tunnels import narrow, overhead
from lvsapi.ipvs import IPIP, Tunnel, TunnelChecksum, TunnelType
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit
GUE, GRE = Tunnel(type=TunnelType.GUE, port=6080), Tunnel(type=TunnelType.GRE)


@pytest.mark.parametrize(
    ("tunnel", "octets"),
    [
        (IPIP, 20),
        (GRE, 24),
        (replace(GRE, checksum=TunnelChecksum.CSUM), 28),
        (GUE, 32),
        (replace(GUE, checksum=TunnelChecksum.CSUM), 32),
        (replace(GUE, checksum=TunnelChecksum.REMCSUM), 40),
    ],
)
def test_the_headers_are_those_of_the_kernel(tunnel: Tunnel, octets: int) -> None:
    assert (overhead(tunnel, 4), overhead(tunnel, 6)) == (octets, octets + 20)


def card(name: str, address: str, mtu: int, index: int = 2) -> Interface:
    return Interface(name=name, index=index, mac="", up=True, addresses=(ip_interface(address),), mtu=mtu)


LAN = card("eth0", "10.0.0.21/24", 1500)


def facts(*cards: Interface) -> NodeFacts:
    lo = card("lo", "127.0.0.1/8", 65536, 1)
    return NodeFacts(node="n1", interfaces=(lo, *cards), default_interface={4: "eth0"})


def tables(*destinations: str, method: ForwardMethod = ForwardMethod.TUNNEL, tunnel: Tunnel = IPIP) -> KernelState:
    key = ServiceKey(address=ip_address("10.0.0.200"), protocol=Protocol.TCP, port=80)
    found = tuple(Destination(ip_address(each), 80, method, 1, tunnel=tunnel) for each in destinations)
    return KernelState(services={key: Service(key=key, scheduler="rr", flags=0, destinations=found)})


def test_a_tunnel_over_the_clients_own_interface_is_too_narrow_and_the_remedies_have_numbers() -> None:
    text = narrow(tables("10.1.0.7", "10.1.0.8", tunnel=GUE), facts(LAN))
    for part in (
        "n1: a packet for 10.0.0.200 of more than 1468 octets",
        "gue tunnel to 10.1.0.7 (and 1 more like it)",
        "adds 32 to the MTU of eth0, 1500; clients may send 1500",
        "to 1532 or more",
        "advmss 1428",
    ):
        assert part in text
    found = findings("n1", 0, None, NodeReadings(), text)
    assert found == {NodeFinding.TUNNEL_TOO_NARROW: text}


@pytest.mark.parametrize(
    ("state", "cards"),
    [
        (tables("10.9.0.7"), (LAN, card("eth1", "10.9.0.21/24", 1520, 3))),
        (tables("10.1.0.7", method=ForwardMethod.DIRECT_ROUTE), (LAN,)),
        (tables("10.0.0.21"), (LAN,)),
        (tables("10.1.0.7"), (replace(LAN, mtu=0),)),
        (tables("10.1.0.7"), ()),
        (tables(), (LAN,)),
    ],
    ids=["jumbo frames", "no tunnel", "on this node", "unknown", "no way", "no backend"],
)
def test_nothing_is_said_where_all_fits_or_nothing_is_known(state: KernelState, cards: tuple[Interface, ...]) -> None:
    assert narrow(state, facts(*cards)) == ""


def test_the_interface_is_the_one_whose_network_is_closest() -> None:
    wide = card("eth1", "10.0.0.0/8", 9000, 3)
    assert "of eth0, 1500" in narrow(tables("10.0.0.7"), facts(wide, LAN))
    assert narrow(tables("10.1.0.7"), facts(wide, LAN)) == ""
