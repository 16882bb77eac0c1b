"""Which nodes can take new connections, from what is heard of them. Pure: time is an argument, in monotonic seconds.

A node is *silent* when neither a heartbeat nor an answer of its kernel (an ICMP echo, asked for when a beat is missing)
came for three of its intervals; it stays suspected until it beats again and says that its tables are in
place. A node that beats without saying so is *unready*. A node that never beat is good: it may run no agent, or not be
reachable by UDP.

Three things keep us from blaming others for what is ours (compare Lifeguard, Dadgar et al., 2017):

* time in which we did not run does not count against anybody;
* when nobody of several is heard any more, we are the one who is cut off: everything stays as it is;
* a process is not a node: an election that is killed, frozen or replaced leaves its tables and pods at work, and on
  the one that takes over a suspicion would reset the connections of those pods (it must find their place in the table
  anew, and weight 0 has none).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from lvsagent.liveness.beat import Beat, DropReason

MISSED: Final = 3
"""Intervals. The caller looks now and then, which is the margin: what was there at one look is as old at the next."""
DOUBT: Final = 1.3
"""Intervals without a beat after which the kernel is asked."""
CUT_OFF: Final = 1.5
"""Intervals in which at least one of several nodes is heard unless we are cut off. Beats are an interval apart at most,
so nobody has been silent for three of them then."""
LATE: Final = 0.1
"""Seconds between two turns; a longer pause was ours and counts against nobody."""
GRACE: Final = 30.0
"""Seconds for which the successor of an election that left is waited for, where kernels do not answer."""
ASK_AGAIN: Final = 10.0
"""Seconds between questions that only ask whether a kernel answers at all."""
_WRAP: Final = 1 << 32


@unique
class Standing(StrEnum):
    """What is thought of a node."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    UNREADY = "unready"
    SILENT = "silent"

    @property
    def suspected(self) -> bool:
        """It shall get no new connections."""
        return self in (Standing.UNREADY, Standing.SILENT)


@dataclass(slots=True)
class _Peer:
    heard: bool = False
    """It beat once."""
    evidence: float = 0.0
    """When a beat, or an answer of the kernel, came last."""
    beat: float = 0.0
    interval: float = 0.1
    incarnation: int = 0
    sequence: int = 0
    serving: bool = False
    silent: bool = False
    answers: bool = False
    """Its kernel answered once."""
    healthy: int = 0
    left: float | None = None
    ask: float = 0.0
    """When to ask whether its kernel answers at all."""

    @property
    def patience(self) -> float:
        return MISSED * self.interval

    @property
    def standing(self) -> Standing:
        if not self.heard:
            return Standing.UNKNOWN
        if self.silent:
            return Standing.SILENT
        return Standing.SERVING if self.serving else Standing.UNREADY


class Detector:
    """The nodes that this one listens to. Call ``wake`` first, then tell what arrived, then ``judge``."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}
        self.changed = False
        """A standing may be another one; for the caller to take back."""
        self._woke: float | None = None
        self._cut_off: float | None = None

    def configure(self, names: Iterable[str]) -> None:
        """These nodes and no others; what is known of those that stay is kept."""
        self._peers = {name: self._peers.get(name) or _Peer() for name in names}
        self.changed = True

    def wake(self, now: float) -> None:
        """A turn begins. What arrived meanwhile is told afterwards."""
        before, self._woke = self._woke, now
        if before is not None and now - before > LATE:
            for peer in self._peers.values():
                peer.evidence += now - before
                peer.beat += now - before

    def beat(self, name: str, beat: Beat, now: float) -> DropReason | None:
        """A heartbeat of that node arrived. Returns why it counts for nothing; None: it counts."""
        peer = self._peers.get(name)
        if peer is None:
            return DropReason.UNKNOWN_NODE
        if peer.heard and not _follows(beat, peer, now):
            return DropReason.SEQUENCE
        if not peer.heard:
            peer.ask = now
        before = (peer.serving, peer.healthy)
        self.changed |= not peer.heard or peer.silent or before != (beat.serving, beat.healthy)
        peer.heard, peer.evidence, peer.beat = True, now, now
        peer.interval, peer.incarnation, peer.sequence = beat.interval, beat.incarnation, beat.sequence
        peer.serving, peer.silent, peer.healthy = beat.serving, False, beat.healthy
        peer.left = now if beat.leaving else None
        return None

    def answered(self, name: str, now: float) -> None:
        """The node's kernel answered. Of one that is suspected this says nothing: it may have been started anew."""
        peer = self._peers.get(name)
        if peer is not None and not peer.silent:
            peer.answers = True
            peer.evidence = now

    def judge(self, now: float) -> None:
        """Everything that arrived was told: who is missing?"""
        alive = [peer for peer in self._peers.values() if peer.heard and not peer.silent]
        if self._is_cut_off(alive, now):
            return
        for peer in alive:
            waits = peer.left is not None and not peer.answers and now - peer.left < GRACE
            if now - peer.evidence >= peer.patience and not waits:
                peer.silent = self.changed = True

    def to_ask(self, now: float) -> list[str]:
        """Nodes whose kernels shall be asked now."""
        asked = []
        for name, peer in self._peers.items():
            if not peer.heard or peer.silent:
                continue
            if now - peer.evidence >= DOUBT * peer.interval:
                asked.append(name)
            elif not peer.answers and now >= peer.ask:
                peer.ask = now + ASK_AGAIN
                asked.append(name)
        return asked

    def standing(self, name: str) -> Standing:
        """Raises KeyError for a node that is not listened to."""
        return self._peers[name].standing

    def standings(self) -> dict[str, Standing]:
        """Of every node, by name."""
        return {name: peer.standing for name, peer in self._peers.items()}

    def healthy(self) -> dict[str, int]:
        """What the nodes that can take connections say of the backends that they reach, by name."""
        return {
            name: peer.healthy
            for name, peer in self._peers.items()
            if peer.healthy and peer.standing is Standing.SERVING
        }

    def is_talking(self, name: str) -> bool:
        """It beat, and is not silent. Others need to be spoken to only now and then."""
        peer = self._peers[name]
        return peer.heard and not peer.silent

    def mute(self, now: float) -> frozenset[str]:
        """Nodes whose kernel answers while their election is not heard."""
        return frozenset(
            name
            for name, peer in self._peers.items()
            if peer.heard and not peer.silent and peer.answers and now - peer.beat >= peer.patience
        )

    @property
    def cut_off(self) -> bool:
        """Nobody is heard any more, so nobody is blamed."""
        return self._cut_off is not None

    def _is_cut_off(self, alive: list[_Peer], now: float) -> bool:
        """One silent node is dead; several that fall silent in one moment say that it is us."""
        newest = max((peer.evidence for peer in alive), default=now)
        interval = max((peer.interval for peer in alive), default=0.0)
        if self._cut_off is not None and (newest > self._cut_off or len(alive) < 2):
            pause = now - self._cut_off
            self._cut_off = None
            for peer in alive:  # the pause counts against nobody, and after a long one each has time for a beat
                peer.evidence = min(now, peer.evidence + pause + (peer.interval if pause > peer.interval else 0.0))
        elif self._cut_off is None and len(alive) >= 2 and now - newest >= CUT_OFF * interval:
            self._cut_off = now
        return self._cut_off is not None


def _follows(beat: Beat, peer: _Peer, now: float) -> bool:
    """Of one start of the sender the newer one (RFC 1982); of two starts the later one, or whatever comes when the
    earlier one is heard no more: a clock may have been set back."""
    if beat.incarnation == peer.incarnation:
        return 0 < (beat.sequence - peer.sequence) % _WRAP < _WRAP >> 1
    return beat.incarnation > peer.incarnation or now - peer.beat >= peer.patience
