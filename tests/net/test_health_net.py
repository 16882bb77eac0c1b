"""Backends that fail their checks: what the kernel's tables and the clients get of it."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.checked import CheckedLab, manifest
from tests.net.faults import BUSY
from tests.net.lan import Lan
from tests.net.test_agent_net import _end_elections

pytestmark = pytest.mark.net


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CheckedLab]:
    with Lan() as lan:
        made = CheckedLab(lan, tmp_path)
        yield made
        _end_elections(tmp_path)


def test_a_backend_that_dies_gets_no_connection_and_one_that_returns_does(lab: CheckedLab) -> None:
    lab.want(manifest())
    lab.both_up()
    before = lab.table("d1")
    assert lab.answers() == {"w1", "w2"}
    held = [lab.connect()[0] for _ in range(10)]
    lab.kill("w1")
    seconds = lab.until("both directors have taken w1 out", lambda: lab.weigh(w1=0, w2=1), 5.0)
    print(f"out after {seconds:.2f} s")
    assert lab.answers() == {"w2"}
    lab.until("it is counted", lambda: lab.metric("d1", "lvs_backend_up{") == 1)
    assert "Disabling service 10.0.0.11:7000 of VS 10.0.0.100:7000" in lab.log("d1")
    lab.serve("w1")
    seconds = lab.until("w1 is in service again", lambda: lab.weigh(w1=1, w2=1), 5.0)
    print(f"back after {seconds:.2f} s")
    assert lab.answers() == {"w1", "w2"}
    assert lab.table("d1") == before
    assert lab.log("d1").count("Enabling service 10.0.0.11:7000") == 2
    lives = 0
    for opened in held:
        opened.settimeout(2.0)
        try:
            opened.sendall(b"x")
            lives += opened.recv(1) == b"x"
        except OSError:
            pass
        opened.close()
    assert 1 <= lives < 10, "those of w2 live, those of w1 ended with it"


def test_fault_47_with_all_backends_down_clients_are_refused_at_once_or_dropped_and_nobody_takes_over(
    lab: CheckedLab,
) -> None:
    # Adverts once a second: a machine that stands still for half a second moves nothing.
    lab.slow_adverts()
    lab.want(manifest())
    lab.both_up()
    moved = lab.takeovers()
    assert moved >= 1
    lab.kill("w1", "w2")
    lab.until("all are out everywhere", lambda: lab.weigh(w1=0, w2=0), 5.0)
    lab.until("clients are refused", lambda: lab.attempt()[0] == "refused", 3.0)
    tries = [lab.attempt() for _ in range(30)]
    print("refused after", sorted(seconds for _, seconds in tries)[-3:])
    assert {how for how, _ in tries} == {"refused"}
    assert sorted(seconds for _, seconds in tries)[14] <= 0.1
    assert max(seconds for _, seconds in tries) <= 0.1 + BUSY
    assert "reject with tcp reset" in lab.lan.run("d1", ["nft", "list", "table", "inet", "lvs-dr"])
    lab.want(manifest(spec="whenEmpty: Drop"))
    lab.until("clients get nothing", lambda: lab.attempt(0.5)[0] == "silence", 5.0)
    assert [lab.attempt(0.7)[0] for _ in range(3)] == ["silence"] * 3
    assert lab.metric("d1", "lvs_quorum{") == 0
    time.sleep(2.0)
    assert lab.takeovers() == moved, "0 takeovers when all see none"
    assert lab.holds("d1")
    lab.serve("w1", "w2")
    lab.until("all are in again", lambda: lab.weigh(w1=1, w2=1), 5.0)
    lab.until("clients are served", lambda: lab.answers(5) <= {"w1", "w2"}, 3.0)
    assert "lvs-dr" not in lab.lan.run("d1", ["nft", "list", "tables"])
    assert lab.takeovers() == moved


def test_fault_48_a_backends_node_that_dies_silently_gets_nothing_after_three_checks_and_frees_its_clients(
    lab: CheckedLab,
) -> None:
    lab.want(manifest(interval=1000, timeout=500, fall=3, health="onFailure: Remove"))
    lab.both_up()
    held: dict[str, socket.socket] = {}
    for _ in range(50):
        opened, name = lab.connect()
        held.setdefault(name, opened)
        if len(held) == 2:
            break
    lab.lan.unplug("w1")
    cut = time.monotonic()
    lab.until("w1 is out everywhere", lambda: lab.weigh(w2=1), 10.0)
    seconds = time.monotonic() - cut
    print(f"out after {seconds:.2f} s")
    assert seconds <= 3.5 + 2 * BUSY
    assert lab.answers() == {"w2"}
    held["w2"].sendall(b"x")
    assert held["w2"].recv(1) == b"x"
    old = held["w1"]
    old.settimeout(5.0)
    begun = time.monotonic()
    old.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        old.recv(1)
    print(f"freed after {time.monotonic() - begun:.2f} s")
    for opened in held.values():
        opened.close()


def test_an_agent_that_restarts_changes_nothing_until_it_knows_better(lab: CheckedLab) -> None:
    lab.want(manifest())
    lab.both_up()
    lab.kill("w1")
    lab.until("w1 is out", lambda: lab.weigh(w1=0, w2=1), 5.0)
    agent = lab.agents["d1"]
    agent.kill()
    agent.wait()
    lab.start("d1")
    lab.until("the agent is ready again", lambda: lab.metric("d1", "lvs_tables_in_place") == 1)
    lab.until("it has asked", lambda: lab.metric("d1", "lvs_quorum{") == 1 and lab.metric("d1", "lvs_backend_up{") == 1)
    assert lab.metric("d1", "lvs_kernel_operations_total") == 0
    assert lab.answers(10) == {"w2"}


def test_the_sorry_server_answers_while_too_few_live(lab: CheckedLab) -> None:
    lab.lan.add_host("w3", "10.0.0.13/24")
    lab.lan.run("w3", ["ip", "address", "add", "10.0.0.100/32", "dev", "lo"])
    lab.serve("w3")
    lab.want(manifest(health="quorum: 2", spec="whenEmpty: Sorry\nsorryServer: {address: 10.0.0.13}"))
    lab.both_up()
    assert lab.answers() == {"w1", "w2"}
    lab.kill("w1")
    lab.until("the sorry server is there", lambda: lab.answers(3) == {"w3"}, 5.0)
    lab.serve("w1")
    lab.until("it has gone", lambda: lab.weigh(w1=1, w2=1), 5.0)
    assert lab.answers() == {"w1", "w2"}
