"""Pods that wait for the path: readiness gate ``lvsdr.io/path``. Pure.

A pod with the gate is not ready until somebody says that its path is proved, and is no backend until it is ready. So it
is asked before it is a backend: every endpoint that is not ready and does not end, of a Service whose object asks for
the path, is asked as if it were one. That it serves nobody by that is sure: what is asked is no table.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lvsapi.health import CheckType
from lvsapi.model import Backend, EndpointSlice, ObjectKey, Resolved, Snapshot, VirtualServer, VirtualService
from lvsapi.resolve import resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A pod that is not ready, as the backend that it would be."""

    pod: ObjectKey
    uid: str
    server: VirtualServer
    """Of it alone."""
    backend: Backend


def waiting(snapshot: Snapshot) -> tuple[Waiting, ...]:
    """All of them, in order of their pods, objects and addresses."""
    services = {
        ObjectKey(item.key.namespace, item.service or "") for item in snapshot.virtual_services if _asks_path(item)
    }
    slices = [part for each in snapshot.slices if (part := _not_ready(each, services)) is not None]
    if not slices:
        return ()
    pods = _pods(slices)
    asked = {item.key: item.service for item in snapshot.virtual_services if _asks_path(item)}
    found = []
    # As if they were ready, and nobody else: what they would be is the resolution's to say.
    for server in _resolved(snapshot, slices).servers:
        service = asked.get(server.owner)
        for backend in server.backends if service is not None else ():
            pod, uid = pods[ObjectKey(server.owner.namespace, service or ""), str(backend.address)]
            alone = replace(server, backends=(backend,))
            found.append(Waiting(pod=pod, uid=uid, server=alone, backend=backend))
    return tuple(sorted(found, key=lambda one: (one.pod, one.server.owner, str(one.server.address), one.server.port)))


def _asks_path(item: VirtualService) -> bool:
    asks = any(check.type is CheckType.PATH for check in item.health.checks)
    return asks and item.health.pods and item.service is not None and item.assigned is not None


def _not_ready(part: EndpointSlice, services: set[ObjectKey]) -> EndpointSlice | None:
    """With those of its endpoints that wait, made ready; None: there is none."""
    if ObjectKey(part.key.namespace, part.service) not in services:
        return None
    waits = tuple(
        replace(endpoint, ready=True, serving=True)
        for endpoint in part.endpoints
        if endpoint.pod is not None and not endpoint.ready and not endpoint.terminating
    )
    return replace(part, endpoints=waits) if waits else None


def _pods(slices: Iterable[EndpointSlice]) -> dict[tuple[ObjectKey, str], tuple[ObjectKey, str]]:
    """By Service and address."""
    found: dict[tuple[ObjectKey, str], tuple[ObjectKey, str]] = {}
    for part in slices:
        for endpoint in part.endpoints:
            assert endpoint.pod is not None
            for address in endpoint.addresses:
                found[ObjectKey(part.key.namespace, part.service), str(address)] = (endpoint.pod, endpoint.uid)
    return found


def _resolved(snapshot: Snapshot, slices: list[EndpointSlice]) -> Resolved:
    return resolve(replace(snapshot, slices=tuple(slices)))
