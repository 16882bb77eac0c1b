"""What the agent and its process of health checks (``lvs-checks``) tell each other. Pure.

One JSON object a line: the agent sends the whole wish (``Targets``), whenever it changes; the process sends
``Verdict`` for each target when it changes, and all of them again after each wish.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lvsapi.health import HealthCheck
from lvsapi.ipvs import Forwarding, Tunnel
from lvsapi.model import IPAddress, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A backend and what is asked of it. The same backend of two objects is two targets."""

    name: str
    """Unique; ``<namespace>/<name> <virtual address>:<port> <backend>:<port>/<protocol>``. What remains the same in
    the next wish keeps its state."""
    address: IPAddress
    port: int
    protocol: Protocol
    checks: tuple[HealthCheck, ...]
    up: bool = False
    """What it is taken for until the first answer."""
    virtual_address: IPAddress | None = None
    """The next six are for the check of the path."""
    virtual_port: int = 0
    forwarding: Forwarding = Forwarding.DIRECT_ROUTING
    """As this node's kernel does it: a pod of this node is masqueraded, whatever its object says."""
    tunnel: Tunnel | None = None
    through: str = ""
    """The node that runs it and whose own table hands packets of the virtual address to it. Empty: none, it takes them
    itself."""
    director: bool = False
    """Its host is a director for the virtual address, and answers ARP for it rightly while it is Active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Everything that is to be asked."""

    generation: int
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a target's checks, all of them taken together."""

    generation: int
    name: str
    up: bool
    known: bool = True
    """False: none of its checks has failed, but not every one has had its first full answer yet; ``up`` is what the
    target was taken for."""
    percent: int = 100
    """Of its weight, as the backend itself says (``CheckType.AGENT``), 0-256."""
    reason: str = ""
    """Of the failure, for people: check, address, what was expected and what came. Empty when up."""


LATE_BUCKETS_MS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 5000)
"""Upper bounds; what was later than the last is counted beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Since the process began. It sends this every few seconds."""

    targets: int
    asked: Mapping[str, int]
    """Questions that ended, by ``CheckType``."""
    failed: Mapping[str, int]
    """Of these the failures."""
    unasked: int
    """Questions that this node could not ask (no socket, no port)."""
    held_back: int
    """Questions that waited because too many others were open."""
    late: tuple[int, ...]
    """How many questions began so late, by LATE_BUCKETS_MS and beyond. Not cumulative."""
    late_total_us: int
    """Sum of it."""
