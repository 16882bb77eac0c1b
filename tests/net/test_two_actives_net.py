"""Two nodes that both hold the address, and a client whose neighbour entry goes to and fro between them."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lvsapi.model import Resolved
from tests.net.faults import FULL
from tests.net.lan import Lan
from tests.net.pods import PodLan
from tests.net.test_affinity_net import Held
from tests.net.test_data_path_net import PORT, VIP, resolved

pytestmark = pytest.mark.net

SECONDS = 60 if FULL else 10
HELD = 300


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    """Three nodes with a pod each, and all that an agent writes for pods."""
    with Lan() as lan:
        found = PodLan(lan, 3)
        found.serve(tmp_path_factory.mktemp("pods"))
        found.beat_once()
        yield found


def tell(pods: PodLan, what: Resolved) -> None:
    for node in pods.nodes:
        pods.program(node, what)
        assert pods.guard_loops(node, what).errors == ()


def whom_the_client_asks(pods: PodLan) -> str:
    entry = pods.lan.run("client", ["ip", "neigh", "show", VIP]).split()
    return next(node for node in pods.nodes if pods.lan.mac(node) == entry[entry.index("lladdr") + 1])


def flip(pods: PodLan, seconds: int) -> tuple[dict[str | None, int], int, int]:
    """Both hold the address, each in turn is heard last. Returns connections lost by pod, new ones failed, and how
    often the client turned to the other."""
    pods.hold("n1", VIP)
    connections = Held(pods, HELD)
    assert set(connections.pods) == {"p1", "p2", "p3"}
    pods.hold("n2", VIP)
    failed = turns = 0
    lost: dict[str | None, int] = {}
    before = "n1"
    for second in range(seconds):
        due = time.monotonic() + 1.0
        claimant = ("n1", "n2")[second % 2]
        pods.announce(claimant, VIP)
        time.sleep(0.05)
        asked = whom_the_client_asks(pods)
        turns += asked != before
        before = asked
        for pod, number in connections.lost().items():
            lost[pod] = lost.get(pod, 0) + number
        for _ in range(5):
            try:
                pods.connect(VIP, PORT)
            except OSError:
                failed += 1
        time.sleep(max(0.0, due - time.monotonic()))
    connections.close()
    for node in ("n1", "n2"):
        pods.release(node, VIP)
    return lost, failed, turns


def test_two_actives_and_an_arp_entry_that_flips_every_second_cost_no_connection(pods: PodLan) -> None:
    tell(pods, resolved(1, 2, 3))
    lost, failed, turns = flip(pods, SECONDS)
    print(
        f"{SECONDS} s, {turns} turns: lost {lost} of {HELD} held connections, {failed} of {5 * SECONDS} new ones failed"
    )
    assert turns >= SECONDS - 2, "the client's entry did not flip: nothing was shown"
    assert (lost, failed) == ({}, 0)


def test_a_scheduler_whose_nodes_choose_differently_loses_them(pods: PodLan) -> None:
    """So that the test above shows something."""
    what = resolved(1, 2, 3)
    (server,) = what.servers
    apart = {
        node: Resolved(servers=(replace(server, backends=tuple(backends)),), routers=(), problems=())
        for node, backends in {
            "n1": server.backends,
            "n2": [b for b in server.backends if b.node == "n2"],
            "n3": [b for b in server.backends if b.node == "n3"],
        }.items()
    }
    for node in pods.nodes:
        pods.lan.run(node, ["ipvsadm", "-C"])
        pods.program(node, apart[node])
        pods.guard_loops(node, Resolved(servers=(), routers=(), problems=()))
    lost, _, turns = flip(pods, 3)
    assert turns >= 1
    assert sum(lost.values()) > HELD / 10
