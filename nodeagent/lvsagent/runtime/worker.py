"""The kernel behind one thread: netlink blocks, and the sockets belong to the thread that opened them."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from lvsagent.core.loops import OUR_MARKS, LoopGuard, Standing
from lvsagent.core.state import KernelState, NodeFacts, Service, ServiceKey
from lvsagent.core.traffic import Readings
from lvsapi.model import IPAddress

MOVED = -1
"""Seen where nothing is seen like it: hash() never says so."""
T = TypeVar("T")


class KernelPort(Protocol):
    """What the loop needs of ``adapters.kernel.Kernel``."""

    @property
    def readings(self) -> Readings: ...
    def read(self, wanted: Collection[ServiceKey]) -> KernelState: ...
    def reread(self, keys: Collection[ServiceKey], before: Mapping[ServiceKey, Service]) -> Standing: ...
    def readback(self, ops: Sequence[Op], before: KernelState) -> KernelState: ...
    def facts(self, virtual: Collection[IPAddress] = ()) -> NodeFacts: ...
    def guard_loops(self, wish: LoopGuard, there: Standing) -> Guarded: ...
    def apply(self, ops: Sequence[Op]) -> tuple[OperationFailed, ...]: ...
    def close(self) -> None: ...


class GlancePort(Protocol):
    """What the guard needs of ``adapters.glance.Glance``."""

    def look(self, services: Collection[ServiceKey]) -> int: ...
    def inspect(self, remote: Sequence[IPAddress], inside: Collection[str]) -> NodeReadings: ...
    def ways(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, int | None]: ...
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
        self._asked: frozenset[ServiceKey] = frozenset()
        """Services that concern us: what is known of the kernel is known of these."""
        self._beside: frozenset[ServiceKey] = frozenset()
        """And of these: they have firewall marks of ours."""
        self._looked: frozenset[ServiceKey] = frozenset()
        """All of them."""
        self.readings: Readings = {}
        """What IPVS had counted when everything was read last."""
        self._files = files
        self._kernel: KernelPort | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kernel")

    async def read(self, services: frozenset[ServiceKey]) -> tuple[KernelState, NodeFacts]:
        """Everything that concerns us, of services these. Raises OSError (IpvsUnavailable is one)."""

        def work(kernel: KernelPort) -> tuple[KernelState, NodeFacts]:
            # First: what changes while we read is seen by the next look.
            self._concern(services, self._beside)
            self._seen = self._look()
            state, facts = kernel.read(services), kernel.facts({key.address for key in services})
            self.readings = kernel.readings
            if self._concern(services, frozenset(key for key in state.services if key.mark)):
                self._seen = self._look()
            return state, facts

        return await self._run(work)

    async def ask(self, services: frozenset[ServiceKey], before: KernelState) -> KernelState:
        """``before`` with those of the services that were not asked for yet. Raises OSError."""
        fresh = services - self._asked
        if not fresh:
            return before

        def work(kernel: KernelPort) -> KernelState:
            unmoved = self._look() == self._seen
            self._concern(self._asked | fresh, self._beside)
            state = replace(before, services=kernel.reread(fresh, before.services))
            # What moved before is still to be noticed.
            self._seen = self._look() if unmoved else MOVED
            return state

        return await self._run(work)

    def _concern(self, asked: frozenset[ServiceKey], beside: frozenset[ServiceKey]) -> bool:
        """From now on these. True when they are others than before."""
        if (asked, beside) == (self._asked, self._beside):
            return False
        self._asked, self._beside, self._looked = asked, beside, asked | beside
        return True

    async def moved(self) -> bool:
        """Whether anything is otherwise than when we last read it, at a fraction of the cost."""
        return await self.call(lambda: self._seen is not None and self._look() not in (self._seen, None))

    async def inspect(self, remote: Sequence[IPAddress], inside: Collection[str]) -> NodeReadings:
        """Settings of the node that are not ours. Raises OSError."""
        return await self.call(lambda: self._with_glance(lambda g: g.inspect(remote, inside)) or NodeReadings())

    async def ways(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, int | None]:
        """The interface over which each is reached, by index. Raises OSError."""
        wanted = tuple(addresses)
        return await self.call(lambda: self._with_glance(lambda glance: glance.ways(wanted)) or {})

    async def make(self, paths: ClientPaths) -> Made:
        """What clients inside the cluster need. Raises OSError."""
        return await self.call(lambda: self._with_glance(lambda glance: glance.make(paths)) or Made())

    async def guard_loops(self, wish: LoopGuard, there: Standing) -> Guarded:
        """Services for packets that other nodes sent on. Raises OSError."""

        def work(kernel: KernelPort) -> Guarded:
            done = kernel.guard_loops(wish, there)
            if done.changes:
                ranges = frozenset(key for key in self._beside if key.mark not in OUR_MARKS)
                self._concern(self._asked, ranges | done.there.keys())
                self._seen = self._look()
            return done

        return await self._run(work)

    async def culprit(self, interfaces: Sequence[str], sockets: Sequence[int]) -> Culprit | None:
        """Who else programs this node's IPVS. ``sockets``: inodes of our election's."""
        return await asyncio.to_thread(culprit, interfaces, sockets=sockets)

    async def apply(self, ops: Sequence[Op], before: KernelState, owned: Owned) -> Applied:
        """Record what will be ours, write, read back. Raises OSError when the kernel does not answer."""

        def work(kernel: KernelPort) -> Applied:
            unsaved = self._save(owned)
            started = time.monotonic()
            failures = kernel.apply(ops)
            touched = {op.service for op in ops if isinstance(op, IpvsOp)}
            self._concern(self._asked | touched, self._beside)
            self._seen = self._look()
            whole = failures or 2 * len(touched) > len(before.services.keys() | touched) > FEW_SERVICES
            state = kernel.read(self._asked) if whole else kernel.readback(ops, before)
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
            return self._with_glance(lambda glance: glance.look(self._looked))
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
