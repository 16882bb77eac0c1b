"""Where the operator answers probes and scrapes."""

import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from lvsoperator.adapters.metrics import Server
from lvsoperator.settings import Settings

pytestmark = pytest.mark.unit


def answer(host: str, listen: str) -> int:
    server = Server(listen, 0, CollectorRegistry(), lambda: None, lambda: None)
    try:
        with urllib.request.urlopen(f"http://{host}:{server.server_port}/healthz", timeout=10) as found:
            return int(found.status)
    finally:
        server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_the_kubelet_is_answered_by_the_pods_address_of_either_family(host: str) -> None:
    assert answer(host, Settings().listen) == 200


@pytest.mark.parametrize(("host", "listen"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")])
def test_an_address_that_is_named_is_listened_on(host: str, listen: str) -> None:
    assert answer(host, listen) == 200


def test_a_kernel_without_ipv6_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert answer("127.0.0.1", "") == 200


def test_the_resolver_is_not_asked_for_a_name_of_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_: str) -> str:
        pytest.fail("a resolver that does not answer would keep the operator from starting")

    monkeypatch.setattr(socket, "getfqdn", asked)
    assert answer("127.0.0.1", "127.0.0.1") == 200
