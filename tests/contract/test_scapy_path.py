"""scapy as the independent judge of the path's packets: it reads ours field by field, and we read its."""

import socket
import warnings

import pytest

from lvsagent.checks.path_packets import TCP as TCP_NUMBER
from lvsagent.checks.path_packets import UDP as UDP_NUMBER
from lvsagent.checks.path_packets import Answer, Flow, Heard, datagram, echo, encapsulated, parse, reset, syn
from lvsapi.ipvs import Tunnel, TunnelType

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy's own use of deprecated ciphers
    from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6TimeExceeded, IPv6

pytestmark = pytest.mark.contract

US, VIP, BACKEND = "10.0.0.21", "10.0.0.200", "10.0.0.31"
US6, VIP6 = "fd00::21", "fd00::200"
FLOW = Flow(
    source=socket.inet_aton(US), port=40000, virtual=socket.inet_aton(VIP), virtual_port=80, protocol=TCP_NUMBER
)
FLOW6 = Flow(
    source=socket.inet_pton(socket.AF_INET6, US6),
    port=40000,
    virtual=socket.inet_pton(socket.AF_INET6, VIP6),
    virtual_port=80,
    protocol=UDP_NUMBER,
)


def answer(heard: Heard, flow: Flow, **more: object) -> Answer:
    fields: dict[str, object] = {"sender": flow.virtual, **more}
    return Answer(heard=heard, source=flow.source, port=flow.port, virtual=flow.virtual, **fields)  # type: ignore[arg-type]


def rebuilt(layer: type, packet: bytes) -> bytes:
    """The same with every checksum and length computed by scapy."""
    read = layer(packet)
    for part in (IP, TCP, UDP, ICMP, ICMPv6EchoRequest):
        if part in read:
            for name in ("chksum", "cksum", "len"):
                if name in read[part].fields:
                    del read[part].fields[name]
    return bytes(read)


@pytest.mark.parametrize("flow", [FLOW, FLOW6], ids=["IPv4", "IPv6"])
def test_scapy_computes_the_same_lengths_and_checksums(flow: Flow) -> None:
    layer = IP if flow is FLOW else IPv6
    for packet in (syn(flow, 7), reset(flow, 8), datagram(flow, b"odd"), echo(flow)):
        assert rebuilt(layer, packet) == packet


def test_scapy_reads_what_we_meant() -> None:
    read = IP(syn(FLOW, 7))
    assert (read.src, read.dst, read.ttl, str(read.flags)) == (US, VIP, 1, "DF")
    assert (read[TCP].sport, read[TCP].dport, read[TCP].seq, str(read[TCP].flags)) == (40000, 80, 7, "S")
    assert read[TCP].options == [("MSS", 1220)]
    ended = IP(reset(FLOW, 8))[TCP]
    assert (ended.seq, str(ended.flags)) == (8, "R")
    assert IP(echo(FLOW))[ICMP].id == 40000
    assert IPv6(echo(FLOW6))[ICMPv6EchoRequest].id == 40000
    assert bytes(IPv6(datagram(FLOW6, b"odd"))[UDP].payload) == b"odd"
    inner = GRE(encapsulated(echo(FLOW), Tunnel(type=TunnelType.GRE)))
    assert inner[IP].dst == VIP


def test_we_read_what_scapy_answers() -> None:
    tcp = {"sport": 80, "dport": 40000}
    assert parse(bytes(IP(src=VIP, dst=US) / TCP(**tcp, flags="SA", ack=8))) == answer(Heard.ACCEPTED, FLOW, sequence=8)
    assert parse(bytes(IP(src=VIP, dst=US) / TCP(**tcp, flags="RA"))) == answer(Heard.REFUSED, FLOW)
    assert parse(bytes(IPv6(src=VIP6, dst=US6) / UDP(**tcp) / b"hello")) == answer(Heard.ANSWERED, FLOW6, data=b"hello")
    assert parse(bytes(IPv6(src=VIP6, dst=US6) / ICMPv6EchoReply(id=40000))) == answer(Heard.ECHOED, FLOW6)
    by = socket.inet_aton(BACKEND)
    exceeded = IP(src=BACKEND, dst=US) / ICMP(type=11) / IP(src=US, dst=VIP) / TCP(sport=40000, dport=80)
    assert parse(bytes(exceeded)) == answer(Heard.EXCEEDED, FLOW, sender=by)
    tunnelled = IP(src=BACKEND, dst=US) / ICMP(type=3, code=3) / IP(src=US, dst=BACKEND) / GRE() / IP(src=US, dst=VIP)
    assert parse(bytes(tunnelled / TCP(sport=40000, dport=80))) == answer(Heard.UNREACHABLE, FLOW, sender=by)
    six = IPv6(src="fd00::31", dst=US6) / ICMPv6TimeExceeded() / IPv6(src=US6, dst=VIP6) / UDP(sport=40000, dport=80)
    assert parse(bytes(six)) == answer(Heard.EXCEEDED, FLOW6, sender=socket.inet_pton(socket.AF_INET6, "fd00::31"))
