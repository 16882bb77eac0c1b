"""A node's state as the demo compares it before and after. Pure.

What others change all the time is left out: interfaces of pods (veth, cni0, kube-*), lifetimes of addresses, and
nftables tables of kube-proxy.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

OF_PODS = ("veth", "cni", "kube-", "flannel", "docker")
OF_KUBE_PROXY = ("kube-proxy",)
SETTINGS_OF_PODS = ("route_localnet",)
"""kube-proxy (iptables mode) and portmap set these."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What must be as it was when the product has gone."""

    addresses: frozenset[str] = frozenset()
    """``interface address/prefix``."""
    tables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """IPVS: ``TCP 192.0.2.1:80`` -> destination ``address:port`` -> weight."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """sysctl, with slashes."""
    nftables: frozenset[str] = frozenset()
    """``family name``."""


def parse_state(text: str) -> NodeState:
    """The output of ``world.STATE_SCRIPT``."""
    addresses, _, rest = text.partition("\n==ip_vs\n")
    tables, _, rest = rest.partition("==sysctl\n")
    settings, _, nftables = rest.partition("==nft\n")
    return NodeState(
        addresses=_addresses(addresses),
        tables=parse_tables(tables),
        settings=dict(
            (key, value)
            for key, _, value in (line.partition(":") for line in settings.splitlines())
            if key.rpartition("/")[2] not in SETTINGS_OF_PODS
        ),
        nftables=frozenset(
            name for line in nftables.splitlines() if (name := line.removeprefix("table ").strip()) and _ours(name)
        ),
    )


def _ours(table: str) -> bool:
    return table.split()[-1] not in OF_KUBE_PROXY


def _addresses(text: str) -> frozenset[str]:
    return frozenset(
        f"{link['ifname']} {address['local']}/{address['prefixlen']}"
        for link in json.loads(text)
        if not link["ifname"].startswith(OF_PODS)
        for address in link.get("addr_info", ())
    )


def parse_tables(text: str) -> dict[str, dict[str, int]]:
    """/proc/net/ip_vs: addresses and ports in hexadecimal."""
    tables: dict[str, dict[str, int]] = {}
    current: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] in ("IP", "Prot"):
            continue
        if words[0] == "->":
            if words[1] != "RemoteAddress:Port":
                current[_endpoint(words[1])] = int(words[3])
        elif words[0] in ("TCP", "UDP", "SCTP"):
            current = tables.setdefault(f"{words[0]} {_endpoint(words[1])}", {})
        else:
            current = tables.setdefault(" ".join(words[:2]), {})
    return tables


def _endpoint(text: str) -> str:
    """``C0A88B7B:0050`` is ``192.168.139.123:80``; IPv6 is printed as such."""
    address, _, port = text.rpartition(":")
    if not address.startswith("["):
        address = ".".join(str(byte) for byte in bytes.fromhex(address))
    return f"{address}:{int(port, 16)}"


def differences(before: NodeState, after: NodeState) -> list[str]:
    """What is not as it was, in words; empty when all is."""
    found = [f"address {address} is new" for address in sorted(after.addresses - before.addresses)]
    found += [f"address {address} is gone" for address in sorted(before.addresses - after.addresses)]
    found += [f"IPVS {key} is new" for key in sorted(after.tables.keys() - before.tables.keys())]
    found += [f"IPVS {key} is gone" for key in sorted(before.tables.keys() - after.tables.keys())]
    found += [
        f"IPVS {key} has other destinations"
        for key in sorted(before.tables.keys() & after.tables.keys())
        if dict(before.tables[key]) != dict(after.tables[key])
    ]
    found += [
        f"{key} is {after.settings.get(key, 'absent')}, was {value}"
        for key, value in sorted(before.settings.items())
        if after.settings.get(key) != value
    ]
    found += [f"nftables table {name} is new" for name in sorted(after.nftables - before.nftables)]
    found += [f"nftables table {name} is gone" for name in sorted(before.nftables - after.nftables)]
    return found
