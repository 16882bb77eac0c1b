"""Bounds and rules that parsing, schema and assignment share, and what every object of ours begins with. Pure."""

from lvsapi import names
from lvsapi.errors import FieldError, SpecError
from lvsapi.fields import Fields
from lvsapi.health import CheckType
from lvsapi.ipvs import Scheduler
from lvsapi.model import ObjectKey

MAX_ADDRESSES = 64
"""Of one object, and of one virtual router and family: an advert of 64 IPv6 addresses still fits one Ethernet frame."""
MAX_PORTS = 64
MAX_REAL_SERVERS = 256
MAX_WEIGHT = 65535
MAX_PORT = 65535
DRAIN_SECONDS = (0, 86400)
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
MAX_CHECKS = 8
"""Of one object: each is asked of every backend."""
CHECK_INTERVAL = (100, 3_600_000)
"""Milliseconds."""
CHECK_TIMEOUT = (10, 600_000)
"""Milliseconds."""
CHECK_COUNT = (1, 100)
"""Of answers or failures in a row."""
QUORUM = (1, 1_000_000)
"""Weight, as the next one."""
HYSTERESIS = (0, 999_999)
SLOW_START = (0, 3600)
"""Seconds."""
METHOD = "[A-Z]{1,16}"
PATH = r"/[!-~]{0,999}"
HOST = r"[A-Za-z0-9._:\[\]-]{1,253}"
MAX_STATUSES = 16
STATUSES = "[1-5][0-9]{2}(-[1-5][0-9]{2})?"
REGEX_LENGTH = 1024
DIGEST = "[0-9a-f]{64}"
CERTIFICATE = "-----BEGIN CERTIFICATE-----"
CA_LENGTH = 65536
PAYLOAD_LENGTH = 1024
"""Octets before base64."""
NAME_ASKED = r"[!-~]{1,253}"
RECORD_TYPES = ("A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT")
MAX_COMMAND = 64
COMMAND_LENGTH = 4096
_WEB = (CheckType.HTTP, CheckType.HTTPS)
CHECK_FIELDS = {
    "method": _WEB,
    "path": _WEB,
    "host": (*_WEB, CheckType.GRPC),
    "statuses": _WEB,
    "bodyRegex": _WEB,
    "bodySha256": _WEB,
    "tls": (CheckType.GRPC,),
    "verifyTls": (CheckType.HTTPS, CheckType.GRPC),
    "caPem": (CheckType.HTTPS, CheckType.GRPC),
    "payload": (CheckType.UDP, CheckType.PATH),
    "expect": (CheckType.UDP, CheckType.PATH),
    "name": (CheckType.DNS, CheckType.SMTP, CheckType.GRPC),
    "recordType": (CheckType.DNS,),
    "allowNxdomain": (CheckType.DNS,),
    "command": (CheckType.EXEC,),
}
"""Fields of a check that go with some types only."""
TLS_FIELDS = ("verifyTls", "caPem")
"""Fields that go with ``tls: true`` where a type can do without TLS."""
PORT_NEEDED = tuple(kind for kind in CheckType if kind not in (CheckType.ICMP, CheckType.EXEC, CheckType.PATH))
"""Checks that ask at a port: with a range of ports it must be named."""
WEIGHTLESS = (Scheduler.RR, Scheduler.LC, Scheduler.DH)
"""Schedulers that only know whether a weight is above 0."""
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


def finish(kind: str, key: ObjectKey, errors: list[FieldError], pruned: bool) -> None:
    """Raises SpecError when there was any error. ``pruned``: unknown fields are none."""
    found = tuple(error for error in errors if not (pruned and error.unknown))
    if found:
        raise SpecError(f"{kind} {key}", found)


def item_of(value: object, path: str, parent: Fields) -> Fields:
    """An element of a list."""
    item = Fields(value, path, parent.errors)
    if value is None:
        item.refuse(None, None, "must be an object")
    return item
