"""A director whose kernel refuses a part of its tables: last of all, until they are as wanted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.lan import Lan
from tests.net.test_agent_net import CLASS, SERVICE, VIP, Lab, _end_elections

pytestmark = pytest.mark.net

THIRD = "10.0.0.13"
"""A backend that d2 takes for a broadcast address, as it would with a wrong prefix length: its kernel refuses it as a
destination (net/netfilter/ipvs/ip_vs_ctl.c ip_vs_new_dest)."""
WRONG = f"broadcast {THIRD} dev eth0 table local".split()
HASH = 'lvs_table_hash{namespace="default",table="%s",virtualservice="web"}'
ACTIVE = "previous=Backup state=Active"
LOG = "this node cannot be Active while another director can: its tables are not as wanted"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Three directors: d1, d2, d3, in this order."""
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        lan.add_host("d3", "10.0.0.3/24")
        lan.run("w1", ["ip", "address", "add", f"{THIRD}/24", "dev", "eth0"])
        three = CLASS.replace("{name: d2, priority: 100}", "{name: d2, priority: 120}, {name: d3, priority: 90}")
        (made.manifests / "class.yaml").write_text(three)
        yield made
        _end_elections(tmp_path)


def priority(lab: Lab, host: str) -> float:
    return lab.metric(host, "lvs_vrrp_priority{")


def test_a_director_whose_kernel_refuses_a_backend_is_passed_over_and_serves_when_nobody_else_is_left(lab: Lab) -> None:
    lab.both()
    lab.start("d3")
    lab.until("all take part", lambda: [priority(lab, host) for host in ("d2", "d3")] == [120, 90])
    lab.lan.run("d2", ["ip", "route", "add", *WRONG])
    (lab.manifests / "web.yaml").write_text((SERVICE % VIP).replace("10.0.0.12}", f"10.0.0.12}}, {{address: {THIRD}}}"))
    for host in ("d1", "d3"):
        lab.until("others have it", lambda h=host: THIRD in lab.table(h))  # type: ignore[misc]
    lab.until("d2 is the last choice", lambda: priority(lab, "d2") == 1)
    assert THIRD not in lab.table("d2")
    assert LOG in lab.log("d2")
    refused = next(line for line in lab.log("d2").splitlines() if "the kernel refused an operation" in line)
    assert f"{THIRD}:80" in refused
    assert "invalid (einval)" in refused
    assert lab.metric("d2", HASH % "wanted") == lab.metric("d1", HASH % "wanted") != lab.metric("d2", HASH % "actual")
    assert lab.metric("d3", HASH % "wanted") == lab.metric("d3", HASH % "actual")
    assert LOG not in lab.log("d1") + lab.log("d3")

    before = lab.log("d2").count(ACTIVE)
    lab.lan.cut("d1")
    lab.until("one of lower priority takes over", lambda: lab.holds("d3") and lab.ask() in ("w1", "w2"))
    assert lab.log("d2").count(ACTIVE) == before, "d2 was never first"
    lab.lan.cut("d3")
    lab.until("who is left serves with what it has", lambda: lab.holds("d2") and lab.ask() in ("w1", "w2"))
    lab.lan.heal("d3")
    lab.until("and gives way to any other", lambda: lab.holds("d3") and not lab.holds("d2"))

    lab.lan.run("d2", ["ip", "route", "delete", *WRONG])
    lab.until("its tables are whole, and it is eligible again", lambda: lab.holds("d2") and not lab.holds("d3"))
    assert THIRD in lab.table("d2")
    assert "this node can be Active again" in lab.log("d2")
    lab.until("it says so", lambda: priority(lab, "d2") == 120)
    assert lab.metric("d2", HASH % "wanted") == lab.metric("d2", HASH % "actual")
    assert len({lab.metric(host, HASH % "shared") for host in ("d1", "d2", "d3")}) == 1
