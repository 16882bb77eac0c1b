"""Every name that more than one part must spell alike. Pure."""

import re
from typing import Final

GROUP: Final = "lvsdr.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "lvs"

# The plurals carry the prefix because kubectl resolves plural, singular and short name over all groups, and Istio has
# virtualservices and vs.
KIND: Final = "VirtualService"
PLURAL: Final = "lvsvirtualservices"
SINGULAR: Final = "lvsvirtualservice"
SHORT: Final = "lvsvs"

CLASS_KIND: Final = "VirtualServiceClass"
CLASS_PLURAL: Final = "lvsvirtualserviceclasses"
CLASS_SINGULAR: Final = "lvsvirtualserviceclass"
CLASS_SHORT: Final = "lvsvsc"

DEFAULT_CLASS: Final = "default"
"""The class of a VirtualService that names none. It exists, with the built-in defaults, without an object."""
DEFAULT_NAMESPACE: Final = "default"
"""Namespace of an object that names none (manifests)."""

SYSTEM_NAMESPACE: Final = "lvs-system"
"""Namespace of the installation."""
AGENT_DAEMONSET: Final = "lvs-agent"
OPERATOR_DEPLOYMENT: Final = "lvs-operator"

OPERATOR_FIELD_MANAGER: Final = "lvs-operator"
"""Server-side apply: owns observedGeneration, virtualRouterID, directors, and conditions Accepted and ResolvedRefs; and
Ready while no agent has spoken."""
AGENT_FIELD_MANAGER: Final = "lvs-agent"
"""Server-side apply: owns active, backends and the conditions Programmed, Ready, ElectionHealthy, NodeHealthy and
ConnectionsSurvive. One for all nodes: the Active node's agent takes the fields over from the last one."""

FAILOVER_FROM: Final = f"{GROUP}/failover-from"
"""Annotation of a VirtualService: the named node is Active for its virtual router only if no other can be."""
DIRECTOR: Final = f"{GROUP}/director"
"""Annotation of a Node: with value "standby" the node is Active only where no other can be."""
STANDBY: Final = "standby"
PATH_GATE: Final = f"{GROUP}/path"
"""Readiness gate of a pod: its health checks hold, the path among them (``lvsapi.gates``)."""
LEAVING_TAINTS: Final = ("node.kubernetes.io/out-of-service", "node.kubernetes.io/unschedulable")
"""Taints that somebody sets when a node is to be, or is, taken out of service; with whatever effect."""

KEYS_SECRET: Final = "lvs-vrrp-keys"
"""Secret of the installation's namespace with the election's keys: ``<class>.password``, ``<class>.hmac.<id>``."""

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_PART_OF: Final = "app.kubernetes.io/part-of"
PART_OF: Final = "lvs-dr-operator"
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
"""Label of an EndpointSlice that names its Service (discovery/v1)."""

DNS_LABEL_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_LABEL_LENGTH: Final = 63
DNS_SUBDOMAIN_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DNS_SUBDOMAIN_LENGTH: Final = 253
INTERFACE_PATTERN: Final = r"^[^/:\s\x00-\x1f\x7f]+$"
"""dev_valid_name() in net/core/dev.c: no '/', ':' or white space; '.' and '..' apart."""
INTERFACE_LENGTH: Final = 15
"""IFNAMSIZ less the closing NUL."""
CONDITION_PATTERN: Final = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
"""Type of a condition (metav1.Condition)."""
CONDITION_LENGTH: Final = 316

_LABEL = re.compile(DNS_LABEL_PATTERN.replace("$", r"\Z"))
_SUBDOMAIN = re.compile(DNS_SUBDOMAIN_PATTERN.replace("$", r"\Z"))
_INTERFACE = re.compile(INTERFACE_PATTERN.replace("$", r"\Z"))

_CONDITION = re.compile(CONDITION_PATTERN.replace("$", r"\Z"))


def is_condition(text: str) -> bool:
    """Whether text can be the type of a condition."""
    return len(text) <= CONDITION_LENGTH and _CONDITION.match(text) is not None


def is_dns_label(text: str) -> bool:
    """Whether text is an RFC 1123 label: a namespace, a Service, a port."""
    return len(text) <= DNS_LABEL_LENGTH and _LABEL.match(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Whether text is an RFC 1123 subdomain: most names of Kubernetes objects."""
    return len(text) <= DNS_SUBDOMAIN_LENGTH and _SUBDOMAIN.match(text) is not None


def is_interface(text: str) -> bool:
    """Whether Linux takes text as the name of a network interface."""
    fits = len(text.encode("utf-8", "surrogatepass")) <= INTERFACE_LENGTH
    return fits and text not in (".", "..") and _INTERFACE.match(text) is not None
