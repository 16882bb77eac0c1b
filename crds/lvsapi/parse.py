"""Our own kinds from plain dicts (JSON, YAML) to values that cannot be wrong. Pure.

A function returns a value or raises SpecError with every field error, whatever it is given. Unknown fields of a spec
are errors, but for what the API server gave (``pruned``); a status that makes no sense counts as none. Kubernetes' own
kinds: ``parse_kube``.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import cast

from lvsapi import names
from lvsapi.errors import FieldError
from lvsapi.fields import Fields, is_integer, refusal_of_address
from lvsapi.ipvs import IPIP, UNLIMITED, Forwarding, Scheduler, TrafficPolicy
from lvsapi.model import Assignment, Director, IPAddress, RealServer, ServicePort, VirtualService
from lvsapi.parse_class import parse_class
from lvsapi.parse_health import health_of, sorry_server
from lvsapi.parse_ipvs import (
    check_forwarding,
    check_one_packet,
    flags_given,
    limits_of,
    persistence_of,
    ports_of,
    tunnel_of,
)
from lvsapi.parse_kube import parse_endpoint_slice, parse_node, parse_service
from lvsapi.rules import (
    DRAIN_SECONDS,
    LABEL_RULE,
    MAX_ADDRESSES,
    MAX_PORT,
    MAX_REAL_SERVERS,
    MAX_WEIGHT,
    NAME_RULE,
    PRIORITY,
    finish,
    head_of,
    item_of,
    key_of,
)

__all__ = [
    "assigned_in",
    "parse_class",
    "parse_endpoint_slice",
    "parse_node",
    "parse_service",
    "parse_virtual_service",
]


def parse_virtual_service(
    obj: Mapping[str, object], *, standalone: bool = False, pruned: bool = False
) -> VirtualService:
    """A VirtualService. ``standalone``: from a manifest of this machine, which may have commands run on it. ``pruned``:
    as ``parse_class`` has it. Raises SpecError."""
    errors: list[FieldError] = []
    top = Fields(obj, "", errors)
    metadata = head_of(top, names.KIND)
    key = key_of(metadata, namespaced=True)
    generation = metadata.raw("generation")
    spec = top.section("spec")
    if top.raw("spec") is None:
        top.refuse("spec", None, "is required")
    class_name = spec.text("className", names.is_dns_subdomain, NAME_RULE)
    addresses = _addresses(spec)
    scheduler = spec.choice("scheduler", Scheduler.MH)
    forwarding = spec.choice("forwarding", Forwarding.DIRECT_ROUTING)
    flags = flags_given(spec, scheduler)
    persistence, limits, tunnel = persistence_of(spec), limits_of(spec), tunnel_of(spec)
    every, one_packet = spec.raw("allPorts") is True, bool(spec.boolean("onePacketScheduling"))
    ports = ports_of(spec)
    service = _service(spec)
    real_servers = _real_servers(spec)
    policy = _policy(spec)
    drain = spec.integer("drainSeconds", *DRAIN_SECONDS)
    if drain is not None and real_servers:
        spec.refuse("drainSeconds", drain, "goes with serviceRef: give a real server weight 0 instead; remove it")
    check_forwarding(spec, forwarding, real_servers)
    if one_packet:
        check_one_packet(spec, ports, forwarding, real_servers)
    _check_backends(spec, addresses, ports, real_servers, forwarding)
    health = health_of(spec, scheduler, standalone)
    sorry = sorry_server(spec, addresses, ports, forwarding)
    vrid = spec.integer("virtualRouterID", 1, 255)
    spec.finish()
    finish(names.KIND, key, errors, pruned)
    return VirtualService(
        key=key,
        uid=_word(metadata.raw("uid")),
        created=_word(metadata.raw("creationTimestamp")),
        generation=generation if is_integer(generation) else 0,
        class_name=class_name or names.DEFAULT_CLASS,
        addresses=addresses,
        ports=ports,
        service=service,
        real_servers=tuple(server for _, server in real_servers),
        all_ports=every,
        scheduler=scheduler,
        scheduler_flags=flags,
        persistence=persistence,
        one_packet=one_packet,
        limits=limits or UNLIMITED,
        forwarding=forwarding,
        tunnel=tunnel or IPIP,
        health=health,
        sorry_server=sorry,
        virtual_router_id=vrid,
        external_traffic_policy=policy,
        drain_seconds=drain,
        assigned=assigned_in(top.raw("status")),
        observed_generation=_observed(top.raw("status")),
        failover_from=_annotation(metadata, names.FAILOVER_FROM),
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _annotation(metadata: Fields, name: str) -> str:
    """Annotations are anybody's: one that makes no sense counts as none."""
    found = metadata.raw("annotations")
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if isinstance(value, str) and names.is_dns_subdomain(value) else ""


def _addresses(spec: Fields) -> tuple[IPAddress, ...]:
    found: list[IPAddress] = []
    if not spec.raw("addresses"):
        spec.refuse("addresses", spec.raw("addresses"), "is required: at least one unused address of the LAN")
    for path, value in spec.items("addresses", MAX_ADDRESSES):
        refusal = refusal_of_address(value)
        address = None if refusal else ip_address(cast(str, value))
        if address in found:
            refusal = "is there twice; remove one"
        if refusal is not None:
            Fields(None, path, spec.errors).refuse(None, value, refusal)
        elif address is not None:
            found.append(address)
    return tuple(found)


def _service(spec: Fields) -> str | None:
    reference = spec.section("serviceRef")
    if spec.raw("serviceRef") is None:
        return None
    name = reference.text("name", names.is_dns_label, LABEL_RULE, required=True)
    reference.finish()
    return name


def _policy(spec: Fields) -> TrafficPolicy | None:
    if spec.raw("externalTrafficPolicy") is None:
        return None
    found = spec.choice("externalTrafficPolicy", TrafficPolicy.CLUSTER)
    if spec.raw("realServers"):
        spec.refuse("externalTrafficPolicy", str(found), "goes with serviceRef: no node runs a real server; remove it")
    return found


def _real_servers(spec: Fields) -> tuple[tuple[str, RealServer], ...]:
    """Real servers with their paths."""
    found: list[tuple[str, RealServer]] = []
    seen: set[IPAddress] = set()
    for path, value in spec.items("realServers", MAX_REAL_SERVERS):
        item = item_of(value, path, spec)
        text = item.raw("address")
        refusal = refusal_of_address(text)
        port = item.integer("port", 1, MAX_PORT)
        weight = item.integer("weight", 0, MAX_WEIGHT)
        forwarding = None if item.raw("forwarding") is None else item.choice("forwarding", Forwarding.DIRECT_ROUTING)
        tunnel, limits = tunnel_of(item), limits_of(item)
        item.finish()
        if refusal is not None:
            item.refuse("address", text, refusal)
            continue
        address = ip_address(cast(str, text))
        if address in seen:
            item.refuse("address", text, "is there twice; remove one")
        seen.add(address)
        server = RealServer(
            address=address,
            port=port,
            weight=1 if weight is None else weight,
            forwarding=forwarding,
            tunnel=tunnel,
            limits=limits,
        )
        found.append((path, server))
    return tuple(found)


def _check_backends(
    spec: Fields,
    addresses: tuple[IPAddress, ...],
    ports: tuple[ServicePort, ...],
    real_servers: tuple[tuple[str, RealServer], ...],
    forwarding: Forwarding,
) -> None:
    """The rules between fields; the API server has the same ones in CEL (``schema``)."""
    if bool(spec.raw("serviceRef")) == bool(spec.raw("realServers")):
        both = bool(spec.raw("serviceRef"))
        remedy = "has serviceRef and realServers; remove one of them" if both else "needs serviceRef or realServers"
        spec.refuse(None, "both" if both else None, remedy)
    if not spec.raw("realServers"):
        return
    for index, port in enumerate(ports):
        if port.target_port not in (None, port.port):
            path = f"{spec.where('ports')}[{index}]"
            rule = "goes with serviceRef; for a real server set realServers[].port"
            Fields(None, path, spec.errors).refuse("targetPort", port.target_port, rule)
    families = {address.version for address in addresses}
    for path, server in real_servers:
        item = Fields(None, path, spec.errors)
        if server.address in addresses:
            item.refuse("address", str(server.address), "is the virtual address itself; name the real server's own")
        elif families and server.address.version not in families:
            rule = f"is IPv{server.address.version}, but spec.addresses has no address of that family"
            item.refuse("address", str(server.address), rule)
        ranged = spec.raw("allPorts") is True or any(port.end_port is not None for port in ports)
        if server.port is not None and ranged:
            item.refuse(
                "port", server.port, "cannot be mapped from a range of ports, which keeps every port: remove it"
            )
            continue
        other = next((port.port for port in ports if server.port not in (None, port.port)), None)
        method = server.forwarding or forwarding
        if method != Forwarding.MASQUERADE and other is not None:
            way = "direct routing" if method == Forwarding.DIRECT_ROUTING else "tunnelling"
            rule = f"{way} cannot map ports ({other} to {server.port}); leave port out, or use forwarding: Masquerade"
            item.refuse("port", server.port, rule)


def _observed(status: object) -> int:
    found = status.get("observedGeneration") if isinstance(status, Mapping) else None
    return found if is_integer(found) else 0


def assigned_in(status: object) -> Assignment | None:
    """What the operator wrote, or None: a damaged status must not make an object unusable."""
    errors: list[FieldError] = []
    section = Fields(status, "status", errors)
    vrid = section.integer("virtualRouterID", 1, 255)
    found = []
    for path, value in section.items("directors"):
        item = item_of(value, path, section)
        node = item.text("node", names.is_dns_subdomain, NAME_RULE, required=True)
        priority = item.integer("priority", *PRIORITY, required=True)
        if node is not None and priority is not None:
            found.append(Director(node=node, priority=priority))
    if errors or vrid is None:
        return None
    return Assignment(virtual_router_id=vrid, directors=tuple(found))
