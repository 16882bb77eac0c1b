"""Every scheduler by every way of forwarding in both families: as asked for, and as ipvsadm's own table spreads it."""

import contextlib
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent.adapters.kernel import Kernel
from lvsagent.core.diff import Owned, claim, diff
from lvsagent.core.plan import plan
from lvsagent.core.state import KernelState
from lvsapi.assign import assign, with_assignments
from lvsapi.ipvs import Scheduler
from lvsapi.model import Node, Snapshot
from lvsapi.parse import parse_virtual_service
from lvsapi.resolve import resolve
from tests.net.lan import Lan
from tests.net.matrix import CASES, CONNECTIONS, FIRST_PORT, GUE_PORT, MARK, OURS, RANGE, REAL, THEIRS, Case
from tests.net.pods import await_listening

pytestmark = pytest.mark.net
DIRECTOR, CLIENT = "n1", {4: "10.0.0.100", 6: "fd00::100"}
ADDRESSES = [*OURS.values(), *THEIRS.values()]
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
KINDS = {"TCP": (socket.SOCK_STREAM, 6), "UDP": (socket.SOCK_DGRAM, 17), "SCTP": (socket.SOCK_STREAM, 132)}
SERVER = """
import json, selectors, socket, sys
name, ports, found = sys.argv[1].encode(), json.loads(sys.argv[2]), selectors.DefaultSelector()
for protocol, port, address in ports:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == 17 else socket.SOCK_STREAM
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    if protocol != 17:
        listener.listen(64)
    found.register(listener, selectors.EVENT_READ, protocol)
print("listening", flush=True)
while True:
    for key, _ in found.select():
        if key.data == 17:
            _, peer = key.fileobj.recvfrom(64)
            key.fileobj.sendto(name, peer)
        elif key.data:
            connection, _ = key.fileobj.accept()
            connection.send(name)
            found.register(connection, selectors.EVENT_READ, 0)
        else:  # the client closes
            found.unregister(key.fileobj)
            key.fileobj.close()
"""


def port_of(case: Case) -> int:
    return FIRST_PORT + RANGE * CASES.index(case)


def listeners(number: int) -> list[tuple[int, int, str]]:
    """(protocol, port, address) of a real server. UDP and SCTP must answer from the address that they were asked at."""
    found = []
    for case in CASES:
        _, protocol = KINDS[case.protocol]
        mine = [OURS[case.family], THEIRS[case.family], REAL[case.family].format(number)]
        wild = ["0.0.0.0" if case.family == 4 else "::"]
        for port in range(port_of(case), port_of(case) + RANGE):
            found += [(protocol, port, address) for address in (wild if case.protocol == "TCP" else mine)]
    return found


class Ground:
    """A client, a director, three real servers that hold the addresses and take tunnels apart."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        lan.add_host("client", f"{CLIENT[4]}/24", f"{CLIENT[6]}/64")
        lan.add_host(DIRECTOR, "10.0.0.21/24", "fd00::21/64")
        on = [
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.eth0.send_redirects=0",
            "net.ipv6.conf.all.forwarding=1",
        ]
        lan.run(DIRECTOR, ["sysctl", "-qw", *on])
        for address in ADDRESSES:
            lan.run(DIRECTOR, ["ip", "address", "add", address, "dev", "eth0", *_v6(address)])
        logs = [self._real_server(number, folder) for number in (1, 2, 3)]
        for log in logs:
            await_listening(log)

    def _real_server(self, number: int, folder: Path) -> Path:
        lan, name, own = self.lan, f"r{number}", {family: text.format(number) for family, text in REAL.items()}
        lan.add_host(name, f"{own[4]}/24", f"{own[6]}/64")
        lan.run(name, ["sysctl", "-qw", "net.ipv4.conf.default.rp_filter=0", "net.ipv4.conf.all.accept_redirects=0",
                       "net.ipv6.conf.all.accept_redirects=0"])  # fmt: skip
        for option in ("-4", "-6"):
            lan.run(name, ["ip", option, "fou", "add", "port", str(GUE_PORT), "gue"])
        for tunnel, kind in (
            ("ipip4", f"ipip local {own[4]} remote any"),
            ("gre4", f"gre local {own[4]} remote any icsum"),
            ("ipip6", f"ip6tnl mode ip6ip6 local {own[6]} remote any"),
        ):
            lan.run(name, ["ip", "link", "add", tunnel, "type", *kind.split()])
            lan.run(name, ["ip", "link", "set", tunnel, "up"])
        for address in ADDRESSES:
            lan.run(name, ["ip", "address", "add", address, "dev", "lo", *_v6(address)])
        # Masquerading: what answers from the real server's own address goes back through the director.
        for family, gateway in ((4, "10.0.0.21"), (6, "fd00::21")):
            ip = ["ip", f"-{family}"]
            lan.run(name, [*ip, "rule", "add", "from", own[family], "to", CLIENT[family], "lookup", "100"])
            lan.run(name, [*ip, "route", "add", "default", "via", gateway, "table", "100"])
        log = folder / f"{name}.log"
        argv = [sys.executable, "-I", "-S", "-c", SERVER, name, json.dumps(listeners(number))]
        lan.popen(name, argv, log=log)
        return log

    def program(self, case: Case) -> KernelState:
        """The object by our code; what it was before goes."""
        item = parse_virtual_service(case.object(port_of(case)))
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

    def who_answers(self, case: Case, vip: str) -> list[str]:
        """Real servers of held connections from the same client ports each time."""
        kind, protocol = KINDS[case.protocol]
        width = 1 if case.ports == "one" else RANGE
        names = []
        with self.lan.inside("client"), contextlib.ExitStack() as stack:
            for number in range(CONNECTIONS):
                one = stack.enter_context(socket.socket(FAMILIES[case.family], kind, protocol))
                one.settimeout(3.0)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Reset at the end: the port is needed again.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.bind((CLIENT[case.family], 40000 + number))
                one.connect((vip, port_of(case) + number % width))
                if case.protocol == "UDP":
                    one.send(b"?")
                names.append(one.recv(16).decode())
        return names


def _v6(address: str) -> list[str]:
    """As the election adds it: never the source of what the host itself sends."""
    return ["nodad", "preferred_lft", "0"] if ":" in address else []


JUDGE = """\
table inet judge {
  chain input {
    type filter hook input priority 80;
    %s
  }
}
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Lan() as lan:
        yield Ground(lan, tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_table_is_what_was_asked_for_and_spreads_as_ipvsadms_own(ground: Ground, case: Case) -> None:
    ground.clear()
    state = ground.program(case)
    (key,) = state.services
    ours, theirs = (OURS[case.family], THEIRS[case.family]) if not key.mark else (str(key.mark), str(MARK))
    asked = ground.saved("-Sn")
    ground.judge(case)
    both = ground.saved("-Sn")
    judged = [line for line in both if line not in asked]
    assert [line.replace(ours, theirs) for line in asked] == judged
    limits = [line.split()[-4:-2] for line in ground.saved("-Ln", "--thresholds") if "->" in line][1:]
    assert {tuple(map(int, pair)) for pair in limits} == {case.limits[::-1]}
    seen, expected = (ground.who_answers(case, vip[case.family]) for vip in (OURS, THEIRS))
    assert len(seen) == len(expected) == CONNECTIONS
    match case.scheduler:
        case Scheduler.TWOS:
            assert set(seen) <= {"r1", "r2", "r3"}
        case Scheduler.DH:
            assert len(set(seen)) == len(set(expected)) == 1
        case _:
            assert Counter(seen) == Counter(expected)
