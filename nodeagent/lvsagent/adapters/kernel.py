"""The node's kernel as one object: read it, apply operations, read back. Blocking; owned by one worker thread."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

from lvsagent.adapters.addresses import Addresses
from lvsagent.adapters.facts import read_facts
from lvsagent.adapters.ipvs import Ipvs
from lvsagent.adapters.loops import Guarded, Loops, busy
from lvsagent.adapters.nftables import Marks
from lvsagent.adapters.procfs import Sysctls
from lvsagent.core.brakes import held_back
from lvsagent.core.diff import AddLoopback, DeleteLoopback, IpvsOp, Op, RuleOp, SetSysctl, SyncOp
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.loops import DOUBT_MARKS, LoopGuard, Standing, ours, steps
from lvsagent.core.state import KernelState, NodeFacts, Service, ServiceKey
from lvsagent.core.sysctl import OCCASIONAL, REQUIRED
from lvsagent.core.traffic import Readings
from lvsapi.model import IPAddress

TABLE = Path("/proc/thread-self/net/ip_vs")
FEW_SERVICES = 20
"""Up to here services are read back one by one; above, one dump is cheaper when most of them were touched."""
MANY_SERVICES = 100
"""The same where it is not known how many there are: a dump of 1,000 costs as much as 700 one by one."""


class Kernel:
    """IPVS, firewall marks, ``lo`` and sysctls of the network namespace of the thread that opens it. A context manager.

    Raises ``IpvsUnavailable`` when the kernel has no IPVS or we may not use it.
    """

    def __init__(self, *, node: str, proc_sys: Path) -> None:
        self.node = node
        self.sysctls = Sysctls(proc_sys)
        self.addresses = Addresses()
        self.marks = Marks()
        self._loops: Loops | None = None
        try:
            self.ipvs = Ipvs()
        except OSError:
            self.addresses.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        self.ipvs.close()
        self.marks.close()
        self.addresses.close()
        if self._loops is not None:
            self._loops.close()

    def read(self, wanted: Collection[ServiceKey] | None = None) -> KernelState:
        """Everything that can concern us, foreign things included. ``wanted``: of services these, and those with
        firewall marks of ours; None: all."""
        found = self.ipvs.read(wanted)  # first: it says best what is missing
        marks, refusals = self.marks.rules()
        named = {(mark.address.version, mark.value): mark for mark in marks}
        services: dict[ServiceKey, Service] = {}
        for key, service in found.items():
            mark = named.get((key.address.version, key.mark))
            if mark is not None:
                key = ServiceKey(address=mark.address, protocol=mark.protocol, port=mark.first, mark=mark.value)
                service = replace(service, key=key)
            services[key] = service
        return KernelState(
            services=services,
            loopback=self.addresses.loopback(),
            sysctls=self._settings(),
            marks=marks,
            refusals=refusals,
            daemons=self.ipvs.daemons(),
        )

    @property
    def readings(self) -> Readings:
        """What IPVS had counted at the last ``read``."""
        return self.ipvs.readings

    def readback(self, ops: Sequence[Op], before: KernelState) -> KernelState:
        """``before`` with what the operations touched read again: the cost is that of the change, not of the table."""
        loopback, sysctls = before.loopback, before.sysctls
        rules = before.marks, before.refusals
        services = self.reread({op.service: None for op in ops if isinstance(op, IpvsOp)}, before.services)
        if any(isinstance(op, AddLoopback | DeleteLoopback) for op in ops):
            loopback = self.addresses.loopback()
        if any(isinstance(op, SetSysctl) for op in ops):
            sysctls = self._settings()
        if any(isinstance(op, RuleOp) for op in ops):
            rules = self.marks.rules()
        return KernelState(
            services=services,
            loopback=loopback,
            sysctls=sysctls,
            marks=rules[0],
            refusals=rules[1],
            daemons=self.ipvs.daemons() if any(isinstance(op, SyncOp) for op in ops) else before.daemons,
        )

    def reread(self, keys: Iterable[ServiceKey], before: Mapping[ServiceKey, Service]) -> Mapping[ServiceKey, Service]:
        """``before`` with these services read again."""
        services, keys = dict(before), tuple(keys)
        for key in keys:
            services.pop(key, None)
        return services | self.ipvs.read_services(keys)

    def facts(self, virtual: Collection[IPAddress] = ()) -> NodeFacts:
        """Interfaces, addresses but for the ``virtual`` ones that the election holds, default routes."""
        return read_facts(self.node, self.addresses, virtual)

    def apply(self, ops: Sequence[Op]) -> tuple[OperationFailed, ...]:
        """All operations in order. What would break the invariant after a failure is held back and reported so.

        Raises NetlinkError when the kernel does not answer at all.
        """
        failures: list[OperationFailed] = []
        for run, group in groupby(ops, key=_runner):
            allowed: list[Op] = []
            failed = [failure.op for failure in failures]
            for op in group:
                if held_back(op, failed):
                    failures.append(_held_back(op))
                else:
                    allowed.append(op)
            failures += run(self, allowed)
        return tuple(failures)

    def guard_loops(self, wish: LoopGuard, there: Standing) -> Guarded:
        """Services for packets that other nodes sent on, and their marks. ``there``: services of ours as last read.
        Raises OSError."""
        if self._loops is None:
            self._loops = Loops()
        ops = steps(wish, there)
        failures = self.apply(ops)
        touched = {op.service for op in ops if isinstance(op, IpvsOp)}
        many = len(touched) > MANY_SERVICES
        after = ours(self.ipvs.read(touched).values()) if many else self.reread(touched, there)
        towards = {self.addresses.interface_to(address) for address in wish.towards}
        ways = self._loops.ways(wish.peers, (index for index in towards if index is not None))
        for address in wish.peers - ways.macs.keys() if wish.every else ():
            index = self.addresses.interface_to(address)
            if index is not None:
                self._loops.ask(address, index)
        written, refused = self._loops.mark(wish, ways.senders)
        errors = (*(failure.message for failure in failures), *refused)
        return Guarded(changes=len(ops) + written, errors=errors, there=after, idle=_idle(after), ways=ways)

    def _settings(self) -> Mapping[str, str]:
        return {key: value for key, value in self.sysctls.read((*REQUIRED, *OCCASIONAL)).items() if value is not None}

    def _run_sysctls(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        outcomes = [self.sysctls.write(op.key, op.value) for op in ops if isinstance(op, SetSysctl)]
        return [failure for failure in outcomes if failure]

    def _run_loopback(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        return self.addresses.apply([op for op in ops if isinstance(op, AddLoopback | DeleteLoopback)])

    def _run_ipvs(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        return self.ipvs.apply([op for op in ops if isinstance(op, IpvsOp)])

    def _run_marks(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        return self.marks.apply([op for op in ops if isinstance(op, RuleOp)])

    def _run_sync(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        return self.ipvs.apply_sync([op for op in ops if isinstance(op, SyncOp)])


def _idle(there: Standing) -> frozenset[ServiceKey]:
    doubted = [key for key in there if key.mark in DOUBT_MARKS]
    used = busy(TABLE.read_text()) if doubted else frozenset[int]()
    return frozenset(key for key in doubted if key.mark not in used)


def _runner(op: Op) -> Callable[[Kernel, Sequence[Op]], Iterable[OperationFailed]]:
    if isinstance(op, SetSysctl):
        return Kernel._run_sysctls
    if isinstance(op, RuleOp):
        return Kernel._run_marks
    if isinstance(op, SyncOp):
        return Kernel._run_sync
    return Kernel._run_loopback if isinstance(op, AddLoopback | DeleteLoopback) else Kernel._run_ipvs


def _held_back(op: Op) -> OperationFailed:
    message = f"{op}: held back because an operation before it failed; the next pass tries again"
    return OperationFailed(op=op, reason=Reason.HELD_BACK, errno=0, message=message)
