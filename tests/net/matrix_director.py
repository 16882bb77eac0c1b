"""One director, whose tables are made by our code for one address and by ipvsadm for another."""

import contextlib
import ctypes
import fcntl
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lvsagent.adapters.kernel import Kernel
from lvsagent.core.diff import Owned, claim, diff
from lvsagent.core.plan import plan
from lvsagent.core.state import KernelState
from lvsapi.assign import assign, with_assignments
from lvsapi.model import Node, Snapshot
from lvsapi.parse import parse_virtual_service
from lvsapi.resolve import resolve
from tests.net.lan import Lan
from tests.net.matrix import (
    CASES,
    CONNECTIONS,
    FIRST_PORT,
    MARK,
    OURS,
    PROTOCOL_NUMBERS,
    RANGE,
    REAL,
    THEIRS,
    Case,
)
from tests.net.matrix_ground import CLIENT, NUMBERS, add_client, add_director, add_real_servers, as_elected

DIRECTOR = "n1"
ADDRESSES = (*OURS.values(), *THEIRS.values())
REFUSED = "refused"
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
JUDGE = """\
table inet judge {
  chain input {
    type filter hook input priority 80;
    %s
  }
}
"""
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
Answer = tuple[socket.socket, str]
"""A held connection, and its real server or REFUSED."""


def port_of(case: Case) -> int:
    return FIRST_PORT + RANGE * CASES.index(case)


class Ground:
    """A case has as many ports as a range: what remembers connections is tried on one that none has used."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        add_client(lan)
        add_director(lan, DIRECTOR, 1)
        for address in ADDRESSES:
            lan.run(DIRECTOR, ["ip", "address", "add", address, "dev", "eth0", *as_elected(address)])
        gateways = {4: "10.0.0.21", 6: "fd00::21"}
        add_real_servers(lan, folder, ADDRESSES, gateways, [(case, port_of(case)) for case in CASES])
        self._summed = False

    def program(self, case: Case, port: int) -> KernelState:
        """The object by our code; what it was before goes."""
        item = parse_virtual_service(case.object(port))
        snapshot = Snapshot(virtual_services=(item,), nodes=(Node(name=DIRECTOR, labels={}, addresses=()),))
        resolved = resolve(with_assignments(snapshot, assign(snapshot).assignments))
        assert resolved.problems == ()
        with self.lan.inside(DIRECTOR), Kernel(node=DIRECTOR, proc_sys=Path("/proc/sys")) as kernel:
            facts = kernel.facts()
            # The addresses stand on the uplink for good, as if the election held them.
            cards = tuple(replace(card, addresses=()) for card in facts.interfaces)
            want = plan(resolved, replace(facts, interfaces=cards), frozenset()).state
            have = kernel.read()
            theirs = frozenset(key for key in have.services if str(key.address) not in ADDRESSES)
            owned = claim(want, have, Owned(services=frozenset(have.services) - theirs, loopback=have.loopback))
            assert kernel.apply(diff(want, have, owned).ops) == ()
            now = kernel.read()
            assert diff(want, now, owned).ops == ()
            return now

    def judge(self, case: Case) -> None:
        """The same by ipvsadm for the other address."""
        vip = THEIRS[case.family]
        lines = case.lines(vip if case.ports == "one" else str(MARK), port_of(case))
        text = "\n".join(lines)
        with self.lan.inside(DIRECTOR):
            subprocess.run(["ipvsadm", "-R"], input=text, text=True, check=True)
            if case.ports != "one":
                wide = f"tcp dport {port_of(case)}-{port_of(case) + RANGE - 1}" if case.ports == "range" else ""
                rule = f"ip{'6' if case.family == 6 else ''} daddr {vip} {wide} meta mark set {MARK}"
                subprocess.run(["nft", "-f", "-"], input=JUDGE % rule, text=True, check=True)

    def saved(self, *options: str) -> list[str]:
        return self.lan.run(DIRECTOR, ["ipvsadm", *options]).splitlines()

    def clear(self) -> None:
        self.lan.run(DIRECTOR, ["sh", "-c", "ipvsadm -C; nft flush ruleset"])

    def prepare(self, case: Case) -> None:
        """The real servers' devices take GRE either with a checksum or without. Where a process takes it apart, what
        is inside must be as it is on a wire; else kernels leave checksums to the card, as they do."""
        tunnel = case.spec.get("tunnel", {})
        gre, summed = tunnel.get("type") == "gre", tunnel.get("checksum") == "csum"
        for host in ("client", DIRECTOR):
            with self.lan.inside(host):
                leave_checksums("eth0", not gre or case.family == 4)
        if gre and case.family == 4 and self._summed is not summed:
            self._summed = summed
            for number in NUMBERS:
                words = f"type gre local {REAL[4].format(number)} remote any {'' if summed else 'no'}icsum"
                self.lan.run(f"r{number}", ["ip", "link", "set", "gre4", *words.split()])

    @contextlib.contextmanager
    def holding(
        self, case: Case, vip: str, count: int, *, port: int, client: str = "", first: int = 40000
    ) -> Iterator[list[Answer]]:
        """So many connections, from the client ports from ``first`` on."""
        kind = socket.SOCK_DGRAM if case.protocol == "UDP" else socket.SOCK_STREAM
        width = 1 if case.ports == "one" else RANGE
        found: list[Answer] = []
        with self.lan.inside("client"), contextlib.ExitStack() as stack:
            for number in range(count):
                one = stack.enter_context(socket.socket(FAMILIES[case.family], kind, PROTOCOL_NUMBERS[case.protocol]))
                one.settimeout(3.0)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Reset at the end: the port is needed again.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.bind((client or CLIENT[case.family], first + number))
                try:
                    one.connect((vip, port + number % width))
                    if case.protocol == "UDP":
                        one.send(b"?\n")
                    found.append((one, one.recv(16).decode()))
                except ConnectionRefusedError:
                    found.append((one, REFUSED))
            yield found

    def who_answers(self, case: Case, vip: str) -> list[str]:
        """Real servers of held connections from the same client ports each time."""
        with self.holding(case, vip, CONNECTIONS, port=port_of(case)) as found:
            return [name for _, name in found]


def leave_checksums(interface: str, to_the_card: bool) -> None:
    """``ethtool -K INTERFACE tx on``, or off."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, to_the_card))
    request = struct.pack("16sQ16x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)
