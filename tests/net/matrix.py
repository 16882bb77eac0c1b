"""What is tried of IPVS beside ipvsadm's own table, and the page that says so.

``python -m tests.net.matrix`` writes docs/matrix.md from the very parameters of the tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import Any, Final

from lvsapi.ipvs import Forwarding, Scheduler
from lvsapi.model import Backend, ObjectKey, Protocol, VirtualServer
from lvsapi.takeover import Kept, kept_of

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
WEIGHTS: Final = {1: 2, 2: 4, 3: 8}
"""By real server. Together as many as there are connections: ``ovf`` refuses more."""
CONNECTIONS: Final = 14
METHODS: Final = {Forwarding.DIRECT_ROUTING: "-g", Forwarding.TUNNEL: "-i", Forwarding.MASQUERADE: "-m"}
PROTOCOLS: Final = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}
OURS: Final = {4: "10.0.0.200", 6: "fd00::200"}
THEIRS: Final = {4: "10.0.0.201", 6: "fd00::201"}
REAL: Final = {4: "10.0.0.3{}", 6: "fd00::3{}"}
GUE_PORT: Final = 6080
FIRST_PORT: Final = 20000
RANGE: Final = 3
"""Ports of a range."""
MARK: Final = 77
PORTS: Final = {"range": "range of ports", "all": "all ports"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One virtual service."""

    name: str
    scheduler: Scheduler
    forwarding: Forwarding = Forwarding.DIRECT_ROUTING
    family: int = 4
    protocol: str = "TCP"
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of spec."""
    service: str = ""
    """The same in ipvsadm's words."""
    destination: str = ""
    limits: tuple[int, int] = (0, 0)
    ports: str = "one"
    """``one``, ``range`` or ``all``."""

    @property
    def flags(self) -> str:
        return f"{self.service} -b mh-fallback,mh-port" if self.scheduler is Scheduler.MH else self.service

    def object(self, port: int) -> dict[str, Any]:
        """Our object."""
        ports: dict[str, Any] = {"ports": [{"port": port, "protocol": self.protocol}]}
        if self.ports == "range":
            ports["ports"][0]["endPort"] = port + RANGE - 1
        servers = [{"address": REAL[self.family].format(n), "weight": w} for n, w in WEIGHTS.items()]
        return {
            "apiVersion": "lvsdr.io/v1alpha1",
            "kind": "VirtualService",
            "metadata": {"name": "case", "namespace": "default"},
            "spec": {
                "addresses": [OURS[self.family]],
                **({"allPorts": True} if self.ports == "all" else ports),
                "realServers": servers,
                "scheduler": str(self.scheduler),
                "forwarding": str(self.forwarding),
                **self.spec,
            },
        }

    def lines(self, vip: str, port: int) -> list[str]:
        """The same for ``ipvsadm -R``; ``vip`` may be a firewall mark's number."""
        marked = vip.isdigit()
        where = (
            f"-f {vip}{' -6' if self.family == 6 else ''}" if marked else f"{PROTOCOLS[self.protocol]} {at(vip, port)}"
        )
        to = 0 if marked else port
        lower, upper = self.limits
        limits = f" -x {upper} -y {lower}" if upper else ""
        return [
            " ".join(f"-A {where} -s {self.scheduler} {self.flags}".split()),
            *(
                f"-a {where} -r {at(REAL[self.family].format(n), to)} {METHODS[self.forwarding]} -w {w}"
                f"{' ' + self.destination if self.destination else ''}{limits}"
                for n, w in WEIGHTS.items()
            ),
        ]


def at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


GRID: Final = tuple(
    Case(name=f"{scheduler} {forwarding} IPv{family}", scheduler=scheduler, forwarding=forwarding, family=family)
    for scheduler, forwarding, family in product(Scheduler, Forwarding, (4, 6))
)
STICKY: Final = {"persistence": {"timeoutSeconds": 60, "ipv4PrefixLength": 24, "ipv6PrefixLength": 64}}
GUE: Final = {"tunnel": {"type": "gue", "port": GUE_PORT}}
GRE: Final = {"tunnel": {"type": "gre", "checksum": "csum"}}
FEATURES: Final = (
    *(
        Case(
            name=f"persistence IPv{family}",
            scheduler=Scheduler.RR,
            family=family,
            spec=STICKY,
            service=f"-p 60 -M {'255.255.255.0' if family == 4 else '64'}",
        )
        for family in (4, 6)
    ),
    *(
        Case(name=f"{PORTS[ports]} {f} IPv{family}", scheduler=s, family=family, forwarding=f, ports=ports)
        for ports, s, f, family in (
            ("range", Scheduler.MH, Forwarding.DIRECT_ROUTING, 4),
            ("range", Scheduler.WRR, Forwarding.MASQUERADE, 6),
            ("range", Scheduler.RR, Forwarding.TUNNEL, 4),
            ("all", Scheduler.WLC, Forwarding.DIRECT_ROUTING, 6),
            ("all", Scheduler.MH, Forwarding.MASQUERADE, 4),
        )
    ),
    Case(
        name="range of ports with persistence",
        scheduler=Scheduler.WRR,
        ports="range",
        spec={"persistence": {}},
        service="-p 300",
    ),
    *(
        Case(name=f"UDP {f} IPv{family}", scheduler=s, family=family, forwarding=f, protocol="UDP")
        for s, f, family in (
            (Scheduler.MH, Forwarding.DIRECT_ROUTING, 4),
            (Scheduler.WRR, Forwarding.MASQUERADE, 6),
            (Scheduler.RR, Forwarding.TUNNEL, 6),
        )
    ),
    Case(
        name="one-packet scheduling",
        scheduler=Scheduler.RR,
        protocol="UDP",
        spec={"onePacketScheduling": True},
        service="-o",
    ),
    Case(
        name="connection limits",
        scheduler=Scheduler.WRR,
        spec={"connectionLimits": {"upper": 6, "lower": 2}},
        limits=(2, 6),
    ),
    Case(
        name="flags of sh",
        scheduler=Scheduler.SH,
        spec={"schedulerFlags": ["sh-port", "sh-fallback"]},
        service="-b sh-fallback,sh-port",
    ),
    *(
        Case(
            name=f"tunnel gue IPv{family}",
            scheduler=Scheduler.RR,
            forwarding=Forwarding.TUNNEL,
            family=family,
            spec=GUE,
            destination=f"--tun-type gue --tun-port {GUE_PORT} --tun-nocsum",
        )
        for family in (4, 6)
    ),
    Case(
        name="tunnel gre with checksum",
        scheduler=Scheduler.RR,
        forwarding=Forwarding.TUNNEL,
        spec=GRE,
        destination="--tun-type gre --tun-csum",
    ),
    *(
        Case(name=f"SCTP {f}", scheduler=Scheduler.RR, forwarding=f, protocol="SCTP")
        for f in (Forwarding.DIRECT_ROUTING, Forwarding.MASQUERADE)
    ),
)
CASES: Final = (*GRID, *FEATURES)

INTRODUCTION: Final = f"""\
# IPVS: what is tried, and what a takeover keeps

Generated by `make docs` from the parameters of the tests; a unit test holds it to them. Everything is run in network
namespaces of a real kernel by `make net`.

## Tables and spread

`tests/net/test_matrix_net.py` programs each object below by the code of the agent (parse, resolve, plan, diff, netlink)
for one address, and the same table by `ipvsadm` for another. Then

* `ipvsadm -S` must print the same lines for both, with their limits, and they must be those that were asked for;
* a client opens {CONNECTIONS} connections to each from the same ports, keeps them open, and must be answered by the
  same real servers (weights {", ".join(map(str, WEIGHTS.values()))}) in the same numbers.

"""
NOTES: Final = """
`twos` chooses at random and `dh` by the virtual address, which differs: with `twos` only that every connection is
answered is compared, with `dh` that one real server has them all. Tunnels of type gre are tried with IPv4 only.

"""
KEPT: Final = """\
## What a takeover keeps

The condition `ConnectionsSurvive` says it for each object. `tests/net/test_takeover_net.py` opens connections, moves
the address from one director to another and back, and compares.

"""


def page() -> str:
    """The whole page."""
    grid: list[tuple[str, ...]] = [("scheduler", *(f"{f}, IPv{family}" for f, family in product(Forwarding, (4, 6))))]
    for scheduler in Scheduler:
        grid.append((f"`{scheduler}`", *("same" for _ in product(Forwarding, (4, 6)))))
    features: list[tuple[str, ...]] = [("object", "scheduler", "forwarding", "in ipvsadm's words")]
    for case in FEATURES:
        head, first, *_ = case.lines("VIP", FIRST_PORT) if case.ports == "one" else case.lines(str(MARK), FIRST_PORT)
        features.append((case.name, f"`{case.scheduler}`", str(case.forwarding), f"`{head}` `{first}`"))
    return INTRODUCTION + _table(grid) + NOTES + _table(features) + "\n" + KEPT + _table(_kept_rows())


def _kept_rows() -> list[tuple[str, ...]]:
    """Schedulers of one verdict share a row."""
    rows: list[tuple[str, ...]] = [("backends", "scheduler", "connectionSync", "ConnectionsSurvive", "what it says")]
    for what, backend in BACKENDS.items():
        for sync in (False, True) if backend.node is None else (False,):
            verdicts: dict[Kept, list[str]] = {}
            for scheduler in Scheduler:
                kept = kept_of([server_of(scheduler, backend)], sync, sync, "")
                general = replace(kept, message=kept.message.replace(f"scheduler {scheduler}", "this scheduler"))
                verdicts.setdefault(general, []).append(f"`{scheduler}`")
            for kept, words in verdicts.items():
                rows.append(
                    (what, " ".join(words), "yes" if sync else "no", f"{kept.all}, {kept.reason}", kept.message)
                )
    return rows


BACKENDS: Final = {
    "pods": Backend(address=ip_address("10.244.1.11"), port=8080, weight=1, node="n1"),
    "real servers outside": Backend(address=ip_address("10.0.0.31"), port=80, weight=1, node=None, host_network=True),
}


def server_of(scheduler: Scheduler, *backends: Backend) -> VirtualServer:
    """One service on OURS."""
    return VirtualServer(
        owner=ObjectKey("default", "case"),
        address=ip_address(OURS[4]),
        protocol=Protocol.TCP,
        port=80,
        scheduler=scheduler,
        forwarding=Forwarding.DIRECT_ROUTING,
        backends=backends,
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
