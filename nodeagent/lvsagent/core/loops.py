"""Services for packets that another node has sent on already: none of them is sent on again. Pure.

While the tables of two nodes differ for a moment, each may think that the other has the backend of a new connection,
and its first packet goes to and fro until its TTL ends. So a packet that opens a connection and comes from the hardware
address of another node gets a firewall mark, and the mark's service holds what the ordinary one holds, with weight 0
for everything that is not on this node. The kernel builds the table of ``mh`` from the last weight above 0, so both
choose alike wherever the nodes agree; where they do not, a backend of this node is taken
(docs/decisions/0009-loop-guard.md).

Other schedulers choose differently on every node at all times. Their marked service holds the backends of this node
only, and every packet of another node gets the mark: one that is in the middle of a connection and not known here would
be sent on by chance. With that each node may hold the whole table all the time, as with ``mh``; without it it must not,
so it is there first and goes last (docs/decisions/0011-whole-tables.md).
"""

import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType

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
"""With others it is not known here what another node has chosen."""
HASHES = frozenset({"mh", "sh"})
"""SCHED1 is their flag for taking another backend where the one that is hashed to gets no connections."""

NEAR = 4
"""Marks in a row among which a service is looked for: with 1,000 services some eight pairs fall upon the same one."""

Standing = Mapping[ServiceKey, Service]
NOTHING_GIVEN: Mapping[ServiceKey, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopGuard:
    """The wish. Empty: nothing of it."""

    services: Standing = field(default_factory=dict)
    marks: frozenset[Mark] = frozenset()
    """Of the services above of which other nodes have backends, too: for what opens a connection."""
    every: frozenset[Mark] = frozenset()
    """Likewise, for every packet."""
    doubted: frozenset[Mark] = frozenset()
    """Of those for packets in the middle of a connection, whoever sent them (``core.doubt``)."""
    peers: frozenset[IPAddress] = frozenset()
    """Addresses of the other nodes, by which their hardware addresses are found."""
    towards: frozenset[IPAddress] = frozenset()
    """Backends of other nodes, one of each: packets go to them, and come from their nodes, over which interface?"""


def loop_guard(
    tables: Mapping[ServiceKey, Service],
    own: Collection[IPAddress],
    peers: frozenset[IPAddress],
    standing: Collection[ServiceKey],
    apart: Collection[ServiceKey] = (),
    given: Mapping[ServiceKey, int] = NOTHING_GIVEN,
) -> LoopGuard:
    """What follows from the wanted ``tables``. ``own``: addresses of this node. ``standing``: services of ours that
    are there: they stay while they have a backend here, whose connections would end with them. ``apart``: those of the
    tables for which every node chooses for itself. ``given``: marks that they have (``marks_given``)."""
    services: dict[ServiceKey, Service] = {}
    marks: dict[bool, set[Mark]] = {False: set(), True: set()}
    taken = {(key.address.version, mark) for key, mark in given.items()}
    for key, table in sorted(tables.items(), key=lambda item: str(item[0])):
        if not any(_here(d, own) for d in table.destinations):
            continue
        guarding = replace(key, mark=given[key]) if key in given else marked(key, taken)
        anew = key in apart
        useful = (anew or table.scheduler == SCHEDULER) and table.persistent is None and bool(peers)
        useful = useful and not all(_here(d, own) for d in table.destinations)
        if guarding in standing or useful:
            taken.add((key.address.version, guarding.mark))
            # Whoever sends a new connection believes in a backend here. If all of them drain, one of them it is.
            draining = not any(d.weight for d in table.destinations if _here(d, own))
            here = tuple(
                replace(d, weight=(1 if draining else d.weight) if _here(d, own) else 0)
                for d in table.destinations
                if table.scheduler == SCHEDULER or _here(d, own)
            )
            # What is chosen elsewhere falls back on what is here, whatever the ordinary service does with weight 0.
            flags = table.flags | ServiceFlag.SCHED1 if table.scheduler in HASHES else table.flags
            services[guarding] = replace(table, key=guarding, flags=flags, destinations=here)
            if useful:
                marks[anew].add(_mark(key, guarding))
    wish = LoopGuard(services=services, marks=frozenset(marks[False]), every=frozenset(marks[True]))
    return replace(wish, peers=peers) if services else wish


def _mark(key: ServiceKey, guarding: ServiceKey) -> Mark:
    return Mark(
        address=key.address,
        protocol=key.protocol,
        first=key.port,
        last=key.port,
        value=guarding.mark,
        instead=key.mark,
    )


def widened(apart: Standing, there: Standing, own: Collection[IPAddress]) -> dict[ServiceKey, Service]:
    """The tables of services for which every node chooses for itself, with what the kernel ``there`` still has beside:
    other nodes' backends, and the last ones of this node. The guard stands until that is gone."""
    found = {}
    for key, table in apart.items():
        needed = {destination.key for destination in table.destinations}
        last = not any(_here(d, own) for d in table.destinations)
        present = there[key].destinations if key in there else ()
        more = tuple(d for d in present if d.key not in needed and (last or not _here(d, own)))
        found[key] = replace(table, destinations=(*table.destinations, *more)) if more else table
    return found


def begun(wish: LoopGuard, there: Standing, before: LoopGuard | None) -> LoopGuard:
    """What of the wish comes before the ordinary tables: that of services for which every node chooses for itself.
    Nothing goes yet, and all else waits until they stand. ``before``: the last wish; None: not known."""
    values = {mark.value for mark in wish.every}
    first = {key: service for key, service in wish.services.items() if key.mark in values}
    every = {_place(mark): mark for mark in (before.every if before is not None else ()) if _stands(mark, there)}
    every |= {_place(mark): mark for mark in wish.every}
    return replace(
        wish,
        services={**there, **first},
        marks=frozenset(mark for mark in wish.marks if _place(mark) not in every and _stands(mark, there)),
        every=frozenset(every.values()),
        doubted=frozenset(mark for mark in wish.doubted if _stands(mark, there)),
    )


class Senders(IntEnum):
    """Whether packets of other nodes are told from others."""

    NOT_TOLD = 0
    """Somebody's never."""
    SOON = 1
    """Somebody has yet to tell its hardware address."""
    TOLD = 2


def guarded(
    wish: LoopGuard, there: Standing, apart: Iterable[Service], own: Collection[IPAddress], senders: Senders
) -> frozenset[ServiceKey]:
    """The services ``apart`` that may hold their whole table: the marked one stands and the ``senders`` are told, or
    nobody sends here on purpose, as there is no backend. ``there``: what the kernel has, ordinary services, too: what
    is whole does not shrink because a node joins the others."""
    marks = {_place(mark): mark for mark in wish.every}
    found = set()
    for table in apart:
        if any(_here(d, own) for d in table.destinations) and not all(_here(d, own) for d in table.destinations):
            mark = marks.get((table.key.address, table.key.protocol, table.key.port))
            key = replace(table.key, mark=mark.value) if mark is not None else None
            if senders is Senders.NOT_TOLD or key is None or there.get(key) != wish.services[key]:
                continue
            present = there[table.key].destinations if table.key in there else ()
            if senders is Senders.SOON and all(_here(d, own) for d in present):
                continue
        found.add(table.key)
    return frozenset(found)


def _place(mark: Mark) -> tuple[object, ...]:
    return (mark.address, mark.protocol, mark.first)


def _stands(mark: Mark, there: Standing) -> bool:
    return ServiceKey(mark.address, mark.protocol, mark.first, mark.value) in there


def _here(destination: Destination, own: Collection[IPAddress]) -> bool:
    return destination.method is ForwardMethod.MASQUERADE or destination.address in own


def marked(key: ServiceKey, taken: Collection[tuple[int, int]], marks: range = MARKS) -> ServiceKey:
    """With a mark that another agent of the same set of services finds, too: an agent that starts anew adopts them.
    ``taken``: families and marks of others."""
    offset = zlib.crc32(f"{key.address} {key.protocol} {key.port}".encode())
    while (key.address.version, marks[offset % len(marks)]) in taken:
        offset += 1
    return replace(key, mark=marks[offset % len(marks)])


def marks_given(
    tables: Mapping[ServiceKey, Service], before: Iterable[ServiceKey] | None, there: Standing
) -> Mapping[ServiceKey, int]:
    """The marks that services beside the ``tables`` have. Two may fall upon the same one, and which of them then has
    the next must not change with the objects that come and go: connections end with a service that changes its mark.
    ``before``: of the last wish; None: there was none, and the services that are ``there`` are known by a destination,
    as the kernel does not know their addresses."""
    if before is not None:
        names = {(key.address, key.protocol, key.port): key.mark for key in before if key.mark in MARKS}
        named = ((key, names.get((key.address, key.protocol, key.port))) for key in tables)
        return {key: mark for key, mark in named if mark is not None}
    found: dict[ServiceKey, int] = {}
    taken: set[tuple[int, int]] = set()
    for key, table in sorted(tables.items(), key=lambda item: str(item[0])):
        destinations, passed = {d.key for d in table.destinations}, set(taken)
        for _ in range(NEAR):
            other = marked(key, passed)
            passed.add((key.address.version, other.mark))
            if other in there and destinations & {d.key for d in there[other].destinations}:
                found[key] = other.mark
                taken.add((key.address.version, other.mark))
                break
    return found


def ours(tables: Iterable[Service]) -> Standing:
    """Those of ours among all that the kernel has."""
    return {service.key: service for service in tables if service.key.mark in OUR_MARKS}


def steps(wish: LoopGuard, there: Standing) -> tuple[Op, ...]:
    """From what is there to the wish, in an order that cuts no connection."""
    owned = Owned(services=frozenset(wish.services) | frozenset(there))
    return diff(KernelState(services=wish.services), KernelState(services=there), owned).ops
