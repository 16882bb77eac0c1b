"""Builders of objects for tests: every argument has a default that works, a test says only what it is about.

Values: ``virtual_service``, ``service_class``, ``service``, ``endpoint_slice``, ``endpoint``, ``node``, ``snapshot``.
The same as plain dicts, as the API server gives them: ``raw_*``.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from lvsapi.ipvs import TrafficPolicy
from lvsapi.model import (
    Assignment,
    Director,
    Endpoint,
    EndpointSlice,
    Forwarding,
    KubeService,
    KubeServicePort,
    Node,
    ObjectKey,
    Protocol,
    RealServer,
    Scheduler,
    ServicePort,
    SlicePort,
    Snapshot,
    VirtualService,
    VirtualServiceClass,
)
from lvsapi.vrrp import VrrpSettings

VIP = "192.168.139.123"


def port(
    number: int = 80, protocol: str = "TCP", target: int | str | None = None, end: int | None = None
) -> ServicePort:
    return ServicePort(port=number, protocol=Protocol(protocol), target_port=target, end_port=end)


def assignment(vrid: int = 200, directors: Mapping[str, int] | None = None) -> Assignment:
    """directors: priority by node."""
    found = {"node1": 250, "node2": 238, "node3": 226} if directors is None else directors
    return Assignment(
        virtual_router_id=vrid, directors=tuple(Director(node=node, priority=p) for node, p in found.items())
    )


def virtual_service(
    name: str = "web",
    *,
    namespace: str = "default",
    addresses: Iterable[str] = (VIP,),
    ports: Iterable[ServicePort | int] = (80,),
    service: str | None = "web",
    real_servers: Iterable[RealServer | str] = (),
    class_name: str = "default",
    scheduler: str = "mh",
    forwarding: str = "DirectRouting",
    vrid: int | None = None,
    assigned: Assignment | None = None,
    created: str = "2026-01-01T00:00:00Z",
    uid: str | None = None,
    generation: int = 1,
    failover_from: str = "",
    **ipvs: Any,
) -> VirtualService:
    """Ports may be numbers, real servers may be addresses; with real servers there is no service. ipvs: further fields
    of the model."""
    servers = tuple(r if isinstance(r, RealServer) else RealServer(address=ip_address(r)) for r in real_servers)
    return VirtualService(
        key=ObjectKey(namespace, name),
        uid=f"uid-{namespace}-{name}" if uid is None else uid,
        created=created,
        generation=generation,
        class_name=class_name,
        addresses=tuple(ip_address(a) for a in addresses),
        ports=() if ipvs.get("all_ports") else tuple(p if isinstance(p, ServicePort) else port(p) for p in ports),
        service=None if servers else service,
        real_servers=servers,
        scheduler=Scheduler(scheduler),
        forwarding=Forwarding(forwarding),
        virtual_router_id=vrid,
        assigned=assigned,
        failover_from=failover_from,
        **ipvs,
    )


def service_class(
    name: str = "default",
    *,
    selector: Mapping[str, str] | None = None,
    directors: Mapping[str, int] | Iterable[Director] | None = None,
    pools: Iterable[str] = (),
    namespaces: Iterable[str] = (),
    interface: str = "",
    vip_interface: str = "",
    vip_prefix_length: int | None = None,
    vrids: tuple[int, int] = (200, 215),
    interval_ms: int = 100,
    preempt: bool = True,
    connection_sync: bool = False,
    **vrrp: Any,
) -> VirtualServiceClass:
    """directors: priority by node, or whole ones. vrrp: further fields of VrrpSettings."""
    named = directors.items() if isinstance(directors, Mapping) else ()
    whole = () if directors is None or isinstance(directors, Mapping) else tuple(directors)
    return VirtualServiceClass(
        name=name,
        director_selector=dict(selector or {}),
        directors=(*whole, *(Director(node=node, priority=p) for node, p in named)),
        interface=interface,
        vip_interface=vip_interface,
        vip_prefix_length=vip_prefix_length,
        pools=tuple(ip_network(p) for p in pools),
        namespaces=tuple(namespaces),
        connection_sync=connection_sync,
        vrrp=VrrpSettings(advertisement_interval_ms=interval_ms, preempt=preempt, virtual_router_ids=vrids, **vrrp),
    )


def service(
    name: str = "web",
    ports: Iterable[tuple[str, int, str]] = (("http", 80, "TCP"),),
    *,
    namespace: str = "default",
    policy: str = "Cluster",
) -> KubeService:
    """ports: (name, number, protocol)."""
    return KubeService(
        key=ObjectKey(namespace, name),
        ports=tuple(KubeServicePort(name=n, port=p, protocol=Protocol(proto)) for n, p, proto in ports),
        external_traffic_policy=TrafficPolicy(policy),
        uid=f"uid-{namespace}-{name}",
    )


def endpoint(
    address: str = "10.244.1.2",
    node: str | None = "node1",
    *,
    ready: bool = True,
    serving: bool | None = None,
    terminating: bool = False,
) -> Endpoint:
    return Endpoint(
        addresses=(ip_address(address),),
        node=node,
        ready=ready,
        serving=ready if serving is None else serving,
        terminating=terminating,
    )


def endpoint_slice(
    endpoints: Iterable[Endpoint | str] = ("10.244.1.2",),
    *,
    service: str = "web",
    ports: Iterable[tuple[str, int | None, str]] = (("http", 8080, "TCP"),),
    name: str | None = None,
    namespace: str = "default",
) -> EndpointSlice:
    """Endpoints may be addresses (ready, on node1). ports: (Service's port name, pods' port number, protocol)."""
    return EndpointSlice(
        key=ObjectKey(namespace, name or f"{service}-abcde"),
        service=service,
        ports=tuple(SlicePort(name=n, port=p, protocol=Protocol(proto)) for n, p, proto in ports),
        endpoints=tuple(e if isinstance(e, Endpoint) else endpoint(e) for e in endpoints),
    )


def node(
    name: str = "node1",
    *addresses: str,
    labels: Mapping[str, str] | None = None,
    standby: str = "",
    conditions: Mapping[str, str] | None = None,
    lost: bool = False,
) -> Node:
    return Node(
        name=name,
        labels=dict(labels or {}),
        addresses=tuple(ip_address(a) for a in addresses),
        standby=standby,
        lost=lost,
        conditions=dict(conditions or {}),
    )


def nodes(count: int = 3) -> tuple[Node, ...]:
    """node1.. with addresses 192.168.139.101.., as in the rig."""
    return tuple(node(f"node{n}", f"192.168.139.{100 + n}") for n in range(1, count + 1))


_nodes = nodes


def snapshot(
    *virtual_services: VirtualService,
    classes: Iterable[VirtualServiceClass] = (),
    services: Iterable[KubeService] | None = None,
    slices: Iterable[EndpointSlice] | None = None,
    nodes: Iterable[Node] | None = None,
) -> Snapshot:
    """By default Service "web" with one endpoint, and three nodes."""
    return Snapshot(
        virtual_services=virtual_services,
        classes=tuple(classes),
        services=(service(),) if services is None else tuple(services),
        slices=(endpoint_slice(),) if slices is None else tuple(slices),
        nodes=_nodes() if nodes is None else tuple(nodes),
    )


def raw_metadata(name: str, namespace: str | None = "default", **more: object) -> dict[str, object]:
    found: dict[str, object] = {"name": name, "uid": f"uid-{namespace}-{name}", "generation": 1}
    found["creationTimestamp"] = "2026-01-01T00:00:00Z"
    if namespace is not None:
        found["namespace"] = namespace
    return {**found, **more}


def raw_virtual_service(
    name: str = "web",
    *,
    namespace: str = "default",
    status: Mapping[str, object] | None = None,
    **spec: object,
) -> dict[str, object]:
    """A minimal valid object; keyword arguments replace fields of spec, None removes one."""
    base: dict[str, object] = {"addresses": [VIP], "ports": [{"port": 80}], "serviceRef": {"name": "web"}}
    found = {key: value for key, value in {**base, **spec}.items() if value is not None}
    obj: dict[str, object] = {
        "apiVersion": "lvsdr.io/v1alpha1",
        "kind": "VirtualService",
        "metadata": raw_metadata(name, namespace),
        "spec": found,
    }
    return obj if status is None else {**obj, "status": dict(status)}


def raw_class(name: str = "default", **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "lvsdr.io/v1alpha1",
        "kind": "VirtualServiceClass",
        "metadata": raw_metadata(name, None),
        "spec": spec,
    }


def raw_service(
    name: str = "web",
    ports: Iterable[Mapping[str, object]] = ({"name": "http", "port": 80},),
    namespace: str = "default",
) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": raw_metadata(name, namespace),
        "spec": {"ports": [dict(item) for item in ports]},
    }


def raw_endpoint_slice(
    addresses: Iterable[str] = ("10.244.1.2",),
    *,
    service: str = "web",
    node: str = "node1",
    conditions: Mapping[str, object] | None = None,
    ports: Iterable[Mapping[str, object]] = ({"name": "http", "port": 8080, "protocol": "TCP"},),
    address_type: str = "IPv4",
    name: str | None = None,
    namespace: str = "default",
) -> dict[str, object]:
    """One endpoint per address, all on one node with the same conditions."""
    state = {"ready": True, "serving": True, "terminating": False} if conditions is None else dict(conditions)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": raw_metadata(name or f"{service}-abcde", namespace, labels={"kubernetes.io/service-name": service}),
        "addressType": address_type,
        "ports": [dict(item) for item in ports],
        "endpoints": [{"addresses": [a], "nodeName": node, "conditions": state} for a in addresses],
    }


def raw_node(name: str = "node1", *addresses: str, labels: Mapping[str, str] | None = None) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": raw_metadata(name, None, labels=dict(labels or {})),
        "status": {
            "addresses": [{"type": "Hostname", "address": name}]
            + [{"type": "InternalIP", "address": address} for address in addresses]
        },
    }
