"""What the agent knows of itself, for metrics and probes. Written by the loop, read by the collector beside it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from lvsagent.adapters.reflector import Health
from lvsagent.core.agent import Claims
from lvsagent.core.brakes import Held
from lvsagent.core.guard import NodeReadings, Thing
from lvsagent.core.health import Watch
from lvsagent.core.hold import Hold
from lvsagent.core.plan import NodePlan
from lvsagent.core.state import KernelState
from lvsagent.core.traffic import Traffic
from lvsagent.ipc import PeerNode
from lvsagent.runtime.checks import ChecksState
from lvsapi.model import Problem, Resolved

PASS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds."""
HEARTBEAT_SECONDS = 10.0


@dataclass(slots=True)
class Histogram:
    """Counts by bucket, as Prometheus wants them."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(PASS_BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """One measurement."""
        place = next((number for number, bound in enumerate(PASS_BUCKETS) if seconds <= bound), len(PASS_BUCKETS))
        self.counts[place] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Upper bound and how many were at or below it."""
        running, pairs = 0, []
        for bound, count in zip((*map(str, PASS_BUCKETS), "+Inf"), self.counts, strict=True):
            running += count
            pairs.append((bound, float(running)))
        return pairs


@dataclass(slots=True)
class View:
    """The agent at this moment."""

    node: str
    version: str
    claims: Claims = field(default_factory=Claims)
    election_connected: bool = False
    resolved: Resolved = field(default_factory=lambda: Resolved(servers=(), routers=(), problems=()))
    effective: Resolved | None = None
    """With the weights that follow from the backends' health; None: not weighed yet."""
    watch: Watch = field(default_factory=Watch)
    peers: tuple[PeerNode, ...] = ()
    """Every node of which an address is known, this one too."""
    plan: NodePlan | None = None
    problems: tuple[Problem, ...] = ()
    kernel_supported: bool = True
    in_place: bool = False
    """A pass ended with every table as wanted, or with named conflicts only."""
    heartbeat: float = 0.0
    """Monotonic seconds of the last turn of the loop."""
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Failed operations by (operation, reason)."""
    operations: Counter[str] = field(default_factory=Counter)
    programming: Histogram = field(default_factory=Histogram)
    health: Mapping[str, Health] = field(default_factory=dict)
    held: Mapping[tuple[str, Held], int] = field(default_factory=dict)
    """Objects that the API does not have and that are kept, by resource and reason."""
    exchanged: Counter[str] = field(default_factory=Counter)
    """``told``, ``heard``, ``written`` and ``forgotten`` connections whose place in the table had changed, and how many
    were ``left_out``."""
    exchange_dropped: Counter[str] = field(default_factory=Counter)
    """Datagrams about them by reason."""
    differing: frozenset[str] = frozenset()
    """Active nodes with other tables than this one's."""
    exchange_errors: int = 0
    """Times when connections could not be read, told or written."""
    hold: Hold | None = None
    """None: nobody tells this node of connections, so it waits for nobody."""
    state_errors: int = 0
    actual: KernelState | None = None
    """As last read from the kernel."""
    traffic: Traffic = field(default_factory=Traffic)
    repairs: Counter[Thing] = field(default_factory=Counter)
    """Things of ours that somebody changed and that were put back."""
    node_findings: Mapping[str, str] = field(default_factory=dict)
    """``core.guard.NodeFinding`` with a sentence each."""
    node_readings: NodeReadings = field(default_factory=NodeReadings)
    checks: ChecksState = field(default_factory=ChecksState)
    """``Checks.state`` of the agent."""

    def healthy(self, now: float) -> bool:
        """Liveness: the loop turns."""
        return now - self.heartbeat < HEARTBEAT_SECONDS

    def ready(self) -> bool:
        """Readiness: something is known and the kernel has it. An outage of the API changes nothing of this."""
        return self.in_place and self.kernel_supported
