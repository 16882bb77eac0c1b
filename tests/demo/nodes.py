"""A node's state as the demo compares it before and after. Pure.

What others change all the time is left out: interfaces of pods (veth, cni0, kube-*) and their routes, lifetimes of
addresses, and the nftables tables of kube-proxy and of iptables.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

OF_PODS = ("veth", "cni", "kube-", "flannel", "docker")
OF_KUBE_PROXY = ("kube-proxy",)
OF_IPTABLES = ("filter", "nat", "mangle", "raw", "security")
"""kubelet, kube-proxy in iptables mode and portmap write these. We never do."""
OF_OTHERS = (*OF_KUBE_PROXY, *OF_IPTABLES)
SETTINGS_OF_PODS = ("route_localnet",)
"""kube-proxy (iptables mode) and portmap set these."""
KEPT = ("owned.json", "snapshot.json", "election.json", "election.lock")
"""Files that the agent leaves: it cannot know that it will not come back. What the first says is looked at."""
OURS_ON_PODS = ("accept_local", "arp_ignore", "arp_announce", "rp_filter")
"""Of an interface of pods these alone are compared, with the defaults where there was none: we write the first."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What must be as it was when the product has gone."""

    addresses: frozenset[str] = frozenset()
    """``interface address/prefix``."""
    routes: frozenset[str] = frozenset()
    """Of all tables, IPv4 and IPv6, as ip(8) writes them."""
    tables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """IPVS: ``TCP 192.0.2.1:80`` -> destination ``address:port`` -> weight."""
    services: frozenset[str] = frozenset()
    """IPVS: each service with its scheduler and flags, and each of its destinations with method and weight."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """sysctl, with slashes."""
    nftables: Mapping[str, str] = field(default_factory=dict)
    """``family name`` -> the table without its counters."""
    files: frozenset[str] = frozenset()
    """In the folders of the product, but for those in ``KEPT``."""
    owned: frozenset[str] = frozenset()
    """What the agent's record says is ours in the kernel."""


def parse_state(text: str) -> NodeState:
    """The output of ``world.STATE_SCRIPT``."""
    addresses, _, rest = text.partition("\n==routes\n")
    routes, _, rest = rest.partition("==ip_vs\n")
    tables, _, rest = rest.partition("==sysctl\n")
    settings, _, rest = rest.partition("==nft\n")
    nftables, _, rest = rest.partition("==files\n")
    files, _, owned = rest.partition("==owned\n")
    return NodeState(
        addresses=_addresses(addresses),
        routes=frozenset(line.strip() for line in routes.splitlines() if not _leads_to_pods(line)),
        tables=parse_tables(tables),
        services=_services(tables),
        settings=_settings(settings),
        nftables={name: table for name, table in _nftables(nftables) if name.split()[-1] not in OF_OTHERS},
        files=frozenset(file for file in files.split() if file.rpartition("/")[2] not in KEPT),
        owned=frozenset(f"{what} {one}" for what, found in json.loads(owned or "{}").items() if found for one in found),
    )


def _leads_to_pods(route: str) -> bool:
    words = route.split()
    return "dev" in words and words[words.index("dev") + 1].startswith(OF_PODS)


def _settings(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value for key, _, value in pairs if _compared(key)}


def _compared(key: str) -> bool:
    name = key.rpartition("/")[2]
    return name in OURS_ON_PODS if _of_pods(key) else name not in SETTINGS_OF_PODS


def _nftables(text: str) -> Iterable[tuple[str, str]]:
    """Each table of ``nft list ruleset``: its name and its text."""
    for block in text.split("\n}"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if lines:
            yield lines[0].removeprefix("table ").removesuffix(" {"), "\n".join(lines[1:])


def _services(text: str) -> frozenset[str]:
    """/proc/net/ip_vs without what counts connections."""
    found, service = set(), ""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "->" and words[1] != "RemoteAddress:Port":
            found.add(f"{service} -> {endpoint(words[1])} {words[2]} {words[3]}")
        elif words and words[0] in ("TCP", "UDP", "SCTP"):
            service = f"{words[0]} {endpoint(words[1])}"
            found.add(" ".join((service, *words[2:])))
        elif words and words[0] == "FWM":
            service = " ".join(words[:2])
            found.add(" ".join(words))
    return frozenset(found)


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
                current[endpoint(words[1])] = int(words[3])
        elif words[0] in ("TCP", "UDP", "SCTP"):
            current = tables.setdefault(f"{words[0]} {endpoint(words[1])}", {})
        else:
            current = tables.setdefault(" ".join(words[:2]), {})
    return tables


def endpoint(text: str) -> str:
    """``C0A88B7B:0050`` is ``192.168.139.123:80``; IPv6 is printed as such."""
    address, _, port = text.rpartition(":")
    if not address.startswith("["):
        address = ".".join(str(byte) for byte in bytes.fromhex(address))
    return f"{address}:{int(port, 16)}"


def differences(before: NodeState, after: NodeState) -> list[str]:
    """What is not as it was, in words; empty when all is."""
    found = _sets("address", before.addresses, after.addresses)
    found += _sets("route", before.routes, after.routes)
    found += _sets("IPVS", before.services, after.services)
    for key, value in sorted({**before.settings, **after.settings}.items()):
        was, now = before.settings.get(key, _default(before, key)), after.settings.get(key)
        if was is None:
            found.append(f"{key} is new: {value}")
        elif now != was and not (now is None and _of_pods(key)):
            found.append(f"{key} is {now or 'absent'}, was {was}")
    found += _sets("nftables table", before.nftables, after.nftables)
    found += [
        f"nftables table {name} is not what it was"
        for name in sorted(before.nftables.keys() & after.nftables.keys())
        if before.nftables[name] != after.nftables[name]
    ]
    found += _sets("file", before.files, after.files)
    return found + _sets("record of", before.owned, after.owned)


def _sets(what: str, before: Iterable[str], after: Iterable[str]) -> list[str]:
    new, gone = sorted({*after} - {*before}), sorted({*before} - {*after})
    return [f"{what} {one} is new" for one in new] + [f"{what} {one} is gone" for one in gone]


def _of_pods(key: str) -> bool:
    parts = key.split("/")
    return parts[2] == "conf" and parts[3].startswith(OF_PODS)


def _default(state: NodeState, key: str) -> str | None:
    """What a new interface of pods has; other interfaces are not expected to come."""
    parts = key.split("/")
    return state.settings.get("/".join((*parts[:3], "default", *parts[4:]))) if _of_pods(key) else None
