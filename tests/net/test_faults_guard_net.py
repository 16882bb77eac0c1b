"""Somebody else's hands in the kernel: tables, addresses and settings of ours are put back, foreign ones stay."""

import signal
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.adapters.culprits import KUBE_PROXY_PORT
from lvsagent.adapters.glance import Glance
from tests.net.faults import BUSY, Witness
from tests.net.lan import Lan
from tests.net.pods import SERVER, Connection
from tests.net.test_agent_net import SERVICE, VIP, Lab, _end_elections

pytestmark = pytest.mark.net
NEEDS = ("machine",)

HELD, PORT = "10.0.0.101", 7000
"""A second VirtualService whose servers keep connections."""
IN_IPVS_MODE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ipvs")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", 10249), Handler).serve_forever()
"""
PRESENCE = """
import sys, time
text, end, there, looks = sys.argv[1], time.monotonic() + float(sys.argv[2]), 0, 0
while time.monotonic() < end:
    there += text in open("/proc/net/ip_vs").read()
    looks += 1
    time.sleep(0.01)
print(there / looks)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Two directors, of which d1 serves; ``HELD`` too."""
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        for host in ("w1", "w2"):
            lan.run(host, ["ip", "address", "add", f"{HELD}/32", "dev", "lo"])
            lan.popen(host, [sys.executable, "-I", "-S", "-c", SERVER, host, str(PORT)])
        manifest = SERVICE.replace("name: web", "name: held").replace("port: 80", f"port: {PORT}") % HELD
        (made.manifests / "held.yaml").write_text(manifest)
        yield made
        _end_elections(tmp_path)


def hexadecimal(address: str) -> str:
    """As in /proc/net/ip_vs."""
    return "".join(f"{int(part):02X}" for part in address.split("."))


def hold(lab: Lab, number: int) -> list[Connection]:
    """Connections of the client to HELD."""

    held = []
    for _ in range(number):
        opened = lab.lan.socket("client", socket.AF_INET, socket.SOCK_STREAM)
        opened.settimeout(3.0)
        opened.connect((HELD, PORT))
        held.append(Connection(opened))
    return held


def test_fault_43_flushed_tables_are_back_within_a_second_and_held_connections_live(lab: Lab) -> None:
    lab.both()
    lab.until("the second is served", lambda: lab.holds("d1", HELD))
    held = hold(lab, 50)
    before = lab.table("d1")
    lab.lan.run("d1", ["ipvsadm", "-C"])
    seconds = lab.until("the tables are back", lambda: lab.table("d1") == before, 5.0)
    print(f"back after {seconds:.2f} s")
    assert seconds <= 1.0 + BUSY
    living = sum(connection.lives() for connection in held)
    assert living >= 0.99 * len(held), f"{living} of {len(held)}"
    assert lab.holds("d1")
    # The kernel has the tables a moment before the agent has said so.
    lab.until("it is counted", lambda: lab.metric("d1", 'lvs_repairs_total{what="service"}') == 2, 5.0)
    lab.until("it is said", lambda: "somebody changed what is ours; it is put back" in lab.log("d1"), 5.0)


def test_an_address_of_ours_that_is_taken_from_lo_is_put_back(lab: Lab) -> None:
    lab.both()
    lab.lan.run("d2", ["ip", "address", "delete", f"{VIP}/32", "dev", "lo"])
    seconds = lab.until("it is back", lambda: f"{VIP}/32" in lab.lan.addresses("d2", "lo"), 5.0)
    assert seconds <= 1.0 + BUSY
    lab.until("it is counted", lambda: lab.metric("d2", 'lvs_repairs_total{what="address"}') == 1, 5.0)


def test_fault_44_kube_proxy_in_ipvs_mode_is_named_and_the_tables_are_there_most_of_the_time(lab: Lab) -> None:
    lab.both()
    lab.lan.popen("d1", [sys.executable, "-c", IN_IPVS_MODE])
    listening = ["ss", "-Hltn", "sport", "=", f":{KUBE_PROXY_PORT}"]
    lab.until("kube-proxy's twin answers", lambda: bool(lab.lan.run("d1", listening)), 10.0)
    lab.lan.run("d1", ["ip", "link", "add", "kube-ipvs0", "type", "dummy"])
    deleter = lab.lan.popen("d1", ["sh", "-c", "while :; do ipvsadm -C; sleep 1; done"])
    seconds = lab.until(
        "it is said", lambda: lab.metric("d1", 'lvs_node_finding{finding="TablesContested"}') == 1, 10.0
    )
    assert seconds <= 5.0 + BUSY
    with Witness(ordinary=True) as witness:
        begin = time.monotonic()
        share = float(lab.lan.run("d1", [sys.executable, "-I", "-S", "-c", PRESENCE, hexadecimal(VIP), "8"]))
        waited = witness.standstill(begin) / (time.monotonic() - begin)
    print(f"said after {seconds:.2f} s; the tables were there for {share:.1%}, processes waited for {waited:.1%}")
    assert share >= 0.9 - waited
    deleter.kill()
    log = lab.log("d1")
    assert "kube-proxy, which runs in IPVS mode here" in log
    assert "excludeCIDRs" in log
    lab.until("the tables stay", lambda: VIP in lab.table("d1"), 5.0)
    assert lab.metric("d1", 'lvs_repairs_total{what="service"}') >= 3


def test_fault_45_a_service_of_somebody_else_at_the_same_address_stays_as_it_is(lab: Lab) -> None:
    foreign = ["-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.9.9.8:80 -g -w 7"]
    for line in foreign:
        lab.lan.run("d1", ["ipvsadm", *line.split()])
    before = lab.table("d1")
    lab.start("d1")
    lab.start("d2")
    lab.until("the other node serves", lambda: lab.holds("d2") and lab.ask() in ("w1", "w2"))
    lab.until("it is said", lambda: "a service of somebody else is in the way" in lab.log("d1"))
    time.sleep(2.0)
    kept = [line for line in lab.table("d1").splitlines() if f"{VIP}:80" in line]
    assert kept == before.splitlines()
    assert not lab.holds("d1")
    hashes = [lab.metric("d1", f'lvs_table_hash{{namespace="default",table="{t}",virtualservice="web"}}') for t in
              ("wanted", "actual")]  # fmt: skip
    assert hashes[0] != hashes[1]
    lab.lan.run("d1", ["ipvsadm", "-D", "-t", f"{VIP}:80"])
    lab.until("d1 serves when it is gone", lambda: lab.holds("d1") and lab.ask() in ("w1", "w2"))
    hashes = [lab.metric(host, 'lvs_table_hash{namespace="default",table="shared",virtualservice="web"}') for host in
              ("d1", "d2")]  # fmt: skip
    assert hashes[0] == hashes[1] > 0


def test_fault_53_a_setting_that_somebody_resets_is_put_back_and_counted(lab: Lab) -> None:
    lab.both()
    for key, bad, good in (("net.ipv4.vs.sloppy_tcp", "0", "1"), ("net.ipv4.conf.all.arp_announce", "0", "2")):
        lab.lan.run("d1", ["sysctl", "-qw", f"{key}={bad}"])
        value = ["sysctl", "-n", key]
        seconds = lab.until("it is put back", lambda v=value, g=good: lab.lan.run("d1", v).strip() == g, 12.0)  # type: ignore[misc]
        assert seconds <= 1.0 + BUSY
    lab.until("it is counted", lambda: lab.metric("d1", 'lvs_repairs_total{what="setting"}') == 2, 5.0)
    assert lab.metric("d1", 'lvs_node_finding{finding="TablesContested"}') == 0


def test_what_is_changed_while_no_agent_runs_is_put_back_when_one_returns(lab: Lab) -> None:
    lab.both()
    before = lab.table("d1")
    lab.agents["d1"].send_signal(signal.SIGKILL)
    lab.agents["d1"].wait()
    lab.lan.run("d1", ["ipvsadm", "-d", "-t", f"{VIP}:80", "-r", "10.0.0.11:80"])
    lab.start("d1")
    lab.until("it is back", lambda: lab.table("d1") == before)


LIMIT = "net.netfilter.nf_conntrack_max"


@pytest.fixture
def small_conntrack(lab: Lab) -> Iterator[None]:
    """64 connections, in every host of this kernel."""
    before = lab.lan.run("d1", ["sysctl", "-n", LIMIT]).strip()
    path = Path("/proc/sys") / LIMIT.replace(".", "/")
    path.write_text("64")
    lab.lan.run("d1", ["sysctl", "-qw", f"{LIMIT}=64"], check=False)
    yield
    path.write_text(before)


def test_fault_50_a_director_without_a_tracking_firewall_serves_whatever_conntrack_holds(
    lab: Lab, small_conntrack: None
) -> None:
    lab.both()
    lab.until("the second is served", lambda: lab.holds("d1", HELD))
    held = hold(lab, 200)
    assert sum(connection.lives() for connection in held) == 200
    assert lab.metric("d1", 'lvs_node_finding{finding="ConntrackNearlyFull"}') == 0


def test_fault_50_a_table_of_conntrack_that_is_nearly_full_is_told_at_80_percent(
    lab: Lab, small_conntrack: None
) -> None:
    for host in ("d1", "w1", "w2", "client"):
        # Only d1 tracks: the others' tables are as small.
        assert "ct state" not in lab.lan.run(host, ["nft", "list", "ruleset"])
    lab.both()
    lab.until("the second is served", lambda: lab.holds("d1", HELD))
    lab.lan.run("d1", ["nft", "add table ip firewall"])
    lab.lan.run("d1", ["nft", "add chain ip firewall c { type filter hook prerouting priority 0; }"])
    lab.lan.run("d1", ["nft", "add rule ip firewall c ct state established accept"])
    held = hold(lab, 40)
    time.sleep(6.0)
    # By the log: a scrape is a connection too.
    assert "ConntrackNearlyFull" not in lab.log("d1")
    held += hold(lab, 15)
    seconds = lab.until("it is said", lambda: "ConntrackNearlyFull" in lab.log("d1"), 12.0)
    print(f"said after {seconds:.1f} s")
    assert "of 64 connections" in lab.log("d1")
    assert "nf_conntrack_max" in lab.log("d1")
    assert all(connection.lives() for connection in held)


def test_a_strict_reverse_path_counts_where_other_nodes_pods_are_reached_and_where_clients_inside_are_answered(
    tmp_path: Path,
) -> None:
    with Lan() as lan:
        lan.add_host("n1", "10.0.0.21/24")
        for argv in (
            "ip route add default via 10.0.0.1",
            "ip link add flannel.1 type dummy",
            "ip address add 10.244.1.0/32 dev flannel.1",
            "ip link set flannel.1 up",
            "ip route add 10.244.2.0/24 dev flannel.1",
            "sysctl -qw net.ipv4.conf.eth0.rp_filter=1 net/ipv4/conf/flannel.1/rp_filter=1",
        ):
            lan.run("n1", argv.split())
        remote = [ip_address("10.244.2.11"), ip_address("10.9.9.9"), ip_address("fd00::1")]
        with lan.inside("n1"):
            glance = Glance(Path("/proc/sys"), tmp_path)
            try:
                assert glance.inspect(remote).reverse_path == {"flannel.1": 1}
                assert glance.inspect(remote).inside == {}
                assert glance.inspect(remote, {"eth0", "flannel.1"}).inside == {"eth0": 1}
                lan.run("n1", ["sysctl", "-qw", "net/ipv4/conf/flannel.1/rp_filter=0", "net/ipv4/conf/all/rp_filter=2"])
                assert glance.inspect(remote).reverse_path == {"flannel.1": 2}
                lan.run("n1", ["ip", "route", "del", "default"])
                assert glance.inspect(remote[1:]).reverse_path == {}
            finally:
                glance.close()
