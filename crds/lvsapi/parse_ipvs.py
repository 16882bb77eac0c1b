"""The IPVS part of a VirtualService: ports, forwarding, persistence, limits, and what excludes what. Pure.

The API server has the same rules in CEL (``schema_ipvs``).
"""

from lvsapi import names
from lvsapi.fields import Fields, is_integer
from lvsapi.ipvs import (
    CHECKSUMS,
    IPIP,
    UNLIMITED,
    ConnectionLimits,
    Forwarding,
    Persistence,
    Scheduler,
    SchedulerFlag,
    Tunnel,
    TunnelType,
)
from lvsapi.model import Protocol, RealServer, ServicePort
from lvsapi.rules import LIMIT, MAX_PORT, MAX_PORTS, PERSISTENCE_SECONDS, PORT_NAME_RULE, item_of


def ports_of(spec: Fields) -> tuple[ServicePort, ...]:
    """The ports, without the ones that are wrong; none with ``allPorts``."""
    every = spec.boolean("allPorts")
    if every and spec.raw("ports"):
        spec.refuse("allPorts", True, "is every port already; remove ports, or allPorts")
    if not every and not spec.raw("ports"):
        spec.refuse("ports", spec.raw("ports"), "is required: at least one port, or allPorts: true")
    found: list[ServicePort] = []
    for path, value in spec.items("ports", MAX_PORTS):
        item = item_of(value, path, spec)
        number = item.integer("port", 1, MAX_PORT, required=True)
        protocol = item.choice("protocol", Protocol.TCP)
        target = _target_port(item)
        end = item.integer("endPort", 1, MAX_PORT)
        item.finish()
        if number is None:
            continue
        if end is not None and end < number:
            item.refuse("endPort", end, f"must not be below port, which is {number}")
            end = None
        if end is not None and target is not None:
            rule = "cannot be mapped from a range of ports, which keeps every port: remove targetPort, or endPort"
            item.refuse("targetPort", target, rule)
        port = ServicePort(port=number, protocol=protocol, target_port=target, end_port=end)
        for other in found:
            if other.protocol is protocol and _overlap(port, other):
                what = f"{protocol} port {number}" + (f"-{end}" if end is not None else "")
                item.refuse("port", number, f"{what} is there twice; remove one")
                break
        found.append(port)
    return tuple(found)


def _overlap(one: ServicePort, other: ServicePort) -> bool:
    return one.port <= (other.end_port or other.port) and other.port <= (one.end_port or one.port)


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


def flags_given(spec: Fields, scheduler: Scheduler) -> tuple[SchedulerFlag, ...] | None:
    """``schedulerFlags``; None when they are not said."""
    if spec.raw("schedulerFlags") is None:
        return None
    found: list[SchedulerFlag] = []
    for path, value in spec.items("schedulerFlags", len(SchedulerFlag)):
        item = Fields(None, path, spec.errors)
        flag = next((flag for flag in SchedulerFlag if flag == value), None)
        if flag is None:
            item.refuse(None, value, f"must be one of {', '.join(SchedulerFlag)}")
        elif flag.scheduler is not scheduler:
            item.refuse(
                None, value, f"goes with scheduler {flag.scheduler}; remove it, or change scheduler: {scheduler}"
            )
        elif flag in found:
            item.refuse(None, value, "is there twice; remove one")
        else:
            found.append(flag)
    return tuple(sorted(found))


def persistence_of(spec: Fields) -> Persistence | None:
    """``persistence``, whose every field has a default."""
    if spec.raw("persistence") is None:
        return None
    section, usual = spec.section("persistence"), Persistence()
    found = Persistence(
        timeout_seconds=section.integer("timeoutSeconds", *PERSISTENCE_SECONDS) or usual.timeout_seconds,
        ipv4_prefix_length=section.integer("ipv4PrefixLength", 1, 32) or usual.ipv4_prefix_length,
        ipv6_prefix_length=section.integer("ipv6PrefixLength", 1, 128) or usual.ipv6_prefix_length,
    )
    section.finish()
    return found


def limits_of(fields: Fields) -> ConnectionLimits | None:
    """``connectionLimits`` of the object or of a real server."""
    if fields.raw("connectionLimits") is None:
        return None
    section = fields.section("connectionLimits")
    upper = section.integer("upper", *LIMIT, required=True)
    lower = section.integer("lower", *LIMIT)
    if upper is not None and lower is not None and lower > upper:
        section.refuse("lower", lower, f"must not be above upper, which is {upper}")
    section.finish()
    return ConnectionLimits(upper=upper, lower=lower or 0) if upper is not None else UNLIMITED


def tunnel_of(fields: Fields) -> Tunnel | None:
    """``tunnel`` of the object or of a real server."""
    if fields.raw("tunnel") is None:
        return None
    section = fields.section("tunnel")
    kind = section.choice("type", IPIP.type)
    port = section.integer("port", 1, MAX_PORT)
    checksum = section.choice("checksum", IPIP.checksum)
    if kind is TunnelType.GUE and section.raw("port") is None:
        section.refuse("port", None, "is required with type gue: the UDP port on which the real server decapsulates")
    if kind is not TunnelType.GUE and port is not None:
        section.refuse("port", port, f"goes with type gue; remove it, or change type: {kind}")
    if checksum not in CHECKSUMS[kind]:
        section.refuse("checksum", str(checksum), f"must be {' or '.join(CHECKSUMS[kind])} with type {kind}")
    section.finish()
    return Tunnel(type=kind, port=port or 0, checksum=checksum)


def check_forwarding(spec: Fields, forwarding: Forwarding, servers: tuple[tuple[str, RealServer], ...]) -> None:
    """A tunnel's settings need a tunnel."""
    methods = {server.forwarding or forwarding for _, server in servers} or {forwarding}
    rule = "goes with forwarding: Tunnel; remove it, or change forwarding: {}"
    if spec.raw("tunnel") is not None and Forwarding.TUNNEL not in methods:
        spec.refuse("tunnel", spec.raw("tunnel"), rule.format(forwarding))
    for path, server in servers:
        method = server.forwarding or forwarding
        if server.tunnel is not None and method is not Forwarding.TUNNEL:
            Fields(None, path, spec.errors).refuse("tunnel", str(server.tunnel.type), rule.format(method))


def check_one_packet(
    spec: Fields,
    ports: tuple[ServicePort, ...],
    forwarding: Forwarding,
    servers: tuple[tuple[str, RealServer], ...],
) -> None:
    """One-packet scheduling is for UDP, and forgets whom to translate an answer for."""
    other = (
        "allPorts" if spec.raw("allPorts") is True else next((p.protocol for p in ports if p.protocol != "UDP"), None)
    )
    if other is not None:
        rule = f"is for UDP only, and spec has {other}: remove it, or give the other ports an object of their own"
        spec.refuse("onePacketScheduling", True, rule)
    methods = {server.forwarding or forwarding for _, server in servers} or {forwarding}
    if Forwarding.MASQUERADE in methods:
        rule = "cannot be had with forwarding: Masquerade, whose answers would come from the backend's own address"
        spec.refuse("onePacketScheduling", True, f"{rule}; use DirectRouting or Tunnel")
