"""The hosts of the matrix: a client, and three real servers that hold the addresses and take tunnels apart."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from tests.net import matrix_server
from tests.net.lan import Lan
from tests.net.matrix import GUE_PORT, PROTOCOL_NUMBERS, RANGE, REAL, Case
from tests.net.pods import await_listening

CLIENT = {4: "10.0.0.100", 6: "fd00::100"}
NUMBERS = (1, 2, 3)
"""Of the real servers."""
CONTROL_PORT = 19999
"""Of each real server, UDP."""
DIRECTING = (
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.eth0.send_redirects=0",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.icmp_ratelimit=0",
)
"""Of a director that is the gateway of real servers on its own LAN, and refuses many connections at a time."""


def add_client(lan: Lan) -> None:
    lan.add_host("client", f"{CLIENT[4]}/24", f"{CLIENT[6]}/64")


def add_director(lan: Lan, name: str, number: int) -> None:
    lan.add_host(name, f"10.0.0.2{number}/24", f"fd00::2{number}/64")
    lan.run(name, ["sysctl", "-qw", *DIRECTING])


def add_real_servers(
    lan: Lan, folder: Path, addresses: Collection[str], gateways: Mapping[int, str], cases: Sequence[tuple[Case, int]]
) -> None:
    """They serve ``cases`` (with the first port of each) at ``addresses``, which they hold, and at their own, from
    which they answer through ``gateways``, as masquerading needs it."""
    logs = []
    for number in NUMBERS:
        name, own = f"r{number}", {family: text.format(number) for family, text in REAL.items()}
        lan.add_host(name, f"{own[4]}/24", f"{own[6]}/64")
        # Nothing tells a director not to send redirects by IPv6.
        lan.run(name, ["sysctl", "-qw", "net.ipv4.conf.default.rp_filter=0", "net.ipv6.conf.eth0.accept_redirects=0"])
        _take_tunnels_apart(lan, name, own)
        for address in addresses:
            lan.run(name, ["ip", "address", "add", address, "dev", "lo", *as_elected(address)])
        for family, gateway in gateways.items():
            ip = ["ip", f"-{family}"]
            lan.run(name, [*ip, "rule", "add", "from", own[family], "to", CLIENT[family], "lookup", "100"])
            lan.run(name, [*ip, "route", "add", "default", "via", gateway, "table", "100"])
        logs.append(folder / f"{name}.log")
        places = json.dumps(list(_places(cases, {*addresses, *own.values()})))
        lan.popen(name, [sys.executable, "-I", "-S", matrix_server.__file__, name, places], log=logs[-1])
    for log in logs:
        await_listening(log)


def _take_tunnels_apart(lan: Lan, name: str, own: Mapping[int, str]) -> None:
    for option in ("-4", "-6"):
        lan.run(name, ["ip", option, "fou", "add", "port", str(GUE_PORT), "gue"])
    for tunnel, kind in (
        ("ipip4", f"ipip local {own[4]} remote any"),
        ("gre4", f"gre local {own[4]} remote any"),
        ("ipip6", f"ip6tnl mode ip6ip6 local {own[6]} remote any"),
    ):
        lan.run(name, ["ip", "link", "add", tunnel, "type", *kind.split()])
        lan.run(name, ["ip", "link", "set", tunnel, "up"])


def _places(cases: Sequence[tuple[Case, int]], addresses: Iterable[str]) -> Iterable[tuple[int, int, str]]:
    """UDP and SCTP must answer from the address that they were asked at."""
    yield (PROTOCOL_NUMBERS["UDP"], CONTROL_PORT, "0.0.0.0")
    for case, first in cases:
        mine = [address for address in addresses if (":" in address) is (case.family == 6)]
        wild = ["0.0.0.0" if case.family == 4 else "::"]
        for port in range(first, first + RANGE):
            for address in wild if case.protocol == "TCP" else mine:
                yield (PROTOCOL_NUMBERS[case.protocol], port, address)


def as_elected(address: str) -> list[str]:
    """As the election adds it: an IPv6 address is never the source of what the host itself sends."""
    return ["nodad", "preferred_lft", "0"] if ":" in address else []
