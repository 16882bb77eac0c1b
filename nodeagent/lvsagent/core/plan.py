"""What this node's kernel shall hold, and which virtual routers it takes part in. Pure.

Every node that runs an agent holds every table and every VIP on ``lo``; only directors get routers. Where all nodes
choose alike (``mh``, without persistence and limits) all hold all destinations. Where each chooses for itself a packet
that was sent here by direct routing must not be sent on: a node holds all destinations where such packets are
recognised (``NodePlan.whole``, ``core.loops``), or while it is Active, and else its local ones
(docs/decisions/0001, 0011).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from lvsagent.core.routers import router_of
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    KernelState,
    Mark,
    NodeFacts,
    Persistent,
    Refusal,
    Service,
    ServiceFlag,
    ServiceKey,
    SyncDaemon,
    SyncRole,
)
from lvsagent.core.sysctl import PERSISTENT, REQUIRED, SYNC
from lvsagent.ipc import RouterConfig
from lvsapi.health import WhenEmpty
from lvsapi.ipvs import IPIP, Forwarding, SchedulerFlag, flags_of
from lvsapi.model import Backend, IPAddress, ObjectKey, Problem, Protocol, Resolved, VirtualServer
from lvsapi.status import ConditionType, Reason
from lvsapi.takeover import synchronised_class

FLAGS = {
    SchedulerFlag.SH_FALLBACK: ServiceFlag.SCHED1,
    SchedulerFlag.SH_PORT: ServiceFlag.SCHED2,
    SchedulerFlag.MH_FALLBACK: ServiceFlag.SCHED1,
    SchedulerFlag.MH_PORT: ServiceFlag.SCHED2,
}
_Place = tuple[IPAddress, Protocol | None, int]
MARKS = range(0x1000, 0x1100)
"""Firewall marks of ours (docs/decisions/0006): no bit of them is used by kube-proxy, Cilium, Calico or portmap."""
NO_TABLES: Mapping[ServiceKey, Service] = MappingProxyType({})
CONDITION = ConditionType.PROGRAMMED
ADDRESS_OF_NODE = Reason.ADDRESS_OF_NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """The wish for one node."""

    state: KernelState
    routers: tuple[RouterConfig, ...]
    """Routers for which this node is a director. ``ready`` is the caller's to set, after reading back."""
    problems: tuple[Problem, ...]
    whole: Mapping[ServiceKey, Service] = field(default_factory=dict)
    """Tables of services whose nodes choose differently, with all destinations: what to hold in place of those in
    ``state`` where a packet is given to a backend of this node that another node has sent on (``filled``)."""


def plan(
    resolved: Resolved,
    facts: NodeFacts,
    active: frozenset[str],
    standing: frozenset[ServiceKey] = frozenset(),
    tables: Mapping[ServiceKey, Service] = NO_TABLES,
) -> NodePlan:
    """The wish of this node. ``active``: names of the routers that are Active here. ``standing``: services that are
    ours already; an object that refers to something that is missing keeps these and gets no others. ``tables``: what
    the kernel has; an endpoint that does not serve keeps its connections where it is there."""
    own = {address.ip for interface in facts.interfaces if interface.name != "lo" for address in interface.addresses}
    holders = _owners(resolved)
    taken = {address for address in holders if address in own}
    active_addresses = {a for router in resolved.routers if router.name in active for a in router.addresses}
    services = {}
    whole = {}
    marks = set()
    refusals: set[Refusal] = set()
    waiting: dict[ObjectKey, str] = {}
    unmarked: dict[ObjectKey, str] = {}
    values = _values((server for server in resolved.servers if server.end_port is not None), standing)
    for server in resolved.servers:
        value = 0 if server.end_port is None else values.get(_place(server))
        if server.address in taken:
            continue
        if value is None:
            unmarked[server.owner] = _no_mark(server)
            continue
        key = ServiceKey(address=server.address, protocol=server.protocol, port=server.port, mark=value)
        if server.missing and key not in standing:
            waiting[server.owner] = server.missing
            continue
        if server.end_port is not None:
            marks.add(_mark(server, value, server.end_port))
        refusals.update(_refusals(server))
        active_here = server.address in active_addresses
        services[key], more = _tables(key, server, facts.node, own, active_here, tables.get(key))
        if more is not None:
            whole[key] = more
    problems = [problem for address in sorted(taken, key=_order) for problem in _in_use(address, holders, facts)]
    problems += (
        Problem(key=key, condition=CONDITION, reason=Reason.NOT_RESOLVED, message=f"Nothing is programmed: {missing}")
        for key, missing in sorted(waiting.items())
    )
    problems += (
        Problem(key=key, condition=CONDITION, reason=Reason.TOO_MANY_RANGES, message=message)
        for key, message in sorted(unmarked.items())
    )
    loopback = frozenset(key.address for key in services)
    synchronised, _ = synchronised_class(resolved)
    daemons: dict[SyncRole, SyncDaemon] = {}
    routers = []
    for router in resolved.routers:
        config, refused = router_of(router, facts, holders.keys() - loopback)
        if config is not None:
            routers.append(config)
            if router.class_name == synchronised:
                role = SyncRole.MASTER if router.name in active else SyncRole.BACKUP
                daemon = SyncDaemon(role=role, interface=config.interface, sync_id=router.vrrp.virtual_router_ids[0])
                daemons.setdefault(role, daemon)
        problems += (
            Problem(key=key, condition=CONDITION, reason=why.reason, message=why.message)
            for why in refused
            for key in router.owners
        )
    state = KernelState(
        services=services,
        loopback=loopback,
        sysctls=_settings(services.values(), bool(daemons)),
        marks=frozenset(marks),
        refusals=frozenset(refusals),
        daemons=frozenset(daemons.values()),
    )
    return NodePlan(state=state, routers=tuple(routers), problems=tuple(problems), whole=whole)


def filled(wanted: NodePlan, guarded: Iterable[ServiceKey]) -> NodePlan:
    """The plan with whole tables where what other nodes send on is given to backends of this node."""
    more = {key: wanted.whole[key] for key in guarded if key in wanted.whole}
    return replace(wanted, state=replace(wanted.state, services={**wanted.state.services, **more})) if more else wanted


def _settings(services: Iterable[Service], synchronised: bool) -> Mapping[str, str]:
    persistent = any(service.persistent is not None for service in services)
    return {**REQUIRED, **(SYNC if synchronised else {}), **(PERSISTENT if persistent else {})}


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


# -- firewall marks --------------------------------------------------------------------------------------------------


def _values(servers: Iterable[VirtualServer], standing: frozenset[ServiceKey]) -> Mapping[_Place, int]:
    """Marks of servers with ranges. A mark is a service's identity in the kernel: what stands keeps its own, also when
    the range grows, or its connections would end."""
    wanted = list(map(_place, servers))
    marked = {(key.address, key.protocol, key.port): key.mark for key in standing if key.mark}
    found = {place: marked[place] for place in wanted if place in marked}
    for version in (4, 6):
        used = {key.mark for key in standing if key.mark and key.address.version == version}
        fresh = [place for place in wanted if place not in found and place[0].version == version]
        found.update(zip(fresh, (value for value in MARKS if value not in used), strict=False))
    return found


def _place(server: VirtualServer) -> _Place:
    return (server.address, server.protocol, server.port)


def _mark(server: VirtualServer, value: int, last: int) -> Mark:
    return Mark(address=server.address, protocol=server.protocol, first=server.port, last=last, value=value)


def _no_mark(server: VirtualServer) -> str:
    return (
        f"spec.ports: {server.ports} of {server.address}: {len(MARKS)} ranges of ports have firewall marks"
        f" {MARKS[0]:#x}-{MARKS[-1]:#x} already, and no mark is left: name single ports, or join ranges"
    )


# -- nobody is left ---------------------------------------------------------------------------------------------------


def _refusals(server: VirtualServer) -> Iterable[Refusal]:
    """What new clients get from a virtual server without backends. One whose backends are all elsewhere, so that this
    node knows none, is none of these."""
    if any(backend.weight for backend in server.backends):
        return
    # A sorry server that is not there, or of the other family, helps nobody.
    drop = server.health.when_empty is WhenEmpty.DROP
    for protocol in Protocol:
        # What is not TCP is told by IPVS itself.
        if server.protocol in (None, protocol) and (drop or protocol is Protocol.TCP):
            last = 65535 if server.protocol is None else server.end_port or server.port
            yield Refusal(address=server.address, protocol=protocol, first=server.port, last=last, drop=drop)


# -- tables ----------------------------------------------------------------------------------------------------------


def _tables(
    key: ServiceKey, server: VirtualServer, node: str, own: set[IPAddress], active: bool, there: Service | None
) -> tuple[Service, Service | None]:
    """What to hold, and what to hold in its place where packets of other nodes are recognised; None: nothing else."""
    known = {destination.key for destination in there.destinations} if there is not None else set()
    backends = [b for b in server.backends if not b.kept or (b.address, b.port) in known]
    flags = sum(int(FLAGS[flag]) for flag in flags_of(server.scheduler, server.scheduler_flags))
    if server.one_packet:
        flags |= ServiceFlag.ONE_PACKET
    persistent = None
    if server.persistence is not None:
        flags |= ServiceFlag.PERSISTENT
        kept = server.persistence
        length = kept.ipv4_prefix_length if key.address.version == 4 else kept.ipv6_prefix_length
        persistent = Persistent(timeout=kept.timeout_seconds, prefix_length=length)
    whole = Service(
        key=key,
        scheduler=str(server.scheduler),
        flags=flags,
        destinations=tuple(_destination(server, backend, node, own) for backend in backends),
        persistent=persistent,
    )
    # To a director that is none of the real servers outside the cluster nobody sends: its table may wait complete.
    outside = not any(b.node is not None or is_local(b, node, own) for b in server.backends)
    if server.alike or (not server.local and (outside or not _comes_back(server, node, own))):
        return whole, None
    here = tuple(_destination(server, backend, node, own) for backend in backends if is_local(backend, node, own))
    held = whole if active and not server.local else replace(whole, destinations=here)
    return held, whole if _divisible(server, node, own) else None


def _comes_back(server: VirtualServer, node: str, own: set[IPAddress]) -> bool:
    """Whether a node to which a packet is sent looks it up in a table of its own. It does not where the packet has
    another destination by then, or is taken apart by the backend itself."""
    return any(_way(server, b, node, own) is ForwardMethod.DIRECT_ROUTE or _tunnelled(server, b, node, own)
               for b in server.backends if not is_local(b, node, own))  # fmt: skip


def _divisible(server: VirtualServer, node: str, own: set[IPAddress]) -> bool:
    """Whether what other nodes send on can have a service of its own (``core.loops``). What a service remembers
    (persistence) or counts (limits) would be remembered and counted twice; what comes out of a tunnel has no sender."""
    remembers = server.persistence is not None or any(backend.limits.upper for backend in server.backends)
    tunnelled = any(_tunnelled(server, backend, node, own) for backend in server.backends)
    return not (server.local or remembers or tunnelled)


def _tunnelled(server: VirtualServer, backend: Backend, node: str, own: set[IPAddress]) -> bool:
    """To a host, whose own table then sees the packet."""
    return _way(server, backend, node, own) is ForwardMethod.TUNNEL and backend.host_network


def _way(server: VirtualServer, backend: Backend, node: str, own: set[IPAddress]) -> ForwardMethod:
    return method_of(backend.forwarding or server.forwarding, backend, node, own)


def _destination(server: VirtualServer, backend: Backend, node: str, own: set[IPAddress]) -> Destination:
    method = _way(server, backend, node, own)
    return Destination(
        address=backend.address,
        port=backend.port,
        method=method,
        weight=backend.weight,
        upper=backend.limits.upper,
        lower=backend.limits.lower,
        tunnel=backend.tunnel if method is ForwardMethod.TUNNEL else IPIP,
    )


def is_local(backend: Backend, node: str, own: Set[IPAddress]) -> bool:
    return backend.node == node or backend.address in own


def method_of(forwarding: Forwarding, backend: Backend, node: str, own: Set[IPAddress]) -> ForwardMethod:
    """How a node reaches a backend. ``own``: its addresses."""
    match forwarding:
        case Forwarding.TUNNEL:
            return ForwardMethod.TUNNEL
        case Forwarding.MASQUERADE:
            # The answers of a pod elsewhere would not come back through this node: its own node translates them.
            elsewhere = backend.node is not None and not backend.host_network and not is_local(backend, node, own)
            return ForwardMethod.DIRECT_ROUTE if elsewhere else ForwardMethod.MASQUERADE
        case Forwarding.DIRECT_ROUTING:
            # A host's own address is delivered locally by the kernel; only a pod needs its port mapped.
            pod_here = is_local(backend, node, own) and not backend.host_network
            return ForwardMethod.MASQUERADE if pod_here else ForwardMethod.DIRECT_ROUTE
