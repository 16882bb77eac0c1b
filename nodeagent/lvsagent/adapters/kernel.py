"""The node's kernel as one object: read it, apply operations, read back. Blocking; owned by one worker thread."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

from lvsagent.adapters.addresses import Addresses
from lvsagent.adapters.facts import read_facts
from lvsagent.adapters.ipvs import Ipvs
from lvsagent.adapters.procfs import Sysctls
from lvsagent.core.diff import AddLoopback, DeleteLoopback, IpvsOp, Op, SetSysctl, held_back
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.state import KernelState, NodeFacts, Service, ServiceKey
from lvsagent.core.sysctl import REQUIRED


class Kernel:
    """IPVS, ``lo`` and sysctls of the network namespace of the thread that opens it. A context manager.

    Raises ``IpvsUnavailable`` when the kernel has no IPVS or we may not use it.
    """

    def __init__(self, *, node: str, proc_sys: Path) -> None:
        self.node = node
        self.sysctls = Sysctls(proc_sys)
        self.addresses = Addresses()
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
        self.addresses.close()

    def read(self) -> KernelState:
        """Everything that can concern us, foreign things included."""
        return KernelState(
            services=self.ipvs.read(), loopback=self.addresses.loopback(), sysctls=self._settings(REQUIRED)
        )

    def readback(self, ops: Sequence[Op], before: KernelState) -> KernelState:
        """``before`` with what the operations touched read again: the cost is that of the change, not of the table."""
        services: dict[ServiceKey, Service] = dict(before.services)
        loopback, sysctls = before.loopback, before.sysctls
        for key in {op.service: None for op in ops if isinstance(op, IpvsOp)}:
            service = self.ipvs.read_service(key)
            services.pop(key, None)
            if service:
                services[key] = service
        if any(isinstance(op, AddLoopback | DeleteLoopback) for op in ops):
            loopback = self.addresses.loopback()
        if any(isinstance(op, SetSysctl) for op in ops):
            sysctls = self._settings(REQUIRED)
        return KernelState(services=services, loopback=loopback, sysctls=sysctls)

    def facts(self) -> NodeFacts:
        """Interfaces, addresses, default routes."""
        return read_facts(self.node, self.addresses)

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

    def _settings(self, keys: Iterable[str]) -> Mapping[str, str]:
        return {key: value for key, value in self.sysctls.read(keys).items() if value is not None}

    def _run_sysctls(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        outcomes = [self.sysctls.write(op.key, op.value) for op in ops if isinstance(op, SetSysctl)]
        return [failure for failure in outcomes if failure]

    def _run_loopback(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        return self.addresses.apply([op for op in ops if isinstance(op, AddLoopback | DeleteLoopback)])

    def _run_ipvs(self, ops: Sequence[Op]) -> Iterable[OperationFailed]:
        return self.ipvs.apply([op for op in ops if isinstance(op, IpvsOp)])


def _runner(op: Op) -> Callable[[Kernel, Sequence[Op]], Iterable[OperationFailed]]:
    if isinstance(op, SetSysctl):
        return Kernel._run_sysctls
    return Kernel._run_loopback if isinstance(op, AddLoopback | DeleteLoopback) else Kernel._run_ipvs


def _held_back(op: Op) -> OperationFailed:
    message = f"{op}: held back because an operation before it failed; the next pass tries again"
    return OperationFailed(op=op, reason=Reason.HELD_BACK, errno=0, message=message)
