"""Two directors whose real servers are asked for their health, servers that can be stopped, and a client."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.net.lan import Lan
from tests.net.test_agent_net import CLASS, VIP, Lab

PORT = 7000
SERVER = """
import socket, sys, threading
listening = socket.create_server(("", int(sys.argv[2])), backlog=1024)
def serve(opened):
    try:
        opened.sendall(sys.argv[1].encode() + b"\\n")
        while data := opened.recv(64):
            opened.sendall(data)
    except OSError:
        pass
    finally:
        opened.close()
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""
"""Says its name, then echoes."""
OBJECT = """
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: checked, namespace: default}}
spec:
  addresses: [{vip}]
  ports: [{{port: {port}}}]
  realServers: [{servers}]
  health:
    checks: [{{type: TCP, intervalMilliseconds: {interval}, timeoutMilliseconds: {timeout}, fall: {fall}}}]
{health}{spec}
"""
SERVERS = {"w1": "10.0.0.11", "w2": "10.0.0.12"}


def manifest(
    *,
    interval: int = 200,
    timeout: int = 1000,
    fall: int = 1,
    health: str = "",
    spec: str = "",
    servers: str = "{address: 10.0.0.11}, {address: 10.0.0.12}",
) -> str:
    """``health`` and ``spec``: more lines of YAML, without their indentation."""
    more = {"health": "".join(f"    {line}\n" for line in health.splitlines()),
            "spec": "".join(f"  {line}\n" for line in spec.splitlines())}  # fmt: skip
    return OBJECT.format(vip=VIP, port=PORT, interval=interval, timeout=timeout, fall=fall, servers=servers, **more)


class CheckedLab(Lab):
    """Instead of the web servers' own object: one on PORT whose servers come and go."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        super().__init__(lan, folder)
        (self.manifests / "web.yaml").unlink()
        self.servers: dict[str, subprocess.Popen[bytes]] = {}

    def slow_adverts(self) -> None:
        """Once a second instead of ten times."""
        (self.manifests / "class.yaml").write_text(CLASS + "  vrrp: {advertisementIntervalMilliseconds: 1000}\n")

    def want(self, text: str) -> None:
        """The object as it shall be."""
        (self.manifests / ".checked").write_text(text)
        (self.manifests / ".checked").rename(self.manifests / "checked.yaml")

    def serve(self, *hosts: str) -> None:
        for host in hosts:
            self.servers[host] = self.lan.popen(host, [sys.executable, "-I", "-S", "-c", SERVER, host, str(PORT)])

    def kill(self, *hosts: str) -> None:
        """The server's process; its host lives on."""
        for host in hosts:
            process = self.servers.pop(host)
            process.send_signal(signal.SIGKILL)
            process.wait()

    def weights(self, director: str) -> dict[str, int]:
        """By server, as the kernel has them."""
        with self.lan.inside(director):
            lines = Path("/proc/thread-self/net/ip_vs").read_text().splitlines()
        servers = (words for line in lines if (words := line.split())[0] == "->" and words[3].isdecimal())
        return {socket.inet_ntoa(bytes.fromhex(words[1][:8])): int(words[3]) for words in servers}

    def weigh(self, **wanted: int) -> bool:
        """Whether both directors have these weights, by server."""
        named = {SERVERS[name]: weight for name, weight in wanted.items()}
        return all(self.weights(director) == named for director in ("d1", "d2"))

    def connect(self, timeout: float = 3.0) -> tuple[socket.socket, str]:
        """A connection of the client and who answers."""
        opened = self.lan.socket("client", socket.AF_INET, socket.SOCK_STREAM)
        opened.settimeout(timeout)
        try:
            opened.connect((VIP, PORT))
            return opened, opened.recv(16).decode().strip()
        except OSError:
            opened.close()
            raise

    def answer(self) -> str:
        """Who answers a new connection; empty: nobody."""
        try:
            opened, name = self.connect()
        except OSError:
            return ""
        opened.close()
        return name

    def answers(self, number: int = 20) -> set[str]:
        return {self.answer() for _ in range(number)}

    def attempt(self, timeout: float = 3.0) -> tuple[str, float]:
        """``answered``, ``refused`` or ``silence``, and after how many seconds."""
        begun = time.monotonic()
        try:
            opened, _ = self.connect(timeout)
            opened.close()
            how = "answered"
        except ConnectionRefusedError:
            how = "refused"
        except TimeoutError:
            how = "silence"
        return how, time.monotonic() - begun

    def both_up(self) -> None:
        """Both directors with both servers, d1 Active."""
        self.serve("w1", "w2")
        for host in ("d1", "d2"):
            self.start(host)
        self.until("both directors know that both servers live", lambda: self.weigh(w1=1, w2=1))
        self.until("d1 serves", lambda: self.holds("d1") and self.answer() != "")
        self.until("d1 has said so", lambda: " to=Active " in self.log("d1"))

    def takeovers(self) -> int:
        """How often a router became Active, the first time included."""
        return sum(self.log(host).count(" to=Active ") for host in ("d1", "d2"))
