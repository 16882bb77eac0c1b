"""What this node's kernel shall hold, and which virtual routers it takes part in. Pure.

Every node that runs an agent holds every table and every VIP on ``lo``; only directors get routers. With ``mh`` all
nodes hold all destinations; with any other scheduler only the Active does, the others hold their local ones, because
a packet that was sent here by direct routing must not be sent on (docs/decisions/0001).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lvsagent.core.routers import router_of
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    KernelState,
    NodeFacts,
    Service,
    ServiceFlag,
    ServiceKey,
)
from lvsagent.core.sysctl import REQUIRED
from lvsagent.ipc import RouterConfig
from lvsapi.model import (
    Backend,
    Forwarding,
    IPAddress,
    ObjectKey,
    Problem,
    Resolved,
    Scheduler,
    VirtualServer,
)
from lvsapi.status import ConditionType, Reason

MH_FLAGS = int(ServiceFlag.SCHED1 | ServiceFlag.SCHED2)
"""mh-fallback and mh-port."""
CONDITION = ConditionType.PROGRAMMED
ADDRESS_OF_NODE = Reason.ADDRESS_OF_NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """The wish for one node."""

    state: KernelState
    routers: tuple[RouterConfig, ...]
    """Routers for which this node is a director. ``ready`` is the caller's to set, after reading back."""
    problems: tuple[Problem, ...]


def plan(
    resolved: Resolved, facts: NodeFacts, active: frozenset[str], standing: frozenset[ServiceKey] = frozenset()
) -> NodePlan:
    """The wish of this node. ``active``: names of the routers that are Active here. ``standing``: services that are
    ours already; an object that refers to something that is missing keeps these and gets no others."""
    own = {address.ip for interface in facts.interfaces if interface.name != "lo" for address in interface.addresses}
    holders = _owners(resolved)
    taken = {address for address in holders if address in own}
    active_addresses = {a for router in resolved.routers if router.name in active for a in router.addresses}
    services = {}
    waiting: dict[ObjectKey, str] = {}
    for server in resolved.servers:
        key = ServiceKey(address=server.address, protocol=server.protocol, port=server.port)
        if server.address in taken:
            continue
        if server.missing and key not in standing:
            waiting[server.owner] = server.missing
            continue
        services[key] = _service(key, server, facts.node, own, server.address in active_addresses)
    problems = [problem for address in sorted(taken, key=_order) for problem in _in_use(address, holders, facts)]
    problems += (
        Problem(key=key, condition=CONDITION, reason=Reason.NOT_RESOLVED, message=f"Nothing is programmed: {missing}")
        for key, missing in sorted(waiting.items())
    )
    loopback = frozenset(key.address for key in services)
    routers = []
    for router in resolved.routers:
        config, refused = router_of(router, facts, holders.keys() - loopback)
        if config is not None:
            routers.append(config)
        problems += (
            Problem(key=key, condition=CONDITION, reason=why.reason, message=why.message)
            for why in refused
            for key in router.owners
        )
    state = KernelState(services=services, loopback=loopback, sysctls=REQUIRED)
    return NodePlan(state=state, routers=tuple(routers), problems=tuple(problems))


def _order(address: IPAddress) -> tuple[int, int]:
    return (address.version, int(address))


def _owners(resolved: Resolved) -> Mapping[IPAddress, tuple[ObjectKey, ...]]:
    """Who asks for each address."""
    found: defaultdict[IPAddress, set[ObjectKey]] = defaultdict(set)
    for server in resolved.servers:
        found[server.address].add(server.owner)
    for router in resolved.routers:
        for address in router.addresses:
            if address not in found:
                found[address].update(router.owners)
    return {address: tuple(sorted(owners)) for address, owners in found.items()}


def _in_use(
    address: IPAddress, holders: Mapping[IPAddress, tuple[ObjectKey, ...]], facts: NodeFacts
) -> Iterable[Problem]:
    interface = next(i.name for i in facts.interfaces if i.name != "lo" and address in {a.ip for a in i.addresses})
    message = (
        f"spec.addresses: {address} is an address of node {facts.node} ({interface}):"
        " choose one that no host uses, or remove it from the interface"
    )
    return (Problem(key=key, condition=CONDITION, reason=ADDRESS_OF_NODE, message=message) for key in holders[address])


# -- tables ----------------------------------------------------------------------------------------------------------


def _service(key: ServiceKey, server: VirtualServer, node: str, own: set[IPAddress], active: bool) -> Service:
    consistent = server.scheduler is Scheduler.MH
    # Other schedulers choose anew on every node, so that a node to which others send must only know its own pods. To a
    # director that is none of the real servers outside the cluster nobody sends: its table may wait complete.
    everywhere = consistent or not any(b.node is not None or _local(b, node, own) for b in server.backends)
    backends = [b for b in server.backends if everywhere or active or _local(b, node, own)]
    return Service(
        key=key,
        scheduler=str(server.scheduler),
        flags=MH_FLAGS if consistent else 0,
        destinations=tuple(
            Destination(b.address, b.port, _method(server.forwarding, b, node, own), b.weight) for b in backends
        ),
    )


def _local(backend: Backend, node: str, own: set[IPAddress]) -> bool:
    return backend.node == node or backend.address in own


def _method(forwarding: Forwarding, backend: Backend, node: str, own: set[IPAddress]) -> ForwardMethod:
    match forwarding:
        case Forwarding.TUNNEL:
            return ForwardMethod.TUNNEL
        case Forwarding.MASQUERADE:
            return ForwardMethod.MASQUERADE
        case Forwarding.DIRECT_ROUTING:
            # A host's own address is delivered locally by the kernel; only a pod needs its port mapped.
            pod_here = _local(backend, node, own) and not backend.host_network
            return ForwardMethod.MASQUERADE if pod_here else ForwardMethod.DIRECT_ROUTE
