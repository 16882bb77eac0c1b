"""What IPVS counted for each virtual service and each of its backends, summed so that it only ever grows. Pure.

Several IPVS services may carry a virtual one: the ordinary one, and those beside it with a firewall mark
(``core.loops``, ``core.doubt``), which come and go; a destination that is put back begins at 0. A sum of what is there
would shrink, and Prometheus would take that for a restart. So what each has counted since the last reading is added up.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lvsagent.core.state import ServiceKey
from lvsapi.model import IPAddress, Protocol

Place = tuple[IPAddress, Protocol | None, int]
"""Virtual address, protocol, first port."""
Backend = tuple[IPAddress, int]


class Counters(NamedTuple):
    """include/uapi/linux/ip_vs.h IPVS_STATS_ATTR_*, in this order. Of what goes back only Masquerade is seen."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def since(self, before: "Counters") -> "Counters":
        """What was counted meanwhile; all of it where one went back: it was made anew."""
        grown = Counters(*(now - then for now, then in zip(self, before, strict=True)))
        return self if min(grown) < 0 else grown

    def plus(self, other: "Counters") -> "Counters":
        """Both."""
        return Counters(*(one + more for one, more in zip(self, other, strict=True)))


NOTHING = Counters()


class Reading(NamedTuple):
    """Of an IPVS service or a destination."""

    counters: Counters
    active: int = 0
    """Connections that open or are established; destinations only."""
    inactive: int = 0


Readings = Mapping[tuple[ServiceKey, Backend | None], Reading]
"""By IPVS service, and destination of it; None: the service itself."""


@dataclass(slots=True)
class Now:
    """Of a virtual service, or a backend of it."""

    counters: Counters = NOTHING
    active: int = 0
    inactive: int = 0


@dataclass(slots=True)
class Traffic:
    """Of this node since its agent began. What the kernel had counted before counts, too."""

    services: dict[Place, Now] = field(default_factory=dict)
    backends: dict[tuple[Place, Backend], Now] = field(default_factory=dict)
    _before: dict[tuple[ServiceKey, Backend | None], Counters] = field(default_factory=dict)

    def update(self, readings: Readings, names: Mapping[ServiceKey, ServiceKey], wanted: Collection[Place]) -> None:
        """``readings``: everything, as the kernel says it. ``names``: of marked services, whose address the kernel does
        not know. ``wanted``: virtual services of ours; whatever else was counted is forgotten."""
        before, self._before = self._before, {}
        services = {place: Now(now.counters) for place, now in self.services.items() if place in wanted}
        backends = {at: Now(now.counters) for at, now in self.backends.items() if at[0] in wanted}
        seen = set()
        for at, reading in readings.items():
            named = names.get(at[0], at[0])
            place = (named.address, named.protocol, named.port)
            if place not in wanted:
                continue
            self._before[at] = reading.counters
            more = reading.counters.since(before.get(at, NOTHING))
            if at[1] is None:
                now = services.setdefault(place, Now())
            else:
                seen.add((place, at[1]))
                now = backends.setdefault((place, at[1]), Now())
            now.counters = now.counters.plus(more)
            now.active += reading.active
            now.inactive += reading.inactive
        self.services = services
        self.backends = {at: now for at, now in backends.items() if at in seen}
