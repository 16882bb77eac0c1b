"""What is sent to a backend for the virtual address, and what is understood of what comes back."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.checks import path_packets as packets
from lvsagent.checks.path_packets import Answer, Flow, Heard, parse
from lvsagent.checks.path_wire import tap_filter
from lvsagent.election import bpf
from lvsagent.vrrp.ip import ones_complement_sum
from lvsapi.ipvs import Tunnel, TunnelType

pytestmark = pytest.mark.unit

US, VIP, BACKEND = (socket.inet_aton(text) for text in ("10.0.0.21", "10.0.0.200", "10.0.0.31"))
US6, VIP6, BACKEND6 = (socket.inet_pton(socket.AF_INET6, text) for text in ("fd00::21", "fd00::200", "fd00::31"))
FLOW = Flow(source=US, port=40000, virtual=VIP, virtual_port=80, protocol=packets.TCP)
FLOW6 = Flow(source=US6, port=40000, virtual=VIP6, virtual_port=80, protocol=packets.TCP)
BOTH = pytest.mark.parametrize("flow", [FLOW, FLOW6], ids=["IPv4", "IPv6"])


def ip(source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
    if len(source) == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0, source, destination)
    else:
        head = struct.pack("!IHBB16s16s", 6 << 28, len(body), protocol, 64, source, destination)
    return head + body


def tcp(flow: Flow, flags: int, acknowledged: int = 0) -> bytes:
    body = struct.pack("!HHIIBBHHH", flow.virtual_port, flow.port, 99, acknowledged, 5 << 4, flags, 1000, 0, 0)
    return ip(flow.virtual, flow.source, packets.TCP, body)


def icmp(flow: Flow, kind: int, code: int, about: bytes, sender: bytes | None = None) -> bytes:
    protocol = packets.ICMP if len(flow.source) == 4 else packets.ICMPV6
    return ip(sender or flow.virtual, flow.source, protocol, bytes((kind, code)) + bytes(6) + about)


def answer(heard: Heard, flow: Flow, **more: object) -> Answer:
    fields: dict[str, object] = {"sender": flow.virtual, **more}
    return Answer(heard=heard, source=flow.source, port=flow.port, virtual=flow.virtual, **fields)  # type: ignore[arg-type]


def checksum_is_right(packet: bytes) -> bool:
    if packet[0] >> 4 == 4:
        assert ones_complement_sum(packet[:20]) == 0xFFFF
        source, destination, protocol, body = packet[12:16], packet[16:20], packet[9], packet[20:]
    else:
        source, destination, protocol, body = packet[8:24], packet[24:40], packet[6], packet[40:]
    pseudo = source + destination + struct.pack("!II", len(body), protocol)
    padded = body + bytes(len(body) % 2)
    return ones_complement_sum(*([] if protocol == packets.ICMP else [pseudo]), padded) == 0xFFFF


@BOTH
def test_every_packet_has_right_checksums_and_may_pass_no_router(flow: Flow) -> None:
    made = (
        packets.syn(flow, 0xFFFFFFFF),
        packets.reset(flow, 5),
        packets.datagram(flow, b"odd"),
        packets.datagram(flow, b""),
        packets.echo(flow),
    )
    for packet in made:
        assert checksum_is_right(packet)
        assert (packet[8] if len(flow.source) == 4 else packet[7]) == 1


def test_a_syn_on_the_wire() -> None:
    assert packets.syn(FLOW, 0x01020304) == bytes.fromhex(
        "4500 002c 0000 4000 01 06 64f0 0a000015 0a0000c8 9c40 0050 01020304 00000000 60 02 ffff e3a3 0000 020404c4"
    )


def test_a_datagram_whose_checksum_would_be_nothing_says_so_otherwise() -> None:
    """0 on the wire means that there is none (RFC 768)."""
    sums = {packets.datagram(FLOW, number.to_bytes(2))[26:28] for number in range(0x10000)}
    assert bytes(2) not in sums
    assert b"\xff\xff" in sums


@BOTH
def test_connections_accepted_and_refused(flow: Flow) -> None:
    assert parse(tcp(flow, 0x12, 4711)) == answer(Heard.ACCEPTED, flow, sequence=4711)
    assert parse(tcp(flow, 0x14)) == answer(Heard.REFUSED, flow)
    assert parse(tcp(flow, 0x10)) is None
    assert parse(tcp(flow, 0x02)) is None


@BOTH
def test_padding_of_short_frames_is_no_part_of_the_packet(flow: Flow) -> None:
    assert parse(tcp(flow, 0x14) + bytes(6)) == answer(Heard.REFUSED, flow)
    body = struct.pack("!HHHH", 80, 40000, 10, 0) + b"hi"
    assert parse(ip(flow.virtual, flow.source, packets.UDP, body) + bytes(16)) == answer(
        Heard.ANSWERED, flow, data=b"hi"
    )


@BOTH
def test_pings(flow: Flow) -> None:
    kind = 0 if len(flow.source) == 4 else 129
    protocol = packets.ICMP if kind == 0 else packets.ICMPV6
    reply = struct.pack("!BBHHH", kind, 0, 0, flow.port, 1)
    assert parse(ip(flow.virtual, flow.source, protocol, reply)) == answer(Heard.ECHOED, flow)
    assert parse(packets.echo(flow)) is None, "a question is no answer"


@BOTH
def test_errors_are_about_what_they_quote(flow: Flow) -> None:
    old = len(flow.source) == 4
    unreachable, port, exceeded = (3, 3, 11) if old else (1, 4, 3)
    by = BACKEND if old else BACKEND6
    question, ping, datagram = packets.syn(flow, 1), packets.echo(flow), packets.datagram(flow, b"x")
    assert parse(icmp(flow, exceeded, 0, question, by)) == answer(Heard.EXCEEDED, flow, sender=by)
    assert parse(icmp(flow, exceeded, 0, ping, by)) == answer(Heard.EXCEEDED, flow, sender=by, to_echo=True)
    assert parse(icmp(flow, unreachable, port, datagram)) == answer(Heard.REFUSED, flow)
    assert parse(icmp(flow, unreachable, 13, datagram)) == answer(Heard.UNREACHABLE, flow)
    assert parse(icmp(flow, unreachable, port, question)) == answer(Heard.UNREACHABLE, flow), "a firewall: hosts reset"
    for length in range(len(question) - 16):
        assert parse(icmp(flow, exceeded, 0, question[:length])) is None
    assert parse(icmp(flow, 99, 0, question)) is None


@BOTH
@pytest.mark.parametrize(("kind", "protocol"), [(TunnelType.IPIP, 4), (TunnelType.GRE, 47)])
def test_errors_about_tunnels_are_about_what_is_in_them(flow: Flow, kind: TunnelType, protocol: int) -> None:
    old = len(flow.source) == 4
    number = protocol if old or protocol == 47 else 41
    us, by = (US, BACKEND) if old else (US6, BACKEND6)
    outer = ip(us, by, number, packets.encapsulated(packets.datagram(flow, b"x"), Tunnel(type=kind)))
    unreachable, port = (3, 3) if old else (1, 4)
    assert parse(icmp(flow, unreachable, port, outer, by)) == answer(Heard.UNREACHABLE, flow, sender=by)


def test_what_stands_before_a_packet_in_each_tunnel() -> None:
    inner, inner6 = packets.echo(FLOW), packets.echo(FLOW6)
    gue = Tunnel(type=TunnelType.GUE, port=6080)
    assert packets.encapsulated(inner, Tunnel()) == inner
    assert packets.encapsulated(inner, Tunnel(type=TunnelType.GRE)) == bytes.fromhex("00000800") + inner
    assert packets.encapsulated(inner6, Tunnel(type=TunnelType.GRE)) == bytes.fromhex("000086dd") + inner6
    assert packets.encapsulated(inner, gue) == bytes.fromhex("00040000") + inner
    assert packets.encapsulated(inner6, gue) == bytes.fromhex("00290000") + inner6


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        b"\x60" + bytes(20),
        b"\x00" * 40,
        ip(VIP, US, packets.TCP, bytes(19)),
        ip(VIP, US, packets.UDP, bytes(7)),
        ip(VIP, US, packets.ICMP, bytes(7)),
        ip(VIP, US, 132, bytes(40)),
    ],
)
def test_rubbish_is_nothing_of_ours(packet: bytes) -> None:
    assert parse(packet) is None


@given(st.binary(max_size=120))
def test_no_packet_from_the_wire_is_an_error(packet: bytes) -> None:
    parse(packet)
    whole = ip(VIP, US, packets.ICMP, b"\x03\x03" + bytes(6) + packet)
    found = parse(whole)
    assert found is None or found.sender == VIP
    parse(ip(VIP6, US6, packets.ICMPV6, b"\x03\x00" + bytes(6) + packet))


@given(st.integers(0, 60), st.integers(0, 255))
def test_a_damaged_answer_is_another_one_or_none(at: int, value: int) -> None:
    packet = bytearray(icmp(FLOW, 11, 0, packets.syn(FLOW, 1)))
    packet[at % len(packet)] = value
    parse(bytes(packet))


# -- what the kernel lets through ------------------------------------------------------------------------------------


def passes(program: list[bpf.Instruction], packet: bytes) -> bool:
    """A small classic BPF machine (linux/filter.h)."""
    accumulator = index = at = 0
    while True:
        code, yes, no, constant = program[at]
        at += 1
        try:
            if code == bpf.RETURN:
                return constant != 0
            if code == bpf.LOAD_BYTE:
                accumulator = packet[constant]
            elif code == bpf.LOAD_WORD:
                (accumulator,) = struct.unpack_from("!I", packet, constant)
            elif code == bpf.LOAD_BYTE_INDIRECT:
                accumulator = packet[index + constant]
            elif code == bpf.LOAD_X_HEADER_LENGTH:
                index = 4 * (packet[constant] & 0xF)
            elif code == bpf.JUMP_EQUAL:
                at += yes if accumulator == constant else no
            elif code == bpf.JUMP:
                at += constant
            elif code == 0x45:
                at += yes if accumulator & constant else no
            else:
                raise AssertionError(f"{code:#x}")
        except (IndexError, struct.error):
            return False


@BOTH
def test_the_kernel_wakes_nobody_for_the_traffic_of_clients(flow: Flow) -> None:
    old = len(flow.source) == 4
    other = US[:3] + b"\x99" if old else US6[:15] + b"\x99"
    size, by = len(flow.source), BACKEND if old else BACKEND6
    program = tap_filter(size, [flow.source, other], [flow.virtual])
    datagram = ip(flow.virtual, flow.source, packets.UDP, bytes(12))
    assert passes(program, tcp(flow, 0x12))
    assert passes(program, tcp(flow, 0x14))
    assert passes(program, icmp(flow, 11, 0, packets.syn(flow, 1), by))
    assert passes(program, datagram)
    assert not passes(program, tcp(flow, 0x10)), "data of others' connections"
    assert not passes(program, packets.syn(flow, 1)), "clients' packets to the virtual address"
    assert not passes(program, ip(by, flow.source, packets.UDP, bytes(12))), "an overlay's"
    assert not passes(program, ip(by, flow.source, 132, bytes(12)))
    assert not passes(tap_filter(size, [flow.source], []), datagram)
    assert passes(tap_filter(size, [flow.source], [bytes(size - 2) + n.to_bytes(2) for n in range(300)]), datagram)
