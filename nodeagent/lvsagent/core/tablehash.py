"""Numbers of 32 bits for the tables of each object, by which tables are compared that are not in one place. Pure."""

import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lvsagent.core.diff import ORDER_MATTERS
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Mark, Refusal, Service, ServiceKey
from lvsapi.model import IPAddress, ObjectKey, Resolved


class Hash(NamedTuple):
    """Of all tables of an object."""

    alike: int
    """The same on every node that sends the same clients to the same backends. How a node reaches a backend, and which
    firewall marks it chose, differs by node and is left out."""
    whole: int
    """With everything: for what one node wants, and has."""


@dataclass(slots=True)
class Hashes:
    """``of`` is called again and again with nearly the same: a table is put into words when it has changed."""

    _known: dict[ServiceKey, tuple[Service, Hash]] = field(default_factory=dict)

    def of(self, resolved: Resolved, state: KernelState) -> Mapping[ObjectKey, Hash]:
        """By object. One without tables has none."""
        owners = {(server.address, server.protocol, server.port): server.owner for server in resolved.servers}
        rules = _rules(state)
        found: dict[ObjectKey, Hash] = {}
        known, self._known = self._known, {}
        # In the order of their places, not of firewall marks.
        order = ((str((key.address, key.protocol, key.port)), key, service) for key, service in state.services.items())
        for place, key, service in sorted(order, key=lambda item: item[0]):
            owner = owners.get((key.address, key.protocol, key.port))
            if owner is None:
                continue
            before = known.get(key)
            one = before[1] if before is not None and before[0] == service else _hash(service)
            self._known[key] = service, one
            alike, whole = found.get(owner, Hash(0, 0))
            beside = f"{place} {key.mark} {key.address in state.loopback} {rules.get(key.address, ())}"
            found[owner] = Hash(
                alike=zlib.crc32(f"{place} {one.alike}".encode(), alike),
                whole=zlib.crc32(f"{beside} {one.whole}".encode(), whole),
            )
        return found


def _hash(service: Service) -> Hash:
    # Where the order has no say the kernel's is left as it is.
    ordered = service.scheduler in ORDER_MATTERS
    destinations = service.destinations if ordered else sorted(service.destinations, key=lambda d: d.key)
    kind = f"{service.scheduler} {service.flags} {service.persistent}"
    alike = " ".join(f"{d.address},{d.port},{d.weight}" for d in destinations)
    ways = " ".join(map(_way, destinations))
    number = zlib.crc32(f"{kind} {alike}".encode())
    return Hash(alike=number, whole=zlib.crc32(ways.encode(), number))


def _way(destination: Destination) -> str:
    tunnel = destination.tunnel if destination.method is ForwardMethod.TUNNEL else ""
    return f"{destination.method:d},{destination.upper},{destination.lower},{tunnel}"


def _rules(state: KernelState) -> Mapping[IPAddress, tuple[str, ...]]:
    """Firewall marks and refusals by address."""
    found: defaultdict[IPAddress, list[str]] = defaultdict(list)
    rules: tuple[Mark | Refusal, ...] = (*state.marks, *state.refusals)
    for rule in rules:
        found[rule.address].append(str(rule))
    return {address: tuple(sorted(texts)) for address, texts in found.items()}
