"""Services for packets that another node has sent on already: none of them is sent on again. Pure.

While the tables of two nodes differ for a moment, each may think that the other has the backend of a new connection,
and its first packet goes to and fro until its TTL ends. So a packet that opens a connection and comes from the hardware
address of another node gets a firewall mark, and the mark's service holds what the ordinary one holds, with weight 0
for everything that is not on this node. The kernel builds the table of ``mh`` from the last weight above 0, so both
choose alike wherever the nodes agree; where they do not, a backend of this node is taken
(docs/decisions/0009-loop-guard.md).
"""

import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from lvsagent.core.diff import Op, Owned, diff
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Mark, Service, ServiceFlag, ServiceKey
from lvsapi.model import IPAddress

MARKS = range(0x4C560000, 0x4C570000)
DOUBT_MARKS = range(0x4C570000, 0x4C580000)
"""``core.doubt``'s."""
OUR_MARKS = range(MARKS[0], DOUBT_MARKS[-1] + 1)
"""Services with such a firewall mark are ours, as is whatever has our protocol number among routes. Cleared again
before anybody else looks."""
SCHEDULER = "mh"
"""Others are not told what another node would have chosen: nodes that wait hold their own pods only."""

Standing = Mapping[ServiceKey, Service]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopGuard:
    """The wish. Empty: nothing of it."""

    services: Standing = field(default_factory=dict)
    marks: frozenset[Mark] = frozenset()
    """Of the services above of which other nodes have backends, too."""
    doubted: frozenset[Mark] = frozenset()
    """Of those for packets in the middle of a connection, whoever sent them (``core.doubt``)."""
    peers: frozenset[IPAddress] = frozenset()
    """Addresses of the other nodes, by which their hardware addresses are found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An entry of the kernel's neighbour table."""

    address: IPAddress
    mac: bytes


def loop_guard(
    tables: Mapping[ServiceKey, Service],
    own: Collection[IPAddress],
    peers: frozenset[IPAddress],
    standing: Collection[ServiceKey],
) -> LoopGuard:
    """What follows from the wanted ``tables``. ``own``: addresses of this node. ``standing``: services of ours that
    are there: they stay while they have a backend here, whose connections would end with them."""
    services: dict[ServiceKey, Service] = {}
    marks = set()
    taken: set[tuple[int, int]] = set()
    for key, table in sorted(tables.items(), key=lambda item: str(item[0])):
        if key.mark or not any(_here(d, own) for d in table.destinations):
            continue
        guarding = marked(key, taken)
        useful = table.scheduler == SCHEDULER and table.persistent is None and bool(peers)
        useful = useful and not all(_here(d, own) for d in table.destinations)
        if guarding in standing or useful:
            taken.add((key.address.version, guarding.mark))
            # Whoever sends a new connection believes in a backend here. If all of them drain, one of them it is.
            draining = not any(d.weight for d in table.destinations if _here(d, own))
            here = tuple(
                replace(d, weight=(1 if draining else d.weight) if _here(d, own) else 0) for d in table.destinations
            )
            # What is chosen elsewhere falls back on what is here, whatever the ordinary service does with weight 0.
            flags = table.flags | ServiceFlag.SCHED1
            services[guarding] = replace(table, key=guarding, flags=flags, destinations=here)
            if useful:
                mark = Mark(
                    address=key.address, protocol=key.protocol, first=key.port, last=key.port, value=guarding.mark
                )
                marks.add(mark)
    return LoopGuard(services=services, marks=frozenset(marks), peers=peers if services else frozenset())


def _here(destination: Destination, own: Collection[IPAddress]) -> bool:
    return destination.method is ForwardMethod.MASQUERADE or destination.address in own


def marked(key: ServiceKey, taken: Collection[tuple[int, int]], marks: range = MARKS) -> ServiceKey:
    """With a mark that another agent of the same set of services finds, too: an agent that starts anew adopts them.
    ``taken``: families and marks of others."""
    offset = zlib.crc32(f"{key.address} {key.protocol} {key.port}".encode())
    while (key.address.version, marks[offset % len(marks)]) in taken:
        offset += 1
    return replace(key, mark=marks[offset % len(marks)])


def ours(tables: Iterable[Service]) -> Standing:
    """Those of ours among all that the kernel has."""
    return {service.key: service for service in tables if service.key.mark in OUR_MARKS}


def steps(wish: LoopGuard, there: Standing) -> tuple[Op, ...]:
    """From what is there to the wish, in an order that cuts no connection."""
    owned = Owned(services=frozenset(wish.services) | frozenset(there))
    return diff(KernelState(services=wish.services), KernelState(services=there), owned).ops


def senders(
    neighbours: Iterable[Neighbour], peers: Collection[IPAddress], gateways: Collection[IPAddress]
) -> frozenset[bytes]:
    """Hardware addresses of the other nodes. Not those of a gateway: clients come from there, too."""
    found = list(neighbours)
    passed_on = {one.mac for one in found if one.address in gateways}
    return frozenset(one.mac for one in found if one.address in peers) - passed_on
