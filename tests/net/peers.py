"""A contest: our election and a real VRRP router of somebody else's, on one LAN, for one virtual address."""

import contextlib
import errno
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Final, Protocol

from lvsagent import ipc
from tests.net import frr, keepalived
from tests.net.election_host import ElectionHost, router
from tests.net.lan import Frame, Lan

VIRTUAL: Final = {4: ("10.0.0.200",), 6: ("fe80::200", "fd00::200")}
"""Virtual addresses by family; clients use the last."""
KEY: Final = "lab"
HOP_LIMIT: Final = 255
VRRP: Final = 112
"""IP protocol."""
OURS, PEER, CLIENT = "ours", "peer", "client"
ADDRESSES: Final = {
    OURS: ("10.0.0.11", "fd00::11", "fe80::11"),
    PEER: ("10.0.0.12", "fd00::12", "fe80::12"),
    CLIENT: ("10.0.0.1", "fd00::1", "fe80::1"),
}
BETTER, WORSE = 200, 100
SLACK: Final = 0.7
"""Seconds that a busy machine may add to what the protocol takes."""


@unique
class Software(StrEnum):
    KEEPALIVED = "keepalived"
    FRR = "FRR vrrpd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the two agree on."""

    software: Software
    version: int = 3
    family: int = 4
    unicast: bool = False
    password: str = ""

    @property
    def interval(self) -> float:
        """Seconds; version 2 knows whole ones only. Long enough to tell Skew_Time from silence on a busy machine."""
        return 1.0 if self.version == 2 else 0.3

    def skew(self, priority: int) -> float:
        """Skew_Time in seconds (RFC 9568 section 6.1; RFC 3768 does not scale it by the interval)."""
        return (256 - priority) / 256 * (1.0 if self.version == 2 else self.interval)

    def down(self, priority: int) -> float:
        """Active_Down_Interval in seconds."""
        return 3 * self.interval + self.skew(priority)

    def after_release(self) -> float:
        """Seconds from a release to the successor's first advert, at most. By silence it takes an interval more."""
        lost = 1 if self.software is Software.FRR else 0
        return self.skew(WORSE) + (2 + lost) * self.interval

    def __str__(self) -> str:
        words = [self.software.split()[0].lower(), f"v{self.version}", f"ipv{self.family}"]
        return "-".join([*words, *(["unicast"] if self.unicast else []), *(["pass"] if self.password else [])])


class Peer(Protocol):
    """Somebody else's router."""

    mac: str
    """Hardware address that clients find the virtual address at."""
    announces_surely: bool
    """Clients hear of every takeover and return, whatever they believed before."""

    def serves(self) -> bool:
        """It is Active, and its kernel has the virtual address."""

    def terminate(self) -> None:
        """End it in order."""

    def close(self) -> None:
        """Take away what it leaves besides processes."""

    @property
    def log(self) -> str: ...


class Keepalived:
    """As Peer."""

    announces_surely = True

    def __init__(self, lan: Lan, profile: Profile, priority: int, folder: Path) -> None:
        self._lan = lan
        self._log = folder / "keepalived" / "keepalived.log"
        self._address = f"{VIRTUAL[profile.family][-1]}/{32 if profile.family == 4 else 128}"
        self.mac = lan.mac(PEER)
        if profile.unicast and profile.family == 6:  # 2.2.7 leaves the hop limit of unicast IPv6 to the system
            lan.run(PEER, ["sysctl", "-qw", f"net.ipv6.conf.eth0.hop_limit={HOP_LIMIT}"])
        own, other = (ADDRESSES[host][0 if profile.family == 4 else 2] for host in (PEER, OURS))
        instance = keepalived.Instance(
            priority=priority,
            version=profile.version,
            virtual_ipaddress=prefixed(profile.family),
            advert_int=profile.interval,
            auth_pass=profile.password,
            unicast_src_ip=own if profile.unicast else "",
            unicast_peer=(other,) if profile.unicast else (),
        )
        self._process = keepalived.run(lan, PEER, self._log.parent, instance)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def serves(self) -> bool:
        return self._address in self._lan.addresses(PEER)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Nothing but processes, which the LAN ends."""


class Frr:
    """As Peer. Its first advert and announcements are lost when its macvlan does not have carrier at that moment."""

    announces_surely = False

    def __init__(self, lan: Lan, profile: Profile, priority: int, folder: Path) -> None:
        instance = frr.Instance(
            priority=priority,
            version=profile.version,
            addresses=VIRTUAL[profile.family],
            advertisement_interval=round(profile.interval * 1000),
        )
        self.mac = instance.mac
        self._router = frr.Router(lan, PEER, instance)
        self.close = self._router.close
        self.serves = self._router.serves

    @property
    def log(self) -> str:
        return f"{self._router.show()}\n{self._router.log}"

    def terminate(self) -> None:
        self._router.terminate()


class Contest:
    """Both routers run. A context manager."""

    def __init__(
        self, profile: Profile, folder: Path, *, ours_is_better: bool, our_password: str | None = None
    ) -> None:
        """``our_password``: another one than the peer's."""
        self.profile = profile
        with contextlib.ExitStack() as stack:
            self.lan = stack.enter_context(Lan())
            self.ours = ElectionHost(self.lan, OURS, f"{ADDRESSES[OURS][0]}/24", folder)
            for host in (PEER, CLIENT):
                self.lan.add_host(host, f"{ADDRESSES[host][0]}/24")
            if profile.family == 6:
                for host in (OURS, PEER, CLIENT):
                    self._give_ipv6(host)
            if profile.password:
                give_password(self.ours, profile.password if our_password is None else our_password)
            self.ours.start()
            stack.callback(self.ours.close)
            self.ours.configure(self._our_router(BETTER if ours_is_better else WORSE))
            make = Keepalived if profile.software is Software.KEEPALIVED else Frr
            self.peer: Peer = make(self.lan, profile, WORSE if ours_is_better else BETTER, folder)
            stack.callback(self.peer.close)
            self._macs = {self.lan.mac(OURS): OURS, self.peer.mac: PEER}
            self._stack = stack.pop_all()

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def await_active(self, host: str, limit: float) -> None:
        """Until that one, and only that one, serves, and clients find it."""
        self.await_serving(host, limit)
        other = PEER if host == OURS else OURS
        self._await(lambda: not self.serves(other), f"{other} does not stop serving", 1.0)
        self._await_found(host)

    def await_takeover(self, host: str, limit: float) -> None:
        """Until that one serves, whatever the other, which is cut off, may think, and clients find it."""
        self.await_serving(host, limit)
        self._await_found(host)

    def await_serving(self, host: str, limit: float) -> None:
        """Until that one serves."""
        self._await(lambda: self.serves(host), f"{host} does not serve within {limit:.2f} s", limit)

    def serves(self, host: str) -> bool:
        """The host's kernel has the virtual address (FRR's: on a link with carrier)."""
        if host == PEER:
            return self.peer.serves()
        return prefixed(self.profile.family)[-1] in self.lan.addresses(OURS)

    def found_at(self) -> str:
        """Who answers a client that connects to the virtual address; empty: nobody."""
        address = VIRTUAL[self.profile.family][-1]
        family = socket.AF_INET if self.profile.family == 4 else socket.AF_INET6
        with self.lan.inside(CLIENT), socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(0.2)
            try:
                refused = connection.connect_ex((address, 9)) == errno.ECONNREFUSED
            except TimeoutError:
                refused = False
        told = self.lan.run(CLIENT, ["ip", "neighbour", "show", "to", address]).split()
        mac = told[told.index("lladdr") + 1] if refused and "lladdr" in told else ""
        return self._macs.get(mac, mac)

    def release(self, host: str) -> float:
        """End that one in order. Seconds from its last words (priority 0) to the first advert of the other."""
        sniffer = self.lan.sniff(CLIENT if not self.profile.unicast else host)
        if host == OURS:
            self.ours.signal(signal.SIGTERM)
        else:
            self.peer.terminate()
        said: dict[int, float] = {}
        end = time.monotonic() + self.profile.down(WORSE) + SLACK
        while time.monotonic() < end and not (0 in said and WORSE in said):
            for moment, priority in map(advert, sniffer.frames(0.005)):
                if priority is not None and (priority == 0 or 0 in said):
                    said.setdefault(priority, moment)
        assert 0 in said, f"{host} does not say that it ends{self._logs()}"
        assert WORSE in said, f"nobody follows {host}{self._logs()}"
        return said[WORSE] - said[0]

    def dropped(self) -> dict[str, int]:
        """Adverts that our election did not act on, by reason."""
        return self.ours.statistics().dropped

    def _our_router(self, priority: int) -> ipc.RouterConfig:
        one = self.profile
        changes: dict[str, object] = {}
        if one.version != 3:
            changes["version"] = one.version
        if one.unicast:
            changes["unicast_peers"] = (ADDRESSES[PEER][0 if one.family == 4 else 2],)
        if one.password:
            changes |= {"authentication": ipc.Authentication.PASSWORD, "key": KEY}
        return router(
            priority,
            family=one.family,
            addresses=prefixed(one.family),
            advertisement_interval_ms=round(one.interval * 1000),
            announce_refresh_ms=1000,
            **changes,
        )

    def _give_ipv6(self, host: str) -> None:
        """Addresses that are good at once, the link-local one chosen by us."""
        for line in ("sysctl -qw net.ipv6.conf.eth0.accept_dad=0", "ip -6 address flush dev eth0"):
            self.lan.run(host, line.split())
        for address in ADDRESSES[host][1:]:
            self.lan.run(host, ["ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad"])

    def _await_found(self, host: str) -> None:
        end = time.monotonic() + 3.0
        seen = []
        while (found := self.found_at()) != host:
            if host == PEER and not self.peer.announces_surely:
                self.lan.run(CLIENT, ["ip", "neighbour", "flush", "dev", "eth0"])  # as if the entries had aged
            seen.append(f"{found or 'nobody'} at {time.monotonic():.2f}")
            assert time.monotonic() < end, f"clients find {seen} instead of {host}{self._logs()}"
            time.sleep(0.02)

    def _await(self, condition: Callable[[], bool], complaint: str, limit: float) -> None:
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, complaint + self._logs()
            time.sleep(0.01)

    def _logs(self) -> str:
        return f"\n--- ours:\n{self.ours.log[-3000:]}\n--- {self.profile.software}:\n{self.peer.log[-3000:]}"


def give_password(host: ElectionHost, password: str) -> None:
    """Into the file that a mounted Secret would bring."""
    file = host.folder / "keys" / f"{KEY}.password"
    file.parent.mkdir(exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(password)


def prefixed(family: int) -> tuple[str, ...]:
    """The virtual addresses with the prefix length of a host."""
    return tuple(f"{address}/{32 if family == 4 else 128}" for address in VIRTUAL[family])


def advert(frame: Frame) -> tuple[float, int | None]:
    """When, and the priority of the advert in the frame; None: it is something else."""
    moment, octets = frame
    offset = {b"\x08\x00": (23, 34), b"\x86\xdd": (20, 54)}.get(octets[12:14])
    if offset is None or octets[offset[0]] != VRRP or len(octets) < offset[1] + 8:
        return moment, None
    return moment, octets[offset[1] + 2]
