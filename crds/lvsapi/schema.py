"""Both CustomResourceDefinitions, built from the model: enums, bounds and defaults cannot drift. Pure.

``crds/generate.py`` writes them as YAML. The CEL rules repeat the rules between fields of ``parse``, so that kubectl
refuses at once what the operator would refuse a moment later.
"""

from lvsapi import names, rules
from lvsapi.ipvs import TrafficPolicy
from lvsapi.schema_class import class_spec
from lvsapi.schema_health import health_checks, health_parts
from lvsapi.schema_ipvs import address, ipvs_checks, ipvs_parts
from lvsapi.schema_parts import (
    Schema,
    column,
    integer,
    label,
    list_of,
    map_of,
    name_of,
    object_of,
    priority,
    rule_of,
)
from lvsapi.status import MESSAGE_LENGTH


def virtual_service_crd() -> Schema:
    """The CustomResourceDefinition of VirtualService."""
    columns = [
        # A column shows the first result of its path only, and a whole list as JSON.
        column("VIP", "string", ".spec.addresses[0]", "First virtual IP address"),
        column("VRID", "integer", ".status.virtualRouterID", "Virtual Router ID"),
        column("Active", "string", ".status.active.node", "Node that holds the addresses"),
        column("Backends", "integer", ".status.backends.ready", "Backends that are ready"),
        column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Served by at least one backend"),
        column("Reason", "string", '.status.conditions[?(@.status=="False")].reason', "What is wrong", priority=1),
        column("Addresses", "string", ".spec.addresses", "All virtual IP addresses", priority=1),
        column("Age", "date", ".metadata.creationTimestamp", ""),
    ]
    words = (names.KIND, names.PLURAL, names.SINGULAR, names.SHORT)
    text = "A virtual IP address of the LAN, whose connections go to a Service's endpoints or to real servers."
    return _crd(
        words, "Namespaced", columns, object_of(text, {"spec": _spec(), "status": _status()}, required=["spec"])
    )


def class_crd() -> Schema:
    """The CustomResourceDefinition of VirtualServiceClass."""
    columns = [
        column("Interface", "string", ".spec.interface", "Network interface of the adverts"),
        column("Pools", "string", ".spec.addressPools", "Networks that virtual IP addresses come from"),
        column("Age", "date", ".metadata.creationTimestamp", ""),
    ]
    words = (names.CLASS_KIND, names.CLASS_PLURAL, names.CLASS_SINGULAR, names.CLASS_SHORT)
    text = 'What the administrator decides for VirtualServices. The class "default" serves those that name none.'
    return _crd(words, "Cluster", columns, object_of(text, {"spec": class_spec()}))


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
            **list_of(address(), rules.MAX_ADDRESSES, "Virtual IP addresses, IPv4 or IPv6, unused on the LAN."),
            "minItems": 1,
            "x-kubernetes-list-type": "set",
        },
        "serviceRef": object_of(
            "The Service in the same namespace whose endpoints are the backends.",
            {"name": label("Name of the Service.")},
            required=["name"],
        ),
        "externalTrafficPolicy": {
            "type": "string",
            "enum": [str(policy) for policy in TrafficPolicy],
            "description": "Local: the Active node gives connections to its own pods only, and nodes without ready "
            "ones are Active only if no other can. Default: the Service's.",
        },
        "drainSeconds": integer(
            *rules.DRAIN_SECONDS,
            "An endpoint that gets no new connections keeps those that it has for so long. Default: until Kubernetes "
            "removes it.",
        ),
        **ipvs_parts(),
        **health_parts(),
        "virtualRouterID": integer(1, 255, "Virtual Router ID (RFC 9568). Default: one of the class's range."),
        "className": {**name_of("The VirtualServiceClass."), "default": names.DEFAULT_CLASS},
    }
    checks = [
        rule_of("has(self.serviceRef) != has(self.realServers)", "needs either serviceRef or realServers, not both"),
        rule_of(
            "!has(self.realServers) || !has(self.drainSeconds)",
            "drainSeconds goes with serviceRef: give a real server weight 0 instead; remove it",
            ".drainSeconds",
        ),
        rule_of(
            "!has(self.realServers) || !has(self.externalTrafficPolicy)",
            "externalTrafficPolicy goes with serviceRef: no node runs a real server; remove it",
            ".externalTrafficPolicy",
        ),
        rule_of(
            "!has(self.realServers) || self.realServers.all(r, !(r.address in self.addresses))",
            "a real server cannot have the virtual address; name its own",
            ".realServers",
        ),
        rule_of(
            "!has(self.realServers) || self.realServers.all(r, "
            "self.addresses.exists(a, a.contains(':') == r.address.contains(':')))",
            "a real server's address must be of the family of one of spec.addresses",
            ".realServers",
        ),
        *ipvs_checks(),
        *health_checks(),
    ]
    text = "What is wanted. Everything but addresses, ports and serviceRef or realServers has a default."
    return {**object_of(text, parts, required=["addresses"]), "x-kubernetes-validations": checks}


def _status() -> Schema:
    time: Schema = {"type": "string", "format": "date-time"}
    number: Schema = {"type": "integer", "format": "int64", "minimum": 0}
    condition = object_of(
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
    director = object_of(
        "A node that may be Active.",
        {"node": name_of("Name of the node."), "priority": priority()},
        required=["node", "priority"],
    )
    parts: Schema = {
        "observedGeneration": {**number, "description": "The generation of the spec that the operator has seen."},
        "virtualRouterID": integer(1, 255, "The Virtual Router ID that carries the addresses."),
        "directors": {**map_of(director, "node"), "description": "Nodes that may be Active, highest priority first."},
        "active": object_of(
            "The node that holds the addresses, written by itself.",
            {"node": name_of("Name of the node."), "since": time},
            required=["node"],
        ),
        "backends": object_of(
            "Backends of the Active node's tables.",
            {
                "ready": {**number, "description": "Those that take new connections."},
                "total": {**number, "description": "All, draining ones too."},
            },
        ),
        "conditions": map_of(condition, "type"),
    }
    return object_of("What is. Written by the operator and by the Active node's agent.", parts)
