"""What is asked of a backend about its way, when, and what the answers mean. Pure.

A host that takes packets for the virtual address itself (a real server) is asked with the first packet of a
connection. A node that hands them to its pods by a table of its own is asked with a ping of the virtual address: while
its pods wait to be let in its table is empty and refuses connections, which must not keep them out for ever.
"""

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Final

from lvsagent.checks.path_packets import TCP, UDP, Answer, Flow, Heard, datagram, echo, reset, syn

TRIES: Final = (0.0, 0.2, 0.5)
"""Share of the time that there is, at which it is asked (again)."""
PATIENCE: Final = 0.3
"""Seconds for which an answer that decides nothing by itself waits for the echo's."""
ROUND: Final = 0.3
"""Seconds in which somebody who has an address answers ARP or a neighbour solicitation."""
DOUBT: Final = 0.8
"""For so long a host that answered must be silent, asked again and again: a busy one must not seem mended."""
SPACING: Final = 0.1
"""Seconds between two such questions of one round: a frame may be lost."""
AGAIN: Final = 5.0
"""Seconds between rounds for one address."""

_LOCAL_INIT: Final = "lvs-node-init --real-server --vip"


class Result(Enum):
    """Of the packets to the virtual address."""

    ACCEPTS = "accepts"
    HANDS_ON = "hands on"
    """It has the address, and a table of its own stands before its server."""
    REFUSES = "refuses"
    ROUTES = "routes"
    """It would have sent the packet on: it lacks the address."""
    REJECTS = "rejects"
    """ICMP: a firewall, or no end of the tunnel."""
    MUTE = "mute"
    """It has the address, but says nothing at the port."""
    SILENT = "silent"
    WRONG = "wrong"
    """UDP: it answers something else."""
    ASTRAY = "astray"
    """UDP: it answers from another address."""


@dataclass(slots=True)
class Question:
    """One series of packets to one host. Times are seconds on one clock."""

    flow: Flow
    begun: float
    seconds: float
    """How long it may take."""
    number: int
    """Initial sequence number of the SYN, at random."""
    ping_only: bool = False
    payload: bytes = b""
    expect: bytes = b""
    """UDP: what the answer begins with. Empty: no answer is needed."""
    result: Result | None = None
    _sent: int = field(default=0, init=False)
    _echoed: bool = field(default=False, init=False)
    _weak: Result | None = field(default=None, init=False)
    """What it will be if the echo is not answered (or, UDP, if nothing else comes)."""
    _until: float | None = field(default=None, init=False)

    @property
    def deadline(self) -> float:
        """When to call ``step``."""
        end = self.begun + self.seconds
        times = [end if self._until is None else min(end, self._until)]
        if self._sent < len(TRIES):
            times.append(self.begun + TRIES[self._sent] * self.seconds)
        return min(times)

    @property
    def repeated(self) -> bool:
        """It was asked more than once, and may be answered more than once."""
        return self._sent > 1

    def step(self, now: float) -> list[bytes]:
        """Packets to send now."""
        if self.result is not None:
            return []
        if now >= self.begun + self.seconds or (self._until is not None and now >= self._until):
            self._end()
            return []
        if self._sent == len(TRIES) or now < self.begun + TRIES[self._sent] * self.seconds:
            return []
        self._sent += 1
        return self._packets()

    def heard(self, answer: Answer, now: float) -> list[bytes]:
        """Packets to send in return."""
        if answer.heard is Heard.ACCEPTED and self._connects:
            self._decide(Result.ACCEPTS)
            return [reset(self.flow, answer.sequence)]  # a second SYN's answer is reset, too
        if self.result is not None:
            return []
        if answer.heard is Heard.ECHOED:
            return self._has_it(now)
        if answer.to_echo:
            if answer.heard is Heard.EXCEEDED:
                self._decide(Result.ROUTES)
            return []
        match answer.heard:
            case Heard.REFUSED if not self.ping_only:
                self._decide(Result.REFUSES)
            case Heard.ANSWERED if self._asks_datagram and answer.virtual != self.flow.virtual:
                self._decide(Result.ASTRAY)
            case Heard.ANSWERED if self._asks_datagram:
                self._decide(Result.ACCEPTS if answer.data.startswith(self.expect) else Result.WRONG)
            case Heard.EXCEEDED | Heard.UNREACHABLE if self._weak is None:
                self._weak = Result.ROUTES if answer.heard is Heard.EXCEEDED else Result.REJECTS
                if self._echoed:
                    self._decide(Result.HANDS_ON)
                else:
                    self._until = now + PATIENCE
                    return [echo(self.flow)]
        return []

    @property
    def _connects(self) -> bool:
        return self.flow.protocol == TCP and not self.ping_only

    @property
    def _asks_datagram(self) -> bool:
        return self.flow.protocol == UDP and not self.ping_only and bool(self.payload)

    def _packets(self) -> list[bytes]:
        if self._connects:
            # A ping says why, when nothing else does; most are never sent.
            again = [echo(self.flow)] if self._sent > 1 else []
            return [syn(self.flow, self.number), *again]
        if self._asks_datagram:
            return [datagram(self.flow, self.payload), echo(self.flow)]
        return [echo(self.flow)]

    def _has_it(self, now: float) -> list[bytes]:
        """It answers a ping of the virtual address."""
        self._echoed = True
        if self._weak is not None:
            self._decide(Result.HANDS_ON)
        elif self._asks_datagram and not self.expect:
            # A refusal by ICMP comes at once, if it comes.
            self._until = now + PATIENCE
        elif not self._connects and not self._asks_datagram:
            self._decide(Result.ACCEPTS)
        return []

    def _end(self) -> None:
        if self._weak is not None:
            self._decide(self._weak)
        elif not self._echoed:
            self._decide(Result.SILENT)
        else:
            self._decide(Result.ACCEPTS if self._asks_datagram and not self.expect else Result.MUTE)

    def _decide(self, result: Result) -> None:
        if self.result is None:
            self.result = result


@dataclass(slots=True)
class Claims:
    """Who says on one link that one virtual address is his. Times are seconds on one clock."""

    begun: float = float("-inf")
    """The last round of questions."""
    _heard: dict[bytes, float] = field(default_factory=dict)
    _wrong: set[bytes] = field(default_factory=set)
    """Those who were found and must not be."""

    def note(self, mac: bytes, now: float) -> None:
        """Somebody with that MAC, not this node, claims it."""
        self._heard[mac] = now

    def by(self, suspect: bytes) -> bool:
        """Whether a host that must not claim it did in the last round, or since. Then it is wrong."""
        claims = suspect in self._heard and self._heard[suspect] >= self.begun
        if claims:
            self._wrong.add(suspect)
        return claims

    def wrong(self, suspect: bytes) -> bool:
        """It was found, and has not been silent for long enough."""
        return suspect in self._wrong

    def still(self, suspect: bytes, asked: float, since: float, now: float) -> bool | None:
        """Of one that is wrong: does it claim the address still? None: not known yet. ``asked``: the question began;
        ``since``: from then on the host itself was asked again and again."""
        heard = self._heard.get(suspect, float("-inf"))
        if suspect in self._wrong and heard >= asked:
            return True
        if suspect in self._wrong and now - max(heard, since) < DOUBT:
            return None
        self._wrong.discard(suspect)
        self._heard.pop(suspect, None)
        return False

    def due(self, now: float) -> bool:
        """Is a round to begin?"""
        return now - self.begun >= AGAIN

    def begin(self, now: float) -> float:
        """A round begins. Returns when it ends."""
        self._heard = {mac: at for mac, at in self._heard.items() if at >= self.begun or mac in self._wrong}
        self.begun = now
        return now + ROUND


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """To one backend, for people."""

    virtual: str
    """Address."""
    port: int
    protocol: str
    method: str = "direct routing"
    interface: str = ""
    mac: str = ""
    node: str = ""
    """That stands before it."""

    @property
    def host(self) -> str:
        """Who takes the packets."""
        return f"node {self.node}" if self.node else "it"

    @property
    def place(self) -> str:
        """What is asked for."""
        shown = f"[{self.virtual}]" if ":" in self.virtual else self.virtual
        return f"{shown}:{self.port}/{self.protocol}" if self.port else self.virtual


def reason(way: Way, result: Result) -> str:
    """Why the backend gets no connections, and what to do; empty: it does."""
    on_lo = f"put {way.virtual} on its lo ({_LOCAL_INIT} {way.virtual})"
    if way.node:
        on_lo = f"the agent there puts the address on lo: does it run, and is Programmed of {way.virtual} true?"
    sent = f"sent to it by {way.method}" + (f" ({way.mac} on {way.interface})" if way.mac else "")
    match result:
        case Result.ACCEPTS | Result.HANDS_ON:
            return ""
        case Result.REFUSES:
            return (
                f"{way.host} refuses {way.place}, {sent}: nothing listens at that address and port there;"
                f" {way.method} keeps the port: let the server listen on port {way.port} of {way.virtual} or of all"
                " addresses, or use forwarding: Masquerade"
            )
        case Result.ROUTES:
            return f"{way.host} does not accept {way.virtual}, but routes it on: {on_lo}"
        case Result.REJECTS:
            what = (
                "a firewall there" if way.method == "direct routing" else f"a firewall, or nothing takes {way.method}"
            )
            return f"{way.host} rejects {way.place}, {sent}, by ICMP: {what}"
        case Result.MUTE:
            return f"{way.host} has {way.virtual}, but nothing answers {way.place}, {sent}: does a firewall drop it?"
        case Result.SILENT:
            more = "" if way.method == "direct routing" else f", let it take {way.method} apart with rp_filter=0,"
            return f"{way.host} does not accept {way.virtual}: nothing answers {way.place}, {sent}: {on_lo}{more}" + (
                " or let its firewall accept it"
            )
        case Result.WRONG:
            return f"{way.host} answers {way.place}, {sent}, but not with what expect says"
        case Result.ASTRAY:
            return (
                f"{way.host} answers {way.place} from another address, so that no client knows the answer: bind the"
                f" server to {way.virtual}, or let it answer from the address that it was asked at (IP_PKTINFO)"
            )


def answers_for(way: Way) -> str:
    """The backend claims the virtual address on the link: clients would come to it past the director."""
    if ip_address(way.virtual).version == 4:
        return (
            f"{way.host} ({way.mac}) answers ARP for {way.virtual} on {way.interface}: set"
            " net.ipv4.conf.all.arp_ignore=1 and net.ipv4.conf.all.arp_announce=2 there (lvs-node-init does it), and"
            f" have {way.virtual} on lo only"
        )
    return (
        f"{way.host} ({way.mac}) answers neighbour solicitations for {way.virtual} on {way.interface}: have"
        f" {way.virtual} there on lo only (nodad), not on an interface of the LAN, and no proxy_ndp for it"
    )
