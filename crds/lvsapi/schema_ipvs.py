"""The schema of a VirtualService's IPVS part: ports, real servers, scheduling, forwarding. Pure.

The CEL rules repeat those of ``parse_ipvs`` and ``parse``.
"""

from enum import StrEnum

from lvsapi import names, rules
from lvsapi.ipvs import (
    CHECKSUMS,
    Forwarding,
    Persistence,
    Scheduler,
    SchedulerFlag,
    Tunnel,
    TunnelChecksum,
    TunnelType,
)
from lvsapi.model import Protocol, RealServer, ServicePort, VirtualService
from lvsapi.schema_parts import ADDRESS_LENGTH, Schema, default_of, enum_of, integer, list_of, object_of, rule_of

RANGED = "(has(self.allPorts) && self.allPorts || has(self.ports) && self.ports.exists(p, has(p.endPort)))"
"""CEL: some service of the object has more than one port."""


def ipvs_parts() -> Schema:
    """Fields of spec."""
    return {
        "ports": {
            **list_of(_port(), rules.MAX_PORTS, "Ports of the addresses."),
            "minItems": 1,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
        },
        "allPorts": {
            "type": "boolean",
            "description": "Every port of TCP, UDP and SCTP, instead of ports. Backends are reached at the same port.",
        },
        "realServers": {
            **list_of(_real_server(), rules.MAX_REAL_SERVERS, "Backends outside the cluster, instead of serviceRef."),
            "minItems": 1,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["address"],
        },
        "scheduler": enum_of(
            Scheduler,
            default_of(VirtualService, "scheduler"),
            "IPVS scheduler, ipvsadm(8). Only mh keeps every established connection over a takeover.",
        ),
        "schedulerFlags": {
            **list_of(
                {"type": "string", "enum": [str(flag) for flag in SchedulerFlag]},
                len(SchedulerFlag),
                "ipvsadm(8) --sched-flags. Default: mh-fallback and mh-port with mh, none with sh.",
            ),
            "x-kubernetes-list-type": "set",
        },
        "persistence": object_of(
            "A client's connections go where its first one went, ipvsadm(8) -p. Default: no.",
            {
                "timeoutSeconds": _with_default(
                    integer(*rules.PERSISTENCE_SECONDS, "So long after the last connection."),
                    default_of(Persistence, "timeout_seconds"),
                ),
                "ipv4PrefixLength": _with_default(
                    integer(1, 32, "Clients of one such network count as one, ipvsadm(8) -M."),
                    default_of(Persistence, "ipv4_prefix_length"),
                ),
                "ipv6PrefixLength": _with_default(
                    integer(1, 128, "The same for IPv6."), default_of(Persistence, "ipv6_prefix_length")
                ),
            },
        ),
        "onePacketScheduling": {
            "type": "boolean",
            "description": "Every datagram is scheduled on its own, ipvsadm(8) --ops. UDP only. Default: false.",
        },
        "connectionLimits": _limits("Of each backend, ipvsadm(8) -x and -y. Default: none."),
        "forwarding": enum_of(
            Forwarding,
            default_of(VirtualService, "forwarding"),
            "How packets reach backends, ipvsadm(8). Direct routing and tunnels keep the port; with Masquerade the "
            "answers must come back through the Active node.",
        ),
        "tunnel": _tunnel("With forwarding: Tunnel. Default: ipip."),
    }


def ipvs_checks() -> list[Schema]:
    """Rules between fields of spec."""
    method = "(has(r.forwarding) ? r.forwarding : self.forwarding)"
    return [
        rule_of(
            "has(self.ports) != (has(self.allPorts) && self.allPorts)",
            "needs either ports or allPorts: true, not both",
            ".ports",
        ),
        rule_of(
            "!has(self.ports) || self.ports.all(p, self.ports.filter(q, q.protocol == p.protocol && "
            "q.port <= (has(p.endPort) ? p.endPort : p.port) && p.port <= (has(q.endPort) ? q.endPort : q.port))"
            ".size() == 1)",
            "two ports of one protocol overlap; remove one",
            ".ports",
        ),
        rule_of(
            "!has(self.realServers) || !has(self.ports) || self.realServers.all(r, "
            f"{method} == '{Forwarding.MASQUERADE}' || !has(r.port) || self.ports.all(p, p.port == r.port))",
            "direct routing and tunnelling cannot map ports: leave port out, or use forwarding: Masquerade",
            ".realServers",
        ),
        rule_of(
            f"!has(self.realServers) || !{RANGED} || self.realServers.all(r, !has(r.port))",
            "a range of ports keeps every port: leave realServers[].port out",
            ".realServers",
        ),
        rule_of(
            "!has(self.realServers) || !has(self.ports) || "
            "self.ports.all(p, !has(p.targetPort) || p.targetPort == p.port)",
            "targetPort goes with serviceRef; for a real server set realServers[].port",
            ".ports",
        ),
        rule_of(
            "!has(self.schedulerFlags) || self.schedulerFlags.all(f, f.startsWith(self.scheduler + '-'))",
            "a flag goes with the scheduler whose name it begins with",
            ".schedulerFlags",
        ),
        rule_of(
            f"!has(self.tunnel) || self.forwarding == '{Forwarding.TUNNEL}' || has(self.realServers) && "
            f"self.realServers.exists(r, has(r.forwarding) && r.forwarding == '{Forwarding.TUNNEL}')",
            "tunnel goes with forwarding: Tunnel; remove it, or change forwarding",
            ".tunnel",
        ),
        rule_of(
            f"!has(self.realServers) || self.realServers.all(r, !has(r.tunnel) || {method} == '{Forwarding.TUNNEL}')",
            "tunnel goes with forwarding: Tunnel; remove it, or change forwarding",
            ".realServers",
        ),
        rule_of(
            "!has(self.onePacketScheduling) || !self.onePacketScheduling || "
            f"has(self.ports) && self.ports.all(p, p.protocol == '{Protocol.UDP}')",
            "is for UDP only: remove it, or give the other ports an object of their own",
            ".onePacketScheduling",
        ),
        rule_of(
            "!has(self.onePacketScheduling) || !self.onePacketScheduling || (has(self.realServers) ? "
            f"self.realServers.all(r, {method} != '{Forwarding.MASQUERADE}') : "
            f"self.forwarding != '{Forwarding.MASQUERADE}')",
            "cannot be had with forwarding: Masquerade, whose answers would come from the backend's own address",
            ".onePacketScheduling",
        ),
    ]


def address() -> Schema:
    """A virtual or a real server's address."""
    # Guarded by isIP: a rule that does not evaluate would add its own error to the first one.
    checks = [
        rule_of("isIP(self)", "must be an IPv4 or IPv6 address, without prefix length and zone, e.g. 192.168.139.123"),
        rule_of("!isIP(self) || ip.isCanonical(self)", "is not in canonical form (RFC 5952)"),
        rule_of(
            "!isIP(self) || ip(self).isGlobalUnicast()",
            "is an unspecified, loopback, link-local, multicast or broadcast address; take an unused one of the LAN",
        ),
    ]
    return {"type": "string", "maxLength": ADDRESS_LENGTH, "x-kubernetes-validations": checks}


def _with_default(found: Schema, default: object) -> Schema:
    return {**found, "default": default}


def _port() -> Schema:
    rule = (
        f"type(self) == int ? (self >= 1 && self <= {rules.MAX_PORT}) : "
        f"(self.matches('{names.DNS_LABEL_PATTERN}') && !self.matches('^[0-9]+$'))"
    )
    target: Schema = {
        "description": "Number: the backends' port. Name: the Service's port of that name. "
        "Default: the Service's port of the same number, or its only one.",
        "x-kubernetes-int-or-string": True,
        "maxLength": names.DNS_LABEL_LENGTH,
        "x-kubernetes-validations": [rule_of(rule, rules.PORT_NAME_RULE)],
    }
    parts: Schema = {
        "port": integer(1, rules.MAX_PORT, "Port number."),
        "endPort": integer(1, rules.MAX_PORT, "Last port of a range that begins with port. Ports are then kept."),
        "protocol": enum_of(Protocol, default_of(ServicePort, "protocol"), "Transport protocol."),
        "targetPort": target,
    }
    checks = [
        rule_of("!has(self.endPort) || self.endPort >= self.port", "must not be below port", ".endPort"),
        rule_of(
            "!has(self.endPort) || !has(self.targetPort)",
            "cannot be mapped from a range of ports, which keeps every port: remove targetPort, or endPort",
            ".targetPort",
        ),
    ]
    return {**object_of("A port of the addresses.", parts, required=["port"]), "x-kubernetes-validations": checks}


def _real_server() -> Schema:
    parts: Schema = {
        "address": {**address(), "description": "Address of the real server; it must hold the VIP on its loopback."},
        "port": integer(1, rules.MAX_PORT, "Its port. Default: the port of the virtual IP address."),
        "weight": _with_default(
            integer(0, rules.MAX_WEIGHT, "Share of the connections; 0 takes no new ones."),
            default_of(RealServer, "weight"),
        ),
        "forwarding": _enum(Forwarding, "How packets reach it. Default: spec.forwarding."),
        "tunnel": _tunnel("Default: spec.tunnel."),
        "connectionLimits": _limits("Default: spec.connectionLimits."),
    }
    return object_of("A backend outside the cluster.", parts, required=["address"])


def _enum(kind: type[StrEnum], text: str) -> Schema:
    """Without a default of its own."""
    return {"type": "string", "description": text, "enum": [str(member) for member in kind]}


def _limits(text: str) -> Schema:
    parts: Schema = {
        "upper": integer(*rules.LIMIT, "No new connections while there are so many."),
        "lower": integer(*rules.LIMIT, "New ones again below. Default: three quarters of upper."),
    }
    check = rule_of("!has(self.lower) || self.lower <= self.upper", "must not be above upper", ".lower")
    return {**object_of(text, parts, required=["upper"]), "x-kubernetes-validations": [check]}


def _tunnel(text: str) -> Schema:
    parts: Schema = {
        "type": enum_of(TunnelType, default_of(Tunnel, "type"), "Encapsulation."),
        "port": integer(1, rules.MAX_PORT, "gue: the UDP port on which the real server decapsulates."),
        "checksum": enum_of(TunnelChecksum, default_of(Tunnel, "checksum"), "gue: all, gre: none or csum, ipip: none."),
    }
    possible = " || ".join(
        f"self.type == '{kind}' && self.checksum in [{', '.join(repr(str(one)) for one in checksums)}]"
        for kind, checksums in CHECKSUMS.items()
    )
    checks = [
        rule_of(f"has(self.port) == (self.type == '{TunnelType.GUE}')", "goes with type gue, which needs it", ".port"),
        rule_of(possible, "is not possible with this type of tunnel", ".checksum"),
    ]
    return {**object_of(text, parts), "x-kubernetes-validations": checks}
