"""The part of a VirtualService about its backends' health, and what excludes what. Pure.

The API server has the same rules in CEL (``schema_health``).
"""

import base64
import binascii
import re
from ipaddress import ip_address
from typing import cast

from lvsapi.fields import Fields, brief, refusal_of_address
from lvsapi.health import CheckType, Health, HealthCheck, OnFailure, WhenEmpty
from lvsapi.ipvs import Forwarding, Scheduler
from lvsapi.model import IPAddress, RealServer, ServicePort
from lvsapi.rules import (
    CA_LENGTH,
    CERTIFICATE,
    CHECK_COUNT,
    CHECK_FIELDS,
    CHECK_INTERVAL,
    CHECK_TIMEOUT,
    COMMAND_LENGTH,
    DIGEST,
    HOST,
    HYSTERESIS,
    MAX_CHECKS,
    MAX_COMMAND,
    MAX_PORT,
    MAX_STATUSES,
    METHOD,
    NAME_ASKED,
    PATH,
    PAYLOAD_LENGTH,
    PORT_NEEDED,
    QUORUM,
    RECORD_TYPES,
    REGEX_LENGTH,
    SLOW_START,
    STATUSES,
    TLS_FIELDS,
    WEIGHTLESS,
    item_of,
)

_USUAL, _CHECK = Health(), HealthCheck(type=CheckType.TCP)


def health_of(spec: Fields, scheduler: Scheduler, standalone: bool) -> Health:
    """``health`` and ``whenEmpty``. ``standalone``: commands may be run."""
    when_empty = spec.choice("whenEmpty", _USUAL.when_empty)
    if when_empty is WhenEmpty.SORRY and spec.raw("sorryServer") is None:
        spec.refuse("whenEmpty", str(when_empty), "needs sorryServer; name one, or use Reject or Drop")
    if spec.raw("health") is None:
        return Health(when_empty=when_empty)
    section = spec.section("health")
    if not section.raw("checks"):
        section.refuse("checks", section.raw("checks"), "is required: at least one check, e.g. {type: TCP}")
    ranged = spec.raw("allPorts") is True or any(
        isinstance(port, dict) and port.get("endPort") is not None for port in _list(spec.raw("ports"))
    )
    checks = tuple(
        found
        for path, value in section.items("checks", MAX_CHECKS)
        if (found := _check(item_of(value, path, section), ranged, standalone)) is not None
    )
    pods = bool(section.boolean("pods"))
    on_failure = section.choice("onFailure", _USUAL.on_failure)
    initially_up = section.boolean("initiallyUp")
    quorum = section.integer("quorum", *QUORUM) or _USUAL.quorum
    hysteresis = section.integer("hysteresis", *HYSTERESIS) or 0
    slow_start = section.integer("slowStartSeconds", *SLOW_START) or 0
    section.finish()
    if hysteresis >= quorum:
        section.refuse("hysteresis", hysteresis, f"must be below quorum, which is {quorum}")
    _check_pods(spec, section, pods, on_failure)
    weighing = "slowStartSeconds" if slow_start else next(
        (f"checks[{n}].type" for n, check in enumerate(checks) if check.type is CheckType.AGENT), ""
    )  # fmt: skip
    if weighing and (refusal := _refusal_of_weights(scheduler, pods)):
        section.refuse(weighing, slow_start or str(CheckType.AGENT), refusal)
    return Health(
        checks=checks,
        pods=pods,
        on_failure=on_failure,
        initially_up=bool(initially_up),
        quorum=quorum,
        hysteresis=hysteresis,
        slow_start_seconds=slow_start,
        when_empty=when_empty,
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _check_pods(spec: Fields, section: Fields, pods: bool, on_failure: OnFailure) -> None:
    if pods and not spec.raw("serviceRef"):
        section.refuse("pods", True, "goes with serviceRef; remove it: real servers are checked without it")
    if not pods and spec.raw("serviceRef"):
        rule = "must be true with serviceRef: then pods are asked, besides the kubelet"
        section.refuse("pods", section.raw("pods"), rule)
    if pods and on_failure is OnFailure.REMOVE:
        rule = "must be Inhibit with pods: every node must keep a pod's place in its table, whoever reaches it"
        section.refuse("onFailure", str(on_failure), rule)


def _refusal_of_weights(scheduler: Scheduler, pods: bool) -> str:
    if scheduler in WEIGHTLESS:
        return f"has no effect with scheduler {scheduler}, which knows no weights; use wrr or wlc, or remove it"
    if pods and scheduler is Scheduler.MH:
        return "cannot be had for pods with scheduler mh, whose table must be the same on every node; use wrr or wlc"
    return ""


def _check(item: Fields, ranged: bool, standalone: bool) -> HealthCheck | None:
    kind = item.choice("type", CheckType.TCP)
    if item.raw("type") is None:
        item.refuse("type", None, f"is required: one of {', '.join(CheckType)}")
    elif kind is CheckType.EXEC and not standalone:
        rule = "runs commands, for manifests of a standalone agent only; in a cluster use HTTP, or another type"
        item.refuse("type", str(kind), rule)
    for name, kinds in CHECK_FIELDS.items():
        if item.raw(name) is not None and kind not in kinds:
            item.refuse(name, brief(item.raw(name)), f"goes with type {' and '.join(kinds)}; remove it")
    port = item.integer("port", 1, MAX_PORT)
    if port is None and item.raw("port") is None and ranged and kind in PORT_NEEDED:
        item.refuse("port", None, "is required where spec has a range of ports: the port that answers for all")
    for name in TLS_FIELDS:
        if kind is CheckType.GRPC and item.raw(name) is not None and item.raw("tls") is not True:
            item.refuse(name, brief(item.raw(name)), f"goes with tls: true; set it, or remove {name}")
    if kind is CheckType.DNS and item.raw("name") is None:
        item.refuse("name", None, "is required with type DNS: the name that is asked for")
    if kind is CheckType.EXEC and not item.raw("command"):
        item.refuse("command", None, "is required with type Exec: the program and its arguments")
    found = HealthCheck(
        type=kind,
        port=port,
        interval_ms=item.integer("intervalMilliseconds", *CHECK_INTERVAL) or _CHECK.interval_ms,
        timeout_ms=item.integer("timeoutMilliseconds", *CHECK_TIMEOUT) or _CHECK.timeout_ms,
        rise=item.integer("rise", *CHECK_COUNT) or _CHECK.rise,
        fall=item.integer("fall", *CHECK_COUNT) or _CHECK.fall,
        retry_ms=item.integer("retryMilliseconds", *CHECK_INTERVAL),
        method=_match(item, "method", METHOD, "must be a method in capital letters, e.g. HEAD") or _CHECK.method,
        path=_match(item, "path", PATH, "must begin with / and have no white space") or _CHECK.path,
        host=_match(item, "host", HOST, "must be a host name, with a port where it is not the usual one"),
        statuses=_statuses(item),
        body_regex=_regex(item),
        body_sha256=_match(item, "bodySha256", DIGEST, "must be 64 hexadecimal digits in lower case (sha256sum)"),
        tls=item.boolean("tls") is True,
        verify_tls=item.boolean("verifyTls") is not False,
        ca_pem=_pem(item),
        payload=_octets(item, "payload"),
        expect=_octets(item, "expect"),
        name=_match(item, "name", NAME_ASKED, "must be a name of at most 253 characters without white space"),
        record_type=_record_type(item),
        allow_nxdomain=item.boolean("allowNxdomain") is True,
        command=_command(item),
    )
    item.finish()
    return found


def _match(item: Fields, name: str, pattern: str, rule: str) -> str:
    return item.text(name, lambda text: re.fullmatch(pattern, text) is not None, rule) or ""


def _statuses(item: Fields) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for path, value in item.items("statuses", MAX_STATUSES):
        text = value if isinstance(value, str) and re.fullmatch(STATUSES, value) else ""
        first, _, last = text.partition("-")
        if first and int(last or first) >= int(first):
            found.append((int(first), int(last or first)))
        else:
            Fields(None, path, item.errors).refuse(None, value, "must be a status or a range in quotes, e.g. 200-299")
    return tuple(found) or _CHECK.statuses


def _regex(item: Fields) -> str:
    def usable(text: str) -> bool:
        try:
            re.compile(text)
        except re.error:
            return False
        return len(text) <= REGEX_LENGTH

    rule = f"must be a regular expression of Python's re, at most {REGEX_LENGTH} characters"
    return item.text("bodyRegex", usable, rule) or ""


def _pem(item: Fields) -> str:
    def usable(text: str) -> bool:
        return CERTIFICATE in text and len(text) <= CA_LENGTH

    rule = f"must be certificates in PEM ({CERTIFICATE}), at most {CA_LENGTH} characters"
    return item.text("caPem", usable, rule) or ""


def _octets(item: Fields, name: str) -> bytes:
    def usable(text: str) -> bool:
        try:
            return len(base64.b64decode(text, validate=True)) <= PAYLOAD_LENGTH
        except (binascii.Error, ValueError):
            return False

    text = item.text(name, usable, f"must be base64 of at most {PAYLOAD_LENGTH} octets")
    return base64.b64decode(text) if text else b""


def _record_type(item: Fields) -> str:
    rule = f"must be one of {', '.join(RECORD_TYPES)}"
    return item.text("recordType", lambda text: text in RECORD_TYPES, rule) or _CHECK.record_type


def _command(item: Fields) -> tuple[str, ...]:
    found = []
    for path, value in item.items("command", MAX_COMMAND):
        if isinstance(value, str) and value and len(value) <= COMMAND_LENGTH and "\0" not in value:
            found.append(value)
        else:
            rule = f"must be text of 1-{COMMAND_LENGTH} characters"
            Fields(None, path, item.errors).refuse(None, value, rule)
    return tuple(found)


def sorry_server(
    spec: Fields, addresses: tuple[IPAddress, ...], ports: tuple[ServicePort, ...], forwarding: Forwarding
) -> RealServer | None:
    """``sorryServer``."""
    if spec.raw("sorryServer") is None:
        return None
    item = spec.section("sorryServer")
    text = item.raw("address")
    refusal = refusal_of_address(text)
    port = item.integer("port", 1, MAX_PORT)
    method = None if item.raw("forwarding") is None else item.choice("forwarding", Forwarding.DIRECT_ROUTING)
    item.finish()
    if spec.raw("whenEmpty") != WhenEmpty.SORRY:
        spec.refuse("sorryServer", brief(text), "goes with whenEmpty: Sorry; set it, or remove sorryServer")
    if refusal is not None:
        item.refuse("address", text, refusal)
        return None
    address = ip_address(cast(str, text))
    if address in addresses:
        item.refuse("address", text, "is the virtual address itself; name the server's own")
    elif address.version not in {each.version for each in addresses}:
        item.refuse("address", text, f"is IPv{address.version}, but spec.addresses has no address of that family")
    ranged = spec.raw("allPorts") is True or any(each.end_port is not None for each in ports)
    if port is not None and ranged:
        item.refuse("port", port, "cannot be mapped from a range of ports, which keeps every port: remove it")
    elif (method or forwarding) is not Forwarding.MASQUERADE and any(each.port != port for each in ports if port):
        item.refuse("port", port, "can be mapped by Masquerade only; leave port out, or use forwarding: Masquerade")
    return RealServer(address=address, port=port, forwarding=method)
