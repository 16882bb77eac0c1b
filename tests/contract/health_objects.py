"""Objects with health checks that parse and the API server take or refuse alike (``test_crds``)."""

from typing import Any

from tests.gen import raw_virtual_service


def servers(*found: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return raw_virtual_service(**{"serviceRef": None, "realServers": list(found), **spec})


def asked(*checks: dict[str, Any], **health: Any) -> dict[str, Any]:
    return servers({"address": "192.168.139.7"}, health={"checks": list(checks), **health})


SOUND: list[dict[str, Any]] = [
    raw_virtual_service(health={"checks": [{"type": "TCP"}], "pods": True}),
    servers(
        {"address": "192.168.139.7"},
        health={
            "checks": [
                {"type": "TCP", "port": 22, "intervalMilliseconds": 1000, "timeoutMilliseconds": 900, "rise": 2},
                {
                    **{"type": "HTTPS", "method": "HEAD", "path": "/a", "host": "a.example", "verifyTls": False},
                    **{"statuses": ["200", "300-399"], "bodyRegex": "ok", "bodySha256": "0" * 64},
                    "caPem": "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n",
                },
                {"type": "UDP", "payload": "cGluZw==", "expect": "cG8="},
                {"type": "DNS", "name": "a.example", "recordType": "TXT", "allowNxdomain": True},
                {"type": "SMTP", "name": "a.example"},
                *({"type": kind} for kind in ("ICMP", "Agent")),
                {"type": "GRPC", "tls": True, "verifyTls": False, "host": "a.example"},
            ],
            **{"onFailure": "Remove", "initiallyUp": True, "quorum": 3, "hysteresis": 2, "slowStartSeconds": 60},
        },
        scheduler="wlc",
        whenEmpty="Drop",
    ),
    servers(
        {"address": "192.168.139.7"},
        whenEmpty="Sorry",
        sorryServer={"address": "192.168.139.9", "port": 8080, "forwarding": "Masquerade"},
    ),
    servers({"address": "192.168.139.7"}, ports=None, allPorts=True, health={"checks": [{"type": "ICMP"}]}),
]

# object, and the field that parse and the API server both must name
UNSOUND: list[tuple[dict[str, Any], str]] = [
    (asked(), "spec.health.checks"),
    (asked(*[{"type": "TCP"}] * 9), "spec.health.checks"),
    (asked({"type": "Exec", "command": ["true"]}), "spec.health.checks[0].type"),
    (asked({"type": "TCP", "path": "/"}), "spec.health.checks[0].path"),
    (asked({"type": "HTTP", "caPem": "-----BEGIN CERTIFICATE-----"}), "spec.health.checks[0].caPem"),
    (asked({"type": "HTTPS", "caPem": "x"}), "spec.health.checks[0].caPem"),
    (asked({"type": "GRPC", "verifyTls": False}), "spec.health.checks[0].verifyTls"),
    (asked({"type": "GRPC", "tls": False, "verifyTls": False}), "spec.health.checks[0].verifyTls"),
    (asked({"type": "HTTP", "path": "a"}), "spec.health.checks[0].path"),
    (asked({"type": "HTTP", "statuses": ["299-200"]}), "spec.health.checks[0].statuses"),
    (asked({"type": "HTTP", "statuses": ["2xx"]}), "spec.health.checks[0].statuses[0]"),
    (asked({"type": "DNS"}), "spec.health.checks[0].name"),
    (asked({"type": "TCP"}, hysteresis=1), "spec.health.hysteresis"),
    (asked({"type": "TCP"}, pods=True), "spec.health.pods"),
    (raw_virtual_service(health={"checks": [{"type": "TCP"}]}), "spec.health.pods"),
    (
        raw_virtual_service(health={"checks": [{"type": "TCP"}], "pods": True, "onFailure": "Remove"}),
        "spec.health.onFailure",
    ),
    (
        raw_virtual_service(health={"checks": [{"type": "TCP"}], "pods": True, "slowStartSeconds": 9}),
        "spec.health.slowStartSeconds",
    ),
    (
        servers(
            {"address": "192.168.139.7"}, scheduler="rr", health={"checks": [{"type": "TCP"}], "slowStartSeconds": 9}
        ),
        "spec.health.slowStartSeconds",
    ),
    (
        servers({"address": "192.168.139.7"}, ports=None, allPorts=True, health={"checks": [{"type": "TCP"}]}),
        "spec.health.checks",
    ),
    (raw_virtual_service(whenEmpty="Sorry"), "spec.whenEmpty"),
    (raw_virtual_service(sorryServer={"address": "192.168.139.9"}), "spec.sorryServer"),
    (raw_virtual_service(whenEmpty="Sorry", sorryServer={"address": "192.168.139.123"}), "spec.sorryServer.address"),
    (
        raw_virtual_service(whenEmpty="Sorry", sorryServer={"address": "192.168.139.9", "port": 8080}),
        "spec.sorryServer.port",
    ),
]
