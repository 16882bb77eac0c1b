"""The part of a VirtualService about its backends' health: what it says, and what excludes what."""

import base64
from ipaddress import ip_address
from typing import Any

import pytest

from lvsapi.errors import SpecError
from lvsapi.health import NO_HEALTH, CheckType, Health, HealthCheck, OnFailure, WhenEmpty
from lvsapi.ipvs import Forwarding
from lvsapi.model import VirtualService
from lvsapi.parse import parse_virtual_service
from lvsapi.resolve import resolve
from tests.gen import assignment, raw_virtual_service, snapshot, virtual_service

pytestmark = pytest.mark.unit
TCP = {"type": "TCP"}
SORRY = {"address": "192.168.139.9"}
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def real(*checks: dict[str, Any], health: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """An object with a real server, the checks, and more."""
    asked = {"health": {"checks": list(checks), **(health or {})}} if checks or health else {}
    found = {"serviceRef": None, "realServers": [{"address": "192.168.139.7"}], **asked, **spec}
    return raw_virtual_service(**found)


def parsed(*checks: dict[str, Any], **more: Any) -> VirtualService:
    return parse_virtual_service(real(*checks, **more))


def refusals(obj: dict[str, Any], *, standalone: bool = False) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse_virtual_service(obj, standalone=standalone)
    return {error.path: error.message for error in caught.value.errors}


def test_without_a_word_nothing_is_asked_and_clients_are_refused() -> None:
    found = parse_virtual_service(raw_virtual_service())
    assert (found.health, found.sorry_server) == (NO_HEALTH, None)
    assert found.health.when_empty is WhenEmpty.REJECT


def test_a_check_needs_its_type_only() -> None:
    assert parsed(TCP).health == Health(checks=(HealthCheck(type=CheckType.TCP),))


def test_every_field_arrives() -> None:
    web = {
        **{"type": "HTTPS", "port": 8443, "intervalMilliseconds": 1000, "timeoutMilliseconds": 500, "rise": 2},
        **{"fall": 3, "retryMilliseconds": 200, "method": "HEAD", "path": "/ready?x=1", "host": "web.example"},
        **{"statuses": ["200", "300-399"], "bodyRegex": "^o.k", "bodySha256": "0" * 64, "verifyTls": False},
        "caPem": PEM,
    }
    udp = {"type": "UDP", "payload": base64.b64encode(b"\0ping").decode(), "expect": base64.b64encode(b"po").decode()}
    dns = {"type": "DNS", "name": "example.org", "recordType": "AAAA", "allowNxdomain": True}
    more = {"onFailure": "Remove", "initiallyUp": True, "quorum": 3, "hysteresis": 2, "slowStartSeconds": 30}
    found = parsed(*(web, udp, dns), health=more, scheduler="wrr", whenEmpty="Sorry", sorryServer={**SORRY, "port": 80})
    assert found.health == Health(
        checks=(
            HealthCheck(
                type=CheckType.HTTPS,
                port=8443,
                interval_ms=1000,
                timeout_ms=500,
                rise=2,
                fall=3,
                retry_ms=200,
                method="HEAD",
                path="/ready?x=1",
                host="web.example",
                statuses=((200, 200), (300, 399)),
                body_regex="^o.k",
                body_sha256="0" * 64,
                verify_tls=False,
                ca_pem=PEM,
            ),
            HealthCheck(type=CheckType.UDP, payload=b"\0ping", expect=b"po"),
            HealthCheck(type=CheckType.DNS, name="example.org", record_type="AAAA", allow_nxdomain=True),
        ),
        on_failure=OnFailure.REMOVE,
        initially_up=True,
        quorum=3,
        hysteresis=2,
        slow_start_seconds=30,
        when_empty=WhenEmpty.SORRY,
    )
    assert found.sorry_server is not None
    assert (found.sorry_server.address, found.sorry_server.port) == (ip_address("192.168.139.9"), 80)


def test_grpc_may_be_asked_over_tls() -> None:
    check = {"type": "GRPC", "tls": True, "verifyTls": False, "caPem": PEM, "host": "shop.example", "name": "shop.v1"}
    assert parsed(check).health.checks == (
        HealthCheck(type=CheckType.GRPC, tls=True, verify_tls=False, ca_pem=PEM, host="shop.example", name="shop.v1"),
    )
    assert not parsed({"type": "GRPC"}).health.checks[0].tls


def test_commands_are_for_manifests_only() -> None:
    check = {"type": "Exec", "command": ["/usr/local/bin/check", "--quick"]}
    found = parse_virtual_service(real(check), standalone=True)
    assert found.health.checks[0].command == ("/usr/local/bin/check", "--quick")
    assert "standalone" in refusals(real(check))["spec.health.checks[0].type"]
    assert "program" in refusals(real({"type": "Exec"}), standalone=True)["spec.health.checks[0].command"]
    bad = refusals(real({"type": "Exec", "command": ["x", ""]}), standalone=True)
    assert "spec.health.checks[0].command[1]" in bad


CHECK = "spec.health.checks[0]"


@pytest.mark.parametrize(
    ("obj", "field", "words"),
    [
        (real(health={"checks": []}), "spec.health.checks", "at least one"),
        (real(*[TCP] * 9), "spec.health.checks", "at most 8"),
        (real({}), f"{CHECK}.type", "is required"),
        (real({"type": "Ping"}), f"{CHECK}.type", "must be one of"),
        (real({**TCP, "port": 0}), f"{CHECK}.port", "1-65535"),
        (real({**TCP, "intervalMilliseconds": 99}), f"{CHECK}.intervalMilliseconds", "100-"),
        (real({**TCP, "fall": 0}), f"{CHECK}.fall", "1-100"),
        (real({**TCP, "path": "/"}), f"{CHECK}.path", "goes with type HTTP and HTTPS"),
        (real({**TCP, "verifyTls": False}), f"{CHECK}.verifyTls", "goes with type HTTPS"),
        (real({"type": "HTTP", "caPem": PEM}), f"{CHECK}.caPem", "goes with type HTTPS"),
        (real({"type": "HTTPS", "caPem": "x"}), f"{CHECK}.caPem", "PEM"),
        (real({"type": "HTTPS", "tls": True}), f"{CHECK}.tls", "goes with type GRPC"),
        (real({"type": "GRPC", "caPem": PEM}), f"{CHECK}.caPem", "goes with tls: true"),
        (real({"type": "GRPC", "tls": False, "verifyTls": False}), f"{CHECK}.verifyTls", "goes with tls: true"),
        (real({"type": "HTTP", "path": "ready"}), f"{CHECK}.path", "begin with /"),
        (real({"type": "HTTP", "path": "/a b"}), f"{CHECK}.path", "white space"),
        (real({"type": "HTTP", "host": "a\r\nb"}), f"{CHECK}.host", "host name"),
        (real({"type": "HTTP", "method": "get"}), f"{CHECK}.method", "capital"),
        (real({"type": "HTTP", "statuses": ["2xx"]}), f"{CHECK}.statuses[0]", "200-299"),
        (real({"type": "HTTP", "statuses": ["299-200"]}), f"{CHECK}.statuses[0]", "200-299"),
        (real({"type": "HTTP", "statuses": [200]}), f"{CHECK}.statuses[0]", "in quotes"),
        (real({"type": "HTTP", "bodyRegex": "("}), f"{CHECK}.bodyRegex", "regular expression"),
        (real({"type": "HTTP", "bodySha256": "A" * 64}), f"{CHECK}.bodySha256", "lower case"),
        (real({"type": "UDP", "payload": "?"}), f"{CHECK}.payload", "base64"),
        (real({"type": "DNS"}), f"{CHECK}.name", "is required"),
        (real({"type": "DNS", "name": "x", "recordType": "ANY"}), f"{CHECK}.recordType", "AAAA"),
        (real({**TCP, "color": "red"}), f"{CHECK}.color", "is not a field"),
        (real(TCP, health={"pods": True}), "spec.health.pods", "goes with serviceRef"),
        (real(TCP, health={"hysteresis": 1}), "spec.health.hysteresis", "below quorum"),
        (real(TCP, health={"slowStartSeconds": 9}, scheduler="rr"), "spec.health.slowStartSeconds", "no weights"),
        (real({"type": "Agent"}, scheduler="lc"), "spec.health.checks[0].type", "no weights"),
        (real(TCP, ports=[{"port": 80, "endPort": 90}]), f"{CHECK}.port", "range of ports"),
        (real(TCP, ports=None, allPorts=True), f"{CHECK}.port", "range of ports"),
        (real(whenEmpty="Sorry"), "spec.whenEmpty", "needs sorryServer"),
        (real(whenEmpty="Die"), "spec.whenEmpty", "must be one of"),
        (real(sorryServer=SORRY), "spec.sorryServer", "goes with whenEmpty"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(obj: dict[str, Any], field: str, words: str) -> None:
    found = refusals(obj)
    assert words in found[field], found


@pytest.mark.parametrize(
    ("health", "field", "words"),
    [
        ({"checks": [TCP]}, "spec.health.pods", "must be true"),
        ({"checks": [TCP], "pods": True, "onFailure": "Remove"}, "spec.health.onFailure", "must be Inhibit"),
        ({"checks": [TCP], "pods": True, "slowStartSeconds": 5}, "spec.health.slowStartSeconds", "same on every node"),
        ({"checks": [{"type": "Agent"}], "pods": True}, "spec.health.checks[0].type", "same on every node"),
    ],
)
def test_pods_keep_their_places_in_every_nodes_table(health: dict[str, Any], field: str, words: str) -> None:
    assert words in refusals(raw_virtual_service(health=health))[field]


def test_pods_are_asked_when_that_is_said() -> None:
    found = parse_virtual_service(raw_virtual_service(health={"checks": [TCP], "pods": True}))
    assert found.health.pods
    slow = {"checks": [TCP], "pods": True, "slowStartSeconds": 5}
    assert parse_virtual_service(raw_virtual_service(health=slow, scheduler="wrr")).health.slow_start_seconds == 5


def test_checks_without_a_port_go_with_ranges() -> None:
    found = parsed({"type": "ICMP"}, {**TCP, "port": 22}, ports=None, allPorts=True)
    assert [check.type for check in found.health.checks] == [CheckType.ICMP, CheckType.TCP]


@pytest.mark.parametrize(
    ("server", "spec", "field", "words"),
    [
        ({"address": "192.168.139.123"}, {}, "spec.sorryServer.address", "virtual address"),
        ({"address": "2001:db8::1"}, {}, "spec.sorryServer.address", "family"),
        ({"address": "web"}, {}, "spec.sorryServer.address", "must be an IPv4"),
        ({**SORRY, "port": 8080}, {}, "spec.sorryServer.port", "Masquerade"),
        ({**SORRY, "port": 80}, {"ports": [{"port": 80, "endPort": 81}]}, "spec.sorryServer.port", "range"),
        ({**SORRY, "weight": 1}, {}, "spec.sorryServer.weight", "is not a field"),
    ],
)
def test_a_sorry_server_is_a_server_of_its_own(
    server: dict[str, Any], spec: dict[str, Any], field: str, words: str
) -> None:
    assert words in refusals(real(whenEmpty="Sorry", sorryServer=server, **spec))[field]


def test_a_sorry_server_may_be_masqueraded_to_another_port() -> None:
    server = {**SORRY, "port": 8080, "forwarding": "Masquerade"}
    found = parsed(whenEmpty="Sorry", sorryServer=server).sorry_server
    assert found is not None
    assert (found.port, found.forwarding) == (8080, Forwarding.MASQUERADE)


def test_virtual_servers_know_what_is_asked_and_who_is_sorry() -> None:
    spec = real(TCP, whenEmpty="Sorry", sorryServer=SORRY, addresses=["192.168.139.123"])
    item = parse_virtual_service(spec)
    two = virtual_service(
        addresses=["192.168.139.123", "2001:db8::1"],
        real_servers=["192.168.139.7"],
        assigned=assignment(),
        health=item.health,
        sorry_server=item.sorry_server,
    )
    first, second = resolve(snapshot(two)).servers
    assert first.health == item.health
    assert first.sorry is not None
    assert (first.sorry.address, first.sorry.port, first.sorry.weight) == (ip_address("192.168.139.9"), 80, 1)
    assert second.sorry is None
