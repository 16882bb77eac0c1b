"""The kernel behind one thread: netlink blocks, and the sockets belong to the thread that opened them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lvsagent.adapters.clients import Made
from lvsagent.adapters.culprits import culprit
from lvsagent.adapters.kernel import FEW_SERVICES
from lvsagent.adapters.loops import Guarded
from lvsagent.adapters.statefile import StateFiles
from lvsagent.core.clients import ClientPaths
from lvsagent.core.diff import IpvsOp, Op, Owned
from lvsagent.core.failure import OperationFailed
from lvsagent.core.guard import Culprit, NodeReadings
from lvsagent.core.loops import LoopGuard, Standing
from lvsagent.core.state import KernelState, NodeFacts
from lvsagent.core.traffic import Readings
from lvsapi.model import IPAddress

T = TypeVar("T")


class KernelPort(Protocol):
    """What the loop needs of ``adapters.kernel.Kernel``."""

    @property
    def readings(self) -> Readings: ...
    def read(self) -> KernelState: ...
    def readback(self, ops: Sequence[Op], before: KernelState) -> KernelState: ...
    def facts(self) -> NodeFacts: ...
    def guard_loops(self, wish: LoopGuard, there: Standing) -> Guarded: ...
    def apply(self, ops: Sequence[Op]) -> tuple[OperationFailed, ...]: ...
    def close(self) -> None: ...


class GlancePort(Protocol):
    """What the guard needs of ``adapters.glance.Glance``."""

    def look(self) -> int: ...
    def inspect(self, remote: Sequence[IPAddress]) -> NodeReadings: ...
    def make(self, paths: ClientPaths) -> Made: ...
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

    def __init__(
        self,
        open_kernel: Callable[[], KernelPort],
        files: StateFiles,
        open_glance: Callable[[], GlancePort] | None = None,
    ) -> None:
        self._open_kernel = open_kernel
        self._open_glance = open_glance
        self._glance: GlancePort | None = None
        self._seen: int | None = None
        """As the kernel looked before we last read it."""
        self.readings: Readings = {}
        """What IPVS had counted when everything was read last."""
        self._files = files
        self._kernel: KernelPort | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kernel")

    async def read(self) -> tuple[KernelState, NodeFacts]:
        """Everything. Raises OSError (IpvsUnavailable is one)."""

        def work(kernel: KernelPort) -> tuple[KernelState, NodeFacts]:
            # First: what changes while we read is seen by the next look.
            self._seen = self._look()
            state, facts = kernel.read(), kernel.facts()
            self.readings = kernel.readings
            return state, facts

        return await self._run(work)

    async def moved(self) -> bool:
        """Whether anything is otherwise than when we last read it, at a fraction of the cost."""
        return await self.call(lambda: self._seen is not None and self._look() not in (self._seen, None))

    async def inspect(self, remote: Sequence[IPAddress]) -> NodeReadings:
        """Settings of the node that are not ours. Raises OSError."""
        return await self.call(lambda: self._with_glance(lambda glance: glance.inspect(remote)) or NodeReadings())

    async def make(self, paths: ClientPaths) -> Made:
        """What clients inside the cluster need. Raises OSError."""
        return await self.call(lambda: self._with_glance(lambda glance: glance.make(paths)) or Made())

    async def guard_loops(self, wish: LoopGuard, there: Standing) -> Guarded:
        """Services for packets that other nodes sent on. Raises OSError."""

        def work(kernel: KernelPort) -> Guarded:
            done = kernel.guard_loops(wish, there)
            if done.changes:
                self._seen = self._look()
            return done

        return await self._run(work)

    async def culprit(self, interfaces: Sequence[str]) -> Culprit | None:
        """Who else programs this node's IPVS."""
        return await asyncio.to_thread(culprit, interfaces)

    async def apply(self, ops: Sequence[Op], before: KernelState, owned: Owned) -> Applied:
        """Record what will be ours, write, read back. Raises OSError when the kernel does not answer."""

        def work(kernel: KernelPort) -> Applied:
            unsaved = self._save(owned)
            started = time.monotonic()
            failures = kernel.apply(ops)
            self._seen = self._look()
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
        for opened in (self._kernel, self._glance):
            if opened:
                await self.call(opened.close)
        self._kernel = self._glance = None
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

    def _look(self) -> int | None:
        try:
            return self._with_glance(lambda glance: glance.look())
        except OSError:
            return None  # the kernel itself says more when it is read

    def _with_glance(self, work: Callable[[GlancePort], T]) -> T | None:
        if self._open_glance is None:
            return None
        if self._glance is None:
            self._glance = self._open_glance()
        try:
            return work(self._glance)
        except OSError:
            glance, self._glance = self._glance, None
            glance.close()
            raise

    def _save(self, owned: Owned) -> str:
        try:
            self._files.save_owned(owned)
        except OSError as error:
            return str(error)
        return ""
