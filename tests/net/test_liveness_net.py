"""A node falls silent, or only seems to: tables, connections, and what the kernel says about when."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.core.loops import DOUBT_MARKS
from tests.net.beating import PORT, VIP, Beating, Watch
from tests.net.lan import Lan

pytestmark = pytest.mark.net

AT_ONCE = 0.5
"""Seconds, by the best of the rounds: this machine may be busy."""
LIMIT = 2.0
"""Seconds, for the worst."""


@pytest.fixture
def beating(tmp_path: Path) -> Iterator[Beating]:
    with Lan() as lan:
        made = Beating(lan, tmp_path)
        try:
            made.start_all()
            yield made
        finally:
            made.close()


def test_a_dead_nodes_backend_is_out_at_once_and_in_again_when_the_tables_of_the_node_are_there(
    beating: Beating,
) -> None:
    took = [seconds for victim in ("n3", "n1", "n2") for seconds in crash_and_return(beating, victim)]
    print(f"weight 0 after {', '.join(f'{seconds * 1000:.0f}' for seconds in sorted(took))} ms")
    assert min(took) <= AT_ONCE, took
    assert max(took) <= LIMIT, took


def crash_and_return(beating: Beating, victim: str) -> list[float]:
    """The node dies and comes back step by step. Returns the seconds until it had weight 0 on each of the others."""
    others = [node for node in beating.nodes if node != victim]
    first = others[0]
    without = {**beating.all(1), victim: 0}
    watches = {node: Watch(beating, node) for node in others}
    at = beating.crash(victim)
    beating.await_tables(others, without, LIMIT + 1.0)
    answered = {beating.pods.connect(VIP, PORT).pod for _ in range(12)}
    assert answered == {node.replace("n", "p") for node in others}
    beating.reboot(victim)
    beating.stays("a kernel alone is not enough", lambda: beating.tables(others) == [without] * 2)
    beating.start_election(victim)
    beating.until("it beats", lambda: f"a node speaks again node={victim} ready=False" in beating.log(first))
    beating.stays("nor an election that has no tables", lambda: beating.tables(others) == [without] * 2)
    assert beating.metric(first, "lvs_node_suspected{") == 1
    beating.start(victim)
    beating.await_tables(beating.nodes, beating.all(1))
    beating.until("n1 serves again", lambda: beating.holds("n1"))
    beating.until("nobody is suspected", lambda: beating.metric(first, "lvs_node_suspected{") == 0)
    for watch in watches.values():
        watch.stop()
    found = [watch.when(without, at) for watch in watches.values()]
    return [seconds for seconds in found if seconds is not None]


def test_a_wrong_suspicion_costs_no_connection(beating: Beating) -> None:
    beating.hold(45)
    before = beating.takeovers()

    def nothing_lost() -> None:
        # a takeover in the very moment, on a machine too busy for the election, costs: docs/decisions/0005
        lost = beating.lost()
        assert lost == {} or beating.takeovers() != before, lost

    for victim in ("n2", "n1"):
        without = {**beating.all(1), victim: 0}
        others = [node for node in beating.nodes if node != victim]
        beating.deafen(victim)
        beating.await_tables(others, without)
        assert beating.weights(victim)[victim] == 1, "it never suspects itself"
        nothing_lost()
        assert [beating.pods.connect(VIP, PORT).pod for _ in range(10)].count("") == 0
        nothing_lost()
        beating.deafen(victim, False)
        beating.await_tables(others, beating.all(1))
        nothing_lost()


def test_a_living_node_that_is_suspected_while_another_becomes_active_loses_no_connection(beating: Beating) -> None:
    beating.hold(60)
    beating.deafen("n3")
    beating.await_tables(["n1", "n2"], {"n1": 1, "n2": 1, "n3": 0})
    beating.crash("n1")
    beating.until("n2 has taken over", lambda: beating.holds("n2"), 5.0)
    beating.await_tables(["n2"], {"n1": 0, "n2": 1, "n3": 0})
    assert [beating.pods.connect(VIP, PORT).pod for _ in range(10)].count("p2") == 10, "new ones are another matter"
    alive = [one for one in beating.held if one.pod != "p1"]
    assert {one.pod for one in alive} == {"p2", "p3"}
    assert [one.pod for one in alive if not one.lives()] == []
    beating.deafen("n3", False)
    beating.await_tables(["n2"], {"n1": 0, "n2": 1, "n3": 1})
    assert [one.pod for one in alive if not one.lives()] == []


def test_what_was_opened_while_only_the_active_node_suspected_somebody_outlives_its_crash(beating: Beating) -> None:
    """Nobody else has a reason of its own to look for connections that its table would send elsewhere."""
    time.sleep(4.5)  # until nobody looks any more for what may have been opened before the tables were complete
    beating.deafen("n2", towards="10.0.0.21")
    beating.await_tables(["n1"], {"n1": 1, "n2": 0, "n3": 1})
    assert beating.weights("n3") == beating.all(1)
    beating.hold(60)
    assert {one.pod for one in beating.held} == {"p1", "p3"}
    beating.deafen("n2", False)
    beating.await_tables(["n1"], beating.all(1))
    time.sleep(1.0)
    beating.crash("n1")
    beating.until("n2 has taken over", lambda: beating.holds("n2"), 5.0)
    alive = [one for one in beating.held if one.pod == "p3"]
    lost = sum(not one.lives() for one in alive)
    print(f"of {len(alive)} connections of a living pod {lost} lost")
    assert lost == 0


def test_connections_of_a_dead_node_end_when_it_has_had_the_benefit_of_the_doubt(beating: Beating) -> None:
    beating.hold(30)
    at = beating.crash("n1")
    beating.until("n2 has taken over", lambda: beating.holds("n2"), 5.0)
    beating.until("the table without the suspicion stands beside", lambda: len(doubted(beating, "n2")) == 1, 2.0)
    # What comes between the two would be the ordinary table's, with the weight that it had, and stay there.
    beating.await_tables(["n2"], {"n1": 0, "n2": 1, "n3": 1})
    dead = [one for one in beating.held if one.pod == "p1"]
    for one in dead:
        one.speak()  # told again and again by TCP, after 0.2, 0.4, 0.8, 1.6, 3.2 s, …
    assert dead
    assert [one.ends(15.0) for one in dead] == [True] * len(dead)
    print(f"connections of the dead node's pods were reset {time.monotonic() - at:.1f} s after its crash")
    beating.until("no service is left of it", lambda: doubted(beating, "n2") == [], 20.0)
    assert [one.pod for one in beating.held if one.pod != "p1" and not one.lives()] == []


def doubted(beating: Beating, node: str) -> list[str]:
    """The services of ``core.doubt`` on the node."""
    with beating.lan.inside(node):
        lines = Path("/proc/thread-self/net/ip_vs").read_text().splitlines()
    return [line for line in lines if line.startswith(f"FWM  {DOUBT_MARKS[0] >> 16:X}")]


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_election_that_is_stopped_or_killed_on_the_active_node_costs_no_connection(
    beating: Beating, number: signal.Signals
) -> None:
    beating.hold(45)
    watch = Watch(beating, "n2")
    if number is signal.SIGKILL:
        os.kill(beating.agents["n1"].pid, signal.SIGKILL)  # it would start another one
        beating.agents["n1"].wait()
    (election,) = beating.processes("n1", "lvsagent.election")
    os.kill(election, number)
    beating.until("n2 has taken over", lambda: beating.holds("n2") and not beating.holds("n1"), 5.0)
    assert beating.lost() == {}
    assert [beating.pods.connect(VIP, PORT).pod for _ in range(10)].count("") == 0
    time.sleep(1.0)
    assert beating.lost() == {}
    if number is signal.SIGSTOP:
        os.kill(election, signal.SIGCONT)
        beating.until("n1 is Active again", lambda: beating.holds("n1"))
        assert beating.lost() == {}
    watch.stop()
    assert [weights for _, weights in watch.seen] == [beating.all(1)], "its kernel answered all the time"


def test_who_is_cut_off_suspects_nobody(beating: Beating) -> None:
    watch = Watch(beating, "n3")
    beating.lan.cut("n3")
    beating.until("the others notice", lambda: beating.weights("n1") == {**beating.all(1), "n3": 0})
    time.sleep(2.0)
    beating.lan.heal("n3")
    beating.until("it is back", lambda: beating.weights("n1") == beating.all(1))
    time.sleep(0.5)
    watch.stop()
    assert [weights for _, weights in watch.seen] == [beating.all(1)]
    assert "this one is cut off" in beating.log("n3")
