"""Metrics and probes are served by both families: a cluster with IPv6 only is asked by it, by the kubelet, too."""

import asyncio
import http.client
import socket

import pytest
from prometheus_client import CollectorRegistry

from lvsagent.adapters.http import HttpServer
from lvsagent.cli import parse
from lvsoperator.adapters.metrics import Server
from lvsoperator.settings import Settings
from tests.checking import free_port

pytestmark = pytest.mark.contract
needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


def asked(host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


@needs_ipv6
def test_the_operator_is_asked_by_ipv4_and_by_ipv6() -> None:
    """Its probes go to the pod's address: the kubelet killed it again and again."""
    for host, places in ((Settings().listen, ("127.0.0.1", "::1")), ("::1", ("::1",)), ("127.0.0.1", ("127.0.0.1",))):
        server = Server(host, 0, CollectorRegistry(), lambda: None, lambda: None)
        try:
            assert [asked(place, server.server_port) for place in places] == [200] * len(places)
        finally:
            server.close()


@needs_ipv6
def test_the_agent_is_asked_by_ipv4_and_by_ipv6() -> None:
    """Prometheus asks at the node's address: an agent of such a cluster had neither metrics nor alerts."""
    metrics, port = parse([], {"NODE_NAME": "n1"}).metrics, free_port()
    assert metrics is not None

    async def story() -> None:
        server = HttpServer({"/healthz": lambda: (200, "text/plain", b"ok")})
        await server.start(metrics[0], port)
        assert [await asyncio.to_thread(asked, place, port) for place in ("127.0.0.1", "::1")] == [200, 200]
        await server.close()

    asyncio.run(story())


def test_where_there_is_no_ipv6_there_is_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    server = Server("", 0, CollectorRegistry(), lambda: None, lambda: None)
    try:
        assert server.address_family == socket.AF_INET
        assert asked("127.0.0.1", server.server_port) == 200
    finally:
        server.close()
