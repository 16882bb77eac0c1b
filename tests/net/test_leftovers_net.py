"""A client uses its ports again: what is left of the earlier connections leads no later one astray."""

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from lvsagent.core.affinity import Connection, Tables
from lvsapi.model import Protocol
from tests.net.lan import Lan
from tests.net.pods import PodLan
from tests.net.test_affinity_net import Agents, Held, move
from tests.net.test_data_path_net import PORT, VIP, resolved
from tests.statistics import router_statistics

pytestmark = pytest.mark.net

COUNT = 150
FIRST = 30_000
"""Port of the client."""
QUIET, VOUCHED = 2, 4.0
"""Instead of 20 and 75 s."""
REUSE = 1.5
"""Seconds after which the client's kernel takes a port again (tcp_tw_reuse)."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodLan]:
    with Lan() as lan:
        pods = PodLan(lan, 3)
        pods.serve(tmp_path_factory.mktemp("pods"))
        lan.run("client", ["sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1"])
        yield pods


@pytest.fixture
def agents(cluster: PodLan, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agents]:
    monkeypatch.setattr("lvsagent.core.leftovers.QUIET", QUIET)
    monkeypatch.setattr("lvsagent.core.leftovers.VOUCHED", VOUCHED)
    monkeypatch.setattr("lvsagent.core.agreement.REPEAT", VOUCHED / 2)
    found = Agents(cluster)
    found.program(resolved(1, 2))
    for node in cluster.nodes:
        if f"{VIP}/32" in cluster.lan.addresses(node):
            cluster.release(node, VIP)
    yield found
    found.close()


def active(agents: Agents, node: str, before: str = "") -> None:
    """The VIP goes there, and the agents are told."""
    if before:
        move(agents.pods, before, node)
        agents.views[before].claims.routers = {}
    else:
        agents.pods.hold(node, VIP)
    agents.views[node].claims.routers = {"web": router_statistics("web", addresses_held=(f"{VIP}/32",))}


def entries(agents: Agents, node: str) -> dict[int, tuple[str, str]]:
    """Client port -> destination and state in the node's kernel."""
    rows = [row.split() for row in agents.pods.lan.run(node, ["ipvsadm", "-Lnc"]).splitlines()[2:]]
    return {int(row[3].rpartition(":")[2]): (row[5], row[2]) for row in rows}


def placed(agents: Agents, port: int) -> str:
    """The destination to which the table sends the client's port."""
    planned = agents.views["n1"].plan
    assert planned is not None
    tables = Tables()
    tables.use(planned.state.services)
    nowhere = (ip_address("0.0.0.0"), 0)
    client = int(ip_address("10.0.0.100"))
    place = tables.place(Connection(Protocol.TCP, ip_address(VIP), PORT, client, port, nowhere, "ESTABLISHED", 900))
    assert place is not None
    return f"{place[0]}:{place[1]}"


def ports(first: int) -> range:
    return range(first, first + COUNT)


@pytest.mark.parametrize("ended", ["closed here", "closed elsewhere"])
def test_a_node_that_was_active_before_sends_nobody_after_connections_of_then(agents: Agents, ended: str) -> None:
    """n2 has entries of connections to p1 and p2; then p3 comes, and n1 gives it some of the same client ports."""
    active(agents, "n2")
    agents.start(*agents.pods.nodes)
    first = FIRST if ended == "closed here" else FIRST + 1000
    early = Held(agents.pods, COUNT, ports(first))
    if ended == "closed here":
        early.close()
    active(agents, "n1", "n2")
    if ended == "closed elsewhere":
        assert not early.lost()
        early.close()
    left = entries(agents, "n2")
    state = "FIN_WAIT" if ended == "closed here" else "ESTABLISHED"
    assert sum(left[port][1] == state for port in ports(first)) > COUNT / 4, left
    agents.program(resolved(1, 2, 3))
    agents.settle(lambda: agents.parts["n2"].counted["forgotten"] > COUNT / 10, 20.0)
    time.sleep(REUSE)
    late = Held(agents.pods, COUNT, ports(first))
    taken = late.pods.count("p3")
    assert taken > COUNT / 10
    active(agents, "n2", "n1")
    lost = late.lost()
    late.close()
    print(f"{ended}: p3 has {taken} of {COUNT}, lost {lost}; forgotten {agents.counted('forgotten')}")
    assert lost == {}


def test_the_active_node_gives_a_port_that_comes_again_to_whom_the_others_would(agents: Agents) -> None:
    """n1 has seen the connection end; its kernel would give the next one from there to the same pod."""
    active(agents, "n1")
    agents.start(*agents.pods.nodes)
    Held(agents.pods, COUNT, ports(FIRST + 2000)).close()
    time.sleep(QUIET + 1)
    agents.program(resolved(1, 2, 3))
    agents.settle(lambda: agents.parts["n1"].counted["forgotten"] > COUNT / 10, 20.0)
    time.sleep(REUSE)
    late = Held(agents.pods, COUNT, ports(FIRST + 2000))
    given = entries(agents, "n1")
    assert [given[port][0] for port in ports(FIRST + 2000)] == [placed(agents, port) for port in ports(FIRST + 2000)]
    assert late.pods.count("p3") > COUNT / 10
    active(agents, "n3", "n1")
    lost = late.lost()
    late.close()
    assert lost == {}


def test_connections_that_live_are_not_forgotten_though_the_table_sends_them_elsewhere(agents: Agents) -> None:
    """Idle for longer than a closed one would be kept, on all nodes, with the Active node and without it."""
    active(agents, "n2")
    agents.start(*agents.pods.nodes)
    held = Held(agents.pods, COUNT, ports(FIRST + 3000))
    active(agents, "n1", "n2")
    assert not held.lost()
    agents.program(resolved(1, 2, 3))
    time.sleep(VOUCHED + 10)
    assert agents.counted("told") > COUNT / 10
    for new, old in (("n3", "n1"), ("n2", "n3"), ("n1", "n2")):
        active(agents, new, old)
        assert held.lost() == {}, f"{new} after {old}"
    held.close()
