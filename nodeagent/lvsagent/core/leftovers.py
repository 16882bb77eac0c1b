"""What is left in the kernel of connections that are over, where it would lead others astray. Pure.

A client uses its ports again: Linux comes by the same one after some three thousand connections. Where an entry of the
earlier connection is left, the kernel sends the packets of the new one after it: to the old destination, wherever the
present table sends it. On the Active node that is so for 120 s (``FIN_WAIT`` is the last that it sees of a connection
by direct routing); on one that was Active before, entries of connections that ended elsewhere stay for 900 s, and after
the next takeover held connections are reset, or wait for a pod that is dead. Only entries against the present table
matter, so there are few, and only after a change of it. See docs/decisions/0008.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from lvsagent.core.affinity import Connection, Flow, Tables
from lvsagent.core.maglev import DestinationKey
from lvsapi.model import IPAddress, Protocol

CLOSING: Final = {"FIN_WAIT": 120, "TIME_WAIT": 120}
"""States of a TCP connection that the client has ended, and the kernel's timeout, in seconds."""
QUIET: Final = 20
"""Seconds without a packet after which such a connection is over: who still gets an answer confirms its octets."""
SETTLED: Final = 6.0
"""Seconds after a change of the tables until pods' nodes have told their exceptions: they look 0, 1 and 4 s after."""
VOUCHED: Final = 75.0
"""Seconds for which a claim holds; it is told again every 30 s."""
MOST: Final = 100_000
"""Connections that are told or forgotten after one look, and claims that are remembered."""
FORGOTTEN: Final = {Protocol.TCP: "FIN_WAIT", Protocol.UDP: "UDP", Protocol.SCTP: "ESTABLISHED"}
"""The state in which an entry is written that is to go: the kernel takes none without one."""


@dataclass(slots=True)
class Vouchers:
    """The connections that others said they have, whatever became of the claim. Times in monotonic seconds."""

    since: float
    """From when on claims were heard."""
    _heard: dict[Flow, tuple[DestinationKey, float]] = field(default_factory=dict)

    def heard(self, claims: Iterable[Connection], now: float) -> None:
        """Their node told of them. What is too much is as good as not heard at all."""
        for claim in claims:
            if claim.flow in self._heard or len(self._heard) < MOST:
                self._heard[claim.flow] = (claim.destination, now)
            else:
                self.since = now

    def forget(self, now: float) -> None:
        """Those that were not told again."""
        self._heard = {flow: one for flow, one in self._heard.items() if now < one[1] + VOUCHED}

    def has(self, connection: Connection) -> bool:
        """Whether somebody vouches for it."""
        known = self._heard.get(connection.flow)
        return known is not None and known[0] == connection.destination

    def complete(self, changed: float, now: float) -> bool:
        """Whether who is not vouched for has nobody who would: the tables are as they are since ``changed``."""
        return now >= max(changed + SETTLED, self.since + VOUCHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What this node knows of itself."""

    active: Collection[IPAddress]
    """The virtual addresses that it has: all packets pass through its entries, which know that a connection has ended.
    So do those of its own pods."""
    told: Collection[IPAddress]
    """The pods of other nodes that tell of theirs."""
    alone: bool
    """Nobody's word is missing for connections of other nodes' pods."""


@dataclass(slots=True)
class Look:
    """What one look at all connections found."""

    told: dict[Flow, Connection] = field(default_factory=dict)
    """Exceptions of which other nodes are to hear."""
    over: list[Connection] = field(default_factory=list)
    """What to write so that the kernel forgets others."""
    misplaced: bool = False
    """There is something against the tables, ours or not."""
    left_out: int = 0
    """What was too much for one look."""


def look(
    connections: Iterable[Connection],
    tables: Iterable[Tables],
    meant: Tables,
    local: Iterable[IPAddress],
    here: Place,
    vouchers: Vouchers,
    most: int = MOST,
) -> Look:
    """Goes through the connections once and keeps nothing but what is to be done, ``most`` of each.

    ``tables``: by which there are exceptions; ``meant``: against which something may be left.
    """
    found, own, tables = Look(), frozenset(local), tuple(tables)
    for connection in connections:
        place = against(connection, meant)
        exception = any(one.excepts(connection, own) for one in tables)
        found.misplaced = found.misplaced or exception or place is not None
        if exception and not is_over(connection):
            if len(found.told) < most:
                found.told[connection.flow] = connection
            else:
                found.left_out += 1
        left = leftover(connection, place, here, vouchers) if place is not None else None
        if left is not None:
            if len(found.over) < most:
                found.over.append(left)
            else:
                found.left_out += 1
    return found


def against(connection: Connection, tables: Tables) -> DestinationKey | None:
    """Where the table would send the client of an entry, if that is elsewhere."""
    place = tables.place(connection) if tables.has(connection) else None
    return place if place != connection.destination else None


def leftover(connection: Connection, place: DestinationKey, here: Place, vouchers: Vouchers) -> Connection | None:
    """What to write so that the kernel forgets a misplaced entry, if it is to: it anew, where the table says, for a
    second."""
    if is_over(connection) or _is_stale(connection, here, vouchers):
        return connection._replace(destination=place, state=FORGOTTEN[connection.protocol], expires=1)
    return None


def is_over(connection: Connection) -> bool:
    """The client ended it, and nothing came any more."""
    timeout = CLOSING.get(connection.state) if connection.protocol is Protocol.TCP else None
    return timeout is not None and timeout - connection.expires >= QUIET


def _is_stale(connection: Connection, here: Place, vouchers: Vouchers) -> bool:
    """It was opened when this node was Active, or told by another, and is no more."""
    unseen = connection.destination[0] in here.told and connection.address not in here.active
    return here.alone and unseen and not vouchers.has(connection)
