"""Before and after: a comparison that overlooks something would let the product leave it behind."""

import pytest

from tests.demo.nodes import differences, parse_state

pytestmark = pytest.mark.unit

TEXT = """\
[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8}]},
 {"ifname":"eth0","addr_info":[{"local":"192.168.139.101","prefixlen":24,"valid_life_time":7}]},
 {"ifname":"veth01","addr_info":[{"local":"fe80::1","prefixlen":64}]},{"ifname":"eth1"}]

==routes
default via 192.168.139.1 dev eth0
10.244.1.0/24 dev cni0 proto kernel scope link src 10.244.1.1
local 192.168.139.101 dev eth0 table local proto kernel scope host src 192.168.139.101
fe80::/64 dev eth0 proto kernel metric 256 pref medium
==ip_vs
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0A88B7B:0050 mh (mh-fallback,mh-port)
  -> 0AF40103:1F90      Masq    1      0          7
  -> 0AF40202:1F90      Route   0      2          0
FWM  4C560000 mh (mh-fallback,mh-port)
  -> 0AF40103:0000      Masq    1      0          7
==sysctl
net/ipv4/ip_forward:1
net/ipv4/conf/all/arp_ignore:1
net/ipv4/conf/all/route_localnet:1
net/ipv4/conf/default/accept_local:0
net/ipv4/conf/cni0/accept_local:0
net/ipv4/conf/cni0/forwarding:1
net/ipv6/conf/eth0/accept_dad:1
==nft
table ip kube-proxy {
	chain services {
		ip daddr 10.96.0.1 accept
	}
}
# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat {
	chain KUBE-MARK-MASQ {
	}
}
table inet mine {
	chain input {
		type filter hook input priority filter; policy accept;
	}
}
==files
/run/lvs-dr/election.sock
/var/lib/lvs-dr/owned.json
==owned
{"services":[],"loopback":["192.168.139.123"]}
"""


def test_a_node_is_read_without_what_belongs_to_pods_and_kube_proxy() -> None:
    state = parse_state(TEXT)
    assert state.addresses == {"lo 127.0.0.1/8", "eth0 192.168.139.101/24"}
    assert len(state.routes) == 3
    assert "local 192.168.139.101 dev eth0 table local proto kernel scope host src 192.168.139.101" in state.routes
    assert state.tables["TCP 192.168.139.123:80"] == {"10.244.1.3:8080": 1, "10.244.2.2:8080": 0}
    assert state.services == {
        "TCP 192.168.139.123:80 mh (mh-fallback,mh-port)",
        "TCP 192.168.139.123:80 -> 10.244.1.3:8080 Masq 1",
        "TCP 192.168.139.123:80 -> 10.244.2.2:8080 Route 0",
        "FWM 4C560000 mh (mh-fallback,mh-port)",
        "FWM 4C560000 -> 10.244.1.3:0 Masq 1",
    }
    assert state.settings == {
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/all/arp_ignore": "1",
        "net/ipv4/conf/default/accept_local": "0",
        "net/ipv4/conf/cni0/accept_local": "0",
        "net/ipv6/conf/eth0/accept_dad": "1",
    }
    assert list(state.nftables) == ["inet mine"]
    assert "type filter hook input" in state.nftables["inet mine"]
    assert state.files == {"/run/lvs-dr/election.sock"}
    assert state.owned == {"loopback 192.168.139.123"}


def test_a_node_that_is_as_it_was_has_no_differences() -> None:
    assert differences(parse_state(TEXT), parse_state(TEXT)) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"127.0.0.1"', '"127.0.0.2"', ["address lo 127.0.0.2/8 is new", "address lo 127.0.0.1/8 is gone"]),
        (
            "default via",
            "local 192.168.139.123 dev lo table local proto 112 src 192.168.139.101\ndefault via",
            ["route local 192.168.139.123 dev lo table local proto 112 src 192.168.139.101 is new"],
        ),
        ("fe80::/64 dev eth0 proto kernel metric 256 pref medium\n", "", ["route fe80::/64 dev eth0 proto kernel"]),
        ("0050 mh (mh-fallback,mh-port)", "0050 rr", ["IPVS TCP 192.168.139.123:80 rr is new", "is gone"]),
        ("Route   0", "Route   1", ["IPVS TCP 192.168.139.123:80 -> 10.244.2.2:8080 Route 1 is new", "is gone"]),
        ("ip_forward:1", "ip_forward:0", ["net/ipv4/ip_forward is 0, was 1"]),
        ("net/ipv4/ip_forward:1\n", "", ["net/ipv4/ip_forward is absent, was 1"]),
        ("==nft", "net/ipv4/vs/new:3\n==nft", ["net/ipv4/vs/new is new: 3"]),
        ("accept_dad:1", "accept_dad:0", ["net/ipv6/conf/eth0/accept_dad is 0, was 1"]),
        ("cni0/accept_local:0", "cni0/accept_local:1", ["net/ipv4/conf/cni0/accept_local is 1, was 0"]),
        ("==nft", "net/ipv4/conf/veth9/accept_local:1\n==nft", ["net/ipv4/conf/veth9/accept_local is 1, was 0"]),
        ("==files", "table inet lvs-dr {\n}\n==files", ["nftables table inet lvs-dr is new"]),
        ("policy accept", "policy drop", ["nftables table inet mine is not what it was"]),
        ('"services":[]', '"services":[["TCP"]]', ["record of services ['TCP'] is new"]),
        ("/run/lvs-dr/", "/var/lib/lvs-dr/", ["file /var/lib/lvs-dr/election.sock is new", "is gone"]),
    ],
)
def test_every_kind_of_difference_is_said(old: str, new: str, said: list[str]) -> None:
    changed = TEXT.replace(old, new)
    assert changed != TEXT
    found = differences(parse_state(TEXT), parse_state(changed))
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True)), found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0          7", "3          9"),
        ("net/ipv4/conf/cni0/accept_local:0\n", ""),
        ("==nft", "net/ipv4/conf/veth9/accept_local:0\n==nft"),
        ("cni0/forwarding:1", "cni0/forwarding:0"),
        ("ip daddr 10.96.0.1 accept", "ip daddr 10.96.0.2 accept"),
        ("KUBE-MARK-MASQ", "KUBE-MARK-DROP"),
        ("10.244.1.0/24 dev cni0", "10.244.9.0/24 dev veth77"),
    ],
)
def test_what_others_change_all_the_time_is_no_difference(old: str, new: str) -> None:
    changed = TEXT.replace(old, new)
    assert changed != TEXT
    assert differences(parse_state(TEXT), parse_state(changed)) == []
