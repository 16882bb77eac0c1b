"""What is tried of IPVS, beside ipvsadm's own table and over takeovers. ``matrix_page`` tells of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

from lvsapi.ipvs import Forwarding, Scheduler

WEIGHTS: Final = {1: 2, 2: 4, 3: 8}
"""By real server. Together as many as there are connections: ``ovf`` refuses more."""
CONNECTIONS: Final = 14
METHODS: Final = {Forwarding.DIRECT_ROUTING: "-g", Forwarding.TUNNEL: "-i", Forwarding.MASQUERADE: "-m"}
PROTOCOLS: Final = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}
PROTOCOL_NUMBERS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
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
class Own:
    """What one real server has of its own."""

    spec: Mapping[str, Any]
    """Further fields of ``realServers[]``."""
    words: str
    """The same in ipvsadm's words, with the way of forwarding."""
    shift: int = 0
    """Its port is so much above the service's."""
    limits: tuple[int, int] = (0, 0)


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
    """Lower, upper."""
    ports: str = "one"
    """``one``, ``range`` or ``all``."""
    own: Mapping[int, Own] = field(default_factory=dict)
    """By real server."""

    @property
    def flags(self) -> str:
        usual = " -b mh-fallback,mh-port" if self.scheduler is Scheduler.MH and "-b" not in self.service else ""
        return self.service + usual

    def object(self, port: int, address: str = "", name: str = "case") -> dict[str, Any]:
        """Our object. ``address``: OURS of the family if not another."""
        ports: dict[str, Any] = {"ports": [{"port": port, "protocol": self.protocol}]}
        if self.ports == "range":
            ports["ports"][0]["endPort"] = port + RANGE - 1
        servers = [
            {"address": REAL[self.family].format(n), "weight": weight, **self._own(n, port)}
            for n, weight in WEIGHTS.items()
        ]
        return {
            "apiVersion": "lvsdr.io/v1alpha1",
            "kind": "VirtualService",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "addresses": [address or OURS[self.family]],
                **({"allPorts": True} if self.ports == "all" else ports),
                "realServers": servers,
                "scheduler": str(self.scheduler),
                "forwarding": str(self.forwarding),
                **self.spec,
            },
        }

    def _own(self, number: int, port: int) -> dict[str, Any]:
        own = self.own.get(number)
        if own is None:
            return {}
        return {**own.spec, **({"port": port + own.shift} if own.shift else {})}

    def limits_of(self, number: int) -> tuple[int, int]:
        return self.own[number].limits if number in self.own else self.limits

    def lines(self, vip: str, port: int) -> list[str]:
        """The same for ``ipvsadm -R``; ``vip`` may be a firewall mark's number."""
        marked = vip.isdigit()
        where = (
            f"-f {vip}{' -6' if self.family == 6 else ''}" if marked else f"{PROTOCOLS[self.protocol]} {at(vip, port)}"
        )
        found = [f"-A {where} -s {self.scheduler} {self.flags}"]
        for number, weight in WEIGHTS.items():
            own = self.own.get(number, Own(spec={}, words=f"{METHODS[self.forwarding]} {self.destination}"))
            to = at(REAL[self.family].format(number), 0 if marked else port + own.shift)
            lower, upper = self.limits_of(number)
            limits = f"-x {upper} -y {lower}" if upper else ""
            found.append(f"-a {where} -r {to} {own.words} -w {weight} {limits}")
        return [" ".join(line.split()) for line in found]


def at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


GRID: Final = tuple(
    Case(name=f"{scheduler} {forwarding} IPv{family}", scheduler=scheduler, forwarding=forwarding, family=family)
    for scheduler, forwarding, family in product(Scheduler, Forwarding, (4, 6))
)
NARROW: Final = {"persistence": {"timeoutSeconds": 60, "ipv4PrefixLength": 25, "ipv6PrefixLength": 112}}
"""A LAN has clients inside and outside of it."""


def gue(checksum: str) -> dict[str, Any]:
    return {"type": "gue", "port": GUE_PORT, "checksum": checksum}


def gre(checksum: str) -> dict[str, Any]:
    return {"type": "gre", "checksum": checksum}


WORDS: Final = {"none": "--tun-nocsum", "csum": "--tun-csum", "remcsum": "--tun-remcsum"}
TUNNELS: Final = (
    *(
        Case(
            name=f"tunnel gue {checksum} IPv{family}",
            scheduler=Scheduler.RR,
            forwarding=Forwarding.TUNNEL,
            family=family,
            spec={"tunnel": gue(checksum)},
            destination=f"--tun-type gue --tun-port {GUE_PORT} {word}",
        )
        for family in (4, 6)
        for checksum, word in WORDS.items()
    ),
    *(
        Case(
            name=f"tunnel gre {checksum} IPv{family}",
            scheduler=Scheduler.RR,
            forwarding=Forwarding.TUNNEL,
            family=family,
            spec={"tunnel": gre(checksum)},
            destination=f"--tun-type gre {WORDS[checksum]}",
        )
        for family in (4, 6)
        for checksum in ("none", "csum")
    ),
)
MIXED: Final = Case(
    name="each real server its own way",
    scheduler=Scheduler.WRR,
    own={
        1: Own(spec={"connectionLimits": {"upper": 2, "lower": 1}}, words="-g", limits=(1, 2)),
        2: Own(
            spec={"forwarding": "Tunnel", "tunnel": gue("csum")},
            words=f"-i --tun-type gue --tun-port {GUE_PORT} --tun-csum",
        ),
        3: Own(spec={"forwarding": "Masquerade"}, words="-m", shift=1),
    },
)
LIMITED: Final = Case(
    name="connection limits",
    scheduler=Scheduler.WRR,
    spec={"connectionLimits": {"upper": 6, "lower": 2}},
    limits=(2, 6),
)
ONE_PACKET: Final = Case(
    name="one-packet scheduling",
    scheduler=Scheduler.RR,
    protocol="UDP",
    spec={"onePacketScheduling": True},
    service="-o",
)
STICKY: Final = {
    family: Case(
        name=f"persistence IPv{family}",
        scheduler=Scheduler.RR,
        family=family,
        spec=NARROW,
        service=f"-p 60 -M {'255.255.255.128' if family == 4 else '112'}",
    )
    for family in (4, 6)
}
FLAGGED: Final = {
    (scheduler, fallback): Case(
        name=f"{scheduler} {'with' if fallback else 'without'} its fallback",
        scheduler=scheduler,
        spec={"schedulerFlags": [f"{scheduler}-port", *([f"{scheduler}-fallback"] if fallback else [])]},
        service=f"-b {f'{scheduler}-fallback,' if fallback else ''}{scheduler}-port",
    )
    for scheduler in (Scheduler.SH, Scheduler.MH)
    for fallback in (True, False)
}
DATAGRAMS: Final = tuple(
    Case(name=f"UDP {s} {f} IPv{family}", scheduler=s, family=family, forwarding=f, protocol="UDP")
    for s, f, family in (
        (Scheduler.MH, Forwarding.DIRECT_ROUTING, 4),
        (Scheduler.WRR, Forwarding.MASQUERADE, 6),
        (Scheduler.RR, Forwarding.TUNNEL, 6),
    )
)
SCTP: Final = tuple(
    Case(name=f"SCTP rr {f}", scheduler=Scheduler.RR, forwarding=f, protocol="SCTP")
    for f in (Forwarding.DIRECT_ROUTING, Forwarding.MASQUERADE)
)
RANGES: Final = tuple(
    Case(name=f"{PORTS[ports]} {f} IPv{family}", scheduler=s, family=family, forwarding=f, ports=ports)
    for ports, s, f, family in (
        ("range", Scheduler.MH, Forwarding.DIRECT_ROUTING, 4),
        ("range", Scheduler.WRR, Forwarding.MASQUERADE, 6),
        ("range", Scheduler.RR, Forwarding.TUNNEL, 4),
        ("all", Scheduler.WLC, Forwarding.DIRECT_ROUTING, 6),
        ("all", Scheduler.MH, Forwarding.MASQUERADE, 4),
    )
)
FEATURES: Final = (
    *STICKY.values(),
    *RANGES,
    Case(
        name="range of ports with persistence",
        scheduler=Scheduler.WRR,
        ports="range",
        spec={"persistence": {}},
        service="-p 300",
    ),
    *DATAGRAMS,
    ONE_PACKET,
    LIMITED,
    *FLAGGED.values(),
    *TUNNELS,
    MIXED,
    *SCTP,
)
CASES: Final = (*GRID, *FEATURES)
"""Tried beside ipvsadm."""

OVER_TAKEOVERS: Final = (
    *GRID,
    *(
        Case(
            name=f"{protocol} mh {f} IPv{family}",
            scheduler=Scheduler.MH,
            forwarding=f,
            family=family,
            protocol=protocol,
        )
        for protocol, families in (("UDP", (4, 6)), ("SCTP", (4,)))
        for f in Forwarding
        for family in families
        if protocol == "UDP" or f is not Forwarding.TUNNEL
    ),
    *(case for case in RANGES if case.scheduler is Scheduler.MH and case.ports == "range"),
    *(case for case in SCTP if case.forwarding is Forwarding.DIRECT_ROUTING),
)
"""Tried with connections held while the address moves."""
BY_PACKET: Final = (Scheduler.MH, Scheduler.SH, Scheduler.DH, Scheduler.FO)
"""These go by the packet and the table alone."""
WITH_PODS: Final = tuple(
    Case(name=f"{scheduler} IPv{family}", scheduler=scheduler, family=family)
    for scheduler, family in product(Scheduler, (4, 6))
)
"""Likewise, with a pod on each of three nodes."""
STEPS: Final = {
    "crash": "the Active node is cut off with its addresses, another takes them",
    "planned": "the next one serves before the addresses leave",
    "return": "a node comes back with an empty kernel and takes the addresses",
    "answer": "as planned, while the client waits for an answer that comes later, and speaks only then",
}
"""Each with connections that were opened for it, between directors that have seen nothing else."""
SYNCHRONISED: Final = "synchronised"
"""The last two, with the sync daemon."""
