"""Heartbeats to and from the other nodes: sockets and timers around ``liveness``."""

import contextlib
import errno
import ipaddress
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from lvsagent import ipc
from lvsagent.election.echo import Echo
from lvsagent.liveness import proof
from lvsagent.liveness.beat import PORT, Beat, DropReason, decode, encode, node_id
from lvsagent.liveness.detector import Detector
from lvsagent.vrrp import auth

INTERVAL: Final = 0.1
"""Seconds between beats to a node that is heard."""
TICK: Final = 0.02
"""Seconds between looks at the sockets, which wake nobody: at 100 nodes a thousand beats arrive a second. A fifth of
the nodes is spoken to at each."""
SLOTS: Final = round(INTERVAL / TICK)
SELDOM: Final = 10
"""A node that is not heard is spoken to at every tenth turn only."""
EAGER: Final = 1.0
"""Seconds after a change of ours in which everybody is told at full rate."""
RETRY: Final = 5.0
"""Seconds until a port that is taken is tried again."""
ANSWER: Final = 2.0
"""Seconds for which an answer is waited for."""
MOST_QUESTIONS: Final = 32
"""For one tick."""
BURST: Final = 16
"""Beats for each node that are read in one tick, so that a flood cannot hold up the election."""
BUFFER: Final = 1 << 20
"""Octets that the kernel keeps for us while we do not run."""
TRAFFIC_CLASS: Final = 0xC0
"""Internetwork control."""

DOMAIN: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
ANYWHERE: Final = {4: "0.0.0.0", 6: "::"}

KeyRings = Callable[[str], auth.KeyRing | None]
Log = Callable[..., None]


class Peer:
    """Another node."""

    def __init__(self, name: str, addresses: Iterable[str]) -> None:
        """Raises ValueError for what is no address."""
        self.name = name
        self.node = node_id(name)
        parsed = [ipaddress.ip_address(address) for address in addresses]
        self.addresses = frozenset(map(str, parsed))
        self.target = str(parsed[0]) if parsed else ""
        self.family = _family(self.target)


class Beats:
    """Call ``turn`` at ``deadline``; it says when the nodes that are suspected have changed."""

    def __init__(self, *, rings: KeyRings, clock: auth.Clock, log: Log, port: int = PORT) -> None:
        self._rings = rings
        self._clock = clock
        self._log = log
        self._port = port
        self._incarnation = int(time.time() * 1000)
        self._sequence = 0
        self._name = ""
        self._serving = False
        self._leaving = False
        self._healthy = 0
        self._addresses: tuple[str, ...] = ()
        self._peers: dict[bytes, Peer] = {}
        self._slots: list[list[Peer]] = []
        self._detector = Detector()
        self._proofs: proof.Proofs | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._elsewhere: set[int] = set()
        """Families whose socket is at any address, because the node had not its own one yet."""
        self._unheard: set[int] = set()
        """Families of which it was said that they have no socket."""
        self._echo: Echo | None = None
        self._next = math.inf
        self._turns = 0
        self._eager = 0.0
        self._retry = math.inf
        self._cannot_ask = False
        """Said already."""
        self._answers_until = 0.0
        self._mute: frozenset[str] = frozenset()
        self._cut_off = False
        self.sent = 0
        self.received = 0
        self.errors = 0
        """Beats that could not be sent."""
        self.asked = 0
        self.dropped: Counter[str] = Counter()
        self.liveness = ipc.Liveness()
        """As it was last said."""

    @property
    def deadline(self) -> float:
        """When to call ``turn``; infinite when there is nobody to speak to."""
        return self._next

    @property
    def mute(self) -> tuple[str, ...]:
        """Nodes whose kernel answers while their election is not heard."""
        return tuple(sorted(self._mute))

    def configure(self, wish: ipc.Configure, now: float) -> ipc.Liveness | None:
        """Speak to the nodes of the wish, and say of this one what it says. Returns as ``turn`` does."""
        nodes = {each.name: each.addresses for each in wish.nodes}
        own = nodes.pop(wish.node, ())
        if not wish.node or not nodes:
            self._stop(now)
            return self._say()
        before = (self._name, self._addresses, self._families())
        if (wish.serving, wish.node) != (self._serving, self._name) or self._next == math.inf:
            self._eager = now + EAGER
        if wish.node != self._name:
            self._proofs = proof.Proofs(node_id(wish.node), self._clock)
        self._name, self._serving, self._addresses, self._healthy = wish.node, wish.serving, own, wish.healthy
        self._peers = {peer.node: peer for peer in self._usable(nodes)}
        self._slots = [list(self._peers.values())[first::SLOTS] for first in range(SLOTS)]
        self._detector.configure(peer.name for peer in self._peers.values())
        if before != (self._name, self._addresses, self._families()) or not self._sockets:
            self._close_sockets()
            self._open(now)
        self._next = min(self._next, now)
        return self._say()

    def leave(self, now: float) -> None:
        """Say from now on that this process ends in order, and that the tables stay."""
        self._leaving = True
        self._eager = math.inf

    def turn(self, now: float) -> ipc.Liveness | None:
        """Read, judge, speak. Returns what the agent shall hear; None: nothing has changed."""
        if now < self._next:
            return None
        # A turn that was late is not made up for: nobody needs two beats at once.
        self._next = max(self._next + TICK, now + TICK / 2)
        if now >= self._retry:
            self._open(now)
        assert self._proofs is not None
        self._proofs.use(self._rings(proof.KEY), now)
        self._detector.wake(now)
        self._read(now)
        self._detector.judge(now)
        self._ask(now)
        self._speak(now)
        if self._turns % SLOTS == 0:
            self._notice(now)
        return self._say() if self._detector.changed else None

    def close(self, now: float) -> None:
        """The last words, and the sockets."""
        if self._peers:
            for slot in self._slots:
                self._send(slot, now)
        self._close_sockets()

    # -- in ------------------------------------------------------------------------------------------------------

    def _read(self, now: float) -> None:
        for opened in self._sockets.values():
            with contextlib.suppress(OSError):
                for _ in range(BURST * (len(self._peers) + BURST)):
                    payload, sender = opened.recvfrom(256)
                    reason = self._heard(payload, sender[0], now)
                    if reason is None:
                        self.received += 1
                    else:
                        self.dropped[reason] += 1
        if self._echo is not None and now < self._answers_until:
            for node, source in self._echo.answers():
                peer = self._peers.get(node)
                if peer is not None and source in peer.addresses:
                    self._detector.answered(peer.name, now)

    def _heard(self, payload: bytes, source: str, now: float) -> DropReason | None:
        beat = decode(payload)
        if isinstance(beat, DropReason):
            return beat
        peer = self._peers.get(beat.node)
        if peer is None:
            return DropReason.SELF if beat.node == node_id(self._name) else DropReason.UNKNOWN_NODE
        if source not in peer.addresses:
            return DropReason.SOURCE
        assert self._proofs is not None
        refused = self._proofs.judge(beat.node, payload, time.time(), now)
        return refused if refused is not None else self._detector.beat(peer.name, beat, now)

    # -- out -----------------------------------------------------------------------------------------------------

    def _speak(self, now: float) -> None:
        slot = self._slots[self._turns % SLOTS]
        self._turns += 1
        if now >= self._eager and self._turns // SLOTS % SELDOM:
            slot = [peer for peer in slot if self._detector.is_talking(peer.name)]
        if slot:
            self._send(slot, now)

    def _send(self, peers: Iterable[Peer], now: float) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        assert self._proofs is not None
        said = self._serving, self._leaving, self._healthy
        beat = Beat(node_id(self._name), self._incarnation, self._sequence, INTERVAL, *said)
        payload = self._proofs.sign(encode(beat), time.time(), now)
        for peer in peers:
            opened = self._sockets.get(peer.family)
            if opened is None:
                continue
            try:
                opened.sendto(payload, (peer.target, self._port))
                self.sent += 1
            except OSError:  # no route, no neighbour, a firewall: the other node will tell
                self.errors += 1

    def _ask(self, now: float) -> None:
        if self._echo is None:
            return
        by_name = {peer.name: peer for peer in self._peers.values()} if (names := self._detector.to_ask(now)) else {}
        if names:
            self._answers_until = now + ANSWER
        for name in names[:MOST_QUESTIONS]:
            with contextlib.suppress(OSError):
                self._echo.ask(by_name[name].node, by_name[name].target)
                self.asked += 1

    # -- what it comes to ----------------------------------------------------------------------------------------

    def _say(self) -> ipc.Liveness | None:
        self._detector.changed = False
        standings = sorted(self._detector.standings().items())
        said = ipc.Liveness(
            silent=tuple(name for name, standing in standings if standing == "silent"),
            unready=tuple(name for name, standing in standings if standing == "unready"),
            healthy=self._detector.healthy(),
        )
        if said == self.liveness:
            return None
        before, self.liveness = self.liveness, said
        for name in sorted({*said.silent} - {*before.silent}):
            self._log("a node is silent", node=name)
        for name in sorted({*before.silent} - {*said.silent}):
            self._log("a node speaks again", node=name, ready=name not in said.unready)
        return said

    def _notice(self, now: float) -> None:
        mute = self._detector.mute(now)
        for name in sorted(mute - self._mute):
            self._log("the election of a node is not heard, but its kernel answers; its backends stay", node=name)
        self._mute = mute
        if self._detector.cut_off is not self._cut_off:
            self._cut_off = self._detector.cut_off
            self._log("no node is heard any more: this one is cut off" if self._cut_off else "other nodes are heard")

    # -- sockets -------------------------------------------------------------------------------------------------

    def _usable(self, nodes: dict[str, tuple[str, ...]]) -> Iterable[Peer]:
        for name, addresses in nodes.items():
            try:
                peer = Peer(name, addresses)
            except ValueError as error:
                self._log("a node's address cannot be used", node=name, error=error)
                continue
            if peer.target:
                yield peer

    def _families(self) -> list[int]:
        """Others write to our first address, we to theirs."""
        return sorted({*map(_family, self._addresses[:1]), *(peer.family for peer in self._peers.values())})

    def _open(self, now: float) -> None:
        """Those that are not open. What fails is tried again, and what is at no address of ours is moved there."""
        self._retry = math.inf
        for family in self._families():
            own = next((address for address in self._addresses if _family(address) == family), None)
            if family in self._elsewhere and own is not None and _has(family, own):
                self._sockets.pop(family).close()
                self._elsewhere.discard(family)
            if family not in self._sockets:
                self._bind(family, own)
            if family not in self._sockets or family in self._elsewhere:
                self._retry = now + RETRY
        if self._echo is None:
            try:
                self._echo = Echo()
            except OSError as error:
                self._retry = now + RETRY
                if not self._cannot_ask:
                    self._log("kernels of other nodes cannot be asked (grant CAP_NET_RAW); tried again", error=error)
            self._cannot_ask = self._echo is None

    def _bind(self, family: int, own: str | None) -> None:
        hosts = [ANYWHERE[family]] if own is None else [own, ANYWHERE[family]]
        try:
            opened = self._bound(family, hosts)
        except OSError as error:
            if family not in self._unheard:
                self._unheard.add(family)
                self._log("heartbeats cannot be heard; tried again", port=self._port, family=family, error=error)
            return
        self._unheard.discard(family)
        self._sockets[family] = opened
        if own is not None and opened.getsockname()[0] == ANYWHERE[family]:
            self._elsewhere.add(family)

    def _bound(self, family: int, hosts: list[str]) -> socket.socket:
        """A socket at the first of the hosts that this node has: others know us by the address of our Node."""
        for last, host in enumerate(hosts, 1 - len(hosts)):
            opened = socket.socket(DOMAIN[family], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                opened.setblocking(False)
                _prepare(opened, family)
                opened.bind((host, self._port))
            except OSError as error:
                opened.close()
                if last == 0 or error.errno != errno.EADDRNOTAVAIL:
                    raise
                continue
            return opened
        raise AssertionError("no host was given")

    def _close_sockets(self) -> None:
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()
        self._elsewhere.clear()
        if self._echo is not None:
            self._echo.close()
            self._echo = None

    def _stop(self, now: float) -> None:
        """Nothing is served here, nobody needs to hear of us: say so once, and forget."""
        if self._peers:
            self._serving = False
            self.close(now)
        self._peers, self._slots, self._name = {}, [], ""
        self._detector.configure(())
        self._next = self._retry = math.inf
        self._mute, self._cut_off = frozenset(), False


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _has(family: int, address: str) -> bool:
    """This node has the address now."""
    try:
        with socket.socket(DOMAIN[family], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as tried:
            tried.bind((address, 0))
    except OSError:
        return False
    return True


def _prepare(opened: socket.socket, family: int) -> None:
    forced = getattr(socket, "SO_RCVBUFFORCE", 33)
    try:
        opened.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
    except OSError:  # no CAP_NET_ADMIN: what net.core.rmem_max allows
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    if family == 4:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TRAFFIC_CLASS)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TRAFFIC_CLASS)
