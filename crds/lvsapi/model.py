"""The objects of the API as values. Pure: what parsing yields and everything else consumes.

Words are those of RFC 9568, ipvsadm(8) and Kubernetes. All values are immutable; ordering is total where it
decides something, so that every node decides alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lvsapi.health import NO_HEALTH, Health
from lvsapi.ipvs import IPIP, UNLIMITED, ConnectionLimits, Persistence, SchedulerFlag, TrafficPolicy, Tunnel
from lvsapi.ipvs import Forwarding as Forwarding
from lvsapi.ipvs import Scheduler as Scheduler
from lvsapi.vrrp import InitialState, VrrpSettings

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Protocol(StrEnum):
    """Transport protocol of a port, in Kubernetes' spelling."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Namespace and name of an object; the namespace is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """One port of the virtual IP address."""

    port: int
    protocol: Protocol = Protocol.TCP
    target_port: int | str | None = None
    """Number: the backends' port. Name: the port of that name in the EndpointSlices (the Service's port name).
    None: the Service's port of the same number and protocol, or its only port of that protocol."""
    end_port: int | None = None
    """The last port of a range that begins with ``port``: then every port is kept. None: the one port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRange:
    """Ports that one object has at each of its addresses."""

    protocol: Protocol | None
    """None: TCP, UDP and SCTP."""
    first: int
    last: int

    def overlaps(self, other: "PortRange") -> bool:
        alike = self.protocol is None or other.protocol is None or self.protocol is other.protocol
        return alike and self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        if self.protocol is None:
            return "every port"
        return f"{self.protocol} port {self.first}" + (f"-{self.last}" if self.last != self.first else "")


EVERY_PORT = PortRange(protocol=None, first=0, last=65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """A backend outside the cluster, named by hand. Direct routing cannot map its port."""

    address: IPAddress
    port: int | None = None
    """None: the port of the virtual IP address."""
    weight: int = 1
    forwarding: Forwarding | None = None
    """None: the object's. The same for the next two."""
    tunnel: Tunnel | None = None
    limits: ConnectionLimits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Director:
    """A node that may hold the VIP, and its VRRP priority there (1-254)."""

    node: str
    priority: int
    initial_state: InitialState = InitialState.BACKUP
    addresses: tuple[IPAddress, ...] = ()
    """The node's own, where its adverts come from. Empty: those of the Node object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What was decided for a VirtualService (by the operator, or by ``assign`` in standalone mode)."""

    virtual_router_id: int
    directors: tuple[Director, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualService:
    """A namespaced object of the user: addresses, ports, backends."""

    key: ObjectKey
    uid: str
    created: str
    """creationTimestamp, RFC 3339 UTC: sorts as text. The older object wins a conflict; then the smaller uid."""
    generation: int
    class_name: str
    addresses: tuple[IPAddress, ...]
    ports: tuple[ServicePort, ...]
    service: str | None = None
    real_servers: tuple[RealServer, ...] = ()
    all_ports: bool = False
    """Every port of TCP, UDP and SCTP, instead of ``ports``."""
    scheduler: Scheduler = Scheduler.MH
    scheduler_flags: tuple[SchedulerFlag, ...] | None = None
    """None: the scheduler's usual ones (``ipvs.flags_of``)."""
    persistence: Persistence | None = None
    one_packet: bool = False
    """ipvsadm(8) ``--ops``: every datagram is scheduled on its own."""
    limits: ConnectionLimits = UNLIMITED
    forwarding: Forwarding = Forwarding.DIRECT_ROUTING
    tunnel: Tunnel = IPIP
    health: Health = NO_HEALTH
    sorry_server: RealServer | None = None
    """Gets the clients when nobody else is left (``WhenEmpty.SORRY``)."""
    virtual_router_id: int | None = None
    """The VRID that the user asks for."""
    assigned: Assignment | None = None
    """From status; None until somebody has decided."""
    observed_generation: int = 0
    """From status: the generation that was decided about."""
    external_traffic_policy: TrafficPolicy | None = None
    """None: the Service's."""
    drain_seconds: int | None = None
    """How long an endpoint without new connections keeps those that it has. None: until Kubernetes removes it."""
    failover_from: str = ""
    """Annotation ``lvsdr.io/failover-from``: a node that shall be Active only if no other can."""

    @property
    def settled(self) -> bool:
        """It is served as it is: nobody has changed it since it was assigned."""
        return self.assigned is not None and self.observed_generation == self.generation

    @property
    def ranges(self) -> tuple[PortRange, ...]:
        """All ports that it has."""
        if self.all_ports:
            return (EVERY_PORT,)
        return tuple(PortRange(protocol=p.protocol, first=p.port, last=p.end_port or p.port) for p in self.ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServiceClass:
    """A cluster-scoped object of the administrator."""

    name: str
    director_selector: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node needs to be a director. Empty: every node."""
    directors: tuple[Director, ...] = ()
    """Named directors with fixed priorities; when given, only these are directors."""
    interface: str = ""
    """Where adverts go. Empty: the interface whose network holds the VIP, else that of the default route."""
    vip_interface: str = ""
    """Where VIPs are put. Empty: as ``interface``."""
    vip_prefix_length: int | None = None
    """Prefix length of the VIP on its interface. None: /32 and /128."""
    pools: tuple[IPNetwork, ...] = ()
    """Networks that VIPs must come from. Empty: any address."""
    namespaces: tuple[str, ...] = ()
    """Namespaces that may use the class. Empty: all."""
    vrrp: VrrpSettings = field(default_factory=VrrpSettings)
    connection_sync: bool = False
    """The kernel's sync daemon tells the other directors about connections (classic direct routing only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeServicePort:
    """One port of a v1 Service."""

    name: str
    port: int
    protocol: Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeService:
    """What is used of a v1 Service."""

    key: ObjectKey
    ports: tuple[KubeServicePort, ...]
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint of an EndpointSlice. Conditions follow discovery/v1: an absent ``ready`` means ready."""

    addresses: tuple[IPAddress, ...]
    node: str | None
    ready: bool
    serving: bool
    terminating: bool
    pod: ObjectKey | None = None
    """``targetRef``, where that is a pod."""
    uid: str = ""
    """The pod's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePort:
    """One port of an EndpointSlice: the Service's port name and the pods' port number."""

    name: str
    port: int | None
    protocol: Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice:
    """What is used of a discovery/v1 EndpointSlice."""

    key: ObjectKey
    service: str
    """Label ``kubernetes.io/service-name``."""
    ports: tuple[SlicePort, ...]
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What is used of a v1 Node."""

    name: str
    labels: Mapping[str, str]
    addresses: tuple[IPAddress, ...]
    """InternalIP addresses."""
    standby: str = ""
    """Why the node should be Active only if no other can: cordoned, tainted, annotated; empty: it need not."""
    lost: bool = False
    """Its kubelet has not reported for so long that the control plane knows nothing of it: condition Ready Unknown."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Status by type, ``True`` and ``False`` only: what is Unknown says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All objects at one moment: the whole input of a reconciliation."""

    virtual_services: tuple[VirtualService, ...] = ()
    classes: tuple[VirtualServiceClass, ...] = ()
    services: tuple[KubeService, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A destination of a virtual server, the same on every node."""

    address: IPAddress
    port: int
    """0: that of the packet."""
    weight: int
    """0: draining (held connections go on, no new ones)."""
    node: str | None
    """The node that runs it; None outside the cluster."""
    host_network: bool = False
    """True when the address is the node's own, or outside the cluster: classic direct routing, no port mapping."""
    forwarding: Forwarding | None = None
    """None: the virtual server's."""
    tunnel: Tunnel = IPIP
    limits: ConnectionLimits = UNLIMITED
    kept: bool = False
    """It is not fit for new connections and may never have been: a table that has it keeps it for the connections that
    it holds, with weight 0; others do without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServer:
    """One IPVS service: an address, a port or several, and its backends in the canonical order of every node."""

    owner: ObjectKey
    address: IPAddress
    protocol: Protocol | None
    """None: TCP, UDP and SCTP; then ``port`` is 0 and ``end_port`` the last of all."""
    port: int
    scheduler: Scheduler
    forwarding: Forwarding
    backends: tuple[Backend, ...]
    """Sorted by (address version, address, port): ``mh`` depends on the order."""
    missing: str = ""
    """What the owner refers to and is not there: then nothing new is made for the owner. Empty: all is there."""
    end_port: int | None = None
    """The last port of a range; such a service is found by a firewall mark. None: the one port."""
    scheduler_flags: tuple[SchedulerFlag, ...] | None = None
    """None: the scheduler's usual ones (``ipvs.flags_of``)."""
    persistence: Persistence | None = None
    one_packet: bool = False
    local: bool = False
    """externalTrafficPolicy Local: every node knows its own pods only."""
    drain_seconds: int | None = None
    health: Health = NO_HEALTH
    sorry: Backend | None = None
    """Takes the place of all others when ``health`` says so."""

    @property
    def alike(self) -> bool:
        """Whether nodes that hold the same backends choose alike for every packet, whatever each has seen before.

        What a node remembers (templates of persistence) or counts (connection limits) is its own: two nodes that hold
        each other's pods would then send a packet to and fro until its TTL ends.
        """
        counts = any(backend.limits.upper for backend in self.backends)
        return self.scheduler is Scheduler.MH and self.persistence is None and not counts and not self.local

    @property
    def ports(self) -> str:
        """For people: ``80``, ``30000-32767`` or ``all``."""
        if self.protocol is None:
            return "all"
        return str(self.port) if self.end_port is None else f"{self.port}-{self.end_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualRouter:
    """One VRRP instance (per class, VRID and address family) with all the addresses it carries."""

    class_name: str
    virtual_router_id: int
    family: int
    """4 or 6."""
    addresses: tuple[IPAddress, ...]
    """Sorted."""
    owners: tuple[ObjectKey, ...]
    directors: tuple[Director, ...]
    """With their own addresses, as far as they are known."""
    interface: str
    vip_interface: str
    vip_prefix_length: int | None
    vrrp: VrrpSettings
    connection_sync: bool = False
    standby: Mapping[str, str] = field(default_factory=dict)
    """By node: why it should be Active only if no other can."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """By node: what its tracked conditions add to its priority."""

    @property
    def name(self) -> str:
        """Unique on a node, stable: ``<class>/<vrid>/v<family>``."""
        return f"{self.class_name}/{self.virtual_router_id}/v{self.family}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an object is not (fully) served: becomes a condition, an event and a log line alike."""

    key: ObjectKey
    condition: str
    """A ``status.ConditionType``."""
    reason: str
    """CamelCase, a ``status.Reason``."""
    message: str
    """Names field, value and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What the objects ask for, for every node alike."""

    servers: tuple[VirtualServer, ...]
    routers: tuple[VirtualRouter, ...]
    problems: tuple[Problem, ...]
