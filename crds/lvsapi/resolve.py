"""What the objects ask for: virtual servers with their backends, and virtual routers. Pure, and alike on every node.

The order of backends is part of the result: ``mh`` builds its table from it, and established connections survive a
takeover only because every node builds the same one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from lvsapi import names
from lvsapi.admission import by_right, classes_of, default_class, first_come
from lvsapi.assign import with_assignments
from lvsapi.endpoints import Candidate, fitness, lost, weighed
from lvsapi.ipvs import TrafficPolicy
from lvsapi.model import (
    Backend,
    Director,
    EndpointSlice,
    Forwarding,
    IPAddress,
    KubeService,
    Node,
    ObjectKey,
    PortRange,
    Problem,
    Protocol,
    Resolved,
    ServicePort,
    Snapshot,
    VirtualRouter,
    VirtualServer,
    VirtualService,
    VirtualServiceClass,
)
from lvsapi.status import ConditionType, Reason
from lvsapi.vrrp import AuthenticationType, TrackedCondition, VrrpSettings

__all__ = ["default_class", "resolve", "with_assignments"]

MISSING = frozenset({Reason.SERVICE_NOT_FOUND, Reason.PORT_NOT_FOUND})
"""Reasons for which an object gets nothing new, not even its other ports."""
KEPT = 0
"""Port of a backend that is reached at the packet's own port."""


def resolve(snapshot: Snapshot) -> Resolved:
    """Everything that is to be served. Only VirtualServices with an assignment count. Never raises.

    A reference that cannot be resolved yields a problem, and a virtual server without backends that says so: what is
    served already stays and refuses connections, where none at all would hand them to whatever listens on the node.
    """
    services, problems = first_come(item for item in by_right(snapshot.virtual_services) if item.assigned is not None)
    look = _Lookup(snapshot)
    servers: list[VirtualServer] = []
    for item in services:
        resolved = [
            (ports, *(_from_real_servers(item, ports) if item.real_servers else look.backends(item, ports, port)))
            for ports, port in zip(item.ranges, (None,) if item.all_ports else item.ports, strict=True)
        ]
        found = [problem for _, _, one in resolved for problem in one]
        problems += found
        missing = next((problem.message for problem in found if problem.reason in MISSING), "")
        for ports, backends, _ in resolved:
            servers += [
                VirtualServer(
                    owner=item.key,
                    address=address,
                    protocol=ports.protocol,
                    port=ports.first,
                    end_port=ports.last if ports.last != ports.first else None,
                    scheduler=item.scheduler,
                    scheduler_flags=item.scheduler_flags,
                    persistence=item.persistence,
                    one_packet=item.one_packet,
                    forwarding=item.forwarding,
                    backends=backends[address.version],
                    missing=missing,
                    local=look.local(item),
                    drain_seconds=item.drain_seconds,
                    health=item.health,
                    sorry=_sorry(item, address, ports),
                )
                for address in item.addresses
            ]
    servers.sort(key=lambda s: (s.address.version, int(s.address), s.protocol or "", s.port))
    return Resolved(
        servers=tuple(servers),
        routers=_routers(services, classes_of(snapshot), {node.name: node for node in snapshot.nodes}, _ready(servers)),
        problems=tuple(dict.fromkeys(problems)),
    )


_ByFamily = dict[int, tuple[Backend, ...]]


class _Lookup:
    """Indices of a snapshot, built once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._services = {item.key: item for item in snapshot.services}
        self._slices: dict[ObjectKey, list[EndpointSlice]] = defaultdict(list)
        for item in snapshot.slices:
            self._slices[ObjectKey(item.key.namespace, item.service)].append(item)
        self._lost = lost(snapshot.nodes)
        self._hosts = {(a.version, int(a)) for node in snapshot.nodes for a in node.addresses}

    def local(self, item: VirtualService) -> bool:
        """Whether nodes give connections to their own pods only."""
        if item.service is None:
            return False
        service = self._services.get(ObjectKey(item.key.namespace, item.service))
        policy = item.external_traffic_policy or (service and service.external_traffic_policy)
        return policy is TrafficPolicy.LOCAL

    def backends(
        self, item: VirtualService, ports: PortRange, port: ServicePort | None
    ) -> tuple[_ByFamily, list[Problem]]:
        """Backends of a Service for one port of the VIP, or for a range. ``port``: None with all ports."""
        nothing: _ByFamily = {4: (), 6: ()}
        key = ObjectKey(item.key.namespace, item.service or "")
        service, slices = self._services.get(key), self._slices.get(key, [])
        if service is None:
            text = f"spec.serviceRef.name: there is no Service {key}; create it or name another"
            return nothing, [_unresolved(item, Reason.SERVICE_NOT_FOUND, text)]
        found: dict[tuple[int, int, int], Candidate] = {}
        refused: dict[Reason, tuple[int, str]] = {}
        # A range keeps its ports, whatever the Service's are.
        target = KEPT if port is None or ports.first != ports.last else _target(port, service)
        if target is None:
            assert port is not None
            return nothing, [_unresolved(item, Reason.PORT_NOT_FOUND, _unknown_port(item, port, service))]
        for part in slices:
            numbers = [target] if isinstance(target, int) else _numbers(part, target, ports.protocol)
            for number in numbers:
                self._collect(item, ports, part, number, found, refused)
        problems = [_unresolved(item, why, _refusal(item, ports, why, *who)) for why, who in sorted(refused.items())]
        return _sorted(weighed(found.values(), self.local(item))), problems

    def _collect(
        self,
        item: VirtualService,
        ports: PortRange,
        part: EndpointSlice,
        number: int,
        found: dict[tuple[int, int, int], Candidate],
        refused: dict[Reason, tuple[int, str]],
    ) -> None:
        for endpoint in part.endpoints:
            fit = fitness(endpoint, item, ports.protocol, self._lost)
            if fit is None:
                continue
            # Addresses of one endpoint are interchangeable (discovery/v1); like kube-proxy, take the first.
            for address in endpoint.addresses[:1]:
                value = int(address)
                host = (address.version, value) in self._hosts
                why = _impossible(item, host, number not in (KEPT, ports.first))
                if why is not None:
                    refused[why] = min(refused.get(why, (number, str(address))), (number, str(address)))
                    continue
                backend = Backend(
                    address=address,
                    port=number,
                    weight=1,
                    node=endpoint.node,
                    host_network=host,
                    tunnel=item.tunnel,
                    limits=item.limits,
                )
                key = (address.version, value, number)
                other, one = found.get(key), Candidate(fit, backend)
                # An endpoint may stand in two slices for a moment.
                if other is None or one.rank > other.rank:
                    found[key] = one


def _impossible(item: VirtualService, host: bool, mapped: bool) -> Reason | None:
    """Why an endpoint cannot be a backend. Pods are reached by masquerading in the end, which can map ports."""
    tunnel, masquerade = item.forwarding is Forwarding.TUNNEL, item.forwarding is Forwarding.MASQUERADE
    if mapped and not masquerade and (host or tunnel):
        return Reason.PORT_NOT_MAPPABLE
    return Reason.ONE_PACKET_NEEDS_DIRECT_ROUTING if item.one_packet and not (host or tunnel) else None


def _refusal(item: VirtualService, ports: PortRange, why: Reason, number: int, address: str) -> str:
    if why is Reason.ONE_PACKET_NEEDS_DIRECT_ROUTING:
        return (
            f"spec.onePacketScheduling: endpoint {address} is a pod, whose answers would come from its own address: "
            "nobody remembers the client: remove the field, or use pods in their node's network"
        )
    what = "in its node's network and" if item.forwarding is Forwarding.DIRECT_ROUTING else "reached by a tunnel and"
    way = "direct routing" if item.forwarding is Forwarding.DIRECT_ROUTING else "tunnelling"
    return (
        f"spec.ports: port {ports.first}: endpoint {address} is {what} listens on {number}; "
        f"{way} cannot map ports: use port {number} or forwarding: Masquerade, which can"
    )


def _from_real_servers(item: VirtualService, ports: PortRange) -> tuple[_ByFamily, list[Problem]]:
    port = ports.first if ports.first == ports.last else KEPT
    return _sorted(
        Backend(
            address=server.address,
            port=server.port or port,
            weight=server.weight,
            node=None,
            host_network=True,
            forwarding=server.forwarding,
            tunnel=server.tunnel or item.tunnel,
            limits=server.limits or item.limits,
        )
        for server in item.real_servers
    ), []


def _sorry(item: VirtualService, address: IPAddress, ports: PortRange) -> Backend | None:
    server = item.sorry_server
    if server is None or server.address.version != address.version:
        return None
    return Backend(
        address=server.address,
        port=server.port or (ports.first if ports.first == ports.last else KEPT),
        weight=1,
        node=None,
        host_network=True,
        forwarding=server.forwarding,
        tunnel=item.tunnel,
    )


def _sorted(found: Iterable[Backend]) -> _ByFamily:
    ordered = sorted(found, key=lambda b: (int(b.address), b.port))
    return {family: tuple(b for b in ordered if b.address.version == family) for family in (4, 6)}


def _target(port: ServicePort, service: KubeService) -> int | str | None:
    """Number, or name of the Service's port, that backends are reached at; None if there is no such port."""
    same = [p for p in service.ports if p.protocol == port.protocol]
    if isinstance(port.target_port, int):
        return port.target_port
    if port.target_port is not None:
        return port.target_port if any(p.name == port.target_port for p in same) else None
    for candidate in same:
        if candidate.port == port.port:
            return candidate.name
    return same[0].name if len(same) == 1 else None


def _numbers(part: EndpointSlice, name: str, protocol: Protocol | None) -> list[int]:
    """The pods' port numbers under a port name; they may differ between slices (named container ports)."""
    return [p.port for p in part.ports if p.name == name and p.protocol == protocol and p.port is not None]


def _unknown_port(item: VirtualService, port: ServicePort, service: KubeService) -> str:
    existing = ", ".join(f"{p.name or 'unnamed'} ({p.protocol} {p.port})" for p in service.ports) or "none"
    if isinstance(port.target_port, str):
        head = (
            f"spec.ports: targetPort {port.target_port}: Service {service.key} has no {port.protocol} port of that name"
        )
    else:
        head = f"spec.ports: port {port.port}: Service {service.key} has no {port.protocol} port {port.port}"
    return f"{head}; its ports are {existing}; set targetPort to one of them"


def _unresolved(item: VirtualService, reason: Reason, message: str) -> Problem:
    return Problem(key=item.key, condition=ConditionType.RESOLVED_REFS, reason=reason, message=message)


def _ready(servers: Iterable[VirtualServer]) -> Mapping[tuple[ObjectKey, int], frozenset[str]]:
    """By object with externalTrafficPolicy Local and family: the nodes that have a backend for each of its ports."""
    found: dict[tuple[ObjectKey, int], frozenset[str]] = {}
    for server in servers:
        if server.local:
            key = (server.owner, int(server.address.version))
            here = frozenset(b.node for b in server.backends if b.node is not None and b.weight)
            found[key] = found.get(key, here) & here
    return found


def _routers(
    services: Iterable[VirtualService],
    classes: Mapping[str, VirtualServiceClass],
    nodes: Mapping[str, Node],
    ready: Mapping[tuple[ObjectKey, int], frozenset[str]],
) -> tuple[VirtualRouter, ...]:
    """One virtual router per class, VRID and family, with the union of its objects' addresses."""
    groups: dict[tuple[str, int, int], list[VirtualService]] = defaultdict(list)
    for item in services:
        if item.assigned is not None:
            for family in {int(address.version) for address in item.addresses}:
                groups[item.class_name, item.assigned.virtual_router_id, family].append(item)
    routers = []
    with_pods = {name for (name, _, _), members in groups.items() if any(m.service is not None for m in members)}
    for (name, vrid, family), members in sorted(groups.items(), key=lambda group: group[0]):
        # A class that vanished takes no VIP away: the built-in settings serve until the operator has decided.
        settings = classes.get(name) or VirtualServiceClass(name=name)
        addresses: set[IPAddress] = {a for item in members for a in item.addresses if a.version == family}
        # While a new ranking is being written, objects may differ: the oldest speaks for all.
        directors = next((m.assigned.directors for m in members if m.assigned is not None), ())
        held = {m.failover_from: f"annotation {names.FAILOVER_FROM} of {m.key}" for m in reversed(members)}
        standby = {
            item.node: why
            for item in directors
            if (why := held.get(item.node) or _standby(nodes.get(item.node), settings))
        }
        local = {m.key: ready[m.key, family] for m in members if (m.key, family) in ready}
        routers.append(
            VirtualRouter(
                class_name=name,
                virtual_router_id=vrid,
                family=family,
                addresses=tuple(sorted(addresses, key=int)),
                owners=tuple(sorted({item.key for item in members})),
                directors=tuple(_director(item, settings, nodes) for item in directors),
                interface=settings.interface,
                vip_interface=settings.vip_interface,
                vip_prefix_length=settings.vip_prefix_length,
                vrrp=_elected(settings.vrrp, family),
                # Held while the class says otherwise: what the kernel hears would break connections to pods.
                connection_sync=settings.connection_sync and name not in with_pods,
                standby=_bare([item.node for item in directors], local, standby),
                weights={
                    item.node: weight for item in directors if (weight := _weight(nodes.get(item.node), settings))
                },
            )
        )
    return tuple(routers)


def _elected(settings: VrrpSettings, family: int) -> VrrpSettings:
    """Version 2 has no IPv6: what was elected before the class went back to it is elected by version 3 on."""
    if family == 4 or settings.version == 3:
        return settings
    return replace(settings, version=3, authentication=AuthenticationType.NONE)


def _bare(
    directors: Iterable[str], local: Mapping[ObjectKey, frozenset[str]], standby: Mapping[str, str]
) -> Mapping[str, str]:
    """Who should be Active only if no other can, where objects have externalTrafficPolicy Local (``local``: the nodes
    that have endpoints of each): whoever has endpoints of fewer of them than others. A node that somebody put on
    standby has to do where only such nodes have them."""
    counts = {node: sum(node in here for here in local.values()) for node in directors}
    best = max(counts.values(), default=0)
    lacking = {
        node: f"externalTrafficPolicy Local: no ready endpoint of {min(k for k, v in local.items() if node not in v)}"
        for node, count in counts.items()
        if count < best
    }
    if not lacking:
        return standby
    fit = counts.keys() - lacking.keys()
    return lacking if fit <= standby.keys() else {**standby, **lacking}


def _director(item: Director, settings: VirtualServiceClass, nodes: Mapping[str, Node]) -> Director:
    """With what the class says of it, and the addresses of its Node where the class names none."""
    named = next((other for other in settings.directors if other.node == item.node), item)
    node = nodes.get(item.node)
    addresses = named.addresses or (node.addresses if node is not None else ())
    return replace(item, initial_state=named.initial_state, addresses=addresses)


def _standby(node: Node | None, settings: VirtualServiceClass) -> str:
    if node is None:
        return ""
    return node.standby or next(
        (
            f"condition {tracked.type} is {node.conditions[tracked.type]}"
            for tracked in settings.vrrp.track_conditions
            if tracked.weight == 0 and not _holds(node, tracked)
        ),
        "",
    )


def _weight(node: Node | None, settings: VirtualServiceClass) -> int:
    """What is not known counts as good, so that an outage moves nothing."""
    return sum(
        tracked.weight
        for tracked in settings.vrrp.track_conditions
        if (node is None or _holds(node, tracked)) == (tracked.weight > 0)
    )


def _holds(node: Node, tracked: TrackedCondition) -> bool:
    return node.conditions.get(tracked.type, tracked.status) == tracked.status
