"""Who takes our tables away is named, also by an agent that sees no processes but its own, as in a pod."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.core.guard import FIGHTS
from tests.net import keepalived
from tests.net.lan import Lan
from tests.net.test_agent_net import QUIET, VIP, Lab, _end_elections

pytestmark = pytest.mark.net

VIRTUAL_SERVER = f"""
virtual_server {VIP} 80 {{
    lvs_sched rr
    lvs_method DR
    protocol TCP
    real_server 10.0.0.11 80 {{
        weight 5
    }}
}}
"""
"""What many configurations of keepalived have."""
AS_A_POD = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """d1 alone, without the processes of its host."""
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        command = [*AS_A_POD, sys.executable, "-m", "lvsagent.cli", "--manifests", str(made.manifests)]
        command += ["--node-name", "d1", "--metrics-address", "127.0.0.1:9479"]
        for what in ("run", "state"):
            command += [f"--{what}-dir", str(tmp_path / "d1" / what)]
        made.agents["d1"] = lan.popen("d1", command, environment=QUIET, log=tmp_path / "d1.log")
        made.serving()
        yield made
        _end_elections(tmp_path)


def await_repairs(lab: Lab, number: int) -> None:
    lab.until("it is put back", lambda: lab.metric("d1", 'lvs_repairs_total{what="service"}') == number, 10.0)


def flush(lab: Lab, times: int) -> None:
    for number in range(1, times + 1):
        lab.lan.run("d1", ["ipvsadm", "-C"])
        await_repairs(lab, number)


def contested(lab: Lab, named: str) -> str:
    """What is said of it, as soon as the culprit is known: whoever reads its configuration anew has no socket then."""

    def said() -> list[str]:
        lines = (line for line in lab.log("d1").splitlines() if "finding=TablesContested" in line)
        return [line for line in lines if f"Probably {named}" in line]

    lab.until("it is said", lambda: bool(said()), 10.0)
    assert lab.metric("d1", 'lvs_node_finding{finding="TablesContested"}') == 1
    return said()[0]


def test_keepalived_with_a_virtual_server_of_ours_is_named_with_the_remedy(lab: Lab, tmp_path: Path) -> None:
    """It gives up ours as its own whenever somebody takes it out of its configuration, or stops it."""
    folder, before = tmp_path / "keepalived", lab.table("d1")
    flush(lab, 1)
    lab.until("nobody is named for our own election", lambda: "Look for who programs IPVS on the node" in lab.log("d1"))
    instance = keepalived.Instance(priority=100, virtual_ipaddress=("10.0.0.99/32",), virtual_router_id=77)
    running = keepalived.run(lab.lan, "d1", folder, instance, virtual_servers=VIRTUAL_SERVER)
    lab.until("it has its address", lambda: lab.holds("d1", "10.0.0.99"))

    def reload(number: int, virtual_servers: str) -> None:
        (folder / "keepalived.conf").write_text(instance.text() + virtual_servers)
        running.send_signal(signal.SIGHUP)
        log = folder / "keepalived.log"
        lab.until("it has read that", lambda: log.read_text().count("Reload complete") >= number, 10.0)

    for number in range(FIGHTS - 1):
        reload(2 * number + 1, "")
        await_repairs(lab, number + 2)
        assert lab.table("d1") == before
        reload(2 * number + 2, VIRTUAL_SERVER)
    text = contested(lab, "keepalived, for a VRRP daemon that is not ours runs on this node")
    assert "virtual_server" in text


def test_kube_router_is_named_by_its_interface(lab: Lab) -> None:
    lab.lan.run("d1", ["ip", "link", "add", "kube-dummy-if", "type", "dummy"])
    flush(lab, FIGHTS)
    text = contested(lab, "kube-router")
    assert "--run-service-proxy=false" in text
