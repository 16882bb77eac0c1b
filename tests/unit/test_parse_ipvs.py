"""The IPVS part of a VirtualService: what it says, and what excludes what."""

from typing import Any

import pytest

from lvsapi.errors import SpecError
from lvsapi.ipvs import (
    IPIP,
    UNLIMITED,
    ConnectionLimits,
    Forwarding,
    Persistence,
    Scheduler,
    SchedulerFlag,
    Tunnel,
    TunnelChecksum,
    TunnelType,
    flags_of,
)
from lvsapi.model import EVERY_PORT, PortRange, Protocol
from lvsapi.parse import parse_virtual_service
from tests.gen import raw_virtual_service

pytestmark = pytest.mark.unit
RS = {"address": "192.168.139.7"}
UDP = [{"port": 53, "protocol": "UDP"}]


def real(*servers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return raw_virtual_service(**{"serviceRef": None, "realServers": list(servers or (RS,)), **spec})


def test_without_a_word_everything_is_as_ipvsadm_has_it() -> None:
    found = parse_virtual_service(raw_virtual_service())
    assert (found.scheduler_flags, found.persistence, found.one_packet, found.all_ports) == (None, None, False, False)
    assert (found.limits, found.tunnel, found.ports[0].end_port) == (UNLIMITED, IPIP, None)


def test_every_field_arrives() -> None:
    found = parse_virtual_service(
        real(
            {**RS, "forwarding": "Tunnel", "tunnel": {"type": "gue", "port": 6080, "checksum": "remcsum"}},
            {"address": "192.168.139.8", "connectionLimits": {"upper": 7, "lower": 3}},
            ports=[{"port": 30000, "endPort": 32767, "protocol": "UDP"}],
            scheduler="sh",
            schedulerFlags=["sh-port", "sh-fallback"],
            persistence={"timeoutSeconds": 60, "ipv4PrefixLength": 24, "ipv6PrefixLength": 64},
            onePacketScheduling=True,
            connectionLimits={"upper": 9},
            tunnel={"type": "gre", "checksum": "csum"},
        )
    )
    assert found.ranges == (PortRange(protocol=Protocol.UDP, first=30000, last=32767),)
    assert found.scheduler_flags == (SchedulerFlag.SH_FALLBACK, SchedulerFlag.SH_PORT)
    assert found.persistence == Persistence(timeout_seconds=60, ipv4_prefix_length=24, ipv6_prefix_length=64)
    assert found.one_packet
    assert found.limits == ConnectionLimits(upper=9)
    assert found.tunnel == Tunnel(type=TunnelType.GRE, checksum=TunnelChecksum.CSUM)
    first, second = found.real_servers
    assert (first.forwarding, first.limits) == (Forwarding.TUNNEL, None)
    assert first.tunnel == Tunnel(type=TunnelType.GUE, port=6080, checksum=TunnelChecksum.REMCSUM)
    assert (second.forwarding, second.tunnel, second.limits) == (None, None, ConnectionLimits(upper=7, lower=3))


def test_all_ports_are_one_range_of_every_protocol() -> None:
    found = parse_virtual_service(raw_virtual_service(ports=None, allPorts=True))
    assert (found.ports, found.ranges) == ((), (EVERY_PORT,))


def test_persistence_without_a_field_is_that_of_ipvsadm() -> None:
    assert parse_virtual_service(raw_virtual_service(persistence={})).persistence == Persistence(timeout_seconds=300)


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_only_mh_has_flags_by_itself_and_none_can_be_asked_for(scheduler: Scheduler) -> None:
    usual = flags_of(scheduler, None)
    assert usual == ((SchedulerFlag.MH_FALLBACK, SchedulerFlag.MH_PORT) if scheduler == "mh" else ())
    asked = parse_virtual_service(raw_virtual_service(scheduler=str(scheduler), schedulerFlags=[])).scheduler_flags
    assert (asked, flags_of(scheduler, asked)) == ((), ())


@pytest.mark.parametrize(
    ("obj", "path", "words"),
    [
        (raw_virtual_service(ports=None), "spec.ports", "or allPorts: true"),
        (raw_virtual_service(allPorts=True), "spec.allPorts", "remove ports, or allPorts"),
        (
            raw_virtual_service(ports=[{"port": 9, "endPort": 8}]),
            "spec.ports[0].endPort",
            "not be below port, which is 9",
        ),
        (
            raw_virtual_service(ports=[{"port": 8, "endPort": 9, "targetPort": 80}]),
            "spec.ports[0].targetPort",
            "keeps every port: remove targetPort, or endPort",
        ),
        (
            raw_virtual_service(ports=[{"port": 8, "endPort": 12}, {"port": 10}]),
            "spec.ports[1].port",
            "TCP port 10 is there twice",
        ),
        (
            raw_virtual_service(ports=[{"port": 10}, {"port": 8, "endPort": 12}]),
            "spec.ports[1].port",
            "TCP port 8-12 is there twice",
        ),
        (
            real({**RS, "port": 8}, ports=[{"port": 8, "endPort": 12}], forwarding="Masquerade"),
            "spec.realServers[0].port",
            "from a range of ports",
        ),
        (raw_virtual_service(schedulerFlags=["sh-port"]), "spec.schedulerFlags[0]", "goes with scheduler sh"),
        (raw_virtual_service(schedulerFlags=["fast"]), "spec.schedulerFlags[0]", "must be one of sh-fallback"),
        (raw_virtual_service(schedulerFlags=["mh-port"] * 2), "spec.schedulerFlags[1]", "twice"),
        (
            raw_virtual_service(onePacketScheduling=True),
            "spec.onePacketScheduling",
            "is for UDP only, and spec has TCP",
        ),
        (
            raw_virtual_service(ports=None, allPorts=True, onePacketScheduling=True),
            "spec.onePacketScheduling",
            "spec has allPorts",
        ),
        (
            raw_virtual_service(ports=UDP, onePacketScheduling=True, forwarding="Masquerade"),
            "spec.onePacketScheduling",
            "use DirectRouting or Tunnel",
        ),
        (raw_virtual_service(connectionLimits={"lower": 1}), "spec.connectionLimits.upper", "is required"),
        (
            raw_virtual_service(connectionLimits={"upper": 1, "lower": 2}),
            "spec.connectionLimits.lower",
            "must not be above upper, which is 1",
        ),
        (raw_virtual_service(tunnel={}), "spec.tunnel", "goes with forwarding: Tunnel"),
        (real({**RS, "tunnel": {}}), "spec.realServers[0].tunnel", "change forwarding: DirectRouting"),
        (
            raw_virtual_service(forwarding="Tunnel", tunnel={"type": "gue"}),
            "spec.tunnel.port",
            "is required with type gue",
        ),
        (raw_virtual_service(forwarding="Tunnel", tunnel={"port": 9}), "spec.tunnel.port", "goes with type gue"),
        (
            raw_virtual_service(forwarding="Tunnel", tunnel={"type": "gre", "checksum": "remcsum"}),
            "spec.tunnel.checksum",
            "must be none or csum with type gre",
        ),
        (
            real({**RS, "port": 81, "forwarding": "Tunnel"}, forwarding="Masquerade"),
            "spec.realServers[0].port",
            "tunnelling cannot map ports (80 to 81)",
        ),
        (raw_virtual_service(allPorts="yes"), "spec.allPorts", "must be true or false"),
        (real({**RS, "forwarding": ""}), "spec.realServers[0].forwarding", "must be one of DirectRouting"),
    ],
)
def test_what_is_impossible_is_refused_once_with_field_and_remedy(obj: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_virtual_service(obj)
    (error,) = caught.value.errors
    assert error.path == path
    assert words in error.message


def test_a_real_server_may_masquerade_its_port_beside_others_that_keep_it() -> None:
    servers = ({**RS, "port": 8080, "forwarding": "Masquerade"}, {"address": "192.168.139.8"})
    assert [s.port for s in parse_virtual_service(real(*servers)).real_servers] == [8080, None]


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (PortRange(protocol=Protocol.TCP, first=1, last=5), PortRange(protocol=Protocol.TCP, first=5, last=9), True),
        (PortRange(protocol=Protocol.TCP, first=1, last=5), PortRange(protocol=Protocol.TCP, first=6, last=9), False),
        (PortRange(protocol=Protocol.TCP, first=1, last=5), PortRange(protocol=Protocol.UDP, first=1, last=5), False),
        (EVERY_PORT, PortRange(protocol=Protocol.SCTP, first=7, last=7), True),
    ],
)
def test_ranges_overlap_within_a_protocol(one: PortRange, other: PortRange, overlap: bool) -> None:
    assert one.overlaps(other) is other.overlaps(one) is overlap
