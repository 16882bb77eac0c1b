"""Resolution of ranges of ports, tunnels, limits and one-packet scheduling."""

from ipaddress import ip_address
from typing import Any

import pytest

from lvsapi.ipvs import IPIP, ConnectionLimits, Forwarding, Persistence, Tunnel, TunnelType
from lvsapi.model import RealServer, VirtualService
from lvsapi.resolve import resolve
from tests.gen import endpoint_slice, port, service, snapshot, virtual_service
from tests.unit.test_resolve import MINE, NEW, backends, problem

pytestmark = pytest.mark.unit


def web(**more: Any) -> VirtualService:
    return virtual_service(assigned=MINE, **more)


HOST = "192.168.139.101"


def test_a_range_of_ports_takes_every_endpoint_at_the_ports_that_are_asked_for() -> None:
    """Whatever the Service's own ports are."""
    slices = [endpoint_slice(["10.244.1.2", HOST]), endpoint_slice(["10.244.1.2"], name="b", ports=[("x", 9, "UDP")])]
    for item in (web(ports=[port(30000, "UDP", end=32767)]), web(all_ports=True)):
        found = resolve(snapshot(item, slices=slices))
        assert backends(found) == [("10.244.1.2", 0, 1), (HOST, 0, 1)]
        assert found.problems == ()
    (server,) = found.servers
    assert (server.protocol, server.port, server.end_port, server.ports) == (None, 0, 65535, "all")
    (server,) = resolve(snapshot(web(ports=[port(1, end=9)]), slices=slices)).servers
    assert (server.protocol, server.ports) == ("TCP", "1-9")


def test_a_range_of_a_service_that_is_missing_is_named_like_a_port() -> None:
    found = resolve(snapshot(web(all_ports=True, service="gone")))
    assert problem(found)[0] == "ServiceNotFound"
    assert found.servers[0].missing


def test_settings_of_the_object_reach_servers_and_backends() -> None:
    limits, gue = ConnectionLimits(upper=9), Tunnel(type=TunnelType.GUE, port=6080)
    settings = {"persistence": Persistence(), "scheduler_flags": (), "limits": limits, "tunnel": gue}
    (server,) = resolve(snapshot(web(forwarding="Tunnel", ports=[8080], **settings))).servers
    assert (server.persistence, server.scheduler_flags) == (Persistence(), ())
    (backend,) = server.backends
    assert (backend.forwarding, backend.tunnel, backend.limits) == (None, gue, limits)


def test_a_real_server_may_differ_from_the_object() -> None:
    own = RealServer(
        address=ip_address("10.0.0.8"), forwarding=Forwarding.TUNNEL, tunnel=IPIP, limits=ConnectionLimits(upper=1)
    )
    usual = ConnectionLimits(upper=9)
    (server,) = resolve(snapshot(web(real_servers=[own, "10.0.0.9"], limits=usual, all_ports=True))).servers
    first, second = server.backends
    assert (first.port, first.forwarding, first.limits.upper) == (0, "Tunnel", 1)
    assert (second.port, second.forwarding, second.limits) == (0, None, usual)


def test_a_tunnel_cannot_map_the_port_of_a_pod() -> None:
    reason, message = problem(resolve(snapshot(web(forwarding="Tunnel"))))
    assert reason == "PortNotMappable"
    for word in ("10.244.1.2", "8080", "tunnelling cannot map ports", "Masquerade"):
        assert word in message


@pytest.mark.parametrize(
    ("address", "forwarding", "reason"),
    [
        ("10.244.1.2", "DirectRouting", "OnePacketNeedsDirectRouting"),
        ("10.244.1.2", "Tunnel", ""),
        (HOST, "DirectRouting", ""),
    ],
)
def test_one_packet_scheduling_is_not_for_pods_whose_answers_are_translated(
    address: str, forwarding: str, reason: str
) -> None:
    slices = [endpoint_slice([address], ports=[("dns", 53, "UDP")])]
    services = [service(ports=[("dns", 53, "UDP")])]
    item = web(ports=[port(53, "UDP")], one_packet=True, forwarding=forwarding)
    found = resolve(snapshot(item, slices=slices, services=services))
    assert [p.reason for p in found.problems] == ([reason] if reason else [])
    assert (found.servers[0].backends == ()) is bool(reason)
    if reason:
        assert address in found.problems[0].message


@pytest.mark.parametrize(
    ("ports", "loses"),
    [
        ({"ports": [port(150)]}, True),
        ({"ports": [port(150, "UDP")]}, False),
        ({"ports": [port(201)]}, False),
        ({"ports": [port(150, end=300)]}, True),
        ({"ports": [port(201, end=300)]}, False),
        ({"all_ports": True}, True),
    ],
)
def test_ranges_of_two_objects_may_not_overlap(ports: dict[str, Any], loses: bool) -> None:
    younger = virtual_service("new", assigned=MINE, created=NEW, **ports)
    found = resolve(snapshot(web(ports=[port(100, end=200)]), younger))
    assert {s.owner.name for s in found.servers} == ({"web"} if loses else {"web", "new"})
    assert [p.key.name for p in found.problems if p.reason == "AddressConflict"] == (["new"] if loses else [])


def test_a_single_port_within_all_ports_of_an_older_object_loses() -> None:
    found = resolve(snapshot(web(all_ports=True), virtual_service("new", assigned=MINE, created=NEW)))
    assert [s.owner.name for s in found.servers] == ["web"]
    assert "TCP port 80" in found.problems[0].message
