"""HTTP and HTTPS, against nginx and against servers that misbehave."""

import datetime
import hashlib
import resource
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lvsapi.health import MAX_BODY, CheckType, HealthCheck
from tests.checking import PATIENCE, ask_once, backend, free_port, hang, says

pytestmark = pytest.mark.contract

HTTP: Final = HealthCheck(type=CheckType.HTTP, path="/healthz", timeout_ms=5000)
HTTPS: Final = replace(HTTP, type=CheckType.HTTPS, host="web.example")
SOON: Final = 500
"""Milliseconds, where the timeout is what is waited for."""
listens: Final = partial(says, first=True)
BODY: Final = b"all is well\n"
HUGE: Final = 10 << 30

NGINX: Final = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; root {folder}/pages;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{http}; listen [::1]:{http}; listen 127.0.0.1:{https} ssl;
    ssl_certificate {folder}/right.pem; ssl_certificate_key {folder}/right.pem;
    location = /healthz {{ default_type text/plain; alias {folder}/pages/healthz; }}
    location = /sick {{ return 503; }}
    location = /moved {{ return 302 /healthz; }}
    location = /host {{ return 200 "host=$host agent=$http_user_agent cookie=$http_cookie"; }}
    location = /post {{ if ($request_method != POST) {{ return 405; }} return 204; }}
  }}
  server {{
    listen 127.0.0.1:{expired} ssl; ssl_certificate {folder}/expired.pem; ssl_certificate_key {folder}/expired.pem;
    location / {{ return 200; }}
  }}
}}
"""


@dataclass(frozen=True)
class Web:
    """A running nginx."""

    http: int
    https: int
    expired: int
    """A port whose certificate is."""
    ca_pem: str


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    program = shutil.which("nginx")
    assert program, "nginx is missing: install the package nginx-light (apt-get install nginx-light)"
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "pages").mkdir()
    (folder / "pages" / "healthz").write_bytes(BODY)
    with (folder / "pages" / "huge").open("wb") as huge:
        huge.truncate(HUGE)
    authority = trustme.CA()
    yesterday = datetime.datetime.fromtimestamp(time.time() - 86400, datetime.UTC)
    right = authority.issue_cert("web.example", "127.0.0.1")
    expired = authority.issue_cert("web.example", not_after=yesterday)
    for name, certificate in (("right", right), ("expired", expired)):
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    ports = {name: free_port() for name in ("http", "https", "expired")}
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, **ports))
    process = subprocess.Popen([program, "-c", str(configuration), "-p", str(folder)], stderr=subprocess.DEVNULL)
    try:
        _reachable(ports["http"], process, folder / "error.log")
        yield Web(**ports, ca_pem=authority.cert_pem.bytes().decode())
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _reachable(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nginx does not listen: {log.read_text()}")


def reason(check: HealthCheck, port: int) -> str:
    """Of its failure."""
    answer = ask_once(check, port)
    assert not answer.ok
    assert not answer.ours
    return answer.reason


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_good_answer_of_both_families(web: Web, address: str) -> None:
    check = replace(HTTP, body_regex="^all is w.ll$", body_sha256="")
    assert ask_once(check, web.http, address).ok
    assert ask_once(replace(HTTP, body_sha256=hashlib.sha256(BODY).hexdigest().upper()), web.http, address).ok


def test_a_wrong_status_is_named_with_what_was_expected(web: Web) -> None:
    check = replace(HTTP, path="/sick")
    assert reason(check, web.http) == f"HTTP 127.0.0.1:{web.http}/sick: status 503, expected 200-299"
    assert ask_once(replace(check, statuses=((200, 200), (503, 503))), web.http).ok
    assert reason(replace(check, statuses=((200, 200), (301, 399))), web.http).endswith("expected 200, 301-399")


def test_a_redirect_is_an_answer_and_is_not_followed(web: Web) -> None:
    check = replace(HTTP, path="/moved")
    assert "status 302" in reason(check, web.http)
    assert ask_once(replace(check, statuses=((302, 302),)), web.http).ok


def test_method_host_and_agent_are_what_was_asked_for_and_nothing_else_is_sent(web: Web) -> None:
    assert ask_once(replace(HTTP, path="/post", method="POST"), web.http).ok
    assert "status 405" in reason(replace(HTTP, path="/post"), web.http)
    check = replace(HTTP, path="/host", host="shop.example", body_regex="^host=shop.example agent=lvs-checks cookie=$")
    assert ask_once(check, web.http).ok


def test_a_body_that_is_another_fails(web: Web) -> None:
    assert "'sick' is not found in the body" in reason(replace(HTTP, body_regex="sick"), web.http)
    digest = hashlib.sha256(BODY).hexdigest()
    assert f"SHA-256 is {digest}, expected {'0' * 64}" in reason(replace(HTTP, body_sha256="0" * 64), web.http)


def test_ten_gigabytes_are_not_read(web: Web) -> None:
    check = replace(HTTP, path="/huge", timeout_ms=20_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert ask_once(check, web.http).ok
    assert "longer than" in reason(replace(check, body_sha256="0" * 64), web.http)
    assert f"not found in the first {MAX_BODY} bytes" in reason(replace(check, body_regex="x"), web.http)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_an_expression_that_takes_for_ever_ends_and_fails() -> None:
    body = b"a" * 2001 + b"b!c b!!"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with backend(listens(answer)) as port:
        assert "simplify it" in reason(replace(HTTP, body_regex=r"^(a*)(a*)(a*)(a*)\1\2\3\4b!!"), port)


def test_a_certificate_of_the_given_authority_for_the_host_is_accepted(web: Web) -> None:
    assert ask_once(replace(HTTPS, ca_pem=web.ca_pem), web.https).ok
    assert ask_once(replace(HTTPS, ca_pem=web.ca_pem, host="web.example:8443"), web.https).ok
    assert ask_once(replace(HTTPS, ca_pem=web.ca_pem, host=""), web.https).ok  # by its address


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", "the certificate is not accepted: certificate has expired"),
        ("wrong name", "Hostname mismatch, certificate is not valid for 'other.example'"),
        ("unknown authority", "the certificate is not accepted: unable to get local issuer certificate"),
    ],
)
def test_a_certificate_that_must_not_be_trusted_is_refused_unless_nobody_asks(web: Web, kind: str, words: str) -> None:
    port = web.expired if kind == "expired" else web.https
    check = replace(
        HTTPS,
        ca_pem="" if kind == "unknown authority" else web.ca_pem,
        host="other.example" if kind == "wrong name" else HTTPS.host,
    )
    assert words in reason(check, port)
    assert ask_once(replace(check, verify_tls=False), port).ok


def test_a_certificate_without_key_identifiers_is_accepted_as_curl_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image's Python 3.13 refuses it by default: a backend of which every client thinks well was down."""
    usual = ssl.create_default_context

    def strict(**arguments: str | None) -> ssl.SSLContext:
        context = usual(**arguments)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    key, authority = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "made by hand")])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    basic, name = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("web.example")]),
    )
    ca = built.subject_name(issuer).public_key(authority.public_key()).serial_number(1).add_extension(basic, True)
    leaf = built.subject_name(x509.Name([])).public_key(key.public_key()).serial_number(2).add_extension(name, False)
    signed = [one.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) for one in (ca, leaf)]
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "pair.pem").write_bytes(signed[1] + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    with backend(listens(b"HTTP/1.1 204 No Content\r\n\r\n"), tls=context) as port:
        assert ask_once(replace(HTTPS, ca_pem=signed[0].decode()), port).ok


def test_sni_is_the_host() -> None:
    names: list[str | None] = []
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("web.example", "127.0.0.1").configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    ca = authority.cert_pem.bytes().decode()
    with backend(listens(b"HTTP/1.1 204 No Content\r\n\r\n"), tls=context) as port:
        assert ask_once(replace(HTTPS, ca_pem=ca), port).ok
        assert ask_once(replace(HTTPS, ca_pem=ca, host=""), port).ok
    assert names == ["web.example", None]


def test_tls_that_is_none_and_http_that_is_tls_fail_with_a_word(web: Web) -> None:
    assert "TLS fails" in reason(replace(HTTPS, verify_tls=False), web.http)
    assert "status 400" in reason(HTTP, web.https)


@pytest.mark.parametrize("kind", [HTTP, HTTPS])
def test_nobody_there_and_nobody_who_speaks(kind: HealthCheck) -> None:
    assert reason(kind, free_port()).endswith("connection refused")
    with backend(hang) as port:
        assert reason(replace(kind, timeout_ms=SOON), port).endswith(f"no complete answer within {SOON} ms")


def test_a_slow_drip_ends_at_the_timeout() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    for parts in ((b"HTTP/1.1 200 OK\r\nX: ", b"y"), (head, b"x")):
        with backend(listens(*parts, every=0.02, for_ever=True)) as port:
            begun = time.monotonic()
            assert "no complete answer" in reason(replace(HTTP, body_regex="y", timeout_ms=SOON), port)
            assert SOON / 1000 <= time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "closed within the body"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "the answer is not HTTP"),
    ],
)
def test_what_is_not_http_fails_with_a_word(said: bytes, words: str) -> None:
    with backend(listens(said)) as port:
        assert words in reason(replace(HTTP, body_regex="x"), port)


def test_headers_without_end_are_not_read_for_ever() -> None:
    with backend(listens(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 4000 + b"\r\n", for_ever=True)) as port:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert not ask_once(replace(HTTP, timeout_ms=2000), port).ok
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
