"""A node that is left as it was, to the byte: whatever was served there, whoever has things on it, however it ends."""

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lvsagent.core.loops import OUR_MARKS
from tests.gen import raw_endpoint_slice, raw_node, raw_service, raw_virtual_service
from tests.net.lan import Lan
from tests.net.test_agent_net import CLASS, Lab, _end_elections

pytestmark = pytest.mark.net

NODE = (
    "ip address add fd00::1/64 dev eth0 nodad",
    "ip link add cni0 type bridge",
    "ip address add 10.244.1.1/24 dev cni0",
    "ip address add fd00:244:1::1/64 dev cni0 nodad",
    "ip link add flannel.1 type dummy",
    "ip address add 10.244.1.0/32 dev flannel.1",
    "ip link set cni0 up",
    "ip link set flannel.1 up",
    "ip route add 10.244.2.0/24 dev flannel.1",
    "ip route add fd00:244:2::/64 dev flannel.1",
    "ip neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
)
"""A node of a cluster: pods of its own, and those of node d2 over an overlay."""
FOREIGN = (
    "ipvsadm -A -t 10.9.9.9:99 -s wlc -p 77",
    "ipvsadm -a -t 10.9.9.9:99 -r 10.9.9.8:99 -m -w 3",
    "ipvsadm -A -f 7 -s rr",
    "ipvsadm -A -t [fd99::9]:99 -s wlc -p 77 -M 64",
    "ipvsadm -a -t [fd99::9]:99 -r [fd99::8]:99 -m -w 3",
    "ipvsadm -A -f 7 -6 -s rr",
    "ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 9",
    "ip address add 10.9.9.9/32 dev lo",
    "ip address add fd99::9/128 dev lo nodad",
    "ip address add 10.0.0.77/24 dev eth0",
    "ip address add fd00::77/64 dev eth0 nodad",
    "ip route add local 10.9.9.7 dev lo table local proto 99",
    "ip route add local fd99::7 dev lo table local proto 99",
    "nft add table ip lvs-dr-of-somebody",
    "nft add chain ip lvs-dr-of-somebody c { type nat hook postrouting priority 99; }",
    "nft add rule ip lvs-dr-of-somebody c ip saddr 10.3.0.0/16 masquerade",
    "nft add table inet lvs-dr-of-somebody",
    "nft add chain inet lvs-dr-of-somebody c { type filter hook input priority 91; }",
    "nft add rule inet lvs-dr-of-somebody c meta mark 0x4c560001 counter accept",
    "sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0",
    "sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv4.vs.sloppy_tcp=0 net.ipv4.vs.sync_threshold=5",
    "sysctl -qw net.ipv6.conf.cni0.forwarding=1",
)
"""What others have on a node, and settings that are not as we need them."""
CHANGES_BY_ITSELF = re.compile(
    r"nf_conntrack_count|gc_|random|\.neigh\.|entropy|dentry|inode|file-nr|pty\.nr|ns_last_pid"
)
REAL = [{"address": "10.0.0.11"}, {"address": "10.0.0.12"}]
CHECK = {"type": "TCP", "port": 9, "intervalMilliseconds": 200, "fall": 1}


def classic(name: str, address: str, **spec: object) -> dict[str, object]:
    """An object with the lab's web servers."""
    found = raw_virtual_service(name, addresses=[address], serviceRef=None, realServers=REAL)
    return {**found, "spec": {**found["spec"], **spec}}  # type: ignore[dict-item]


RANGES = classic("ranges", "10.0.0.102", ports=[{"port": 8000, "endPort": 8010}])
STICKY = classic("sticky", "10.0.0.104", scheduler="rr", persistence={"timeoutSeconds": 60})
DOWN = classic("down", "10.0.0.105", health={"checks": [CHECK]}, whenEmpty="Drop")
PODS = [
    raw_node("d1", "10.0.0.1", "fd00::1"),
    raw_node("d2", "10.0.0.2", "fd00::2"),
    raw_service("pods"),
    *(
        raw_endpoint_slice(
            [pattern.format(number)], service="pods", node=f"d{number}", name=f"pods-{kind}-{number}", address_type=kind
        )
        for kind, pattern in (("IPv4", "10.244.{}.11"), ("IPv6", "fd00:244:{}::11"))
        for number in (1, 2)
    ),
    raw_virtual_service("pods", addresses=["10.0.0.103", "fd00::103"], serviceRef={"name": "pods"}),
]
SYNCHRONISED = classic("synchronised", "10.0.0.106", scheduler="wlc", className="synchronised")
WORLDS = {"pods": [RANGES, STICKY, DOWN, *PODS], "a sync daemon": [RANGES, STICKY, DOWN, SYNCHRONISED]}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        alone = CLASS.replace(", {name: d2, priority: 100}", "")
        (made.manifests / "class.yaml").write_text(alone)
        other = alone.replace("name: default", "name: synchronised") + "  connectionSync: true\n"
        (made.manifests / "synchronised.yaml").write_text(other)
        yield made
        _end_elections(tmp_path)


def everything(lab: Lab) -> dict[str, list[str]]:
    """What an uninstalled node must have as before, to the byte."""

    def said(command: str) -> list[str]:
        return lab.lan.run("d1", command.split(), check=False).splitlines()

    said("ip neighbour flush all")
    settings = said("sysctl -a --pattern ^net\\.")
    return {
        "ipvsadm-save": said("ipvsadm -Sn"),
        "sync daemons": said("ipvsadm -l --daemon"),
        "ip address": said("ip address"),
        "ip route": said("ip route show table all") + said("ip -6 route show table all"),
        "ip rule": said("ip rule") + said("ip -6 rule"),
        "sysctl -a": [line for line in settings if not CHANGES_BY_ITSELF.search(line)],
        "nft list ruleset": said("nft list ruleset"),
    }


@pytest.mark.parametrize(
    ("how", "world"),
    [
        ("the objects go first", "pods"),
        ("--cleanup-on-exit", "pods"),
        ("the agent is killed and lvs-node-init --undo", "pods"),
        ("the agent is killed and lvs-node-init --undo", "a sync daemon"),
    ],
)
def test_fault_63_uninstalling_leaves_the_node_as_it_was_byte_for_byte(lab: Lab, how: str, world: str) -> None:
    for line in (*NODE, *FOREIGN):
        lab.lan.run("d1", line.split())
    shown = ["ip", "-6", "address", "show", "tentative"]
    lab.until("its own address is known to be free", lambda: lab.lan.run("d1", shown) == "")
    before = everything(lab)
    assert len(before["sysctl -a"]) > 100
    objects = lab.manifests / "objects.yaml"
    objects.write_text(yaml.safe_dump_all(WORLDS[world]))
    lab.start("d1", *(["--cleanup-on-exit"] if how.startswith("--") else []))
    lab.serving()
    await_world(lab, world)
    during = everything(lab)
    assert all(during[what] != before[what] for what in before.keys() - {"ip rule", "sync daemons"})
    assert (during["sync daemons"] != before["sync daemons"]) is (world == "a sync daemon")
    if how == "the objects go first":
        for name in ("web", "objects"):
            (lab.manifests / f"{name}.yaml").unlink()
        lab.until("the tables are gone", lambda: "10.0.0.10" not in lab.table("d1"))
    if how.startswith("the agent is killed"):
        lab.agents["d1"].kill()
        lab.agents["d1"].wait()
        _end_elections(lab.folder)
        fenced = ["ip", "address", "show", "dev", "eth0", "dynamic"]
        lab.until("the kernel ends the addresses", lambda: lab.lan.run("d1", fenced) == "")
        undo(lab)
    else:
        lab.agents["d1"].send_signal(signal.SIGTERM)
        lab.until("it ends", lambda: lab.agents["d1"].poll() == 0, 20.0)
    after = everything(lab)
    for what, lines in before.items():
        assert after[what] == lines, what


def undo(lab: Lab) -> None:
    command = [sys.executable, "-m", "lvsagent.node_init", "--undo", "--state-dir", str(lab.folder / "d1" / "state")]
    lab.lan.run("d1", command)


def await_world(lab: Lab, world: str) -> None:
    """Until everything is there that shall be taken away again."""

    def nft(table: str) -> str:
        return lab.lan.run("d1", ["nft", "list", "table", *table.split()], check=False)

    def setting(key: str) -> str:
        return lab.lan.run("d1", ["sysctl", "-n", key]).strip()

    lab.until("the range is served", lambda: lab.holds("d1", "10.0.0.102") and "8000-8010" in nft("inet lvs-dr"))
    lab.until("who persists is", lambda: setting("net.ipv4.vs.expire_quiescent_template") == "1")
    lab.until("what is down is refused", lambda: "10.0.0.105" in nft("inet lvs-dr"))
    if world == "pods":
        lab.until("other nodes' packets are marked", lambda: "10.0.0.103 . tcp . 80" in nft("inet lvs-dr-loops"))
        for table in ("ip lvs-dr-clients", "ip6 lvs-dr-clients"):
            lab.until("pods are served", lambda t=table: "elements" in nft(t))  # type: ignore[misc]
        lab.until("answers come over the overlay", lambda: setting("net/ipv4/conf/flannel.1/accept_local") == "1")
        lab.until("and IPv6 is forwarded", lambda: setting("net.ipv6.conf.all.forwarding") == "1")
        lab.until("both are held", lambda: {"fd00::103/128", "10.0.0.103/32"} <= {*lab.lan.addresses("d1")})
        marks = {int(mark) for mark in re.findall("^-A -f ([0-9]+)", lab.table("d1"), re.MULTILINE)}
        assert {mark in OUR_MARKS for mark in marks} == {True, False}
    else:
        shown = ["ipvsadm", "-l", "--daemon"]
        lab.until("the daemon tells", lambda: "master sync daemon" in lab.lan.run("d1", shown))
