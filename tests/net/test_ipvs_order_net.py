"""Which destination a client gets: the same on every node, whatever its table went through."""

import socket
from collections.abc import Sequence

import pytest

from lvsagent.adapters.kernel import Kernel
from lvsagent.core.diff import AddDestination, AddService
from lvsagent.core.state import Destination, ServiceKey
from lvsapi.model import Protocol
from tests.net.lan import EVERY_PROTOCOL, Sniffer
from tests.net.tables import VIP, command, make, pod, service, wanted

pytestmark = pytest.mark.net


def reachable(pods: int = 40) -> None:
    """Every pod is its own next hop, whose hardware address ends with the pod's number."""
    command("ip", "route", "add", "10.244.0.0/16", "dev", "eth0")
    for number in range(1, pods + 1):
        mac = f"02:00:00:00:00:{number:02x}"
        command("ip", "neigh", "add", f"10.244.0.{number}", "lladdr", mac, "dev", "eth0", "nud", "permanent")


def choices(key: ServiceKey, count: int = 600) -> dict[int, int]:
    """Pod by client port of so many datagrams to the VIP, by the frames that leave."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packets.bind(("eth0", EVERY_PROTOCOL))
    sniffer = Sniffer(packets)
    for port in range(20000, 20000 + count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.bind(("10.0.0.21", port))
            datagram.sendto(b"x", (str(key.address), key.port))
    frames = [frame for _, frame in sniffer.frames(0.2)]
    sniffer.close()
    ours = [f for f in frames if f[12:14] == b"\x08\x00" and f[23] == 17 and f[36:38] == key.port.to_bytes(2, "big")]
    return {int.from_bytes(frame[34:36], "big"): frame[5] for frame in ours}


def udp(port: int) -> ServiceKey:
    return ServiceKey(VIP, Protocol.UDP, port)


def raw(kernel: Kernel, key: ServiceKey, destinations: Sequence[Destination]) -> None:
    """In this order, without what core.diff knows."""
    assert kernel.apply([AddService(key, "mh", 0x18), *(AddDestination(key, d) for d in destinations)]) == ()


def test_a_pod_that_was_drained_before_we_came_leaves_the_same_table_as_on_nodes_that_saw_it_before(
    kernel: Kernel,
) -> None:
    reachable()
    pods = [pod(n) for n in range(1, 6)]
    drained = [pod(1), pod(2, weight=0), *pods[2:]]
    make(kernel, wanted(service(*drained, key=udp(1)), service(*pods, key=udp(2))))
    make(kernel, wanted(service(*drained, key=udp(1)), service(*drained, key=udp(2))))
    raw(kernel, udp(3), drained)
    fresh, seen, naive = (choices(udp(n)) for n in (1, 2, 3))
    assert len(fresh) == 600
    assert fresh == seen
    assert naive != seen, "the trick is not needed any more, or this test sees nothing"


def test_a_table_that_grew_in_another_order_sends_every_client_to_the_same_pod(kernel: Kernel) -> None:
    reachable()
    pods = [pod(n) for n in range(1, 41)]
    grown = pods[20:]
    make(kernel, wanted(service(*grown, key=udp(1))))
    make(kernel, wanted(service(*pods, key=udp(1)), service(*pods, key=udp(2))))
    raw(kernel, udp(3), [*pods[20:], *pods[:20]])
    grown_up, fresh, naive = (choices(udp(n)) for n in (1, 2, 3))
    assert len(fresh) == 600
    assert grown_up == fresh
    print(f"{sum(naive[p] != fresh[p] for p in fresh)} of 600 clients would go elsewhere without the order")
    assert naive != fresh, "the order does not matter any more, or this test sees nothing"
