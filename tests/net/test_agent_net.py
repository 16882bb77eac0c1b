"""``lvs-agent --manifests`` with its election on real kernels: two directors, two web servers, a client."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.net.lan import Lan

pytestmark = pytest.mark.net

VIP = "10.0.0.100"
CLASS = """
apiVersion: lvsdr.io/v1alpha1
kind: VirtualServiceClass
metadata: {name: default}
spec:
  directors: {nodes: [{name: d1, priority: 150}, {name: d2, priority: 100}]}
"""
SERVICE = """
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: default}
spec:
  addresses: [%s]
  ports: [{port: 80}]
  realServers: [{address: 10.0.0.11}, {address: 10.0.0.12}]
"""
QUIET = {"PYTHONDONTWRITEBYTECODE": "1"}
"""Two interpreters that write the same file on a host's folder meet in the middle of it."""
ANSWERS = """
import socket, sys, threading
listening = socket.create_server(("", 80), backlog=64)
def answer(asked):
    with asked:
        request = b""
        while b"\\r\\n\\r\\n" not in request and (part := asked.recv(4096)):
            request += part
        asked.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + sys.argv[1].encode())
while True:
    threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()
"""
"""Says its name to whoever asks by HTTP."""


class Lab:
    """The five hosts, and agents on the directors."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        (self.manifests / "class.yaml").write_text(CLASS)
        (self.manifests / "web.yaml").write_text(SERVICE % VIP)
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        for number, host in enumerate(("d1", "d2"), 1):
            lan.add_host(host, f"10.0.0.{number}/24")
        for number, host in enumerate(("w1", "w2"), 11):
            lan.add_host(host, f"10.0.0.{number}/24")
            lan.run(host, ["ip", "address", "add", f"{VIP}/32", "dev", "lo"])
            lan.popen(host, [sys.executable, "-I", "-S", "-c", ANSWERS, host])
        lan.add_host("client", "10.0.0.50/24")

    def start(self, host: str, *options: str) -> None:
        command = [sys.executable, "-m", "lvsagent.cli", "--manifests", str(self.manifests), "--node-name", host]
        command += ["--run-dir", str(self.folder / host / "run"), "--state-dir", str(self.folder / host / "state")]
        command += ["--metrics-address", "127.0.0.1:9479", *options]
        self.agents[host] = self.lan.popen(host, command, environment=QUIET, log=self.folder / f"{host}.log")

    def log(self, host: str) -> str:
        return (self.folder / f"{host}.log").read_text()

    def until(self, what: str, holds: Callable[[], bool], seconds: float = 20.0) -> float:
        start = time.monotonic()
        while not holds():
            if time.monotonic() - start > seconds:
                logs = "\n".join(f"--- {host}\n{self.log(host)}" for host in self.agents)
                raise AssertionError(f"not within {seconds} s: {what}\n{logs}")
            time.sleep(0.05)
        return time.monotonic() - start

    def ask(self, address: str = VIP) -> str:
        return self.lan.get("client", f"http://{address}/")

    def table(self, host: str) -> str:
        return self.lan.run(host, ["ipvsadm", "-Sn"])

    def holds(self, host: str, address: str = VIP) -> bool:
        return f"{address}/32" in self.lan.addresses(host)

    def metric(self, host: str, name: str) -> float:
        text = self.lan.get(host, "http://127.0.0.1:9479/metrics")
        values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name)]
        return sum(map(float, values)) if values else -1.0

    def serving(self) -> None:
        self.until("d1 serves", lambda: self.holds("d1") and self.ask() in ("w1", "w2"))

    def both(self) -> None:
        for host in ("d1", "d2"):
            self.start(host)
        self.serving()
        self.until("d2 has its tables", lambda: "10.0.0.12:80" in self.table("d2"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        yield made
        _end_elections(tmp_path)


def _end_elections(folder: Path) -> None:
    """Elections outlive an agent that was killed, by design; those of this test are found by their lock files."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if str(folder).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue


def state_of(lab: Lab, host: str) -> list[str]:
    """Everything that an uninstalled node must have as before."""
    lab.lan.run(host, ["ip", "neighbour", "flush", "all"])
    settings = lab.lan.run(host, ["sysctl", "-a", "--pattern", r"^net\.ipv4\.(ip_forward|vs\.|conf\.)"], check=False)
    addresses = [*lab.lan.addresses(host, "lo"), *lab.lan.addresses(host)]
    return [*sorted(addresses), *lab.table(host).splitlines(), *sorted(settings.splitlines())]


def test_the_client_is_answered_and_both_nodes_hold_the_same_table(lab: Lab) -> None:
    lab.both()
    assert {lab.ask() for _ in range(20)} == {"w1", "w2"}
    assert lab.table("d1") == lab.table("d2")
    assert "mh-fallback,mh-port" in lab.table("d1")
    assert not lab.holds("d2")
    assert lab.lan.get("d1", "http://127.0.0.1:9479/readyz") == "ok\n"
    lab.until("d1 says that it holds it", lambda: lab.metric("d1", "lvs_vip_held{") == 1)
    assert lab.metric("d2", "lvs_vip_held{") == 0


def test_a_killed_agent_serves_on_and_its_successor_adopts_without_a_write(lab: Lab) -> None:
    lab.both()
    before = lab.table("d1")
    agent = lab.agents["d1"]
    agent.kill()
    agent.wait()
    for _ in range(30):
        assert lab.ask() in ("w1", "w2")
        assert lab.holds("d1") or lab.holds("d2"), lab.log("d1")
        time.sleep(0.1)
    lab.start("d1")
    lab.until("the agent is ready again", lambda: lab.metric("d1", "lvs_tables_in_place") == 1)
    lab.until("it speaks with the election that was there", lambda: lab.metric("d1", "lvs_election_connected") == 1)
    time.sleep(1.0)
    assert lab.metric("d1", "lvs_kernel_operations_total") == 0
    lab.until("d1 holds the address", lambda: lab.metric("d1", "lvs_vip_held{") == 1)
    assert lab.metric("d1", 'lvs_vrrp_transitions_total{cause="shutdown"') == 0
    assert lab.table("d1") == before
    assert lab.ask() in ("w1", "w2")


def test_a_killed_election_is_there_again_and_the_other_node_serves_meanwhile(lab: Lab) -> None:
    lab.both()
    pid = int(lab.lan.run("d1", ["pgrep", "-f", f"election --run-dir {lab.folder}/d1/"]).split()[0])
    os.kill(pid, signal.SIGKILL)
    lab.until("somebody serves", lambda: lab.ask() in ("w1", "w2"), 3.0)
    lab.until("it is said", lambda: "the election ended; starting it again" in lab.log("d1"))
    lab.until("d1 is Active again", lambda: lab.metric("d1", "lvs_vip_held{") == 1 and not lab.holds("d2"))
    assert lab.ask() in ("w1", "w2")


def test_a_removed_virtual_service_and_the_end_leave_the_node_as_it_was(lab: Lab) -> None:
    for host in ("d1", "d2"):
        lab.lan.run(host, ["sysctl", "-qw", "net.ipv4.ip_forward=0"])
        lab.lan.run(host, ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0", "net.ipv4.conf.all.arp_announce=0"])
        lab.lan.run(host, ["ipvsadm", "-A", "-t", "10.9.9.9:99", "-s", "rr"])
        lab.lan.run(host, ["ipvsadm", "-a", "-t", "10.9.9.9:99", "-r", "10.9.9.8:99", "-m"])
        lab.lan.run(host, ["ip", "address", "add", "10.9.9.9/32", "dev", "lo"])
    before = {host: state_of(lab, host) for host in ("d1", "d2")}
    lab.both()
    assert state_of(lab, "d1") != before["d1"]
    (lab.manifests / "web.yaml").unlink()
    for host in ("d1", "d2"):
        lab.until("nothing of it is left", lambda h=host: VIP not in lab.table(h) and not lab.holds(h))  # type: ignore[misc]
        assert f"{VIP}/32" not in lab.lan.addresses(host, "lo")
    for host in ("d1", "d2"):
        lab.agents[host].send_signal(signal.SIGTERM)
        assert lab.agents[host].wait(15) == 0, lab.log(host)
    for host in ("d1", "d2"):
        assert state_of(lab, host) == before[host]


def test_an_orderly_end_hands_over_at_once_and_leaves_the_tables(lab: Lab) -> None:
    lab.both()
    lab.agents["d1"].send_signal(signal.SIGTERM)
    lab.until("d2 holds the address", lambda: lab.holds("d2"), 2.0)
    assert lab.agents["d1"].wait(15) == 0
    assert not lab.holds("d1")
    assert VIP in lab.table("d1")
    assert lab.ask() in ("w1", "w2")
    lab.start("d1")
    lab.until("it returns", lambda: lab.holds("d1") and not lab.holds("d2"))


CORDONED = "{apiVersion: v1, kind: Node, metadata: {name: d1}, spec: {unschedulable: %s}}"


@pytest.mark.parametrize("how", ["a cordoned node", "an annotation of the VirtualService"])
def test_who_is_asked_to_stand_by_hands_over_before_it_lets_go_and_returns_when_it_may(lab: Lab, how: str) -> None:
    def ask_to_stand_by(asked: bool) -> None:
        if how == "a cordoned node":
            (lab.manifests / "node.yaml").write_text(CORDONED % str(asked).lower())
        else:
            annotation = "annotations: {lvsdr.io/failover-from: d1}, " if asked else ""
            (lab.manifests / "web.yaml").write_text((SERVICE % VIP).replace("{name: web", f"{{{annotation}name: web"))

    lab.both()
    ask_to_stand_by(True)
    answers = []

    def moved() -> bool:
        answers.append(lab.ask())
        return lab.holds("d2") and not lab.holds("d1")

    lab.until("d2 has taken over", moved)
    assert set(answers) <= {"w1", "w2"}
    lab.agents["d2"].send_signal(signal.SIGTERM)
    assert lab.agents["d2"].wait(15) == 0
    lab.until("who stands by serves when nobody else can", lambda: lab.holds("d1") and lab.ask() in ("w1", "w2"))
    lab.start("d2")
    lab.until("d2 is back", lambda: lab.holds("d2") and not lab.holds("d1"))
    ask_to_stand_by(False)
    lab.until("d1 returns", lambda: lab.holds("d1") and not lab.holds("d2"))
    assert lab.ask() in ("w1", "w2")


def test_two_directors_with_a_key_believe_one_another_and_one_without_serves_nothing(lab: Lab) -> None:
    proved = CLASS + "  vrrp: {authentication: {type: HMAC}}\n"
    (lab.manifests / "class.yaml").write_text(proved)
    keys = lab.folder / "keys"
    keys.mkdir()
    lab.start("d1", "--keys-dir", str(keys))
    lab.start("d2", "--keys-dir", str(keys))
    lab.until("the missing key is named", lambda: lab.metric("d1", "lvs_vrrp_refused{") == 1)
    assert not lab.holds("d1")
    (keys / "default.hmac.1").write_text("hex:" + "5a" * 32)
    (keys / "default.hmac.1").chmod(0o400)
    lab.serving()
    lab.until("d2 hears d1", lambda: lab.metric("d2", "lvs_vrrp_adverts_received_total{") > 0)
    time.sleep(1.0)
    assert lab.holds("d1")
    assert not lab.holds("d2")
    assert lab.metric("d2", 'lvs_vrrp_adverts_dropped_total{reason="auth_hmac"}') == 0
    for host in ("d1", "d2"):
        assert "5a5a" not in lab.log(host)


def test_cleanup_on_exit_takes_the_tables_away(lab: Lab) -> None:
    lab.start("d1", "--cleanup-on-exit")
    lab.serving()
    lab.agents["d1"].send_signal(signal.SIGTERM)
    assert lab.agents["d1"].wait(15) == 0, lab.log("d1")
    assert lab.table("d1") == ""
    assert lab.lan.addresses("d1", "lo") == ["127.0.0.1/8", "::1/128"]
    assert not lab.holds("d1")


def test_a_manifest_with_an_error_leaves_the_others_and_its_own_last_good_version(lab: Lab) -> None:
    lab.both()
    (lab.manifests / "more.yaml").write_text(SERVICE.replace("name: web", "name: more") % "10.0.0.101")
    lab.until("the second is served", lambda: lab.holds("d1", "10.0.0.101"))
    (lab.manifests / "web.yaml").write_text((SERVICE % VIP).replace("port: 80", "port: 80000"))
    (lab.manifests / "broken.yaml").write_text("kind: [")
    lab.until("the error is named", lambda: "spec.ports[0].port: 80000" in lab.log("d1"))
    lab.until("the other error is named", lambda: "broken.yaml: is no YAML" in lab.log("d1"))
    time.sleep(1.0)
    assert lab.ask() in ("w1", "w2")
    assert lab.holds("d1", "10.0.0.101")
    assert "web.yaml: document 1: " in lab.log("d1")


def test_what_somebody_flushes_is_back_within_the_poll(lab: Lab) -> None:
    lab.both()
    lab.lan.run("d1", ["ipvsadm", "-C"])
    lab.lan.run("d1", ["ip", "address", "delete", f"{VIP}/32", "dev", "lo"])
    lab.until("the table is back", lambda: VIP in lab.table("d1"), 7.0)
    assert f"{VIP}/32" in lab.lan.addresses("d1", "lo")
    assert lab.holds("d1")


def test_without_permission_the_agent_stays_and_says_what_is_missing(lab: Lab) -> None:
    command = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--ambient-caps", "-all", "--"]
    command += [sys.executable, "-m", "lvsagent.cli", "--manifests", str(lab.manifests), "--node-name", "d1"]
    command += ["--run-dir", str(lab.folder / "run"), "--state-dir", str(lab.folder / "state"), "--no-election"]
    lab.agents["d1"] = lab.lan.popen("d1", [*command, "--metrics-address", "127.0.0.1:9479"], log=lab.folder / "d1.log")
    lab.until("it says so", lambda: "NET_ADMIN" in lab.log("d1"))
    time.sleep(0.5)
    assert lab.agents["d1"].poll() is None
    assert lab.metric("d1", "lvs_kernel_supported") == 0
    assert "cannot be programmed" in lab.lan.get("d1", "http://127.0.0.1:9479/readyz")
    assert lab.lan.get("d1", "http://127.0.0.1:9479/healthz") == "ok\n"
