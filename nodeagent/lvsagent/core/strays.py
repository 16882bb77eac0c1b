"""What a node that was Active still knows of connections that have gone on without it. Pure.

It knows that they went to another node, and does not hear that they end. When a client uses its port again, the new
Active node may choose a backend of this node for it, and this node's entry, which is asked before any table, sends the
packet to another one: perhaps to the new Active, whose entry sends it back, until its TTL ends. Where all nodes choose
alike both say the same, or ``core.leftovers`` sees to it; where each chooses for itself they do not. So entries that
lead to other nodes are forgotten: those of connections that the client had ended at once, for a busy client comes by
each port again within a minute, and the others when nothing has come for a while. See docs/decisions/0011.
"""

from collections.abc import Collection, Iterable, Mapping

from lvsagent.core.affinity import Connection
from lvsagent.core.leftovers import CLOSING, FORGOTTEN
from lvsagent.core.state import ServiceKey
from lvsapi.model import IPAddress, Protocol

QUIET = 20
"""Seconds without a packet. A connection that is sent by this node's entry still, because the new Active chose this
node by chance, is not cut while it speaks."""
LOOK = 0.5
"""Seconds between looks at whether this node is Active."""
AGAIN = 20.0
"""Seconds between looks, for as long as there are such entries."""


def departed(
    connections: Iterable[Connection],
    services: Collection[ServiceKey],
    active: Collection[IPAddress],
    here: Collection[IPAddress],
) -> list[Connection]:
    """Entries of the services that lead to other nodes, of addresses that this node does not have. ``here``: its own
    backends. Not those of UDP: the entry of the backend's own node lives as long, and is asked first there."""
    names = {(key.protocol, key.address, key.port) for key in services if key.address not in active}
    return [
        connection
        for connection in connections
        if connection.service in names
        and connection.destination[0] not in here
        and connection.protocol is not Protocol.UDP
        and connection.carries_data
    ]


def strays(entries: Iterable[Connection], ways: Mapping[int, int | None], outside: Collection[int]) -> list[Connection]:
    """What to write so that the kernel forgets them: as they are, ended, for a second. ``ways``: the interface over
    which each client is reached. Clients on this node are none of those ``outside``, and this node sends for them."""
    return [
        connection._replace(state=FORGOTTEN[connection.protocol], expires=1)
        for connection in entries
        if (connection.state in CLOSING or connection.idle >= QUIET) and ways.get(connection.client) in outside
    ]
