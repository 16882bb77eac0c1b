"""Which endpoints are backends, and with which weight: what kube-proxy makes of EndpointSlices, for IPVS. Pure.

* Ready ones get connections (``publishNotReadyAddresses`` makes all of them ready, in the slices already).
* Those that terminate and still serve hold theirs with weight 0. If no endpoint is ready they get the new ones, too
  (KEP-1669); with externalTrafficPolicy Local that is each node's own affair.
* Those that do not serve, whether they terminate or not, hold theirs with weight 0 where a table has them. A client of
  UDP would not notice that nobody answers: it gets another endpoint. So do the clients of a node that is lost.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from lvsapi.ipvs import passes_over
from lvsapi.model import Backend, Endpoint, Node, Protocol, VirtualService


class Fitness(IntEnum):
    """What an endpoint is good for; of one that stands in two slices the better word counts."""

    HOLDING = 0
    """Nothing but the connections that it has."""
    LEAVING = 1
    """New connections, if nobody better is there."""
    READY = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend whose weight depends on the others."""

    fitness: Fitness
    backend: Backend

    @property
    def rank(self) -> tuple[Fitness, str]:
        """Of two about one endpoint the greater counts: the fitter, then the one whose node is known."""
        return (self.fitness, self.backend.node or "")


def lost(nodes: Iterable[Node]) -> frozenset[str]:
    """Nodes of which the control plane knows nothing. If it knows of none, it is the one who is cut off."""
    known = list(nodes)
    found = frozenset(node.name for node in known if node.lost)
    return frozenset() if len(found) == len(known) else found


def fitness(
    endpoint: Endpoint, item: VirtualService, protocol: Protocol | None, gone: Collection[str]
) -> Fitness | None:
    """None: it is no backend. ``gone``: names of lost nodes."""
    if endpoint.ready:
        return Fitness.READY
    if endpoint.serving and endpoint.terminating:
        return Fitness.LEAVING
    if protocol is Protocol.UDP or endpoint.node in gone or not passes_over(item.scheduler, item.scheduler_flags):
        return None
    return Fitness.HOLDING


def weighed(candidates: Iterable[Candidate], local: bool) -> list[Backend]:
    """The backends of one port with their weights. ``local``: every node has only its own."""
    given = list(candidates)
    served = {_group(one.backend, local) for one in given if one.fitness is Fitness.READY}
    return [_weighed(one, _group(one.backend, local) in served) for one in given]


def _group(backend: Backend, local: bool) -> tuple[int, str | None]:
    return (backend.address.version, backend.node if local else None)


def _weighed(one: Candidate, served: bool) -> Backend:
    if one.fitness is Fitness.HOLDING:
        return replace(one.backend, weight=0, kept=True)
    return replace(one.backend, weight=0 if served and one.fitness is Fitness.LEAVING else 1)
