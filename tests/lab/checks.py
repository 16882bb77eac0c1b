"""The lab's health checks: TCP_CHECK, HTTP_GET and SSL_GET, with delay_loop 3 and connect_timeout 3."""

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.lab.place import DIRECTORS, VIP, WEB_SERVERS
from tests.lab.story import FIRST, Story

HTTP_PORT, TLS_PORT = 8080, 443
CHECKERS = {"TCP_CHECK": (80, "TCP"), "HTTP_GET": (HTTP_PORT, "HTTP"), "SSL_GET": (TLS_PORT, "HTTPS")}
"""keepalived's word: port, ours."""
EVERYBODY = {checker: set(WEB_SERVERS) for checker in CHECKERS}
DELAY_LOOP, CONNECT_TIMEOUT = 3.0, 3.0
SLACK = 1.5
"""Seconds: all five hosts run on one machine, which has more to do."""
OBJECT = """\
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: {name}, namespace: lab}}
spec:
  className: lab
  addresses: [{vip}]
  ports: [{{port: {port}}}]
  scheduler: rr
  realServers: [{servers}]
  health:
    checks:   # {checker} {{ connect_timeout 3 }}, delay_loop 3
      - {{type: {kind}, intervalMilliseconds: 3000, timeoutMilliseconds: 3000{more}}}
    initiallyUp: true
"""


def certificate(folder: Path) -> Path:
    """A key and a certificate that nobody knows, in one file: SSL_GET does not verify either."""
    made = folder / "web.pem"
    folder.mkdir(parents=True, exist_ok=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    public = made.with_suffix(".crt")
    files = ["-keyout", str(made), "-out", str(public)]
    command = ["openssl", "req", "-x509", *curve, "-subj", "/CN=web", "-days", "2", *files]
    subprocess.run(command, check=True, capture_output=True)
    made.write_text(made.read_text() + public.read_text())
    return made


class ChecksStory(Story):
    """A web server that stops leaves, and one that is repaired returns."""

    def steps(self) -> None:
        self.begin()
        self.more_services()
        self.stopped()
        self.ill()

    def compare(self) -> None:
        """Nothing was taken over."""

    def more_services(self) -> None:
        self.claims.heading("TCP_CHECK at port 80, HTTP_GET at 8080, SSL_GET at 443; delay_loop 3, connect_timeout 3")
        servers = ", ".join(f"{{address: {address}}}" for address in WEB_SERVERS.values())
        text = [
            OBJECT.format(
                name="web" if port == 80 else checker.lower().replace("_", "-"),
                vip=VIP,
                port=port,
                servers=servers,
                checker=checker,
                kind=kind,
                more=", verifyTls: false" if kind == "HTTPS" else "",
            )
            for checker, (port, kind) in CHECKERS.items()
        ]
        self.place.write("web.yaml", "---\n".join(text))
        there = self.place.wait_for(lambda: self._are(EVERYBODY), 10.0)
        self._must("both web servers are in service", there, self._say())
        self.claims.say(self.place.table(FIRST))

    def stopped(self) -> None:
        self.claims.heading("web1 is stopped: it leaves; it is repaired: it returns")
        others = dict.fromkeys(CHECKERS, set(WEB_SERVERS) - {"web1"})
        self._change("web1 is stopped", lambda: self.place.stop_web("web1"), others)
        names = self.place.who_answers(6)
        self.claims.check("only web2 answers", set(names) == {"web2"}, " ".join(names))
        self._change("web1 is repaired", lambda: self.place.start_web("web1"), EVERYBODY)
        names = self.place.who_answers(6)
        self.claims.check("both answer", set(names) == set(WEB_SERVERS), " ".join(names))

    def ill(self) -> None:
        self.claims.heading("web1 answers 503: HTTP_GET and SSL_GET see it, TCP_CHECK does not")
        wanted = {name: set(WEB_SERVERS) - ({"web1"} if name != "TCP_CHECK" else set()) for name in CHECKERS}
        self._change("web1 is ill", lambda: self.place.turn_web("web1"), wanted)
        self._change("web1 is well", lambda: self.place.turn_web("web1"), EVERYBODY)

    def _change(self, what: str, event: Callable[[], object], wanted: Mapping[str, set[str]]) -> None:
        begun = time.monotonic()
        event()
        limit = DELAY_LOOP + CONNECT_TIMEOUT + SLACK
        seen = self.place.wait_for(lambda: self._are(wanted), limit)
        took = time.monotonic() - begun
        figure = f"{took:.1f} s; {self._say()}"
        quick = seen and took <= DELAY_LOOP + SLACK
        self.claims.check(f"{what}: both directors have seen it within a delay_loop", quick, figure)

    def _are(self, wanted: Mapping[str, set[str]]) -> bool:
        return all(self._in_service(director) == wanted for director in DIRECTORS)

    def _say(self) -> str:
        found = self._in_service(FIRST)
        return "; ".join(f"{checker}: {' '.join(sorted(found[checker]))}" for checker in CHECKERS)

    def _in_service(self, director: str) -> dict[str, set[str]]:
        """Web servers that have weight, by checker."""
        names = {address: name for name, address in WEB_SERVERS.items()}
        found: dict[str, set[str]] = {checker: set() for checker in CHECKERS}
        by_port = {str(port): checker for checker, (port, _) in CHECKERS.items()}
        for line in self.place.lan.run(director, ["ipvsadm", "-S", "-n"]).splitlines():
            words = line.split()
            if words[0] == "-a" and words[words.index("-w") + 1] != "0":
                port = words[words.index("-t") + 1].rpartition(":")[2]
                found[by_port[port]].add(names[words[words.index("-r") + 1].rpartition(":")[0]])
        return found
