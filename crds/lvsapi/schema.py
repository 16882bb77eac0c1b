"""Both CustomResourceDefinitions, built from the model: enums, bounds and defaults cannot drift. Pure.

``crds/generate.py`` writes them as YAML. The CEL rules repeat the rules between fields of ``parse``, so that kubectl
refuses at once what the operator would refuse a moment later.
"""

from dataclasses import fields
from enum import StrEnum
from typing import TYPE_CHECKING

from lvsapi import names, parse
from lvsapi.model import Forwarding, Protocol, RealServer, Scheduler, ServicePort, VirtualService, VrrpSettings
from lvsapi.status import MESSAGE_LENGTH

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = dict[str, object]

ADDRESS_LENGTH = 45
MAX_NAMESPACES = 1024


def virtual_service_crd() -> Schema:
    """The CustomResourceDefinition of VirtualService."""
    columns = [
        # A column shows the first result of its path only, and a whole list as JSON.
        _column("VIP", "string", ".spec.addresses[0]", "First virtual IP address"),
        _column("VRID", "integer", ".status.virtualRouterID", "Virtual Router ID"),
        _column("Active", "string", ".status.active.node", "Node that holds the addresses"),
        _column("Backends", "integer", ".status.backends.ready", "Backends that are ready"),
        _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Served by at least one backend"),
        _column("Reason", "string", '.status.conditions[?(@.status=="False")].reason', "What is wrong", priority=1),
        _column("Addresses", "string", ".spec.addresses", "All virtual IP addresses", priority=1),
        _column("Age", "date", ".metadata.creationTimestamp", ""),
    ]
    words = (names.KIND, names.PLURAL, names.SINGULAR, names.SHORT)
    text = "A virtual IP address of the LAN, whose connections go to a Service's endpoints or to real servers."
    return _crd(words, "Namespaced", columns, _object(text, {"spec": _spec(), "status": _status()}, required=["spec"]))


def class_crd() -> Schema:
    """The CustomResourceDefinition of VirtualServiceClass."""
    columns = [
        _column("Interface", "string", ".spec.interface", "Network interface of the adverts"),
        _column("Pools", "string", ".spec.addressPools", "Networks that virtual IP addresses come from"),
        _column("Age", "date", ".metadata.creationTimestamp", ""),
    ]
    words = (names.CLASS_KIND, names.CLASS_PLURAL, names.CLASS_SINGULAR, names.CLASS_SHORT)
    text = 'What the administrator decides for VirtualServices. The class "default" serves those that name none.'
    return _crd(words, "Cluster", columns, _object(text, {"spec": _class_spec()}))


def _crd(words: tuple[str, str, str, str], scope: str, columns: list[Schema], schema: Schema) -> Schema:
    kind, plural, singular, short = words
    version: Schema = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": schema},
    }
    properties = schema["properties"]
    assert isinstance(properties, dict)
    properties.update({"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}})
    if "status" in properties:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}", "labels": {names.LABEL_PART_OF: names.PART_OF}},
        "spec": {
            "group": names.GROUP,
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": [short],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def _spec() -> Schema:
    parts: Schema = {
        "addresses": {
            **_list(_address(), parse.MAX_ADDRESSES, "Virtual IP addresses, IPv4 or IPv6, unused on the LAN."),
            "minItems": 1,
            "x-kubernetes-list-type": "set",
        },
        "ports": {
            **_list(_port(), parse.MAX_PORTS, "Ports of the addresses."),
            "minItems": 1,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
        },
        "serviceRef": _object(
            "The Service in the same namespace whose endpoints are the backends.",
            {"name": _label("Name of the Service.")},
            required=["name"],
        ),
        "realServers": {
            **_list(_real_server(), parse.MAX_REAL_SERVERS, "Backends outside the cluster, instead of serviceRef."),
            "minItems": 1,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["address"],
        },
        "scheduler": _enum(
            Scheduler,
            _default(VirtualService, "scheduler"),
            "IPVS scheduler, ipvsadm(8). Only mh keeps every established connection over a takeover.",
        ),
        "forwarding": _enum(
            Forwarding,
            _default(VirtualService, "forwarding"),
            "How packets reach backends, ipvsadm(8). Direct routing and tunnels keep the port.",
        ),
        "virtualRouterID": _integer(1, 255, "Virtual Router ID (RFC 9568). Default: one of the class's range."),
        "className": {**_name("The VirtualServiceClass."), "default": names.DEFAULT_CLASS},
    }
    rules = [
        _rule("has(self.serviceRef) != has(self.realServers)", "needs either serviceRef or realServers, not both"),
        _rule(
            f"self.forwarding == '{Forwarding.MASQUERADE}' || !has(self.realServers) || "
            "self.realServers.all(r, !has(r.port) || self.ports.all(p, p.port == r.port))",
            "direct routing and tunnelling cannot map ports: leave port out, or use forwarding: Masquerade",
            ".realServers",
        ),
        _rule(
            "!has(self.realServers) || self.ports.all(p, !has(p.targetPort) || p.targetPort == p.port)",
            "targetPort goes with serviceRef; for a real server set realServers[].port",
            ".ports",
        ),
        _rule(
            "!has(self.realServers) || self.realServers.all(r, !(r.address in self.addresses))",
            "a real server cannot have the virtual address; name its own",
            ".realServers",
        ),
        _rule(
            "!has(self.realServers) || self.realServers.all(r, "
            "self.addresses.exists(a, a.contains(':') == r.address.contains(':')))",
            "a real server's address must be of the family of one of spec.addresses",
            ".realServers",
        ),
    ]
    text = "What is wanted. Everything but addresses, ports and serviceRef or realServers has a default."
    return {**_object(text, parts, required=["addresses", "ports"]), "x-kubernetes-validations": rules}


def _address() -> Schema:
    # Guarded by isIP: a rule that does not evaluate would add its own error to the first one.
    rules = [
        _rule("isIP(self)", "must be an IPv4 or IPv6 address, without prefix length and zone, e.g. 192.168.139.123"),
        _rule("!isIP(self) || ip.isCanonical(self)", "is not in canonical form (RFC 5952)"),
        _rule(
            "!isIP(self) || ip(self).isGlobalUnicast()",
            "is an unspecified, loopback, link-local, multicast or broadcast address; take an unused one of the LAN",
        ),
    ]
    return {"type": "string", "maxLength": ADDRESS_LENGTH, "x-kubernetes-validations": rules}


def _port() -> Schema:
    rule = (
        f"type(self) == int ? (self >= 1 && self <= {parse.MAX_PORT}) : "
        f"(self.matches('{names.DNS_LABEL_PATTERN}') && !self.matches('^[0-9]+$'))"
    )
    target: Schema = {
        "description": "Number: the backends' port. Name: the Service's port of that name. "
        "Default: the Service's port of the same number, or its only one.",
        "x-kubernetes-int-or-string": True,
        "maxLength": names.DNS_LABEL_LENGTH,
        "x-kubernetes-validations": [_rule(rule, parse.PORT_NAME_RULE)],
    }
    parts: Schema = {
        "port": _integer(1, parse.MAX_PORT, "Port number."),
        "protocol": _enum(Protocol, _default(ServicePort, "protocol"), "Transport protocol."),
        "targetPort": target,
    }
    return _object("A port of the addresses.", parts, required=["port"])


def _real_server() -> Schema:
    parts: Schema = {
        "address": {**_address(), "description": "Address of the real server; it must hold the VIP on its loopback."},
        "port": _integer(1, parse.MAX_PORT, "Its port. Default: the port of the virtual IP address."),
        "weight": {
            **_integer(0, parse.MAX_WEIGHT, "Share of the connections; 0 takes no new ones."),
            "default": _default(RealServer, "weight"),
        },
    }
    return _object("A backend outside the cluster.", parts, required=["address"])


def _status() -> Schema:
    time: Schema = {"type": "string", "format": "date-time"}
    number: Schema = {"type": "integer", "format": "int64", "minimum": 0}
    condition = _object(
        "A metav1.Condition.",
        {
            "type": {"type": "string", "maxLength": 316},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": number,
            "lastTransitionTime": time,
            "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
            "message": {"type": "string", "maxLength": MESSAGE_LENGTH},
        },
        required=["type", "status", "lastTransitionTime", "reason", "message"],
    )
    director = _object(
        "A node that may be Active.",
        {"node": _name("Name of the node."), "priority": _priority()},
        required=["node", "priority"],
    )
    parts: Schema = {
        "observedGeneration": {**number, "description": "The generation of the spec that the operator has seen."},
        "virtualRouterID": _integer(1, 255, "The Virtual Router ID that carries the addresses."),
        "directors": {**_map(director, "node"), "description": "Nodes that may be Active, highest priority first."},
        "active": _object(
            "The node that holds the addresses, written by itself.",
            {"node": _name("Name of the node."), "since": time},
            required=["node"],
        ),
        "backends": _object(
            "Backends of the Active node's tables.",
            {
                "ready": {**number, "description": "Those that take new connections."},
                "total": {**number, "description": "All, draining ones too."},
            },
        ),
        "conditions": _map(condition, "type"),
    }
    return _object("What is. Written by the operator and by the Active node's agent.", parts)


def _class_spec() -> Schema:
    usual = VrrpSettings()
    first, last = usual.virtual_router_ids
    low, high, step = parse.INTERVAL
    director = _object(
        "A node that may be Active.",
        {"name": _name("Name of the node."), "priority": _priority()},
        required=["name", "priority"],
    )
    labels: Schema = {
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 63},
        "description": "Labels that a node needs. Default: none, so every node is a director.",
    }
    interface: Schema = {
        "type": "string",
        "maxLength": names.INTERFACE_LENGTH,
        "x-kubernetes-validations": [
            _rule(r"self.matches('^[^/:\\s]+$') && self != '.' && self != '..'", parse.INTERFACE_RULE)
        ],
    }
    pool: Schema = {
        "type": "string",
        "maxLength": ADDRESS_LENGTH + 4,
        "x-kubernetes-validations": [
            _rule("isCIDR(self)", "must be a network such as 192.168.139.120/29"),
            _rule("!isCIDR(self) || cidr(self) == cidr(self).masked()", "has bits set behind its prefix length"),
        ],
    }
    ids = {
        **_object(
            "Virtual Router IDs that may be allocated; VirtualServices share them.",
            {
                "first": {**_integer(1, 255, "First."), "default": first},
                "last": {**_integer(1, 255, "Last."), "default": last},
            },
        ),
        "default": {"first": first, "last": last},
        "x-kubernetes-validations": [_rule("self.first <= self.last", "first must not be above last")],
    }
    vrrp = _object(
        "Election settings (RFC 9568).",
        {
            "advertisementIntervalMilliseconds": {
                **_integer(low, high, "Advertisement_Interval: a node is given up after at most 3.5 of it."),
                "multipleOf": step,
                "default": usual.advertisement_interval_ms,
            },
            "preempt": {
                "type": "boolean",
                "default": usual.preempt,
                "description": "Preempt_Mode: an address returns to the node that ranks highest.",
            },
            "virtualRouterIDs": ids,
        },
    )
    parts: Schema = {
        "directors": _object(
            "Which nodes may hold addresses. Default: every node, ranked by the operator.",
            {
                "nodeSelector": _object("Nodes by their labels.", {"matchLabels": labels}),
                "nodes": {
                    **_map(director, "name"),
                    "maxItems": parse.MAX_REAL_SERVERS,
                    "description": "Nodes by name with fixed priorities; then nodeSelector is not asked.",
                },
            },
        ),
        "interface": {
            **interface,
            "description": "Network interface of the adverts. "
            "Default: the one whose network holds the address, else that of the default route.",
        },
        "vipInterface": {**interface, "description": "Network interface of the addresses. Default: as interface."},
        "vipPrefixLength": _integer(1, 128, "Prefix length of the addresses. Default: 32 for IPv4, 128 for IPv6."),
        "addressPools": {
            **_list(pool, parse.MAX_REAL_SERVERS, "Networks that addresses must come from. Default: any address."),
            "x-kubernetes-list-type": "set",
        },
        "namespaces": {
            **_list(_label(""), MAX_NAMESPACES, "Namespaces that may use the class. Default: all."),
            "x-kubernetes-list-type": "set",
        },
        "vrrp": vrrp,
    }
    return _object("Everything has a default.", parts)


def _default(kind: type["DataclassInstance"], name: str) -> object:
    """A field's default in the model. Slots hide it from the class, so ask the dataclass."""
    return next(field.default for field in fields(kind) if field.name == name)


def _object(text: str, properties: Schema, required: list[str] | None = None) -> Schema:
    found: Schema = {"type": "object", "description": text, "properties": properties}
    return {**found, "required": required} if required else found


def _list(items: Schema, maximum: int, text: str) -> Schema:
    return {"type": "array", "description": text, "maxItems": maximum, "items": items}


def _map(items: Schema, key: str) -> Schema:
    """A list that server-side apply merges by a key."""
    return {"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def _enum(kind: type[StrEnum], default: object, text: str) -> Schema:
    return {
        "type": "string",
        "description": text,
        "enum": [str(member) for member in kind],
        "default": str(default),
    }


def _integer(low: int, high: int, text: str) -> Schema:
    return {"type": "integer", "format": "int32", "description": text, "minimum": low, "maximum": high}


def _priority() -> Schema:
    return _integer(*parse.PRIORITY, "VRRP priority.")


def _name(text: str) -> Schema:
    return {
        "type": "string",
        "description": text,
        "maxLength": names.DNS_SUBDOMAIN_LENGTH,
        "pattern": names.DNS_SUBDOMAIN_PATTERN,
    }


def _label(text: str) -> Schema:
    found: Schema = {"type": "string", "maxLength": names.DNS_LABEL_LENGTH, "pattern": names.DNS_LABEL_PATTERN}
    return {**found, "description": text} if text else found


def _rule(rule: str, message: str, path: str | None = None) -> Schema:
    found: Schema = {"rule": rule, "message": message}
    return {**found, "fieldPath": path} if path else found


def _column(name: str, kind: str, path: str, text: str, priority: int = 0) -> Schema:
    found: Schema = {"name": name, "type": kind, "jsonPath": path}
    if text:
        found["description"] = text
    return {**found, "priority": priority} if priority else found
