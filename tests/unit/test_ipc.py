"""The lines between agent and election."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent import ipc

pytestmark = pytest.mark.unit

ROUTER = ipc.RouterConfig(
    name="lab",
    virtual_router_id=51,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.200/32", "10.0.0.201/32"),
    priority=100,
    unicast_peers=("10.0.0.12",),
    sources=("10.0.0.12",),
    authentication=ipc.Authentication.HMAC,
    authentication_mode=ipc.AuthenticationMode.PERMISSIVE,
    key="lab",
    track_interfaces=(ipc.TrackedInterface(name="eth1", weight=-20),),
)
STATISTICS = ipc.Statistics(
    started=1.5,
    generation=3,
    routers=(
        ipc.RouterStatistics(
            router="lab",
            state="Active",
            virtual_router_id=51,
            family=4,
            interface="eth0",
            priority=100,
            active_address="10.0.0.11",
            addresses_held=("10.0.0.200/32",),
            transitions={"Backup,Active,active_silent": 1},
            adverts_sent=1,
            adverts_received=2,
            announcements_sent=3,
            address_errors=4,
        ),
    ),
    dropped={"checksum": 1},
    late_timers=0,
    lateness_max_ms=0.3,
    realtime=True,
    memory_locked=False,
    nodes_mute=("dr3",),
    sockets=(17, 4711),
)
MESSAGES: list[ipc.Message] = [
    ipc.Configure(generation=1, routers=(ROUTER,)),
    ipc.Configure(generation=2, routers=()),
    ipc.Configure(
        generation=3,
        routers=(),
        node="dr1",
        serving=True,
        nodes=(ipc.PeerNode(name="dr1", addresses=("10.0.0.11", "fd00::11")), ipc.PeerNode(name="dr2", addresses=())),
    ),
    ipc.Configured(generation=1),
    ipc.Liveness(),
    ipc.Liveness(silent=("dr1",), unready=("dr2", "dr3")),
    ipc.StateChanged(router="lab", previous="Backup", state="Active", cause="active_silent", active_address=""),
    STATISTICS,
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_survives_the_line(message: ipc.Message) -> None:
    line = ipc.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert ipc.decode(line) == message


def test_fields_that_an_older_election_does_not_send_have_their_default() -> None:
    fields = json.loads(ipc.encode(STATISTICS))
    del fields["routers"][0]["intervals_clamped"]
    del fields["nodes_mute"], fields["beats_dropped"], fields["sockets"]
    assert ipc.decode(json.dumps(fields).encode()) == replace(STATISTICS, nodes_mute=(), sockets=())


def test_real_servers_are_named_only_where_there_are_any() -> None:
    """So an election of an earlier version, which would refuse the field, runs on where it is not needed."""
    known = replace(ROUTER, real_servers=("10.0.0.11",))
    wish = ipc.Configure(generation=1, routers=(ROUTER, known))
    line = ipc.encode(wish)
    assert ipc.decode(line) == wish
    assert ["real_servers" in router for router in json.loads(line)["routers"]] == [False, True]


def test_an_older_agent_names_no_nodes() -> None:
    fields = json.loads(ipc.encode(ipc.Configure(generation=1, routers=(ROUTER,))))
    del fields["node"], fields["serving"], fields["nodes"]
    assert ipc.decode(json.dumps(fields).encode()) == ipc.Configure(generation=1, routers=(ROUTER,))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"\xff",
        b"[" * 100_000,
        b'{"kind": "other"}',
        b'{"generation": 1}',
        b'{"kind": "configured"}',
        b'{"kind": "configured", "generation": 1, "more": 2}',
        b'{"kind": "configure", "generation": 1, "routers": [1]}',
        b'{"kind": "configure", "generation": 1, "routers": [{}]}',
        b'{"kind": "configure", "generation": 1, "routers": [], "nodes": [{"name": "a"}]}',
        b'{"kind": "liveness", "silent": 1}',
        b'{"kind": "statistics", "routers": [{}]}',
        b'{"kind": []}',
    ],
)
def test_anything_else_is_an_ipc_error(line: bytes) -> None:
    with pytest.raises(ipc.IpcError):
        ipc.decode(line)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_no_json_makes_decode_raise_anything_else(value: object) -> None:
    try:
        ipc.decode(json.dumps(value).encode())
    except ipc.IpcError:
        return
    raise AssertionError(f"accepted {value!r}")
