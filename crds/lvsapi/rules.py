"""Bounds and rules that parsing, schema and assignment share, and what every object of ours begins with. Pure."""

from lvsapi import names
from lvsapi.errors import FieldError, SpecError
from lvsapi.fields import Fields
from lvsapi.model import ObjectKey

MAX_ADDRESSES = 64
"""Of one object, and of one virtual router and family: an advert of 64 IPv6 addresses still fits one Ethernet frame."""
MAX_PORTS = 64
MAX_REAL_SERVERS = 256
MAX_WEIGHT = 65535
MAX_PORT = 65535
PERSISTENCE_SECONDS = (1, 31 * 86400)
"""As ipvsadm(8) takes them."""
LIMIT = (1, 65535)
"""Connections, as ipvsadm(8) takes them."""
PRIORITY = (1, 254)
"""RFC 9568 section 5.2.4: 0 and 255 are taken."""
INTERVAL = (10, 40950, 10)
"""Milliseconds: RFC 9568 has 12 bits of centiseconds."""
VERSIONS = (2, 3)
PREEMPT_DELAY = (0, 1000)
"""Seconds, as in keepalived.conf(5)."""
WEIGHT = (-253, 253)
"""Of what is tracked, as in keepalived.conf(5)."""
GRACEFUL_RESTART = (0, 30)
"""Seconds."""
ANNOUNCE_REPEAT = (1, 60)
ANNOUNCE_DELAY = (0, 3600)
"""Seconds."""
ANNOUNCE_REFRESH = (0, 86400)
"""Seconds."""
MAX_TRACKED = 32
MAX_DIRECTOR_ADDRESSES = 8

PORT_NAME_RULE = (
    "must be a port number (1-65535, without quotes) or the name of a port (lower-case letters, digits and '-')"
)
NAME_RULE = "must be a DNS name of lower-case letters, digits, '-' and '.', at most 253 characters"
LABEL_RULE = "must be lower-case letters, digits and '-', at most 63 characters"
INTERFACE_RULE = "must be a name of a network interface: at most 15 characters, no '/', ':' or white space"
CONDITION_RULE = "must be the type of a Node's condition, e.g. Ready: letters, digits, '-', '_', '.' and one '/'"


def head_of(top: Fields, kind: str) -> Fields:
    """Check apiVersion and kind, which a client may have left out, and return metadata."""
    top.text("apiVersion", lambda text: text == names.API_VERSION, f"must be {names.API_VERSION}")
    top.text("kind", lambda text: text == kind, f"must be {kind}")
    metadata = top.section("metadata")
    for known in ("spec", "status"):
        top.raw(known)
    top.finish()
    return metadata


def key_of(metadata: Fields, *, namespaced: bool) -> ObjectKey:
    """Namespace and name."""
    name = metadata.text("name", names.is_dns_subdomain, NAME_RULE, required=True)
    namespace = metadata.text("namespace", names.is_dns_label, LABEL_RULE) if namespaced else ""
    return ObjectKey(names.DEFAULT_NAMESPACE if namespace is None else namespace, name or "")


def finish(kind: str, key: ObjectKey, errors: list[FieldError]) -> None:
    """Raises SpecError when there was any error."""
    if errors:
        raise SpecError(f"{kind} {key}", tuple(errors))


def item_of(value: object, path: str, parent: Fields) -> Fields:
    """An element of a list."""
    item = Fields(value, path, parent.errors)
    if value is None:
        item.refuse(None, None, "must be an object")
    return item
