"""The checkers but HTTP, each against a real server of its protocol and against servers that misbehave."""

import datetime
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import grpc
import pytest
import trustme
from aiosmtpd.controller import Controller
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lvsagent.checks.answer import Answer
from lvsapi.health import CheckType, HealthCheck
from tests.checking import PATIENCE, ask_once, backend, free_port, hang, says

pytestmark = pytest.mark.contract

SOON: Final = 500
"""Milliseconds, where the timeout is what is waited for."""
DNS: Final = HealthCheck(type=CheckType.DNS, name="web.example", timeout_ms=5000)
UDP: Final = replace(DNS, type=CheckType.UDP, payload=b"ping")
SMTP: Final = replace(DNS, type=CheckType.SMTP)
GRPC: Final = replace(DNS, type=CheckType.GRPC, name="")
GRPC_TLS: Final = replace(GRPC, tls=True)
AGENT: Final = replace(DNS, type=CheckType.AGENT)
ICMP: Final = replace(DNS, type=CheckType.ICMP)
EXEC: Final = replace(DNS, type=CheckType.EXEC)


def reason(check: HealthCheck, port: int, address: str = "127.0.0.1") -> str:
    """Of its failure, without what it begins with."""
    answer = ask_once(check, port, address)
    assert not answer.ok
    assert not answer.ours
    where = address if check.type is CheckType.ICMP else f"{address}:{port}"
    head, words = answer.reason[: len(f"{check.type} {where}: ")], answer.reason[len(f"{check.type} {where}: ") :]
    assert head == f"{check.type} {where}: "
    return words


@pytest.mark.parametrize("check", [SMTP, GRPC, GRPC_TLS, AGENT])
def test_nobody_there_and_nobody_who_speaks(check: HealthCheck) -> None:
    assert reason(check, free_port()) == "connection refused"
    with backend(hang) as port:
        assert reason(replace(check, timeout_ms=SOON), port) == f"no complete answer within {SOON} ms"


@pytest.mark.parametrize("check", [SMTP, GRPC, GRPC_TLS, AGENT])
def test_an_answer_without_end_and_a_slow_drip_are_given_up(check: HealthCheck) -> None:
    with backend(says(b"2" * 65536, for_ever=True)) as port:
        assert reason(check, port)
    with backend(says(b"2", every=0.02, for_ever=True)) as port:
        begun = time.monotonic()
        assert reason(replace(check, timeout_ms=SOON), port)
        assert time.monotonic() - begun < PATIENCE


class Echo:
    """A UDP server. What it answers is what it is told to."""

    def __init__(self, answer: bytes | None) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._answer = answer
        self.heard: list[bytes] = []

    def __enter__(self) -> "Echo":
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)  # until then the port is not refused

    def _serve(self) -> None:
        with self._socket:
            while data := self._socket.recvfrom(65535):
                if not data[0]:
                    return
                self.heard.append(data[0])
                if self._answer is not None:
                    self._socket.sendto(self._answer, data[1])


def test_udp_is_answered_as_expected() -> None:
    with Echo(b"pong 1") as server:
        assert ask_once(replace(UDP, expect=b"pong"), server.port).ok
        assert server.heard == [b"ping"]
        assert reason(replace(UDP, expect=b"gong"), server.port).endswith(", expected 67 6f 6e 67")
        assert ask_once(UDP, server.port).ok


def test_udp_that_nobody_answers_is_well_unless_an_answer_is_expected_and_a_refusal_is_not() -> None:
    with Echo(None) as server:
        assert ask_once(replace(UDP, timeout_ms=SOON), server.port).ok
        assert "no complete answer" in reason(replace(UDP, timeout_ms=SOON, expect=b"x"), server.port)
    assert reason(UDP, server.port) == "connection refused"


@pytest.fixture(scope="module")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A dnsmasq that knows web.example and nothing else of it, and refuses the rest."""
    program = shutil.which("dnsmasq")
    assert program, "dnsmasq is missing: install the package dnsmasq-base (apt-get install dnsmasq-base)"
    port = free_port()
    arguments = [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts"]
    arguments += ["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--local=/example/", "--user=root"]
    arguments += ["--host-record=web.example,192.0.2.7", "--log-facility=-"]
    process = subprocess.Popen([program, *arguments], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not ask_once(DNS, port).ok and time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_dns_answers_what_it_knows(dns: int) -> None:
    assert ask_once(DNS, dns).ok
    assert ask_once(replace(DNS, record_type="AAAA"), dns).ok
    assert reason(replace(DNS, name="no.example"), dns) == "no.example A: NXDOMAIN, expected NOERROR"
    assert ask_once(replace(DNS, name="no.example", allow_nxdomain=True), dns).ok
    words = reason(replace(DNS, name="elsewhere.test", allow_nxdomain=True), dns)
    assert words == "elsewhere.test A: REFUSED, expected NOERROR or NXDOMAIN"


def test_dns_that_refuses_is_silent_or_says_something_else() -> None:
    with Echo(None) as server:
        assert "no complete answer" in reason(replace(DNS, timeout_ms=SOON), server.port)
    assert reason(DNS, server.port) == "connection refused"
    with Echo(b"pong") as server:
        assert reason(DNS, server.port) == "the answer is not DNS"
    with Echo(bytes(12)) as server:  # of another question: the right answer may still come
        assert "no complete answer" in reason(replace(DNS, timeout_ms=SOON), server.port)
    assert "cannot be asked for" in reason(replace(DNS, record_type="NONSENSE"), server.port)


class Mails:
    """A handler of aiosmtpd."""

    def __init__(self) -> None:
        self.helo: list[str] = []

    async def handle_HELO(self, server: object, session: object, envelope: object, hostname: str) -> str:
        self.helo.append(hostname)
        session.host_name = hostname  # type: ignore[attr-defined]
        return "550 go away" if hostname == "spammer" else "250 well"


def test_smtp_greets_and_answers_helo() -> None:
    mails = Mails()
    server = Controller(mails, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        assert ask_once(SMTP, server.port).ok
        assert mails.helo == ["web.example"]
        assert reason(replace(SMTP, name="spammer"), server.port) == "HELO is answered by 550, expected 250"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"554 no\r\n", "greeting 554, expected 220"),
        (b"220-one\r\n220-two\r\n421 three\r\n", "greeting 421, expected 220"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "says 'SSH-2.0-OpenSSH_9.2', expected a reply of SMTP"),
        (b"220-more\r\n" * 200, "a reply of more than 100 lines"),
        (b"", "the connection was closed without a reply"),
    ],
)
def test_smtp_that_says_something_else(said: bytes, words: str) -> None:
    with backend(says(said)) as port:
        assert reason(SMTP, port) == words


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[tuple[int, health.HealthServicer]]:
    """grpcio's own server with its own health service."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port, servicer
        server.stop(0).wait(PATIENCE)


def test_grpc_serves_or_says_why_not(grpc_server: tuple[int, health.HealthServicer]) -> None:
    port, servicer = grpc_server
    status = health_pb2.HealthCheckResponse
    assert ask_once(GRPC, port).ok
    long = "shop.v1.Cart" * 20
    servicer.set(long, status.SERVING)
    servicer.set("sick", status.NOT_SERVING)
    servicer.set("odd", status.UNKNOWN)
    assert ask_once(replace(GRPC, name=long), port).ok
    assert reason(replace(GRPC, name="sick"), port) == "NOT_SERVING, expected SERVING"
    assert reason(replace(GRPC, name="odd"), port) == "UNKNOWN, expected SERVING"
    assert reason(replace(GRPC, name="gone"), port) == "grpc-status 5: the service is not known there"


@pytest.fixture(scope="module")
def grpc_over_tls() -> Iterator[tuple[dict[str, int], str]]:
    """grpcio's own server at ports with a good certificate and with an expired one, and the authority's certificate."""
    authority = trustme.CA()
    yesterday = datetime.datetime.fromtimestamp(time.time() - 86400, datetime.UTC)
    good = authority.issue_cert("shop.example", "127.0.0.1")
    expired = authority.issue_cert("shop.example", not_after=yesterday)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        ports = {}
        for name, leaf in (("good", good), ("expired", expired)):
            chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
            credentials = grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), chain)])
            ports[name] = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield ports, authority.cert_pem.bytes().decode()
        server.stop(0).wait(PATIENCE)


def test_grpc_over_tls_serves_and_the_certificate_is_verified(grpc_over_tls: tuple[dict[str, int], str]) -> None:
    ports, authority = grpc_over_tls
    trusting = replace(GRPC, tls=True, ca_pem=authority, host="shop.example:8443")
    assert ask_once(trusting, ports["good"]).ok
    assert ask_once(replace(trusting, host=""), ports["good"]).ok  # by its address
    assert reason(replace(trusting, name="gone"), ports["good"]) == "grpc-status 5: the service is not known there"
    for check, port, words in (
        (trusting, ports["expired"], "the certificate is not accepted: certificate has expired"),
        (replace(trusting, host="other.example"), ports["good"], "not valid for 'other.example'"),
        (replace(trusting, ca_pem=""), ports["good"], "unable to get local issuer certificate"),
    ):
        assert words in reason(check, port)
        assert ask_once(replace(check, verify_tls=False, ca_pem=""), port).ok


def test_grpc_with_tls_on_one_side_only_fails_with_a_word(
    grpc_server: tuple[int, health.HealthServicer], grpc_over_tls: tuple[dict[str, int], str]
) -> None:
    ports, authority = grpc_over_tls
    assert "TLS fails" in reason(replace(GRPC, tls=True, verify_tls=False), grpc_server[0])
    assert reason(GRPC, ports["good"]) in ("the connection was closed without an answer", "connection reset by peer")
    with backend(says(first=True)) as port:
        assert "TLS fails" in reason(replace(GRPC, tls=True, ca_pem=authority), port)


def test_an_answer_without_end_and_a_slow_drip_within_tls_are_given_up() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    check = replace(GRPC, tls=True, ca_pem=authority.cert_pem.bytes().decode())
    settings = b"\0\0\0\4\0\0\0\0\0"
    with backend(says(settings * 7000, for_ever=True, first=True), tls=context) as port:
        assert reason(check, port) == "the answer is not HTTP/2 of a health service"
    with backend(says(settings, every=0.02, for_ever=True, first=True), tls=context) as port:
        assert reason(replace(check, timeout_ms=SOON), port) == f"no complete answer within {SOON} ms"


def test_grpc_over_tls_asks_for_http2_and_sends_the_name() -> None:
    names: list[str | None] = []
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example").configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    check = replace(GRPC, tls=True, ca_pem=authority.cert_pem.bytes().decode(), host="shop.example")
    with backend(says(b"HTTP/1.1 400 Bad Request\r\n\r\n", first=True), tls=context) as port:
        assert reason(check, port) == "the answer is not HTTP/2 of a health service"
    assert names == ["shop.example"]


def test_grpc_without_a_health_service() -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert reason(GRPC, port) == "grpc-status 12: there is no health service"
        server.stop(0).wait(PATIENCE)


def test_grpc_that_is_something_else() -> None:
    with backend(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert reason(GRPC, port) == "the answer is not HTTP/2 of a health service"
    with backend(says(first=True)) as port:
        assert reason(GRPC, port) == "the connection was closed without an answer"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"75\n", Answer(ok=True, percent=75)),
        (b"75%\r\nrest", Answer(ok=True, percent=75)),
        (b"up 256%", Answer(ok=True, percent=256)),
        (b"ready,12\n", Answer(ok=True, percent=12)),
        (b"up\n", Answer(ok=True, percent=100)),
        (b"drain 50\n", Answer(ok=True, percent=0)),
        (b"0\n", Answer(ok=True, percent=0)),
    ],
)
def test_an_agent_says_its_weight(said: bytes, answer: Answer) -> None:
    with backend(says(said)) as port:
        assert ask_once(AGENT, port) == answer


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"down # disk full\n", "says down: disk full"),
        (b"maint\n", "says maint"),
        (b"257\n", "says '257', expected a number up to 256, drain, up or down"),
        (b"-1\n", "says '-1', expected a number up to 256, drain, up or down"),
        ("½\n".encode(), "says '\\\\xc2\\\\xbd', expected a number up to 256, drain, up or down"),
        (b"\n", "says nothing, expected a number, drain, up or down"),
        (b"", "says nothing, expected a number, drain, up or down"),
        (b"x" * 300, "says more than 256 bytes without an end of line"),
    ],
)
def test_an_agent_that_is_down_or_says_something_else(said: bytes, words: str) -> None:
    with backend(says(said)) as port:
        assert reason(AGENT, port) == words


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_icmp_is_answered(address: str) -> None:
    assert ask_once(ICMP, 0, address).ok


def command(*words: str, timeout_ms: int = 5000) -> HealthCheck:
    return replace(EXEC, command=words, timeout_ms=timeout_ms)


def test_a_command_is_asked_about_the_backend_and_its_status_decides() -> None:
    script = 'test "$LVS_ADDRESS $LVS_PORT $LVS_PROTOCOL" = "127.0.0.1 7 TCP" && test -z "$LVS_SECRET"'
    os.environ["LVS_SECRET"] = "ours"
    try:
        assert ask_once(command("/bin/sh", "-c", script), 7).ok
    finally:
        del os.environ["LVS_SECRET"]
    assert reason(command("/bin/sh", "-c", "echo ill; echo more; exit 3"), 7) == "/bin/sh ended with status 3: ill"
    assert reason(command("/bin/sh", "-c", "kill -9 $$"), 7) == "/bin/sh was ended by SIGKILL"
    assert reason(command("/no/such"), 7) == "/no/such cannot be run: no such file or directory"


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"sleep 300 & echo $! > {note}; wait"
    assert reason(command("/bin/sh", "-c", script, timeout_ms=SOON), 7) == f"no complete answer within {SOON} ms"
    _gone(int(note.read_text()))


def test_what_a_command_leaves_behind_is_killed_and_not_waited_for(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    assert ask_once(command("/bin/sh", "-c", f"sleep 300 & echo $! > {note}"), 7).ok
    _gone(int(note.read_text()))


def test_a_command_that_says_too_much_is_not_heard_to_the_end() -> None:
    talk = "import sys; sys.stdout.write('x' * 50_000_000); sys.exit(1)"
    words = reason(command(sys.executable, "-c", talk, timeout_ms=20_000), 7)
    assert words.endswith("x" * 120)


def test_commands_are_not_run_unless_allowed() -> None:
    answer = ask_once(command("/bin/true"), 7, allow_exec=False)
    assert not answer.ok
    assert answer.reason.endswith("commands are run in standalone mode only (lvs-checks --allow-exec)")


def _gone(pid: int) -> None:
    end = time.monotonic() + PATIENCE
    with suppress(ProcessLookupError, FileNotFoundError):
        while time.monotonic() < end:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return  # dead, and its new parent has not looked yet
            os.kill(pid, 0)
            time.sleep(0.01)
        raise AssertionError(f"{pid} still runs")
