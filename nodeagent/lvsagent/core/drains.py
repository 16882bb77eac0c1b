"""How long a backend that gets no new connections keeps those that it has: ``drainSeconds``. Pure: time is an argument.

EndpointSlices do not say since when an endpoint terminates, so every node counts from when it saw it. All nodes see it
within a moment. An agent that comes later would count anew, and its table would differ meanwhile: so what a standing
table does not have counts as gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lvsagent.core.state import Service, ServiceKey
from lvsapi.model import Backend, IPAddress, Resolved, VirtualServer

_Place = tuple[object, IPAddress, int]
LONG_AGO = float("-inf")


@dataclass(slots=True)
class Drains:
    """Remembers since when each backend drains, and its last answer: most passes change nothing."""

    until: float | None = None
    """When the next one goes, monotonic seconds."""
    _since: dict[_Place, float] = field(default_factory=dict)
    _before: Resolved | None = None
    _after: Resolved | None = None

    def over(self, resolved: Resolved, now: float, tables: Mapping[ServiceKey, Service]) -> Resolved:
        """``resolved`` without the backends that have drained for long enough. ``tables``: what the kernel has."""
        if self._after is not None and self._before is resolved and (self.until is None or now < self.until):
            return self._after
        self.until, before, self._since = None, self._since, {}
        servers = tuple(
            server if server.drain_seconds is None else self._without(server, server.drain_seconds, now, before, tables)
            for server in resolved.servers
        )
        self._before = resolved
        self._after = resolved if servers == resolved.servers else replace(resolved, servers=servers)
        return self._after

    def _without(
        self,
        server: VirtualServer,
        seconds: int,
        now: float,
        before: Mapping[_Place, float],
        tables: Mapping[ServiceKey, Service],
    ) -> VirtualServer:
        key = ServiceKey(address=server.address, protocol=server.protocol, port=server.port)
        table = tables.get(key) if server.end_port is None else None
        there = {destination.key for destination in table.destinations} if table is not None else None
        staying: list[Backend] = []
        for backend in server.backends:
            if backend.weight == 0:
                place = (key, backend.address, backend.port)
                known = there is None or (backend.address, backend.port) in there
                since = self._since[place] = before.get(place, now if known else LONG_AGO)
                if now >= since + seconds:
                    continue
                self.until = min(self.until or since + seconds, since + seconds)
            staying.append(backend)
        return server if len(staying) == len(server.backends) else replace(server, backends=tuple(staying))
