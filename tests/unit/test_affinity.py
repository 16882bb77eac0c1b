"""Which connections a table would send elsewhere, who is believed about them, and the datagrams that carry them."""

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.adapters.connections import chosen, line_of, message, parse
from lvsagent.core import claims
from lvsagent.core.affinity import STATES, Connection, Tables, to_write
from lvsagent.core.maglev import Placement
from lvsagent.core.state import Destination, ForwardMethod, Service, ServiceFlag, ServiceKey
from lvsagent.liveness.beat import node_id
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit

VIP = ip_address("10.0.0.200")
POD = {k: (ip_address(f"10.244.{k}.11"), 8080) for k in (1, 2, 3)}
NODES = {POD[k][0]: f"n{k}" for k in POD}
CLIENT = int(ip_address("10.0.0.100"))


def service(*pods: int, drained: int = 0, scheduler: str = "mh", flags: int = 0x18) -> Service:
    return Service(
        key=ServiceKey(address=VIP, protocol=Protocol.TCP, port=80),
        scheduler=scheduler,
        flags=flags,
        destinations=tuple(Destination(*POD[k], ForwardMethod.DIRECT_ROUTE, int(k != drained)) for k in pods),
    )


def tables(*pods: int, drained: int = 0) -> Tables:
    found = Tables()
    found.use({service().key: service(*pods, drained=drained)})
    return found


def connection(port: int, pod: int, state: str = "ESTABLISHED", expires: int = 900) -> Connection:
    return Connection(Protocol.TCP, VIP, 80, CLIENT, port, POD[pod], state, expires)


def opened(*pods: int, ports: Iterable[int] = range(2000, 3000)) -> list[Connection]:
    """Connections as the kernel places them with these pods."""
    placement = Placement(service(*pods), {})
    pod_of = {key: pod for pod, key in POD.items()}
    found = []
    for port in ports:
        key = placement.of(CLIENT, port)
        assert key is not None
        found.append(connection(port, pod_of[key]))
    return found


# -- where the kernel sends a client: what Linux 7.2 did with 96 clients, as digits of destinations --------------------

KERNEL = {
    ("10.0.0.200", (1, 1, 1)): "102000100200022012111120001011211010011210210110"
    "000022022011201120000012110000220122020220112010",
    ("10.0.0.200", (3, 0, 3, 1)): "003000302200023323030220002002222020032223232230"
    "030020322032200020300022333000220323020220332330",
    ("fd00::200", (1, 1, 1)): "010022220212020002021002120210021022001102212002"
    "111001102102100010120111001111211112001212101202",
    ("fd00::200", (3, 0, 3, 1)): "003022220020020302022022223230022022002000030303"
    "232002203200230030230200002222222220002002202000",
}


@pytest.mark.parametrize(("address", "weights"), KERNEL)
def test_clients_are_placed_as_the_kernel_placed_them(address: str, weights: tuple[int, ...]) -> None:
    four = ":" not in address
    pods = [ip_address(f"10.244.9.{n}" if four else f"fd00:9::{n:x}") for n in range(1, len(weights) + 1)]
    destinations = tuple(
        Destination(pod, 8000 + n, ForwardMethod.DIRECT_ROUTE, weight)
        for n, (pod, weight) in enumerate(zip(pods, weights, strict=True))
    )
    key = ServiceKey(address=ip_address(address), protocol=Protocol.UDP, port=80)
    built = Service(key=key, scheduler="mh", flags=0x18, destinations=destinations)
    # The one at 0 had weight 4 when the kernel built its table.
    placement = Placement(built, {destinations[weights.index(0)].key: 4} if 0 in weights else {})
    base = int(ip_address("10.0.0.100" if four else "fd00::100"))
    numbers = {destination.key: str(number) for number, destination in enumerate(destinations)}
    placed = [placement.of(base + n % 50, 1024 + n * 5) for n in range(96)]
    assert "".join(numbers[key] for key in placed if key) == KERNEL[address, weights]


def test_a_table_without_destinations_and_one_with_all_at_zero_place_nobody() -> None:
    assert Placement(service(), {}).of(CLIENT, 1) is None
    assert Placement(service(1, drained=1), {}).of(CLIENT, 1) is None
    assert Placement(service(1, drained=1, flags=0x10), {}).of(CLIENT, 1) is None


def test_without_the_port_flag_all_connections_of_a_client_have_one_place() -> None:
    placement = Placement(service(1, 2, 3, flags=0x8), {})
    assert len({placement.of(CLIENT, port) for port in range(2000, 2100)}) == 1


# -- exceptions ------------------------------------------------------------------------------------------------------


def test_while_the_set_is_the_same_there_are_no_exceptions() -> None:
    assert list(tables(1, 2, 3).exceptions(opened(1, 2, 3), NODES)) == []


def test_when_a_backend_comes_those_are_exceptions_whose_place_it_takes() -> None:
    before = opened(1, 2)
    found = list(tables(1, 2, 3).exceptions(before, NODES))
    assert 0.25 < len(found) / len(before) < 0.45
    after = {c.client_port: c.destination for c in opened(1, 2, 3)}
    assert {c.client_port for c in found} == {c.client_port for c in before if after[c.client_port] != c.destination}


def test_every_connection_of_a_draining_backend_is_an_exception() -> None:
    before = opened(1, 2, 3)
    found = list(tables(1, 2, 3, drained=3).exceptions(before, NODES))
    assert found == [c for c in before if c.destination == POD[3]]


def test_connections_opened_while_another_one_drains_are_exceptions_when_it_is_back() -> None:
    during = _during()
    assert list(tables(1, 2, 3, drained=3).exceptions(during, NODES)) == []
    found = list(tables(1, 2, 3).exceptions(during, NODES))
    assert 0.25 < len(found) / len(during) < 0.45


def _during() -> list[Connection]:
    placement = Placement(service(1, 2, 3, drained=3), {})
    where = [(port, placement.of(CLIENT, port)) for port in range(2000, 2500)]
    return [connection(port, 1)._replace(destination=key) for port, key in where if key]


def test_only_connections_of_local_backends_that_carry_data_are_told() -> None:
    moved = list(tables(1, 2, 3).exceptions(opened(1, 2), NODES))
    here = POD[1][0]
    assert {c.destination for c in tables(1, 2, 3).exceptions(moved, [here])} == {POD[1]}
    closing = [c._replace(state="TIME_WAIT", expires=100) for c in moved]
    assert list(tables(1, 2, 3).exceptions(closing, NODES)) == []
    half = [c._replace(state="CLOSE_WAIT", expires=50) for c in moved]
    assert list(tables(1, 2, 3).exceptions(half, NODES)) == half


def test_connections_of_a_backend_that_is_gone_are_not_told() -> None:
    assert {c.destination for c in tables(1, 2).exceptions(opened(1, 2, 3), NODES)} <= {POD[1], POD[2]}


@pytest.mark.parametrize(
    "other",
    [
        service(1, 2, 3, scheduler="rr"),
        service(1, 2, 3, flags=0x18 | ServiceFlag.PERSISTENT),
        replace(service(1, 2, 3), key=ServiceKey(address=VIP, protocol=Protocol.TCP, port=80, mark=7)),
    ],
)
def test_services_whose_nodes_do_not_choose_alike_are_left_out(other: Service) -> None:
    found = Tables()
    found.use({other.key: other})
    assert not found
    assert list(found.exceptions(opened(1, 2), NODES)) == []


def test_the_last_weight_above_zero_is_remembered_as_the_kernel_does() -> None:
    def weighed(weight: int) -> Service:
        one, *others = service(1, 2, 3).destinations
        return replace(service(), destinations=(replace(one, weight=weight), *others))

    remembering, forgetful = Tables(), Tables()
    remembering.use({service().key: weighed(5)})
    assert remembering.use({service().key: weighed(0)})
    assert not remembering.use({service().key: weighed(0)})
    forgetful.use({service().key: weighed(0)})
    during = _all(Placement(weighed(0), {POD[1]: 5}))
    assert list(remembering.exceptions(during, NODES)) == []
    assert list(forgetful.exceptions(during, NODES)) != []


def _all(placement: Placement) -> list[Connection]:
    where = ((port, placement.of(CLIENT, port)) for port in range(2000, 2500))
    return [connection(port, 1)._replace(destination=key) for port, key in where if key]


# -- what is believed ------------------------------------------------------------------------------------------------


def written(claim: Connection, *have: Connection, sender: str = "n1") -> list[Connection]:
    return to_write([(sender, claim)], have, tables(1, 2, 3), NODES)


def test_a_claim_about_an_unknown_connection_is_written() -> None:
    assert written(connection(2000, 1)) == [connection(2000, 1)]


def test_only_the_node_of_the_destination_is_believed_and_only_about_our_services() -> None:
    claim = connection(2000, 1)
    assert written(claim, sender="n2") == []
    assert written(claim._replace(port=81)) == []
    assert written(claim._replace(destination=(POD[1][0], 9999))) == []
    assert to_write([("n3", connection(2000, 3))], [], tables(1, 2), NODES) == []
    assert written(claim._replace(state="TIME_WAIT")) == []


def test_an_entry_with_the_same_destination_is_only_renewed_when_it_is_far_behind() -> None:
    claim = connection(2000, 1, expires=880)
    assert written(claim, connection(2000, 1, expires=895)) == []
    assert written(claim, connection(2000, 1, expires=870)) == []
    assert written(claim, connection(2000, 1, expires=400)) == [claim]


def test_a_connection_that_the_node_sees_closing_is_left_alone() -> None:
    assert written(connection(2000, 1), connection(2000, 1, "FIN_WAIT", 119)) == []
    assert written(connection(2000, 1), connection(2000, 1, "TIME_WAIT", 10)) == []


def test_of_two_that_claim_one_client_the_one_wins_who_heard_from_it_last() -> None:
    live, stale = connection(2000, 2, expires=899), connection(2000, 1, expires=500)
    assert written(stale, live) == []
    assert written(stale, connection(2000, 2, "FIN_WAIT", 119)) == []
    assert written(connection(2000, 1, expires=899), connection(2000, 2, expires=500)) == [
        connection(2000, 1, expires=899)
    ]
    both = [("n1", stale), ("n2", live)]
    assert to_write(both, [], tables(1, 2, 3), NODES) == to_write(both[::-1], [], tables(1, 2, 3), NODES) == [live]


# -- datagrams -------------------------------------------------------------------------------------------------------


def test_claims_arrive_as_they_were_told_in_datagrams_that_fit() -> None:
    six = [
        Connection(protocol, ip_address("fd00::1"), 443, 7 << 100, n, (ip_address("fd00::2"), 1), state, 1)
        for n, (protocol, state) in enumerate(STATES)
    ]
    wanted = [*opened(1, 2, 3), *six]
    messages = list(claims.tell("n1", wanted))
    assert 8 < len(messages) < 20
    assert all(len(each) <= claims.LARGEST for each in messages)
    decoded = [claims.decode(each) for each in messages]
    found = {claim for each in decoded if isinstance(each, claims.Message) for claim in each.claims}
    assert found == set(wanted)
    assert {(each.kind, each.node, each.length) for each in decoded if isinstance(each, claims.Message)} == {
        (claims.Kind.TELL, node_id("n1"), len(each)) for each in messages
    }
    assert list(claims.tell("n1", [])) == []


def test_a_question_carries_nothing() -> None:
    decoded = claims.decode(claims.ask("n1"))
    assert decoded == claims.Message(claims.Kind.ASK, node_id("n1"), len(claims.ask("n1")), ())


def test_an_active_node_says_which_tables_it_has() -> None:
    said = claims.tables("n1", bytes(range(16)))
    assert claims.decode(said) == claims.Message(claims.Kind.TABLES, node_id("n1"), len(said), (), bytes(range(16)))
    assert claims.decode(claims.tables("n1", b"short")) is claims.Malformed.CONTENT
    assert claims.decode(said[:-17] + b"\1" + said[-16:]) is claims.Malformed.CONTENT


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", claims.Malformed.LENGTH),
        (b"lvsB" + claims.ask("n1")[4:], claims.Malformed.MAGIC),
        (b"lvsA\2" + claims.ask("n1")[5:], claims.Malformed.VERSION),
        (claims.ask("n1") + b"x", claims.Malformed.LENGTH),
        (claims.ask("n1")[:6] + b"\0\1" + claims.ask("n1")[8:], claims.Malformed.LENGTH),
        (claims.ask("n1")[:5] + b"\7" + claims.ask("n1")[6:], claims.Malformed.CONTENT),
        (claims.ask("n1")[:-1] + b"\1", claims.Malformed.CONTENT),
    ],
)
def test_what_is_no_message_has_a_name(payload: bytes, why: claims.Malformed) -> None:
    assert claims.decode(payload) is why


def test_no_cut_or_changed_octet_of_a_message_raises() -> None:
    (whole,) = claims.tell("n1", opened(1, 2, ports=range(2000, 2010)))
    for place in range(len(whole)):
        claims.decode(whole[:place])
        for octet in (0, 1, 7, 255):
            decoded = claims.decode(whole[:place] + bytes([octet]) + whole[place + 1 :])
            assert isinstance(decoded, claims.Message | claims.Malformed)


# -- the kernel's list and its sync message --------------------------------------------------------------------------

LIST = b"""TCP 0A000064 DA36 0A0000C8 0050 0AF4010B 1F90 ESTABLISHED     899
TCP 0A000064 0000 0A0000C8 0050 0AF4010B 1F90 ASSURED         300
TCP 0A000064 DA37 0A0000C8 0050 0AF4010B 1F90 SYN_RECV         59
AH  0A000064 0001 0A0000C8 0050 0AF4010B 1F90 NONE            899
TCP 2001:0db8:0000:0000:0000:0000:0000:0001 115C fd00:0000:0000:0000:0000:0000:0000:0200 0050 \
fd00:0001:0000:0000:0000:0000:0000:0011 1F90 FIN_WAIT         59
"""


def test_the_kernel_s_list_is_read_without_templates_strange_protocols_and_what_has_not_begun() -> None:
    lines = LIST.splitlines(keepends=True)
    found = list(parse(chosen(lines)))
    assert found == [
        connection(0xDA36, 1, expires=899),
        Connection(
            Protocol.TCP,
            ip_address("fd00::200"),
            80,
            int(ip_address("2001:db8::1")),
            0x115C,
            (ip_address("fd00:1::11"), 8080),
            "FIN_WAIT",
            59,
        ),
    ]
    opening = connection(0xDA37, 1, state="SYN_RECV", expires=59)
    wanted = {line_of(one.flow) for one in (opening, found[1])}
    assert list(parse(chosen(lines, wanted))) == [opening, found[1]], "of a client that is claimed every state counts"
    assert list(chosen(lines, {line_of(connection(0xDA38, 1).flow)})) == []


LOOKING = """
import sys
from pathlib import Path
from lvsagent.adapters import connections
from lvsagent.core.affinity import Tables
from lvsagent.core.leftovers import Place, Vouchers, look

def most() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

connections.CONNECTIONS = Path(sys.argv[1])
before = most()
listing = connections.Listing()
found = look(listing, [Tables()], Tables(), [], Place(active=(), told=(), alone=False), Vouchers(0.0))
print(listing.left_out, found.left_out, found.misplaced, most() - before)
"""


@pytest.mark.parametrize(("lines", "open_", "left_out"), [(1_000_008, 1, "1"), (200_000, 8, "0")])
def test_a_million_connections_take_little_memory(tmp_path: Path, lines: int, open_: int, left_out: str) -> None:
    """They took 440 octets each, and the container with its limit of 384 MiB was killed again and again."""
    listed = tmp_path / "ip_vs_conn"
    with listed.open("w") as out:
        out.write("Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n")
        for client in range(lines // 8):
            for port, state in enumerate(["SYN_RECV"] * (8 - open_) + ["ESTABLISHED"] * open_):
                out.write(f"TCP {client:08X} {port + 1:04X} 0A0000C8 0050 0AF4010B 1F90 {state:11s} {port:7}\n")
    script = [sys.executable, "-c", LOOKING, str(listed)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    *found, kilobytes = done.stdout.split()
    print(f"{kilobytes} kB for {lines} lines, of which {lines * open_ // 8} were kept")
    assert found == [left_out, "0", "False"], "beyond a million nothing is read, and it is said"
    assert int(kilobytes) * 1024 < (4 << 20) + 110 * lines * open_ / 8


def test_a_sync_message_has_the_kernel_s_layout() -> None:
    built = message(77, [connection(0xDA36, 1, expires=600)])
    assert built.hex(" ", 4) == (
        # reserved, sync id, size; connections, version, spare
        "004d002c 01010000"
        # type, protocol, size; flags; state and ports; mark; seconds
        " 00060024 00000003 0001da36 00501f90 00000000 00000258"
        " 0a000064 0a0000c8 0af4010b"
    )
