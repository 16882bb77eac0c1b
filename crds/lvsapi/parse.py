"""Our own kinds from plain dicts (JSON, YAML) to values that cannot be wrong. Pure.

A function returns a value or raises SpecError with every field error, whatever it is given. Unknown fields of a spec
are errors; a status that makes no sense counts as none. Kubernetes' own kinds: ``parse_kube``.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import cast

from lvsapi import names
from lvsapi.errors import FieldError, SpecError
from lvsapi.fields import Fields, is_integer, refusal_of_address
from lvsapi.model import (
    Assignment,
    Director,
    Forwarding,
    IPAddress,
    IPNetwork,
    ObjectKey,
    Protocol,
    RealServer,
    Scheduler,
    ServicePort,
    VirtualService,
    VirtualServiceClass,
    VrrpSettings,
)
from lvsapi.parse_kube import parse_endpoint_slice, parse_node, parse_service

__all__ = [
    "parse_class",
    "parse_endpoint_slice",
    "parse_node",
    "parse_service",
    "parse_virtual_service",
]

MAX_ADDRESSES = 64
"""Of one object, and of one virtual router and family: an advert of 64 IPv6 addresses still fits one Ethernet frame."""
MAX_PORTS = 64
MAX_REAL_SERVERS = 256
MAX_WEIGHT = 65535
MAX_PORT = 65535
PRIORITY = (1, 254)
"""RFC 9568 section 5.2.4: 0 and 255 are taken."""
INTERVAL = (10, 40950, 10)
"""Milliseconds: RFC 9568 has 12 bits of centiseconds."""

PORT_NAME_RULE = (
    "must be a port number (1-65535, without quotes) or the name of a port (lower-case letters, digits and '-')"
)
NAME_RULE = "must be a DNS name of lower-case letters, digits, '-' and '.', at most 253 characters"
LABEL_RULE = "must be lower-case letters, digits and '-', at most 63 characters"
INTERFACE_RULE = "must be a name of a network interface: at most 15 characters, no '/', ':' or white space"


def parse_virtual_service(obj: Mapping[str, object]) -> VirtualService:
    """A VirtualService. Raises SpecError."""
    errors: list[FieldError] = []
    top = Fields(obj, "", errors)
    metadata = _head(top, names.KIND)
    key = _key(metadata, namespaced=True)
    generation = metadata.raw("generation")
    spec = top.section("spec")
    if top.raw("spec") is None:
        top.refuse("spec", None, "is required")
    class_name = spec.text("className", names.is_dns_subdomain, NAME_RULE)
    addresses = _addresses(spec)
    scheduler = spec.choice("scheduler", Scheduler.MH)
    forwarding = spec.choice("forwarding", Forwarding.DIRECT_ROUTING)
    ports = _ports(spec)
    service = _service(spec)
    real_servers = _real_servers(spec)
    _check_backends(spec, addresses, ports, real_servers, forwarding)
    vrid = spec.integer("virtualRouterID", 1, 255)
    spec.finish()
    _raise(names.KIND, key, errors)
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
        scheduler=scheduler,
        forwarding=forwarding,
        virtual_router_id=vrid,
        assigned=_assigned(top.raw("status")),
    )


def parse_class(obj: Mapping[str, object]) -> VirtualServiceClass:
    """A VirtualServiceClass. Raises SpecError."""
    errors: list[FieldError] = []
    top = Fields(obj, "", errors)
    key = _key(_head(top, names.CLASS_KIND), namespaced=False)
    spec = top.section("spec")
    directors = spec.section("directors")
    selector = directors.section("nodeSelector")
    labels = selector.raw("matchLabels")
    match_labels: dict[str, str] = {}
    for name, value in Fields(labels, selector.where("matchLabels"), errors).pairs():
        if isinstance(name, str) and isinstance(value, str):
            match_labels[name] = value
        else:
            selector.refuse(f"matchLabels.{name}", value, "must be text; write numbers and true in quotes")
    nodes = _nodes(directors)
    for part in (selector, directors):
        part.finish()
    vrrp = spec.section("vrrp")
    ids = vrrp.section("virtualRouterIDs")
    usual = VrrpSettings()
    first = ids.integer("first", 1, 255) or usual.virtual_router_ids[0]
    last = ids.integer("last", 1, 255) or usual.virtual_router_ids[1]
    if first > last:
        ids.refuse("first", first, f"must not be above last, which is {last}")
    preempt = vrrp.boolean("preempt")
    low, high, step = INTERVAL
    settings = VrrpSettings(
        advertisement_interval_ms=vrrp.integer("advertisementIntervalMilliseconds", low, high, step=step)
        or usual.advertisement_interval_ms,
        preempt=usual.preempt if preempt is None else preempt,
        virtual_router_ids=(first, last),
    )
    for part in (ids, vrrp):
        part.finish()
    result = VirtualServiceClass(
        name=key.name,
        director_selector=match_labels,
        directors=nodes,
        interface=spec.text("interface", names.is_interface, INTERFACE_RULE) or "",
        vip_interface=spec.text("vipInterface", names.is_interface, INTERFACE_RULE) or "",
        vip_prefix_length=spec.integer("vipPrefixLength", 1, 128),
        pools=_pools(spec),
        namespaces=_namespaces(spec),
        vrrp=settings,
    )
    spec.finish()
    _raise(names.CLASS_KIND, key, errors)
    return result


def _head(top: Fields, kind: str) -> Fields:
    """Check apiVersion and kind, which a client may have left out, and return metadata."""
    top.text("apiVersion", lambda text: text == names.API_VERSION, f"must be {names.API_VERSION}")
    top.text("kind", lambda text: text == kind, f"must be {kind}")
    metadata = top.section("metadata")
    for known in ("spec", "status"):
        top.raw(known)
    top.finish()
    return metadata


def _key(metadata: Fields, *, namespaced: bool) -> ObjectKey:
    name = metadata.text("name", names.is_dns_subdomain, NAME_RULE, required=True)
    namespace = metadata.text("namespace", names.is_dns_label, LABEL_RULE) if namespaced else ""
    return ObjectKey(names.DEFAULT_NAMESPACE if namespace is None else namespace, name or "")


def _raise(kind: str, key: ObjectKey, errors: list[FieldError]) -> None:
    if errors:
        raise SpecError(f"{kind} {key}", tuple(errors))


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


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


def _ports(spec: Fields) -> tuple[ServicePort, ...]:
    found: list[ServicePort] = []
    seen: set[tuple[int, Protocol]] = set()
    if not spec.raw("ports"):
        spec.refuse("ports", spec.raw("ports"), "is required: at least one port")
    for path, value in spec.items("ports", MAX_PORTS):
        item = _item(value, path, spec)
        number = item.integer("port", 1, MAX_PORT, required=True)
        protocol = item.choice("protocol", Protocol.TCP)
        target = _target_port(item)
        item.finish()
        if number is None:
            continue
        if (number, protocol) in seen:
            item.refuse("port", number, f"{protocol} port {number} is there twice; remove one")
        seen.add((number, protocol))
        found.append(ServicePort(port=number, protocol=protocol, target_port=target))
    return tuple(found)


def _target_port(item: Fields) -> int | str | None:
    value = item.raw("targetPort")
    if value is None:
        return None
    if is_integer(value) and 1 <= value <= MAX_PORT:
        return value
    if isinstance(value, str) and names.is_dns_label(value) and not value.isdigit():
        return value
    item.refuse("targetPort", value, PORT_NAME_RULE)
    return None


def _service(spec: Fields) -> str | None:
    reference = spec.section("serviceRef")
    if spec.raw("serviceRef") is None:
        return None
    name = reference.text("name", names.is_dns_label, LABEL_RULE, required=True)
    reference.finish()
    return name


def _real_servers(spec: Fields) -> tuple[tuple[str, RealServer], ...]:
    """Real servers with their paths."""
    found: list[tuple[str, RealServer]] = []
    seen: set[IPAddress] = set()
    for path, value in spec.items("realServers", MAX_REAL_SERVERS):
        item = _item(value, path, spec)
        text = item.raw("address")
        refusal = refusal_of_address(text)
        port = item.integer("port", 1, MAX_PORT)
        weight = item.integer("weight", 0, MAX_WEIGHT)
        item.finish()
        if refusal is not None:
            item.refuse("address", text, refusal)
            continue
        address = ip_address(cast(str, text))
        if address in seen:
            item.refuse("address", text, "is there twice; remove one")
        seen.add(address)
        found.append((path, RealServer(address=address, port=port, weight=1 if weight is None else weight)))
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
        other = next((port.port for port in ports if server.port not in (None, port.port)), None)
        if forwarding != Forwarding.MASQUERADE and other is not None:
            way = "direct routing" if forwarding == Forwarding.DIRECT_ROUTING else "tunnelling"
            rule = f"{way} cannot map ports ({other} to {server.port}); leave port out, or use forwarding: Masquerade"
            item.refuse("port", server.port, rule)


def _item(value: object, path: str, parent: Fields) -> Fields:
    item = Fields(value, path, parent.errors)
    if value is None:
        item.refuse(None, None, "must be an object")
    return item


def _nodes(directors: Fields) -> tuple[Director, ...]:
    found: list[Director] = []
    for path, value in directors.items("nodes", MAX_REAL_SERVERS):
        item = _item(value, path, directors)
        name = item.text("name", names.is_dns_subdomain, NAME_RULE, required=True)
        priority = item.integer("priority", *PRIORITY, required=True)
        item.finish()
        if name is None or priority is None:
            continue
        if any(director.node == name for director in found):
            item.refuse("name", name, "is there twice; remove one")
        found.append(Director(node=name, priority=priority))
    return tuple(found)


def _pools(spec: Fields) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    for path, value in spec.items("addressPools", MAX_REAL_SERVERS):
        item = Fields(None, path, spec.errors)
        rule = "must be a network such as 192.168.139.120/29"
        if not isinstance(value, str) or "/" not in value or "%" in value:
            item.refuse(None, value, rule)
            continue
        try:
            network = ip_network(value, strict=False)
        except ValueError:
            item.refuse(None, value, rule)
            continue
        if str(network) != value:
            item.refuse(None, value, f"is not in canonical form; write {network}")
        found.append(network)
    return tuple(found)


def _namespaces(spec: Fields) -> tuple[str, ...]:
    found: list[str] = []
    for path, value in spec.items("namespaces"):
        if isinstance(value, str) and names.is_dns_label(value):
            found.append(value)
        else:
            Fields(None, path, spec.errors).refuse(None, value, LABEL_RULE)
    return tuple(found)


def _assigned(status: object) -> Assignment | None:
    """What the operator wrote, or None: a damaged status must not make an object unusable."""
    errors: list[FieldError] = []
    section = Fields(status, "status", errors)
    vrid = section.integer("virtualRouterID", 1, 255)
    found = []
    for path, value in section.items("directors"):
        item = _item(value, path, section)
        node = item.text("node", names.is_dns_subdomain, NAME_RULE, required=True)
        priority = item.integer("priority", *PRIORITY, required=True)
        if node is not None and priority is not None:
            found.append(Director(node=node, priority=priority))
    if errors or vrid is None:
        return None
    return Assignment(virtual_router_id=vrid, directors=tuple(found))
