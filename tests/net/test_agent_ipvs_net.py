"""The whole agent with sync daemons and with ranges of ports: made, put back, moved, taken away."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.faults import BUSY, Witness
from tests.net.lan import Lan
from tests.net.test_agent_net import CLASS, SERVICE, VIP, Lab, _end_elections

pytestmark = pytest.mark.net
RANGE = SERVICE.replace("ports: [{port: 80}]", "ports: [{port: 79, endPort: 90}]") % VIP
ROUND_ROBIN = (SERVICE + "  scheduler: rr\n") % VIP


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        yield made
        _end_elections(tmp_path)


def daemons(lab: Lab, host: str) -> str:
    return " ".join(lab.lan.run(host, ["ipvsadm", "-L", "--daemon"]).split())


def ruleset(lab: Lab, host: str) -> str:
    return lab.lan.run(host, ["nft", "list", "ruleset"])


def threshold(lab: Lab, host: str) -> list[str]:
    return lab.lan.run(host, ["sysctl", "-n", "net.ipv4.vs.sync_threshold"]).split()


def test_fault_54_sync_daemons_follow_the_active_and_are_started_again(lab: Lab) -> None:
    (lab.manifests / "class.yaml").write_text(
        CLASS + "  connectionSync: true\n  vrrp: {virtualRouterIDs: {first: 51}}\n"
    )
    (lab.manifests / "web.yaml").write_text(ROUND_ROBIN)
    lab.both()
    lab.until("each has its role", lambda: "master" in daemons(lab, "d1") and "backup" in daemons(lab, "d2"))
    for host in ("d1", "d2"):
        assert "eth0, syncid=51" in daemons(lab, host)
        assert threshold(lab, host) == ["2", "50"]
    for host, role in (("d2", "backup"), ("d1", "master")):
        lab.lan.run(host, ["ipvsadm", "--stop-daemon", role])
        seconds = lab.until("it is back", lambda h=host, r=role: r in daemons(lab, h), 6.0)  # type: ignore[misc]
        print(f"{role}: back after {seconds:.2f} s")
        assert seconds <= 2.0 + BUSY
        counted = 'lvs_repairs_total{what="sync_daemon"}'
        lab.until("it is counted", lambda h=host, c=counted: lab.metric(h, c) == 1, 5.0)  # type: ignore[misc]
    assert lab.holds("d1")
    lab.agents["d1"].send_signal(signal.SIGTERM)
    lab.agents["d1"].wait()
    lab.until("d2 is the master now", lambda: "master" in daemons(lab, "d2") and "backup" not in daemons(lab, "d2"))
    (lab.manifests / "web.yaml").unlink()
    lab.until("no daemon is left", lambda: not daemons(lab, "d2") and threshold(lab, "d2") == ["3", "50"])


def test_a_range_of_ports_is_served_restored_adopted_and_taken_away(lab: Lab) -> None:
    (lab.manifests / "web.yaml").write_text(RANGE)
    for host in ("d1", "d2"):
        lab.lan.run(host, ["nft", "add", "table", "inet", "theirs"])
    lab.start("d1")
    lab.serving()
    before = lab.table("d1"), ruleset(lab, "d1")
    assert "-A -f 4096 -s mh" in before[0]
    assert "tcp dport 79-90 meta mark set 0x00001000" in before[1]

    with Witness(ordinary=True) as witness:
        begin = time.monotonic()
        lab.lan.run("d1", ["nft", "delete", "table", "inet", "lvs-dr"])
        seconds = lab.until("packets are marked again", lambda: ruleset(lab, "d1") == before[1], 6.0)
        waited = witness.standstill(begin)
    print(f"back after {seconds:.2f} s, of which processes waited for {waited:.2f} s")
    assert seconds <= 1.0 + waited
    assert lab.ask() in ("w1", "w2")

    agent = lab.agents["d1"]
    agent.kill()
    agent.wait()
    lab.start("d1")
    lab.until("the agent is ready again", lambda: lab.metric("d1", "lvs_tables_in_place") == 1)
    lab.until("it speaks with its election", lambda: lab.metric("d1", "lvs_election_connected") == 1)
    assert lab.metric("d1", "lvs_kernel_operations_total") == 0
    assert (lab.table("d1"), ruleset(lab, "d1")) == before

    wider = RANGE.replace("endPort: 90", "endPort: 99")
    (lab.manifests / "web.yaml").write_text(wider)
    lab.until("the range has grown", lambda: "79-99" in ruleset(lab, "d1") and "79-90" not in ruleset(lab, "d1"))
    assert lab.table("d1") == before[0], "its service has stayed"
    metrics = lab.lan.get("d1", "http://127.0.0.1:9479/metrics")
    assert 'port="79-99"' in metrics
    (lab.manifests / "web.yaml").unlink()
    lab.until("nothing is left", lambda: lab.table("d1") == "" and "lvs-dr" not in ruleset(lab, "d1"))
    assert ruleset(lab, "d1").split() == ["table", "inet", "theirs", "{", "}"]
