"""Health and the election on real kernels: who gives way to whom, and what moves nothing."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.checked import CheckedLab, manifest
from tests.net.faults import BUSY
from tests.net.lan import Lan
from tests.net.test_agent_net import _end_elections

pytestmark = pytest.mark.net

CLASS = """
# Adverts once a second: a machine that stands still for half a second moves nothing, and what moves is health's.
apiVersion: lvsdr.io/v1alpha1
kind: VirtualServiceClass
metadata: {name: default}
spec:
  directors:
    nodes:
      - {name: d1, priority: 150, addresses: [10.0.0.1]}
      - {name: d2, priority: 100, addresses: [10.0.0.2]}
  vrrp: {advertisementIntervalMilliseconds: 1000}
"""
WALL = """
table inet wall {
  chain out { type filter hook output priority 0; ip daddr { 10.0.0.11, 10.0.0.12 } tcp flags & (syn|ack) == syn drop; }
}
"""
"""Checks find nobody; what the director forwards, adverts and heartbeats pass."""
PATIENCE = 1.0 + 0.2 + 0.5
"""Seconds: core.blind with this interval and timeout."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CheckedLab]:
    """Directors that know each other's addresses, and so beat for one another."""
    with Lan() as lan:
        made = CheckedLab(lan, tmp_path)
        (made.manifests / "class.yaml").write_text(CLASS)
        made.want(manifest(timeout=500))
        made.both_up()
        yield made
        _end_elections(tmp_path)


def wall(lab: CheckedLab, *directors: str) -> None:
    """Between these directors and all backends."""
    (lab.folder / "wall").write_text(WALL)
    for director in directors:
        lab.lan.run(director, ["nft", "-f", str(lab.folder / "wall")])


def no_wall(lab: CheckedLab, *directors: str) -> None:
    for director in directors:
        lab.lan.run(director, ["nft", "delete", "table", "inet", "wall"])


def test_a_director_cut_off_from_all_backends_gives_way_to_one_that_reaches_them_and_comes_back(
    lab: CheckedLab,
) -> None:
    before = lab.takeovers()
    wall(lab, "d1")
    begun = time.monotonic()
    lab.until("d1 sees nobody", lambda: set(lab.weights("d1").values()) == {0}, 10.0)
    lab.until("d2 serves", lambda: lab.holds("d2") and not lab.holds("d1"), 15.0)
    print(f"d2 serves after {time.monotonic() - begun:.2f} s")
    assert time.monotonic() - begun <= 0.7 + PATIENCE + 4.0 + 3 * BUSY
    assert lab.answers(5) <= {"w1", "w2"}
    assert "stands by" in lab.log("d1")
    lab.until("d2's agent has said so", lambda: lab.takeovers() == before + 1, 5.0)
    no_wall(lab, "d1")
    begun = time.monotonic()
    lab.until("d1 serves again", lambda: lab.holds("d1") and not lab.holds("d2"), 30.0)
    print(f"d1 is back after {time.monotonic() - begun:.2f} s")
    assert time.monotonic() - begun >= 10.0, "longer than it took to go"
    lab.until("d1's agent has said so", lambda: lab.takeovers() == before + 2, 5.0)


def test_all_backends_down_and_back_at_once_and_both_directors_cut_off_move_nothing(lab: CheckedLab) -> None:
    before = lab.takeovers()
    for _ in range(2):
        lab.kill("w1", "w2")
        lab.until("all are out", lambda: lab.weigh(w1=0, w2=0), 10.0)
        time.sleep(2 * PATIENCE)
        lab.serve("w1", "w2")
        lab.until("all are in", lambda: lab.weigh(w1=1, w2=1), 10.0)
    wall(lab, "d1", "d2")
    lab.until("nobody is seen", lambda: lab.weigh(w1=0, w2=0), 10.0)
    time.sleep(2 * PATIENCE)
    no_wall(lab, "d1", "d2")
    lab.until("all are seen", lambda: lab.weigh(w1=1, w2=1), 10.0)
    assert lab.takeovers() == before
    assert lab.holds("d1")
    assert [lab.log(director).count("stands by") for director in ("d1", "d2")] == [0, 0]


def test_a_server_that_flaps_changes_its_own_weight_once_each_time(lab: CheckedLab) -> None:
    before = lab.takeovers()
    lines = lab.log("d1").count("service 10.0.0.11")
    for _ in range(3):
        lab.kill("w1")
        lab.until("w1 is out", lambda: lab.weigh(w1=0, w2=1), 10.0)
        lab.serve("w1")
        lab.until("w1 is in", lambda: lab.weigh(w1=1, w2=1), 10.0)
    log = lab.log("d1")
    assert log.count("service 10.0.0.11") == lines + 6
    assert log.count("Disabling service 10.0.0.12") == 0
    assert log.count("Lost quorum") == 0
    assert lab.takeovers() == before
