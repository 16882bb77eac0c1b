"""The lab's lb_algo (rr, wrr, lc, wlc, lblc) and lb_kind (DR, NAT, TUN): spread as ipvsadm's own table spreads it."""

from collections import Counter
from itertools import product

from tests.lab.place import CLIENT, DIRECTORS, HEARTBEAT, UPLINK, VIP, WEB_SERVERS
from tests.lab.story import FIRST, Story

ALGORITHMS = ("rr", "wrr", "lc", "wlc", "lblc")
METHODS = {"DR": ("DirectRouting", "-g"), "NAT": ("Masquerade", "-m"), "TUN": ("Tunnel", "-i")}
"""keepalived's word: ours, ipvsadm's."""
PORTS = {pair: 8001 + number for number, pair in enumerate(product(METHODS, ALGORITHMS))}
"""Each table has its own, so that none begins with connections of another."""
WEIGHTS = dict(zip(WEB_SERVERS, (3, 1), strict=True))
JUDGE = "192.168.139.124"
CONNECTIONS = 8
OBJECT = """\
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: {algorithm}, namespace: lab}}
spec:
  className: lab
  addresses: [{vip}]
  ports: [{{port: {port}}}]
  scheduler: {algorithm}      # lb_algo {algorithm}
  forwarding: {forwarding}    # lb_kind {kind}
  realServers:
"""


class KindsStory(Story):
    """Manifests are switched; dr1 serves."""

    def steps(self) -> None:
        place = self.place
        self.claims.heading(f"Every lb_algo with every lb_kind; weights {WEIGHTS}, {CONNECTIONS} held connections")
        for host in (*WEB_SERVERS, *DIRECTORS):
            place.prepare(host)
        self._make_ready()
        place.use("manifests-fast")
        for director in DIRECTORS:
            place.start(director)
        self._must(
            f"{FIRST} serves", place.wait_for(lambda: place.holders() == [FIRST] and self._is_answered(), 15.0), VIP
        )
        place.lan.run(FIRST, ["ip", "address", "add", f"{JUDGE}/32", "dev", UPLINK])
        rows: list[tuple[str, ...]] = [("lb_kind", "lb_algo", "lvs-agent's table", "ipvsadm's table")]
        for kind in METHODS:
            rows += self._kind(kind)
        self.claims.table(rows)
        self.claims.check(
            "every table spreads as ipvsadm's own",
            all(ours == theirs for *_, ours, theirs in rows[1:]),
            f"{len(PORTS)}",
        )

    def compare(self) -> None:
        """Nothing was taken over."""

    def _make_ready(self) -> None:
        """What each lb_kind asks of a web server: its answers go back through the director (NAT), which must not tell
        it of a shorter way; it takes packets apart (TUN); it holds the address (DR, TUN)."""
        lan = self.place.lan
        quiet = (f"net.ipv4.conf.{name}.send_redirects=0" for name in ("all", HEARTBEAT, UPLINK))
        lan.run(FIRST, ["sysctl", "-qw", *quiet])
        for name, address in WEB_SERVERS.items():
            lines = (
                f"address add {JUDGE}/32 dev lo",
                f"link add ipip4 type ipip local {address} remote any",
                "link set ipip4 up",
                f"rule add from {address} to {CLIENT} lookup 100",
                f"route add default via {DIRECTORS[FIRST]} table 100",
            )
            lan.run(name, ["sh", "-ec", "; ".join(f"ip {line}" for line in lines)])

    def _kind(self, kind: str) -> list[tuple[str, ...]]:
        """The manifests of one lb_kind, and who serves."""
        place, (forwarding, option) = self.place, METHODS[kind]
        text, judge = [], []
        for algorithm in ALGORITHMS:
            port = PORTS[kind, algorithm]
            one = OBJECT.format(algorithm=algorithm, kind=kind, forwarding=forwarding, vip=VIP, port=port)
            judge.append(f"-A -t {JUDGE}:{port} -s {algorithm}")
            for name, address in WEB_SERVERS.items():
                one += f"    - {{address: {address}, weight: {WEIGHTS[name]}}}\n"
                judge.append(f"-a -t {JUDGE}:{port} -r {address}:{port} {option} -w {WEIGHTS[name]}")
            text.append(one)
        place.write("web.yaml", "---\n".join(text))
        wanted = {line.replace(JUDGE, VIP) for line in judge}

        def programmed() -> bool:
            saved = place.lan.run(FIRST, ["ipvsadm", "-S", "-n"]).splitlines()
            return wanted <= {line.removesuffix(" --tun-type ipip").strip() for line in saved}

        self._must(f"{kind}: the manifests are in force", place.wait_for(programmed, 8.0), " ".join(ALGORITHMS))
        place.lan.run(FIRST, ["sh", "-ec", "printf '%s\\n' \"$@\" | ipvsadm -R", "sh", *judge])
        rows: list[tuple[str, ...]] = []
        for algorithm in ALGORITHMS:
            port = PORTS[kind, algorithm]
            ours, theirs = (self._spread(address, port) for address in (VIP, JUDGE))
            rows.append((kind, algorithm, ours, theirs))
        return rows

    def _spread(self, address: str, port: int) -> str:
        found = Counter(self.place.who_holds(address, port, CONNECTIONS))
        return ", ".join(f"{name} {found[name]}" for name in WEB_SERVERS)
