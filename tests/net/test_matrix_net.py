"""Every scheduler by every way of forwarding in both families: as asked for, and as ipvsadm's own table spreads it."""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lvsagent.core.tunnels import overhead
from lvsapi.ipvs import Forwarding, Scheduler, Tunnel, TunnelChecksum, TunnelType
from tests.net import matrix_results
from tests.net.lan import Lan
from tests.net.matrix import (
    CASES,
    CONNECTIONS,
    FLAGGED,
    GRID,
    GUE_PORT,
    LIMITED,
    MARK,
    MIXED,
    ONE_PACKET,
    OURS,
    REAL,
    STICKY,
    THEIRS,
    TUNNELS,
    WEIGHTS,
    Case,
    Own,
)
from tests.net.matrix_director import DIRECTOR, REFUSED, Ground, port_of
from tests.net.matrix_ground import CLIENT

pytestmark = pytest.mark.net
EVERYBODY = {f"r{number}" for number in WEIGHTS}


@pytest.fixture(scope="module")
def whole_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Lan() as lan:
        yield Ground(lan, tmp_path_factory.mktemp("matrix"))


@pytest.fixture
def ground(whole_ground: Ground) -> Ground:
    """Without a table."""
    whole_ground.clear()
    return whole_ground


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, dict[str, int]]]:
    """How many connections of each case each real server got from our table."""
    results: dict[str, dict[str, int]] = {}
    yield results
    if len(results) == len(CASES):
        matrix_results.write("spread", results)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_table_is_what_was_asked_for_and_spreads_as_ipvsadms_own(
    ground: Ground, found: dict[str, dict[str, int]], case: Case
) -> None:
    ground.prepare(case)
    state = ground.program(case, port_of(case))
    (key,) = state.services
    ours, theirs = (OURS[case.family], THEIRS[case.family]) if not key.mark else (str(key.mark), str(MARK))
    asked = ground.saved("-Sn")
    ground.judge(case)
    both = ground.saved("-Sn")
    judged = [line for line in both if line not in asked]
    assert [line.replace(ours, theirs) for line in asked] == judged
    limits = [tuple(map(int, line.split()[-4:-2])) for line in ground.saved("-Ln", "--thresholds") if "->" in line][1:]
    assert Counter(limits) == Counter(2 * [case.limits_of(number)[::-1] for number in WEIGHTS])
    seen, expected = (Counter(ground.who_answers(case, vip[case.family])) for vip in (OURS, THEIRS))
    found[case.name] = {name: seen[name] for name in sorted({*EVERYBODY, *seen})}
    match case.scheduler:
        case Scheduler.TWOS:
            assert seen.keys() <= EVERYBODY
        case Scheduler.DH:
            assert len(seen) == len(expected) == 1
            assert seen.keys() <= EVERYBODY
        case _:
            assert seen == expected


def test_new_connections_are_spread_as_it_is_recorded(found: dict[str, dict[str, int]]) -> None:
    recorded = matrix_results.recorded()["spread"]
    again = {case.name for case in CASES if case.scheduler is not Scheduler.TWOS} & found.keys()
    assert {name: found[name] for name in again} == {name: recorded[name] for name in again}, "see `make matrix`"


# -- what cannot be seen by counting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("one_packet", [True, False])
def test_with_one_packet_scheduling_datagrams_of_one_socket_reach_every_server(
    ground: Ground, one_packet: bool
) -> None:
    case = ONE_PACKET if one_packet else replace(ONE_PACKET, spec={}, service="")
    port = port_of(ONE_PACKET) + (1 if one_packet else 2)
    ground.program(case, port)
    names: Counter[str] = Counter()
    with ground.holding(case, OURS[4], 1, port=port) as ((one, first),):
        for _ in range(30):
            one.send(b"?\n")
            names[one.recv(16).decode()] += 1
    assert names == (dict.fromkeys(EVERYBODY, 10) if one_packet else {first: 30})


@pytest.mark.parametrize(("family", "near", "far"), [(4, "10.0.0.101", "10.0.0.130"), (6, "fd00::101", "fd00::1:100")])
def test_with_persistence_clients_of_one_network_stay_together_and_no_others(
    ground: Ground, family: int, near: str, far: str
) -> None:
    case = STICKY[family]
    ground.program(case, port_of(case) + 1)
    servers = []
    for client in (CLIENT[family], near, far):
        length = "/24" if family == 4 else "/64"
        if client != CLIENT[family]:
            nodad = ["nodad"] if family == 6 else []
            ground.lan.run("client", ["ip", "address", "add", client + length, "dev", "eth0", *nodad])
        with ground.holding(case, OURS[family], 4, port=port_of(case) + 1, client=client) as held:
            servers.append({name for _, name in held})
    assert [len(each) for each in servers] == [1, 1, 1]
    assert servers[0] == servers[1] != servers[2], "rr would give the third client another one"


@pytest.mark.parametrize(("scheduler", "fallback"), FLAGGED)
def test_what_has_its_place_at_a_drained_server_falls_back_if_it_is_told_to(
    ground: Ground, scheduler: Scheduler, fallback: bool
) -> None:
    case = FLAGGED[scheduler, fallback]
    port = port_of(case) + 1
    ground.program(case, port)
    with ground.holding(case, OURS[4], 40, port=port, first=41000) as held:
        assert {name for _, name in held} == EVERYBODY
    ground.program(replace(case, own={3: Own(spec={"weight": 0}, words="-g")}), port)
    with ground.holding(case, OURS[4], 40, port=port, first=42000) as held:
        names = {name for _, name in held}
    assert names == ({"r1", "r2"} if fallback else {"r1", "r2", REFUSED})


def test_a_server_at_its_upper_limit_gets_none_until_it_is_below_its_lower_one(ground: Ground) -> None:
    case, (lower, upper), port = LIMITED, LIMITED.limits, port_of(LIMITED) + 1
    ground.program(case, port)
    before = ground.lan.run(DIRECTOR, ["ipvsadm", "-L", "--timeout"]).split()[-3:]
    ground.lan.run(DIRECTOR, ["ipvsadm", "--set", "0", "1", "0"])  # what was closed is forgotten after a second
    with ground.holding(case, OURS[4], 3 * upper + 2, port=port, first=41000) as held:
        assert Counter(name for _, name in held) == {**dict.fromkeys(EVERYBODY, upper), REFUSED: 2}
        mine = [one for one, name in held if name == "r3"]
        for left in (lower, lower - 1):
            while len(mine) > left:
                closing = mine.pop()
                closing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
                closing.close()
            end = time.monotonic() + 10
            while any("FIN_WAIT" in line for line in ground.saved("-Lnc")):
                assert time.monotonic() < end
                time.sleep(0.1)
            with ground.holding(case, OURS[4], 1, port=port, first=42000 + left) as ((_, name),):
                assert name == (REFUSED if left == lower else "r3")
    ground.lan.run(DIRECTOR, ["ipvsadm", "--set", *before])


# -- on the wire -----------------------------------------------------------------------------------------------------

IPIP_CASES = tuple(case for case in GRID if (case.scheduler, case.forwarding) == (Scheduler.RR, Forwarding.TUNNEL))


def outer(frames: list[bytes], family: int) -> set[str]:
    """How packets were wrapped, in the words of ``tunnel``."""
    found = set()
    for frame in frames:
        protocol, body = (frame[23], frame[34:]) if family == 4 else (frame[20], frame[54:])
        if frame[12:14] != (b"\x08\x00" if family == 4 else b"\x86\xdd"):
            continue
        if protocol in (4, 41):
            found.add("ipip none")
        elif protocol == 47:
            found.add(f"gre {'csum' if body[0] & 0x80 else 'none'}")
        elif protocol == 17 and int.from_bytes(body[2:4], "big") == GUE_PORT:
            # linux/gue.h: the private flags follow the header, bit 31 is remote checksum offload
            private = int.from_bytes(body[10:12], "big") & 1 and body[12] & 0x80
            found.add(f"gue {'remcsum' if private else 'csum' if body[6:8] != bytes(2) else 'none'}")
    return found


@pytest.mark.parametrize("case", [*IPIP_CASES, *TUNNELS], ids=lambda case: case.name.replace(" ", "-"))
def test_a_full_packet_passes_the_tunnel_that_was_asked_for(ground: Ground, case: Case) -> None:
    ground.prepare(case)
    port, vip = port_of(case) + 1, OURS[case.family]
    ground.program(case, port)
    tunnel = {"type": "ipip", "checksum": "none", **case.spec.get("tunnel", {})}
    ground.lan.run("client", ["ip", f"-{case.family}", "route", "flush", "cache"])
    with contextlib.ExitStack() as stack:
        sniffers = [ground.lan.sniff(name) for name in sorted(EVERYBODY)]
        held = stack.enter_context(ground.holding(case, vip, 3, port=port, first=41000))
        assert {name for _, name in held} == EVERYBODY
        for one, name in held:
            full = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            one.send((full - 1) * b"x" + b"\n")
            assert one.recv(16).decode() == name
        frames = [frame for sniffer in sniffers for _, frame in sniffer.frames()]
    assert outer(frames, case.family) == {f"{tunnel['type']} {tunnel['checksum']}"}
    learnt = ground.lan.run("client", ["ip", f"-{case.family}", "route", "get", vip]).split()
    asked = Tunnel(type=TunnelType(tunnel["type"]), checksum=TunnelChecksum(tunnel["checksum"]))
    assert int(learnt[learnt.index("mtu") + 1]) == 1500 - overhead(asked, case.family), "told by the director"


def test_each_real_server_is_reached_its_own_way(ground: Ground) -> None:
    port = port_of(MIXED) + 1
    ground.program(MIXED, port)
    with contextlib.ExitStack() as stack:
        sniffers = {name: ground.lan.sniff(name) for name in sorted(EVERYBODY)}
        held = stack.enter_context(ground.holding(MIXED, OURS[4], CONNECTIONS, port=port, first=41000))
        frames = {name: [frame for _, frame in sniffer.frames()] for name, sniffer in sniffers.items()}
    assert Counter(name for _, name in held)["r1"] == MIXED.limits_of(1)[1]
    assert {name: outer(found, 4) for name, found in frames.items()} == {"r1": set(), "r2": {"gue csum"}, "r3": set()}
    reached = {name: {to(frame) for frame in found} - {None} for name, found in frames.items()}
    assert reached["r1"] == {(OURS[4], port)}
    assert reached["r3"] == {(REAL[4].format(3), port + 1)}


def to(frame: bytes) -> tuple[str, int] | None:
    """Address and port that a client's TCP segment goes to."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 6 or frame[26:30] != socket.inet_aton(CLIENT[4]):
        return None
    return socket.inet_ntoa(frame[30:34]), int.from_bytes(frame[36:38], "big")
