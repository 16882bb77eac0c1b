"""A kernel in memory: ``core.diff.apply`` is its model, and it can be told to fail."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface

from lvsagent.adapters.loops import Guarded
from lvsagent.core.diff import AddService, IpvsOp, Op
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.loops import LoopGuard, Standing
from lvsagent.core.model import apply
from lvsagent.core.senders import Ways
from lvsagent.core.state import Interface, KernelState, NodeFacts, Service, ServiceKey
from lvsagent.core.sysctl import REQUIRED
from lvsagent.core.traffic import Readings
from lvsapi.model import IPAddress


@dataclass
class FakeKernel:
    """As ``adapters.kernel.Kernel``."""

    node: str = "node1"
    state: KernelState = field(default_factory=lambda: KernelState(sysctls=dict(REQUIRED)))
    applied: list[Op] = field(default_factory=list)
    refuse: type | None = None
    """Operations of this type fail."""
    broken: OSError | None = None
    """Raised by everything."""
    guards: list[LoopGuard] = field(default_factory=list)
    guarded_at: list[int] = field(default_factory=list)
    """For each of them how many operations had been applied."""
    idle: frozenset[ServiceKey] = frozenset()
    ways: Ways = field(default_factory=Ways)
    guard_errors: tuple[str, ...] = ()
    readings: Readings = field(default_factory=dict)

    def read(self, wanted: Collection[ServiceKey] | None = None) -> KernelState:
        if self.broken:
            raise self.broken
        return self.state

    def readback(self, ops: Sequence[Op], before: KernelState) -> KernelState:
        return self.read()

    def reread(
        self, keys: Collection[ServiceKey], before: Mapping[ServiceKey, Service]
    ) -> Mapping[ServiceKey, Service]:
        return self.read().services

    def facts(self, virtual: Collection[IPAddress] = ()) -> NodeFacts:
        eth0 = Interface(
            name="eth0", index=2, mac="02:00:00:00:00:01", up=True, addresses=(ip_interface("192.168.139.101/24"),)
        )
        return NodeFacts(node=self.node, interfaces=(eth0,), default_interface={4: "eth0"})

    def apply(self, ops: Sequence[Op]) -> tuple[OperationFailed, ...]:
        self.read()
        failures = []
        for op in ops:
            lacking = (
                isinstance(op, IpvsOp) and not isinstance(op, AddService) and op.service not in self.state.services
            )
            if lacking:
                message = f"{op}: no such service"
                failures.append(OperationFailed(op=op, reason=Reason.NO_SUCH_SERVICE, errno=3, message=message))
            elif self.refuse and isinstance(op, self.refuse):
                failures.append(OperationFailed(op=op, reason=Reason.INVALID, errno=22, message=f"{op}: refused"))
            else:
                self.state = apply(self.state, op)
                self.applied.append(op)
        return tuple(failures)

    def guard_loops(self, wish: LoopGuard, there: Standing) -> Guarded:
        self.guards.append(wish)
        self.guarded_at.append(len(self.applied))
        changes, there = wish.services != there, wish.services
        return Guarded(changes=changes, errors=self.guard_errors, there=there, idle=self.idle, ways=self.ways)

    def close(self) -> None:
        pass
