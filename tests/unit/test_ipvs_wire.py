"""Values to octets of the kernel and back, whatever the values; the kernel itself judges in tests/net."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.adapters import ipvswire as wire
from lvsagent.adapters import nftables, nftwire
from lvsagent.adapters.netlink import Attributes, parse_attributes
from lvsagent.core.diff import (
    AddDestination,
    AddService,
    DeleteService,
    EditDestination,
    EditService,
    ReinsertDestination,
    StartSync,
    StopSync,
)
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    Mark,
    Persistent,
    Refusal,
    Service,
    ServiceFlag,
    ServiceKey,
    SyncDaemon,
    SyncRole,
)
from lvsapi.ipvs import IPIP, Tunnel, TunnelChecksum, TunnelType
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit
WORD = st.integers(0, 2**32 - 1)
PORT = st.integers(0, 65535)
V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
PLAIN = st.builds(ServiceKey, V4 | V6, st.sampled_from(Protocol), PORT)
MARKED = st.builds(
    ServiceKey,
    st.sampled_from([ip_address("0.0.0.0"), ip_address("::")]),
    st.none(),
    st.just(0),
    st.integers(1, 2**32 - 1),
)
TUNNELS = st.builds(Tunnel, type=st.sampled_from(TunnelType), port=PORT, checksum=st.sampled_from(TunnelChecksum))
METHODS = st.sampled_from(ForwardMethod)


@st.composite
def destinations(draw: st.DrawFn) -> Destination:
    method = draw(METHODS)
    tunnel = draw(TUNNELS) if method is ForwardMethod.TUNNEL else IPIP
    return Destination(draw(V4 | V6), draw(PORT), method, draw(WORD), draw(WORD), draw(WORD), tunnel)


@st.composite
def services(draw: st.DrawFn) -> Service:
    key = draw(PLAIN | MARKED)
    flags, persistent = draw(st.integers(0, 31)) << 2, None
    if draw(st.booleans()):
        flags |= ServiceFlag.PERSISTENT
        persistent = Persistent(draw(WORD), draw(st.integers(1, 32 if key.address.version == 4 else 128)))
    scheduler = draw(st.sampled_from(["rr", "mh", "none"]))
    return Service(key=key, scheduler=scheduler, flags=flags, destinations=(), persistent=persistent)


def part(body: bytes, kind: int) -> Attributes:
    return parse_attributes(parse_attributes(body)[kind])


@given(services())
def test_a_service_survives_the_trip(service: Service) -> None:
    for op in (AddService, EditService):
        ((command, body),) = wire.encode(op(service.key, service.scheduler, service.flags, service.persistent))
        assert command == {AddService: wire.NEW_SERVICE, EditService: wire.SET_SERVICE}[op]
        found = wire.decode_service(part(body, wire.CMD_SERVICE))
        assert found == service
        assert found is not None
        assert (found.key.address, found.key.protocol) == (service.key.address, service.key.protocol)


@given(PLAIN | MARKED, destinations())
def test_a_destination_survives_the_trip(key: ServiceKey, destination: Destination) -> None:
    for op in (AddDestination, EditDestination):
        ((_, body),) = wire.encode(op(key, destination))
        assert wire.decode_destination(key, part(body, wire.CMD_DEST)) == destination
    commands = [command for command, _ in wire.encode(ReinsertDestination(key, destination))]
    assert commands[:2] == [wire.DEL_DEST, wire.NEW_DEST]
    assert (commands[2:] == [wire.SET_DEST]) is (destination.weight == 0)


def test_a_kernel_that_knows_one_tunnel_only_says_nothing_of_it() -> None:
    tunnelled = Destination(ip_address("10.0.0.1"), 80, ForwardMethod.TUNNEL, 1)
    key = ServiceKey(ip_address("10.0.0.2"), Protocol.TCP, 80)
    ((_, body),) = wire.encode(AddDestination(key, tunnelled))
    old = {kind: data for kind, data in part(body, wire.CMD_DEST).items() if kind < wire.DEST_TUN_TYPE}
    assert wire.decode_destination(key, old) == tunnelled


def test_a_service_of_an_unknown_protocol_is_none_of_ours() -> None:
    ((_, body),) = wire.encode(DeleteService(ServiceKey(ip_address("10.0.0.2"), Protocol.TCP, 80)))
    assert wire.decode_service({**part(body, wire.CMD_SERVICE), wire.SVC_PROTOCOL: b"\x32\0"}) is None


@given(st.sampled_from(SyncRole), st.sampled_from(["eth0", "ens33.100"]), st.integers(0, 255))
def test_a_sync_daemon_survives_the_trip(role: SyncRole, interface: str, sync_id: int) -> None:
    daemon = SyncDaemon(role=role, interface=interface, sync_id=sync_id)
    command, body = wire.encode_daemon(StartSync(daemon))
    assert (command, wire.decode_daemon(part(body, wire.CMD_DAEMON))) == (wire.NEW_DAEMON, daemon)
    command, body = wire.encode_daemon(StopSync(daemon))
    assert (command, list(part(body, wire.CMD_DAEMON))) == (wire.DEL_DAEMON, [wire.DAEMON_STATE])


@st.composite
def marks(draw: st.DrawFn) -> Mark:
    protocol = draw(st.sampled_from([None, *Protocol]))
    first, last = (0, 65535) if protocol is None else sorted((draw(PORT), draw(PORT)))
    return Mark(address=draw(V4 | V6), protocol=protocol, first=first, last=last, value=draw(WORD))


def rule(mark: Mark) -> bytes:
    (one, *_) = [m for m in nftables.table_of([mark]) if m.type & 0xFF == nftwire.NEWRULE]
    return parse_attributes(one.body[4:])[4]


@given(marks())
def test_a_mark_survives_the_trip(mark: Mark) -> None:
    assert nftables.decode(rule(mark)) == mark


@given(marks(), st.data())
def test_a_rule_that_is_not_ours_is_no_mark(mark: Mark, data: st.DataObject) -> None:
    octets = bytearray(rule(mark))
    place = data.draw(st.integers(0, len(octets) - 1))
    octets[place] ^= 1 << data.draw(st.integers(0, 7))
    found = nftables.decode(bytes(octets))
    assert found is None or nftables.decode(rule(found)) == found
    assert nftables.decode(rule(mark)[: data.draw(st.integers(0, len(octets) - 1)) & ~3]) is None


@st.composite
def refusals(draw: st.DrawFn) -> Refusal:
    protocol, drop = draw(st.sampled_from(Protocol)), draw(st.booleans())
    first, last = sorted((draw(PORT), draw(PORT)))
    return Refusal(address=draw(V4 | V6), protocol=protocol, first=first, last=last, drop=drop)


def refusing(refusal: Refusal) -> bytes:
    (one, *_) = [m for m in nftables.table_of([], [refusal]) if m.type & 0xFF == nftwire.NEWRULE]
    return parse_attributes(one.body[4:])[4]


@given(refusals(), st.data())
def test_a_refusal_survives_the_trip_and_a_damaged_one_is_another(refusal: Refusal, data: st.DataObject) -> None:
    octets = bytearray(refusing(refusal))
    assert nftables.decode_refusal(bytes(octets)) == refusal
    assert nftables.decode(bytes(octets)) is None
    place = data.draw(st.integers(0, len(octets) - 1))
    octets[place] ^= 1 << data.draw(st.integers(0, 7))
    found = nftables.decode_refusal(bytes(octets))
    assert found is None or nftables.decode_refusal(refusing(found)) == found


def test_the_table_goes_when_there_is_nothing_to_mark() -> None:
    assert [m.type & 0xFF for m in nftables.table_of([])] == [nftwire.NEWTABLE, nftwire.DELTABLE]
