"""The kernel behind one thread: netlink blocks, and the sockets belong to the thread that opened them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lvsagent.adapters.statefile import StateFiles
from lvsagent.core.diff import IpvsOp, Op, Owned
from lvsagent.core.failure import OperationFailed
from lvsagent.core.state import KernelState, NodeFacts

T = TypeVar("T")

FEW_SERVICES = 20
"""Up to here services are read back one by one; above, one dump is cheaper when most of them were touched."""


class KernelPort(Protocol):
    """What the loop needs of ``adapters.kernel.Kernel``."""

    def read(self) -> KernelState: ...
    def readback(self, ops: Sequence[Op], before: KernelState) -> KernelState: ...
    def facts(self) -> NodeFacts: ...
    def apply(self, ops: Sequence[Op]) -> tuple[OperationFailed, ...]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The outcome of a step."""

    failures: tuple[OperationFailed, ...]
    state: KernelState
    """Read back."""
    seconds: float
    """For writing and reading back."""
    unsaved: str
    """Why the record of what is ours could not be written; empty when it was."""


class Worker:
    """The only owner of the kernel. Opened on first use, and again after it failed."""

    def __init__(self, open_kernel: Callable[[], KernelPort], files: StateFiles) -> None:
        self._open_kernel = open_kernel
        self._files = files
        self._kernel: KernelPort | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kernel")

    async def read(self) -> tuple[KernelState, NodeFacts]:
        """Everything. Raises OSError (IpvsUnavailable is one)."""
        return await self._run(lambda kernel: (kernel.read(), kernel.facts()))

    async def apply(self, ops: Sequence[Op], before: KernelState, owned: Owned) -> Applied:
        """Record what will be ours, write, read back. Raises OSError when the kernel does not answer."""

        def work(kernel: KernelPort) -> Applied:
            unsaved = self._save(owned)
            started = time.monotonic()
            failures = kernel.apply(ops)
            touched = {op.service for op in ops if isinstance(op, IpvsOp)}
            whole = failures or 2 * len(touched) > len(before.services.keys() | touched) > FEW_SERVICES
            state = kernel.read() if whole else kernel.readback(ops, before)
            return Applied(failures=failures, state=state, seconds=time.monotonic() - started, unsaved=unsaved)

        return await self._run(work)

    async def save(self, owned: Owned) -> str:
        """Record what is ours. Returns why it could not be written, or ""."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._save, owned)

    async def call(self, work: Callable[[], T]) -> T:
        """Anything else that must not run beside an operation."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def close(self) -> None:
        """Wait for what runs, then close."""
        kernel, self._kernel = self._kernel, None
        if kernel:
            await self.call(kernel.close)
        self._executor.shutdown(wait=False)

    async def _run(self, work: Callable[[KernelPort], T]) -> T:
        def guarded() -> T:
            if self._kernel is None:
                self._kernel = self._open_kernel()
            try:
                return work(self._kernel)
            except OSError:
                kernel, self._kernel = self._kernel, None
                kernel.close()
                raise

        return await self.call(guarded)

    def _save(self, owned: Owned) -> str:
        try:
            self._files.save_owned(owned)
        except OSError as error:
            return str(error)
        return ""
