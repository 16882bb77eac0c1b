"""The composition root: builds the agent's parts, runs them, ends them in order."""

import asyncio
import contextlib
import datetime
import logging
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from lvsagent import ipc
from lvsagent.adapters import kubeconfig
from lvsagent.adapters.electionclient import ElectionClient
from lvsagent.adapters.glance import Glance
from lvsagent.adapters.http import Answer, HttpServer
from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.kube import ApiClient
from lvsagent.adapters.kubesource import KubeSource
from lvsagent.adapters.manifests import ManifestSource
from lvsagent.adapters.metrics import AgentCollector
from lvsagent.adapters.metrics_traffic import BackendsCollector
from lvsagent.adapters.podgates import PodGates
from lvsagent.adapters.statefile import StateFileError, StateFiles
from lvsagent.adapters.statuswriter import StatusWriter
from lvsagent.checks.messages import Verdict
from lvsagent.core import backends
from lvsagent.core.claims import PORT
from lvsagent.core.diff import Owned
from lvsagent.core.guard import node_problems
from lvsagent.core.hold import Hold
from lvsagent.core.report import election_problems, reports, unserved
from lvsagent.election.keys import Keys
from lvsagent.runtime.affinity import Affinity
from lvsagent.runtime.checks import Checks
from lvsagent.runtime.child import ElectionChild
from lvsagent.runtime.gates import Gatekeeper
from lvsagent.runtime.guard import Guard
from lvsagent.runtime.health import Keeper
from lvsagent.runtime.logs import Format, Throttle
from lvsagent.runtime.loop import Loop
from lvsagent.runtime.node import prepare_node, restore_node
from lvsagent.runtime.ports import Nothing
from lvsagent.runtime.strays import Strays
from lvsagent.runtime.view import View
from lvsagent.runtime.worker import Worker
from lvsapi.model import ObjectKey, Resolved, Snapshot

SAVE_SECONDS = 5.0
"""The last good snapshot is written at most so often."""
RELEASE_SECONDS = 5.0
"""Longest wait for the tables to go, with --cleanup-on-exit."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command line."""

    node: str
    run_dir: Path
    state_dir: Path
    proc_sys: Path
    keys_dir: Path = Path("/etc/lvs-dr/keys")
    """For messages between agents, and for the election that is started with manifests."""
    claims_port: int = PORT
    """UDP port of the messages between agents, the same on every node."""
    manifests: Path | None = None
    """A folder instead of the API."""
    kubeconfig: str | None = None
    metrics: tuple[str, int] | None = ("", 9479)
    """Host, empty for every address, and port; None: no server."""
    election: bool = True
    cleanup_on_exit: bool = False
    log_format: Format = "text"


class App:
    """One agent."""

    def __init__(self, settings: Settings) -> None:
        """Raises kubeconfig.ConfigError."""
        self.settings = settings
        self.view = View(node=settings.node, version=_version())
        self.files = StateFiles(settings.state_dir)
        self.client: ApiClient | None = None
        self.source: KubeSource | ManifestSource
        self.status: StatusWriter | None = None
        if settings.manifests:
            self.source = ManifestSource(settings.manifests, settings.node, self._wake)
        else:
            self.client = ApiClient(kubeconfig.default(settings.kubeconfig))
            self.source = KubeSource(self.client, self._wake)
            self.status = StatusWriter(self.client, settings.node, self.source.observed, _now)
        self.worker = Worker(
            lambda: Kernel(node=settings.node, proc_sys=settings.proc_sys),
            self.files,
            lambda: Glance(settings.proc_sys, settings.state_dir),
        )
        self.guard = Guard(worker=self.worker, view=self.view)
        self.election: ElectionClient | None = None
        if settings.election:
            self.election = ElectionClient(settings.run_dir / "election.sock", self._heard, self._connection)
        self.child: ElectionChild | None = None
        if settings.manifests and self.election:
            self.child = ElectionChild(
                run_dir=settings.run_dir,
                state_dir=settings.state_dir,
                keys_dir=settings.keys_dir,
                log_format=settings.log_format,
                peer=self.election.peer,
            )
        self.health = Keeper(view=self.view, wake=self._wake, hurry=self._hurry, event=self._event)
        self.checks = Checks(verdict=self._verdict, allow_exec=not self.client, log_format=settings.log_format)
        self.view.checks = self.checks.state
        self.health.asks = self.checks
        self.gates: Gatekeeper | None = None
        self.pods: PodGates | None = None
        if self.client:
            self.pods = PodGates(self.client, _now)
            self.gates = Gatekeeper(view=self.view, keeper=self.health, asks=self.checks, writes=self.pods)
            self.health.asks = self.gates
        self.loop = self._loop()
        registry = CollectorRegistry(auto_describe=False)
        AgentCollector(self.view).register(registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.registry = registry
        self.backends = CollectorRegistry(auto_describe=False)
        self.backends.register(BackendsCollector(self.view))
        answers = {"/metrics": self._metrics, "/metrics/backends": self._backends}
        self.http = HttpServer({**answers, "/healthz": self._healthz, "/readyz": self._readyz})
        self._saved = 0.0
        self._to_save: Snapshot | None = None
        self._saving: asyncio.Task[None] | None = None
        self._throttle = Throttle()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT. Returns the exit status."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        if self.settings.metrics:
            try:
                await self.http.start(*self.settings.metrics)
            except OSError as error:
                _log.error("metrics and probes cannot be served", extra={"error": error})
        await self.worker.call(self._prepare)
        work: list[Coroutine[Any, Any, None]] = [self.source.run(), self.loop.run()]
        work += [part.run() for part in (self.election, self.child, self.status, self.pods) if part]
        if self.election:
            self.view.hold = Hold()
            part = Affinity(
                view=self.view,
                call=self.worker.call,
                keys=self._keys(),
                port=self.settings.claims_port,
                wake=self.loop.wake,
            )
            self.loop.programmed = part.noticed
            work.append(part.run())
        strays = Strays(view=self.view, call=self.worker.call, ways=self.worker.ways, facts=lambda: self.loop.facts)
        work += [self.guard.watch(self.loop.stirred, self.loop.wake), self.checks.run(), strays.run()]
        tasks = [asyncio.create_task(item) for item in work]
        stopped = asyncio.create_task(stop.wait())
        _log.info("ready", extra={"node": self.settings.node, "version": self.view.version})
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task.done()]
        for task in failed:
            _log.error("a part of the agent ended", exc_info=task.exception())
        if self.settings.cleanup_on_exit:
            await self._clean_up()
        else:
            await self._carry_out()
        stopped.cancel()
        await self._end(tasks)
        return 1 if failed else 0

    # -- parts of it ---------------------------------------------------------------------------------------------

    def _keys(self) -> Keys:
        def complain(message: str, **fields: object) -> None:
            _log.warning(message, extra=fields)

        return Keys(self.settings.keys_dir, complain)

    def _loop(self) -> Loop:
        owned, adopt = Owned(), False
        try:
            owned = self.files.load_owned()
        except StateFileError as error:
            adopt = True
            _log.warning("the record of what is ours cannot be used", extra={"error": error})
        try:
            saved = self.files.load_snapshot()
            if saved:
                age = max(0, round(time.time() - saved.saved))
                _log.info("serving from the last good state until the source answers", extra={"age_seconds": age})
                self.source.seed(saved.snapshot)
        except StateFileError as error:
            _log.warning("the last good state cannot be used; nothing is removed until the source answers",
                         extra={"error": error})  # fmt: skip
        return Loop(
            source=self.source,
            worker=self.worker,
            view=self.view,
            guard=self.guard,
            health=self.health,
            election=self.election,
            standalone=self.settings.manifests is not None,
            owned=owned,
            adopt=adopt,
            passed=self._passed,
            transition=self._transition,
            prepare=self._prepare,
        )

    def _wake(self) -> None:
        self.loop.wake()

    def _hurry(self) -> None:
        self.loop.hurry()

    def _event(self, key: ObjectKey, kind: str, reason: str, message: str) -> None:
        if self.status is not None:
            self.status.event(key, kind, reason, message)

    def _heard(self, message: ipc.Message) -> None:
        self.loop.heard(message)

    def _verdict(self, verdict: Verdict) -> None:
        (self.gates or self.health).heard(verdict)

    def _connection(self, connected: bool) -> None:
        self.loop.connection(connected)

    def _passed(self, snapshot: Snapshot) -> None:
        self.view.health, self.view.held = self.source.health, self.source.held
        if self.source.synced:
            self._to_save = self.source.lasting(snapshot)
            if self._saving is None or self._saving.done():
                self._saving = asyncio.create_task(self._save())
        if self.gates:
            self.gates.passed(snapshot, self.loop.facts)
        if self.status and isinstance(self.source, KubeSource):
            nodes = {key: item.active_node for key, item in self.source.observed.items()}
            view = self.view
            problems = (
                *view.problems,
                *election_problems(view.resolved, view.claims.routers),
                *unserved(view.resolved, view.claims.routers),
                *node_problems(view.resolved, view.node_findings),
                *self.source.warnings,
            )
            self._post(self.source)
            self.status.want(
                reports(
                    view.resolved,
                    view.claims.active,
                    problems,
                    self.settings.node,
                    nodes,
                    serving=view.effective,
                    health=backends.conditions(view.resolved, view.watch),
                )
            )

    def _post(self, source: KubeSource) -> None:
        """What the source has to say about objects, by the node that is Active for them."""
        news, source.news = source.news, []
        active = {owner for r in self.view.resolved.routers if r.name in self.view.claims.active for owner in r.owners}
        for key, reason, message in news:
            if key in active:
                self._event(key, "Warning", reason, f"Node {self.settings.node}: {message}")

    async def _save(self) -> None:
        """The last good snapshot, not too often, off the loop."""
        await asyncio.sleep(max(0.0, self._saved + SAVE_SECONDS - time.monotonic()))
        self._saved = time.monotonic()
        if self._to_save is not None:
            try:
                await asyncio.to_thread(self.files.save_snapshot, self._to_save)
            except OSError as error:
                self.view.state_errors += 1
                if self._throttle.allows("snapshot", time.monotonic()):
                    _log.error("the last good state cannot be written", extra={"error": error})

    def _transition(self, message: ipc.StateChanged, resolved: Resolved) -> None:
        if self.status is None or "Active" not in (message.state, message.previous):
            return
        router = next((router for router in resolved.routers if router.name == message.router), None)
        became = message.state == "Active"
        for owner in router.owners if router else ():
            self.status.event(
                owner,
                "Normal" if became else "Warning",
                "Active" if became else "NoLongerActive",
                f"Node {self.settings.node}: virtual router {message.router} went from {message.previous} to"
                f" {message.state} ({message.cause})",
            )

    def _prepare(self) -> None:
        prepare_node(self.settings.node, self.settings.proc_sys, self.settings.state_dir)

    # -- the end -------------------------------------------------------------------------------------------------

    async def _clean_up(self) -> None:
        """Nothing is wanted any more; wait until nothing is left."""
        self.loop.source = Nothing()
        self.loop.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                while self.loop.owned.services or self.loop.owned.loopback:
                    await asyncio.sleep(0.02)

    async def _carry_out(self) -> None:
        """Who goes after everything was deleted is being uninstalled: what was deleted is not held any longer."""
        gone = self.source.release() if isinstance(self.source, KubeSource) else frozenset()
        if not gone:
            return
        _log.info("deletions that were held are carried out before the end", extra={"number": len(gone)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                while self._still(gone):
                    await asyncio.sleep(0.02)

    def _still(self, gone: frozenset[ObjectKey]) -> bool:
        plan, owned = self.view.plan, self.loop.owned
        resolved = any(server.owner in gone for server in self.view.resolved.servers)
        return resolved or (plan is not None and not owned.services <= plan.state.services.keys())

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        if self.child:
            tasks[self._place_of_child()].cancel()
            await self.child.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.checks.stop()
        empty = not self.loop.owned.services and not self.loop.owned.loopback
        if empty and self.loop.have is not None:
            await self.worker.call(lambda: restore_node(self.settings.proc_sys, self.settings.state_dir))
        if self._to_save is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.files.save_snapshot, self._to_save)
        await self.worker.close()
        if self.client:
            await self.client.close()
        await self.http.close()
        _log.info("ended", extra={"tables": "none" if empty else "stay for the next agent"})

    def _place_of_child(self) -> int:
        return 2 + sum(part is not None for part in (self.election,))

    # -- answers -------------------------------------------------------------------------------------------------

    def _metrics(self) -> Answer:
        self.view.health, self.view.held = self.source.health, self.source.held
        return 200, CONTENT_TYPE_LATEST, generate_latest(self.registry)

    def _backends(self) -> Answer:
        return 200, CONTENT_TYPE_LATEST, generate_latest(self.backends)

    def _healthz(self) -> Answer:
        healthy = self.view.healthy(time.monotonic())
        return (200, "text/plain", b"ok\n") if healthy else (500, "text/plain", b"the loop does not turn\n")

    def _readyz(self) -> Answer:
        if self.view.ready():
            return 200, "text/plain", b"ok\n"
        text = b"tables are not in place yet\n" if self.view.kernel_supported else b"the kernel cannot be programmed\n"
        return 503, "text/plain", text


def _now() -> str:
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version() -> str:
    try:
        return version("lvs-dr-operator")
    except PackageNotFoundError:
        return "unknown"
