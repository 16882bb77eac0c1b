"""Two directors, real servers outside the cluster, and connections that are held while the address moves."""

import contextlib
import itertools
import random
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from lvsagent.core.diff import Owned
from lvsapi.assign import assign, with_assignments
from lvsapi.ipvs import Forwarding
from lvsapi.model import Node, Resolved, Snapshot
from lvsapi.parse import parse_virtual_service
from lvsapi.resolve import resolve
from tests.gen import service_class
from tests.net.lan import Lan
from tests.net.matrix import CONNECTIONS, FIRST_PORT, OURS, PROTOCOL_NUMBERS, RANGE, REAL, WEIGHTS, Case
from tests.net.matrix_ground import CLIENT, CONTROL_PORT, add_client, add_director, add_real_servers
from tests.net.pods import PodLan

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
GATEWAYS = {4: "10.0.0.202", 6: "fd00::202"}
"""Virtual addresses of what is masqueraded: they are the real servers' way back, so this moves with them."""
FIRST_CLIENT_PORT = 40000
IF_INET6 = Path("/proc/thread-self/net/if_inet6")
IFA_F_TENTATIVE = 0x40
QUIET = 2.0
"""Seconds without an answer, after which none is waited for."""


class Services(Protocol):
    """Where connections are held: what ``Held`` must know."""

    lan: Lan
    cases: Sequence[Case]
    ports: Mapping[str, int]
    """By case, the first one."""
    client_ports: Iterator[int]
    """Of which none was used."""

    def vip_of(self, case: Case) -> str: ...


class Directors(PodLan, Services):
    """n1 and n2. They hold the tables of all cases, each case on ports of its own."""

    def __init__(self, lan: Lan, folder: Path, cases: Sequence[Case]) -> None:
        self.lan, self.cases = lan, cases
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.ports = {case.name: FIRST_PORT + RANGE * number for number, case in enumerate(cases)}
        self.nodes = ["n1", "n2"]
        self.owned = {}
        self.addresses = (*OURS.values(), *GATEWAYS.values())
        add_client(lan)
        add_real_servers(lan, folder, tuple(OURS.values()), GATEWAYS, [(case, self.ports[case.name]) for case in cases])
        self.resolved = self.objects()
        self.client_ports = itertools.count(FIRST_CLIENT_PORT)

    def vip_of(self, case: Case) -> str:
        """What is masqueraded has another one."""
        return (GATEWAYS if case.forwarding is Forwarding.MASQUERADE else OURS)[case.family]

    def objects(self, *, synchronised: bool = False) -> Resolved:
        """What every agent makes of the cases."""
        items = tuple(
            parse_virtual_service(case.object(self.ports[case.name], self.vip_of(case), f"case{number}"))
            for number, case in enumerate(self.cases)
        )
        nodes = tuple(Node(name=node, labels={}, addresses=()) for node in self.nodes)
        settings = service_class(connection_sync=synchronised, interface="eth0")
        snapshot = Snapshot(virtual_services=items, nodes=nodes, classes=(settings,))
        found = resolve(with_assignments(snapshot, assign(snapshot).assignments))
        assert found.problems == ()
        return found

    def take(self, node: str) -> None:
        """All addresses."""
        for address in self.addresses:
            self.hold(node, address)

    def give(self, node: str) -> None:
        """All addresses."""
        for address in self.addresses:
            self.release(node, address)

    def die(self, node: str) -> None:
        """Its kernel stays as it is, with the addresses."""
        self.lan.unplug(node)

    def leave(self, *nodes: str) -> None:
        """Their kernels, and what they remember, are no more."""
        for node in nodes:
            if self.owned.pop(node, None) is not None:
                self.lan.remove_host(node)

    def come(self, *nodes: str) -> None:
        """With an empty kernel; then the tables are made."""
        self.leave(*nodes)
        for node in nodes:
            add_director(self.lan, node, self.nodes.index(node) + 1)
            self.owned[node] = Owned()
            self.program(node, self.resolved)
        for node in nodes:
            self._await_neighbour_discovery(node)

    def _await_neighbour_discovery(self, node: str) -> None:
        """Until its link-local address is no longer tentative: nobody takes an address a second after booting."""
        end = time.monotonic() + 10
        with self.lan.inside(node):
            while any(int(line.split()[4], 16) & IFA_F_TENTATIVE for line in IF_INET6.read_text().splitlines()):
                assert time.monotonic() < end
                time.sleep(0.05)


class Held:
    """Connections of all cases. A context manager."""

    def __init__(self, services: Services) -> None:
        self.services, self.lan = services, services.lan
        self.names: dict[socket.socket, tuple[str, str]] = {}
        """Case and real server."""

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        # A server may still have what was lost of earlier ones, and a pod sees connections of all cases at one port.
        with self.lan.inside("client"):
            for case in self.services.cases:
                port, width = self.services.ports[case.name], 1 if case.ports == "one" else RANGE
                vip = self.services.vip_of(case)
                kind = socket.SOCK_DGRAM if case.protocol == "UDP" else socket.SOCK_STREAM
                for number in range(CONNECTIONS):
                    one = socket.socket(FAMILIES[case.family], kind, PROTOCOL_NUMBERS[case.protocol])
                    self.names[one] = (case.name, "")
                    one.settimeout(3.0)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    one.bind((CLIENT[case.family], next(self.services.client_ports)))
                    try:
                        one.connect((vip, port + number % width))
                    except ConnectionRefusedError:  # by ovf
                        self.names.pop(one)
                        one.close()
                        continue
                    if case.protocol == "UDP":
                        one.send(b"?\n")
                    self.names[one] = (case.name, one.recv(16).decode())

    def ask(self, line: bytes = b"?\n", among: Collection[socket.socket] | None = None) -> None:
        """On every one, in an order that no scheduler expects."""
        asked = [one for one in self.names if among is None or one in among]
        for one in random.Random(1).sample(asked, len(asked)):
            with contextlib.suppress(OSError):
                one.send(line)

    def answered(self) -> set[socket.socket]:
        """On which the same real server answers as before."""
        found = set()
        waiting = select.epoll()
        by_number = {}
        for one in self.names:
            one.setblocking(False)
            waiting.register(one, select.EPOLLIN)
            by_number[one.fileno()] = one
        end = time.monotonic() + QUIET
        while by_number and time.monotonic() < end:
            for number, _ in waiting.poll(0.1):
                end = max(end, time.monotonic() + QUIET)
                waiting.unregister(number)
                one = by_number.pop(number)
                with contextlib.suppress(OSError):
                    if one.recv(16).decode() == self.names[one][1]:
                        found.add(one)
        waiting.close()
        return found

    def lost(self) -> Counter[tuple[str, str]]:
        """By case and real server, when all are asked."""
        self.ask()
        found = self.answered()
        datagrams = {one for one in self.names if one not in found and one.type == socket.SOCK_DGRAM}
        if datagrams:  # nobody repeats them while a director asks for the hardware address of a real server
            self.ask(among=datagrams)
            found |= self.answered()
        return Counter(name for one, name in self.names.items() if one not in found)

    def kept(self) -> dict[str, int]:
        """By case: how many are left when all are asked."""
        count = Counter(case for case, _ in self.names.values())
        count.subtract(case for case, _ in self.lost().elements())
        return {case.name: count[case.name] for case in self.services.cases}

    def kept_with_an_answer_under_way(self) -> dict[str, int]:
        """Likewise, when each has asked before and waits: the real servers answer now, before the client speaks."""
        with self.lan.inside("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            for number in WEIGHTS:
                one.sendto(b"now\n", (REAL[4].format(number), CONTROL_PORT))
        answered = self.answered()
        for one in self.names:
            if one not in answered:
                one.close()
        self.names = {one: name for one, name in self.names.items() if one in answered}
        return self.kept()

    def close(self) -> None:
        for one in self.names:
            one.close()
