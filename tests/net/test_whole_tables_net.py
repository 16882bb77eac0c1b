"""Where every node chooses for itself: all hold all, and what one has sent on goes no further."""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import chain

import pytest

from lvsagent.adapters import connections
from lvsagent.core.plan import plan
from lvsagent.core.senders import outside
from lvsagent.core.strays import departed, strays
from lvsapi.ipvs import Scheduler
from lvsapi.model import Backend, Protocol, Resolved
from tests.net.pods import PodLan, virtual
from tests.net.test_affinity_net import Held
from tests.net.test_data_path_net import PORT, VIP, resolved
from tests.net.test_loops_net import ALL, DIFFERING, NEW, NUMBER, attempts, clear, hold, program, three_nodes
from tests.unit.test_plan import router

pytestmark = pytest.mark.net
ROUTER = frozenset({"default/200/v4"})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with three_nodes(tmp_path_factory.mktemp("pods")) as found:
        yield found


@pytest.fixture
def pods(cluster: PodLan) -> PodLan:
    clear(cluster)
    return cluster


def choosing_alone(resolved: Resolved, scheduler: Scheduler) -> Resolved:
    """The same with another scheduler. ``ovf`` refuses more connections than weights."""
    (server,) = resolved.servers
    much = tuple(replace(b, weight=b.weight * (NUMBER if scheduler is Scheduler.OVF else 1)) for b in server.backends)
    return replace(resolved, servers=(replace(server, scheduler=scheduler, backends=much),))


@pytest.mark.parametrize("scheduler", [one for one in Scheduler if one is not Scheduler.MH])
def test_where_every_node_chooses_for_itself_all_hold_all_and_nothing_is_sent_on_twice(
    pods: PodLan, scheduler: Scheduler
) -> None:
    program(pods, *[choosing_alone(NEW, scheduler)] * 3, guarded=True)
    active = pods.nodes[list(Scheduler).index(scheduler) % 3]
    for node in pods.nodes:
        assert pods.lan.run(node, ["ipvsadm", "-Sn"]).count("-a -t") == len(ALL)
    hold(pods, active)
    assert attempts(pods, NUMBER) == {"served": NUMBER}


def test_every_datagram_of_one_packet_scheduling_arrives_once_and_goes_no_further(pods: PodLan) -> None:
    (server,) = resolved(1).servers
    hosts = tuple(
        Backend(address=ip_address(f"10.0.0.2{k}"), port=PORT, weight=1, node=f"n{k}", host_network=True)
        for k in (1, 2, 3)
    )
    server = replace(server, protocol=Protocol.UDP, scheduler=Scheduler.RR, one_packet=True, backends=hosts)
    program(pods, *[Resolved(servers=(server,), routers=(), problems=())] * 3, guarded=True)
    for active in pods.nodes:
        hold(pods, active)
        heard = [pods.lan.socket(node, socket.AF_INET, socket.SOCK_DGRAM) for node in pods.nodes]
        for one in heard:
            one.setblocking(False)
            one.bind((VIP, PORT))
        client = pods.lan.socket("client", socket.AF_INET, socket.SOCK_DGRAM)
        for number in range(NUMBER):
            client.sendto(str(number).encode(), (VIP, PORT))
            time.sleep(0.002)
        time.sleep(0.2)
        found = [list(_read(one)) for one in heard]
        assert sorted(map(int, chain(*found))) == list(range(NUMBER)), active
        assert all(found), "not spread"
        for one in (*heard, client):
            one.close()


def _read(opened: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield opened.recv(64)


def test_a_node_that_held_its_own_pods_only_keeps_their_connections_when_it_holds_the_whole_table(
    pods: PodLan,
) -> None:
    """As when an agent is replaced by one that guards what others send on, and back."""
    everywhere = replace(choosing_alone(NEW, Scheduler.RR), routers=(router(addresses=(ip_address(VIP),)),))
    for node in pods.nodes:
        pods.program(node, everywhere)
    hold(pods, "n1")
    pods.program("n1", everywhere, ROUTER)
    connections = Held(pods, 60, range(10_000, 10_060))
    assert set(connections.pods) == {"p1", "p2", "p3"}
    for node in ("n3", "n1", "n2"):
        pods.program(node, everywhere, ROUTER if node == "n1" else frozenset(), guarded=True)
        assert connections.lost() == {}
        assert attempts(pods, NUMBER) == {"served": NUMBER}, node
    for node in ("n3", "n2"):
        pods.program(node, everywhere)
        assert connections.lost() == {}
    connections.close()


@pytest.mark.parametrize("differing", ["a pod's own node hears last of a new one", "each node knows others"])
def test_and_so_while_nodes_believe_different_things(pods: PodLan, differing: str) -> None:
    program(pods, *[choosing_alone(one, Scheduler.RR) for one in DIFFERING[differing]], guarded=True)
    for active in pods.nodes:
        hold(pods, active)
        assert attempts(pods, NUMBER) == {"served": NUMBER}, active


def test_a_port_that_is_used_again_finds_nobody_where_its_last_connection_is_remembered_until_that_is_forgotten(
    pods: PodLan,
) -> None:
    """n1 was Active, and remembers for two minutes what has ended. A new connection with the same ports that n2 gives
    to n1's pod would be sent back to n2."""
    everywhere = choosing_alone(NEW, Scheduler.RR)
    program(pods, *[everywhere] * 3, guarded=True)
    pods.lan.run("client", ["sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1"])
    ports = list(range(9000, 9090))

    def ask(some: list[int]) -> Counter[str]:
        """One after another."""
        return Counter(_once(pods, port) for port in some)

    hold(pods, "n1")
    assert ask(ports) == {"served": len(ports)}
    time.sleep(1.5)  # the client does not use a port again sooner
    hold(pods, "n2")
    known = ask(ports[::2])
    print(f"while n1 remembers: {dict(known)}")
    assert known["OSError"] + known["TimeoutError"] > 0
    with pods.kernel("n1") as kernel:
        facts = kernel.facts(virtual(everywhere))
        own = {ip_address(f"10.244.1.{last}") for last in (11, 12)}
        services = plan(everywhere, facts, frozenset()).whole
        entries = departed(connections.Listing(), services, (), own)
        ways = {entry.client: kernel.addresses.interface_to(ip_address("10.0.0.100")) for entry in entries}
        over = strays(entries, ways, outside([ip_address("10.0.0.22")], facts))
        assert len(over) > len(ports) / 4
        connections.write(over)
        end = time.monotonic() + 5.0
        while departed(connections.Listing(), services, (), own) and time.monotonic() < end:
            time.sleep(0.1)
    after = ask(ports[1::2])
    print(f"afterwards: {dict(after)}")
    # A pod that still has the other end of a port's first connection may refuse the second: that is between these two,
    # and how often it is the same pod depends on whose turn it was. Nobody is sent to and fro any more.
    assert after["ConnectionResetError"] < len(ports) / 4
    assert after["served"] + after["ConnectionResetError"] == len(ports) / 2


def _open(pods: PodLan, port: int) -> socket.socket:
    """A connection from this port of the client, once answered. Raises OSError."""
    opened = pods.lan.socket("client", socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.settimeout(0.9)
    opened.bind(("10.0.0.100", port))
    opened.connect((VIP, PORT))
    opened.sendall(b"x\n")
    assert opened.recv(100)
    return opened


def _once(pods: PodLan, port: int) -> str:
    try:
        opened = _open(pods, port)
    except OSError as error:
        return type(error).__name__
    opened.close()
    return "served"
