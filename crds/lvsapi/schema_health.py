"""The schema of a VirtualService's health checks. Pure. The CEL rules repeat those of ``parse_health``.

Fields that go with some types of checks only have no default here: the API server would write it into every check.
"""

from collections.abc import Iterable

from lvsapi import rules
from lvsapi.health import CheckType, Health, HealthCheck, OnFailure, WhenEmpty
from lvsapi.ipvs import Forwarding, Scheduler
from lvsapi.schema_ipvs import RANGED, address
from lvsapi.schema_parts import Schema, default_of, enum_of, integer, list_of, object_of, rule_of

_USUAL = HealthCheck(type=CheckType.TCP)


def health_parts() -> Schema:
    """Fields of spec."""
    sorry: Schema = {
        "address": {**address(), "description": "Its own address."},
        "port": integer(1, rules.MAX_PORT, "Its port. Default: the port of the virtual IP address."),
        "forwarding": {
            "type": "string",
            "enum": [str(member) for member in Forwarding],
            "description": "How packets reach it. Default: spec.forwarding.",
        },
    }
    return {
        "health": _health(),
        "whenEmpty": enum_of(
            WhenEmpty,
            default_of(Health, "when_empty"),
            "What clients get when no backend is left: a TCP reset (ICMP port unreachable for others), nothing, or "
            "the sorry server, which also takes over below the quorum.",
        ),
        "sorryServer": object_of("Gets the clients when no other backend does.", sorry, required=["address"]),
    }


def health_checks() -> list[Schema]:
    """Rules between fields of spec."""
    weightless = ", ".join(f"'{each}'" for each in rules.WEIGHTLESS)
    asked = "has(self.health)"
    agent = f"self.health.checks.exists(c, c.type == '{CheckType.AGENT}')"
    slow = "(has(self.health.slowStartSeconds) && self.health.slowStartSeconds > 0)"
    pods = "(has(self.health.pods) && self.health.pods)"
    needed = ", ".join(f"'{each}'" for each in rules.PORT_NEEDED)
    ways = (
        f"self.scheduler in [{weightless}]",
        f"{pods} && self.scheduler == '{Scheduler.MH}'",
    )
    texts = (
        "has no effect with a scheduler that knows no weights; use wrr or wlc, or remove it",
        "cannot be had for pods with scheduler mh, whose table must be the same on every node; use wrr or wlc",
    )
    method = "(has(self.sorryServer.forwarding) ? self.sorryServer.forwarding : self.forwarding)"
    return [
        rule_of(
            f"!{asked} || {pods} == has(self.serviceRef)",
            "must be true with serviceRef, and goes with it only",
            ".health.pods",
        ),
        *(
            rule_of(f"!{asked} || !({way}) || !{slow}", text, ".health.slowStartSeconds")
            for way, text in zip(ways, texts, strict=True)
        ),
        *(
            rule_of(f"!{asked} || !({way}) || !{agent}", f"type Agent {text}", ".health.checks")
            for way, text in zip(ways, texts, strict=True)
        ),
        rule_of(
            f"!{asked} || !{RANGED} || self.health.checks.all(c, has(c.port) || !(c.type in [{needed}]))",
            "checks need a port where spec has a range of ports: the port that answers for all",
            ".health.checks",
        ),
        rule_of(
            f"self.whenEmpty != '{WhenEmpty.SORRY}' || has(self.sorryServer)",
            "whenEmpty: Sorry needs sorryServer; name one, or use Reject or Drop",
            ".whenEmpty",
        ),
        rule_of(
            f"!has(self.sorryServer) || self.whenEmpty == '{WhenEmpty.SORRY}'",
            "sorryServer goes with whenEmpty: Sorry; set it, or remove sorryServer",
            ".sorryServer",
        ),
        rule_of(
            "!has(self.sorryServer) || !(self.sorryServer.address in self.addresses) && "
            "self.addresses.exists(a, a.contains(':') == self.sorryServer.address.contains(':'))",
            "must be the server's own, and of the family of one of spec.addresses",
            ".sorryServer.address",
        ),
        rule_of(
            f"!has(self.sorryServer) || !has(self.sorryServer.port) || !{RANGED} && (!has(self.ports) || "
            f"{method} == '{Forwarding.MASQUERADE}' || self.ports.all(p, p.port == self.sorryServer.port))",
            "port can be mapped by Masquerade only, and not from a range of ports; leave port out",
            ".sorryServer.port",
        ),
    ]


def _health() -> Schema:
    def usual(name: str) -> Schema:
        return {"default": default_of(Health, name)}

    parts: Schema = {
        "checks": {
            **list_of(_check(), rules.MAX_CHECKS, "All of them must hold. Every node with the tables asks by itself."),
            "minItems": 1,
        },
        "pods": {"type": "boolean", "description": "Needed with serviceRef: pods are asked, besides the kubelet."},
        "onFailure": enum_of(
            OnFailure,
            default_of(Health, "on_failure"),
            "Inhibit: weight 0, held connections go on (keepalived.conf(5) inhibit_on_failure). Remove: they end.",
        ),
        "initiallyUp": {
            "type": "boolean",
            "description": "Before the first answer a backend gets connections.",
            **usual("initially_up"),
        },
        "quorum": {
            **integer(*rules.QUORUM, "Weight of living backends below which the service is down."),
            **usual("quorum"),
        },
        "hysteresis": {
            **integer(*rules.HYSTERESIS, "Up at quorum + hysteresis, down below quorum - hysteresis."),
            **usual("hysteresis"),
        },
        "slowStartSeconds": {
            **integer(*rules.SLOW_START, "The weight of a backend that returns grows from a tenth over this time."),
            **usual("slow_start_seconds"),
        },
    }
    checks = [
        rule_of("self.hysteresis < self.quorum", "hysteresis must be below quorum", ".hysteresis"),
        rule_of(
            f"!has(self.pods) || !self.pods || self.onFailure == '{OnFailure.INHIBIT}'",
            "onFailure must be Inhibit with pods: every node must keep a pod's place in its table",
            ".onFailure",
        ),
    ]
    text = "What is asked of the backends before they get clients (docs/health.md). Default: nothing."
    return {**object_of(text, parts, required=["checks"]), "x-kubernetes-validations": checks}


def _check() -> Schema:
    parts: Schema = {
        "type": {
            "type": "string",
            "description": "How a backend is asked. Exec is for manifests of a standalone agent only.",
            "enum": [str(kind) for kind in CheckType if kind is not CheckType.EXEC],
        },
        "port": integer(1, rules.MAX_PORT, "Default: the backend's own."),
        "intervalMilliseconds": {
            **integer(*rules.CHECK_INTERVAL, "From the begin of one question to that of the next (delay_loop)."),
            "default": _USUAL.interval_ms,
        },
        "timeoutMilliseconds": {
            **integer(*rules.CHECK_TIMEOUT, "For the whole question, connecting included."),
            "default": _USUAL.timeout_ms,
        },
        "rise": {
            **integer(*rules.CHECK_COUNT, "Answers in a row that bring a backend back."),
            "default": _USUAL.rise,
        },
        "fall": {
            **integer(*rules.CHECK_COUNT, "Failures in a row that take it out (retry + 1)."),
            "default": _USUAL.fall,
        },
        "retryMilliseconds": integer(
            *rules.CHECK_INTERVAL, "Between a failure and the next question while it counts. Default: the interval."
        ),
        "method": _text(rules.METHOD, 16, "Default: GET."),
        "path": _text(rules.PATH, 1000, "Default: /."),
        "host": _text(rules.HOST, 253, "Host header, SNI, and the name that the certificate must bear."),
        "statuses": {
            **list_of(_text(rules.STATUSES, 7, ""), rules.MAX_STATUSES, 'Good ones, e.g. "200-299", the default.'),
            "minItems": 1,
        },
        "bodyRegex": {
            "type": "string",
            "maxLength": rules.REGEX_LENGTH,
            "description": "Found in the first mebibyte of the body.",
        },
        "bodySha256": _text(rules.DIGEST, 64, "Digest of the whole body."),
        "tls": {"type": "boolean", "description": "GRPC over TLS. Default: false."},
        "verifyTls": {"type": "boolean", "description": "Whether the certificate must be valid. Default: true."},
        "caPem": {
            "type": "string",
            "maxLength": rules.CA_LENGTH,
            "description": "Certificates that are trusted. Default: the image's.",
            "x-kubernetes-validations": [
                rule_of(f"self.contains('{rules.CERTIFICATE}')", "must be certificates in PEM")
            ],
        },
        "payload": _octets("What is sent."),
        "expect": _octets("What the answer must begin with. Default: anything."),
        "name": _text(rules.NAME_ASKED, 253, "DNS: the name asked for. SMTP: what HELO says. GRPC: the service."),
        "recordType": {
            "type": "string",
            "enum": list(rules.RECORD_TYPES),
            "description": "Default: A.",
        },
        "allowNxdomain": {"type": "boolean", "description": "NXDOMAIN is a good answer, too. Default: false."},
    }
    checks = [
        *(_goes_with(name, kinds) for name, kinds in rules.CHECK_FIELDS.items() if name in parts),
        *(
            rule_of(
                f"self.type != '{CheckType.GRPC}' || !has(self.{name}) || has(self.tls) && self.tls",
                f"{name} goes with tls: true; set it, or remove {name}",
                f".{name}",
            )
            for name in rules.TLS_FIELDS
        ),
        rule_of(
            f"self.type != '{CheckType.DNS}' || has(self.name)",
            "name is required with type DNS: the name that is asked for",
            ".name",
        ),
        rule_of(
            "!has(self.statuses) || self.statuses.all(s, !s.contains('-') || "
            "int(s.split('-')[0]) <= int(s.split('-')[1]))",
            "a range of statuses must not end before it begins",
            ".statuses",
        ),
    ]
    return {**object_of("A question.", parts, required=["type"]), "x-kubernetes-validations": checks}


def _goes_with(name: str, kinds: Iterable[CheckType]) -> Schema:
    known = ", ".join(f"'{kind}'" for kind in kinds)
    text = f"{name} goes with type {' and '.join(kinds)}; remove it"
    return rule_of(f"!has(self.{name}) || self.type in [{known}]", text, f".{name}")


def _text(pattern: str, length: int, text: str) -> Schema:
    found: Schema = {"type": "string", "maxLength": length, "pattern": f"^{pattern}$"}
    return {**found, "description": text} if text else found


def _octets(text: str) -> Schema:
    encoded = -(-rules.PAYLOAD_LENGTH // 3) * 4
    return {"type": "string", "format": "byte", "maxLength": encoded, "description": f"{text} Base64."}
