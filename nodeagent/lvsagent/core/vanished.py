"""Endpoints that go all at once without having terminated: kept for a while, as they were. Pure: time is an argument.

A pod that ends is first ``terminating`` or not ready in its EndpointSlice, and then gone. Where most of a Service's
endpoints, or of all, are gone without that, somebody emptied or deleted the slices, and the pods may well be there. So
they keep their weight for BRAKE_SECONDS, or until their Service has a new one: then somebody looks after it. Their
nodes' heartbeats and their health checks go on counting. See docs/decisions/0012.
"""

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from lvsagent.core.brakes import BRAKE_SECONDS, GATHER_SECONDS, most
from lvsapi.model import Endpoint, EndpointSlice, IPAddress, ObjectKey

Slices = Mapping[ObjectKey, EndpointSlice]
WINDOW = 10.0
"""Seconds within which what empties one Service after another counts as one step."""


@dataclass(slots=True)
class _Service:
    """Of one Service."""

    ready: dict[IPAddress, EndpointSlice] = field(default_factory=dict)
    """By address, as last seen: a slice with nothing but that endpoint."""
    gone: dict[IPAddress, float] = field(default_factory=dict)
    """Vanished: when."""
    kept: dict[IPAddress, EndpointSlice] = field(default_factory=dict)
    """Of these who are kept: until it is known how many more go, and then for a while."""
    braked: bool = False
    """It is known."""


@dataclass(slots=True)
class Vanished:
    """Remembers who was ready. Most calls change nothing."""

    until: float | None = None
    """When something is let go or judged, monotonic seconds."""
    _slices: dict[ObjectKey, EndpointSlice] = field(default_factory=dict)
    _services: dict[ObjectKey, _Service] = field(default_factory=dict)

    @property
    def held(self) -> Mapping[ObjectKey, int]:
        """By Service: how many endpoints are kept for longer than a moment."""
        return {key: len(one.kept) for key, one in self._services.items() if one.kept and one.braked}

    def over(self, slices: Slices, services: Set[ObjectKey], now: float) -> tuple[EndpointSlice, ...]:
        """What is kept beside ``slices``, as slices with one endpoint each. ``services``: those that exist and that
        somebody wants."""
        for key in self._services.keys() - services:
            del self._services[key]
        self._look(slices, services, now)
        self.until = None
        losing = [one for one in self._services.values() if one.gone]
        self._judge(losing, now)
        return tuple(part for one in losing for part in one.kept.values())

    def _look(self, slices: Slices, services: Set[ObjectKey], now: float) -> None:
        """Who came and who went. Only Services whose slices changed are looked at."""
        before, self._slices = self._slices, dict(slices)
        changed = [part for key, part in slices.items() if before.get(key) is not part]
        changed += [part for key, part in before.items() if slices.get(key) is not part]
        keys = {ObjectKey(part.key.namespace, part.service) for part in changed} & services
        keys |= services - self._services.keys()
        if not keys:
            return
        parts: defaultdict[ObjectKey, list[EndpointSlice]] = defaultdict(list)
        for part in slices.values():
            key = ObjectKey(part.key.namespace, part.service)
            if key in keys:
                parts[key].append(part)
        for key in keys:
            self._compare(self._services.setdefault(key, _Service()), parts[key], now)

    def _compare(self, one: _Service, parts: list[EndpointSlice], now: float) -> None:
        there = {address for part in parts for endpoint in part.endpoints for address in endpoint.addresses}
        ready = {
            address: replace(part, key=ObjectKey(part.key.namespace, f"{part.key.name} {address}"), endpoints=(each,))
            for part in parts
            for each in part.endpoints
            if _is_ready(each)
            for address in each.addresses[:1]
        }
        lost = {address: part for address, part in one.ready.items() if address not in there}
        fresh = ready.keys() - one.ready.keys() - one.gone.keys()
        one.gone = {address: since for address, since in one.gone.items() if address not in there}
        one.kept = {address: part for address, part in one.kept.items() if address not in there}
        one.braked = one.braked and bool(one.kept)
        one.gone.update(dict.fromkeys(lost, now))
        if fresh:
            one.gone, one.kept, one.braked = {}, {}, False
        elif lost and (not ready or most(len(lost), len(one.ready))):
            # Where others are left, only one step counts: pods that die one by one are really gone.
            one.kept.update(lost)
            one.braked = one.braked or most(len(lost), len(one.ready))
        one.ready = ready

    def _judge(self, losing: list[_Service], now: float) -> None:
        """Keep those on whom the brake is, and let the others go."""
        for one in losing:
            kept_for = BRAKE_SECONDS if one.kept else WINDOW
            one.gone = {address: since for address, since in one.gone.items() if now - since < kept_for}
        gone = sum(now - since < WINDOW for one in losing for since in one.gone.values())
        all_of_them = bool(gone) and most(gone, gone + sum(len(one.ready) for one in self._services.values()))
        for one in losing:
            one.kept = {address: part for address, part in one.kept.items() if address in one.gone}
            one.braked = bool(one.kept) and (one.braked or all_of_them)
            if not one.braked:
                one.kept = {a: part for a, part in one.kept.items() if now - one.gone[a] < GATHER_SECONDS}
            patience = BRAKE_SECONDS if one.braked else GATHER_SECONDS
            for address in one.kept:
                moment = one.gone[address] + patience
                self.until = moment if self.until is None else min(self.until, moment)


def _is_ready(endpoint: Endpoint) -> bool:
    return endpoint.ready and not endpoint.terminating
