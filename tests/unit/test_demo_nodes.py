"""Before and after: a comparison that overlooks something would let the product leave it behind."""

import dataclasses

import pytest

from tests.demo.nodes import NodeState, differences, parse_state

pytestmark = pytest.mark.unit

TEXT = """\
[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8}]},
 {"ifname":"eth0","addr_info":[{"local":"192.168.139.101","prefixlen":24,"valid_life_time":7}]},
 {"ifname":"veth01","addr_info":[{"local":"fe80::1","prefixlen":64}]},{"ifname":"eth1"}]

==ip_vs
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0A88B7B:0050 mh (mh-fallback,mh-port)
  -> 0AF40103:1F90      Masq    1      0          0
  -> 0AF40202:1F90      Route   0      2          0
==sysctl
net/ipv4/ip_forward:1
net/ipv4/conf/all/arp_ignore:1
net/ipv4/conf/all/route_localnet:1
==nft
table ip kube-proxy
table inet mine
"""


def test_a_node_is_read_without_what_belongs_to_pods_and_kube_proxy() -> None:
    state = parse_state(TEXT)
    assert state.addresses == {"lo 127.0.0.1/8", "eth0 192.168.139.101/24"}
    assert state.tables == {"TCP 192.168.139.123:80": {"10.244.1.3:8080": 1, "10.244.2.2:8080": 0}}
    assert state.settings == {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/arp_ignore": "1"}
    assert state.nftables == {"inet mine"}


def test_a_node_that_is_as_it_was_has_no_differences() -> None:
    assert differences(parse_state(TEXT), parse_state(TEXT)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"addresses": frozenset({"lo 127.0.0.1/8", "lo 192.168.139.123/32"})}, "address lo 192.168.139.123/32 is new"),
        ({"addresses": frozenset()}, "address lo 127.0.0.1/8 is gone"),
        ({"tables": {}}, "IPVS TCP 192.168.139.123:80 is gone"),
        ({"tables": {"TCP 192.168.139.123:80": {}}}, "IPVS TCP 192.168.139.123:80 has other destinations"),
        ({"settings": {"net/ipv4/ip_forward": "0"}}, "net/ipv4/ip_forward is 0, was 1"),
        ({"nftables": frozenset({"inet mine", "inet lvs"})}, "nftables table inet lvs is new"),
    ],
)
def test_every_kind_of_difference_is_said(change: dict[str, object], said: str) -> None:
    before = parse_state(TEXT)
    assert said in differences(before, dataclasses.replace(before, **change))  # type: ignore[arg-type]


def test_a_new_table_is_a_difference() -> None:
    assert differences(NodeState(), parse_state(TEXT))[2] == "IPVS TCP 192.168.139.123:80 is new"
