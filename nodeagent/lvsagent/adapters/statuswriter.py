"""Writes what the Active node knows into the objects' status: on change, at most once a second each, patiently.

An object whose status is refused is tried again by itself, less and less often, and keeps no other waiting.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lvsagent.adapters.kube import ApiClient, ApiError
from lvsagent.adapters.kubesource import OUR_API, Observed
from lvsagent.adapters.reflector import backoff
from lvsagent.adapters.retries import Retries
from lvsagent.core.report import Report
from lvsagent.runtime.logs import Throttle
from lvsapi import names
from lvsapi.model import ObjectKey
from lvsapi.status import agent_status, ready_said

SECONDS_BETWEEN = 1.0
MOST_PATIENCE = 60.0
"""Seconds between two writes of the same: two nodes that are Active both, as a firewall between them makes them, would
otherwise write every status every second for as long as it lasts."""
MOST_EVENTS = 100
"""Waiting to be posted; more are dropped: events are a courtesy."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Written:
    report: Report
    generation: int
    at: float
    ready: tuple[object, object] | None
    """Status and reason of Ready."""
    patience: float
    """Seconds until the same is written again over somebody else's."""


@dataclass(slots=True)
class StatusWriter:
    """``want`` the reports, ``run`` until cancelled."""

    client: ApiClient
    node: str
    observed: Mapping[ObjectKey, Observed]
    clock: Callable[[], str]
    """Now, RFC 3339."""
    _wanted: dict[ObjectKey, Report] = field(default_factory=dict)
    _written: dict[ObjectKey, _Written] = field(default_factory=dict)
    _since: dict[ObjectKey, str] = field(default_factory=dict)
    _events: list[tuple[ObjectKey, str, str, str]] = field(default_factory=list)
    _retries: Retries[ObjectKey] = field(default_factory=Retries)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _throttle: Throttle = field(default_factory=Throttle)

    def want(self, reports: Mapping[ObjectKey, Report]) -> None:
        """All objects that this node has something to say about."""
        for key in self._wanted.keys() - reports.keys():
            self._written.pop(key, None)
            self._since.pop(key, None)
        self._wanted = dict(reports)
        self._retries.keep(self._wanted)
        if any(self._due(key, report) for key, report in reports.items()):
            self._wake.set()

    def event(self, key: ObjectKey, kind: str, reason: str, message: str) -> None:
        """Post a Kubernetes Event when there is time. kind: Normal or Warning."""
        if len(self._events) < MOST_EVENTS:
            self._events.append((key, kind, reason, message))
            self._wake.set()

    @property
    def pending(self) -> int:
        """Events that wait."""
        return len(self._events)

    async def run(self) -> None:
        """Write for ever."""
        failures = 0
        while True:
            await self._wait()
            self._wake.clear()
            try:
                # Who failed comes last: one that is never answered would keep the others waiting once more.
                for key, report in sorted(self._wanted.items(), key=lambda item: item[0] in self._retries):
                    if self._due(key, report):
                        await self._write(key, report)
                await self._post()
                failures = 0
            except ApiError as error:
                failures += 1
                await asyncio.sleep(backoff(failures, error.retry_after))
                self._wake.set()

    async def _wait(self) -> None:
        """Until something is to be written, and a second after the last write of it."""
        try:
            async with asyncio.timeout(SECONDS_BETWEEN):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _due(self, key: ObjectKey, report: Report) -> bool:
        observed, written = self.observed.get(key), self._written.get(key)
        if observed is None or not self._retries.due(key, time.monotonic()):
            return False
        if written is None:
            return True
        age = time.monotonic() - written.at
        if report != written.report or observed.metadata.get("generation") != written.generation:
            return age >= SECONDS_BETWEEN
        return age >= written.patience and self._overwritten(observed, report, written)

    def _overwritten(self, observed: Observed, report: Report, written: "_Written") -> bool:
        """By a node that was Active before, or that knew of no Active node when it spoke; by the operator; or by one
        that is Active, too, and writes as we do: so each waits ever longer."""
        if not report.active:
            return False
        return observed.active_node != self.node or ready_said(observed.conditions) not in (None, written.ready)

    async def _write(self, key: ObjectKey, report: Report) -> None:
        observed = self.observed[key]
        now = self.clock()
        if key not in self._since:
            mine = observed.active_node == self.node and observed.active_since
            self._since[key] = observed.active_since if mine else now
        body: dict[str, Any] = agent_status(
            observed.as_object(),
            node=self.node,
            since=self._since[key],
            ready=report.ready,
            total=report.total,
            problems=report.problems,
            now=now,
            kept=(report.kept.all, report.kept.reason, report.kept.message),
            health=report.health,
            active=report.active,
        )
        path = f"{OUR_API}/namespaces/{key.namespace}/{names.PLURAL}/{key.name}/status"
        generation = observed.metadata.get("generation")
        try:
            await self.client.apply_status(path, body)
        except ApiError as error:
            if error.reason not in ("http_404", "http_409", "http_422"):
                self._failed(key, error)
                return
            # Deleted or replaced meanwhile, or refused for good: what is written next depends on what is seen next.
            _log.info("a status was not taken", extra={"object": key, "error": error})
        self._retries.done(key)
        before, generation = self._written.get(key), generation if isinstance(generation, int) else 0
        same = before is not None and (before.report, before.generation) == (report, generation)
        self._written[key] = _Written(
            report=report,
            generation=generation,
            patience=min(2 * before.patience, MOST_PATIENCE) if before is not None and same else SECONDS_BETWEEN,
            at=time.monotonic(),
            ready=ready_said(body["status"]["conditions"]),
        )

    def _failed(self, key: ObjectKey, error: ApiError) -> None:
        """Raises the error when the others need not be tried."""
        self._retries.failed(key, error, time.monotonic())
        about = error.reason if error.everywhere else f"{key} {error.reason}"
        if self._throttle.allows(about, time.monotonic()):
            _log.warning(
                "a status cannot be written; trying again",
                extra={"object": key, "reason": error.reason, "error": error},
            )
        if error.everywhere:
            raise error

    async def _post(self) -> None:
        while self._events:
            key, kind, reason, message = self._events[0]
            observed = self.observed.get(key)
            if observed is None:
                del self._events[0]
                continue
            now = self.clock()
            body = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"generateName": f"{key.name}.", "namespace": key.namespace},
                "involvedObject": {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "namespace": key.namespace,
                    "name": key.name,
                    "uid": observed.metadata.get("uid", ""),
                },
                "type": kind,
                "reason": reason,
                "message": message[:1024],
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
                "source": {"component": "lvs-agent", "host": self.node},
                "reportingComponent": f"{names.GROUP}/lvs-agent",
                "reportingInstance": self.node,
            }
            try:
                await self.client.create(f"/api/v1/namespaces/{key.namespace}/events", body)
            except ApiError as error:
                if error.everywhere and error.reason != "timeout":
                    raise
                _log.info("an event was not posted", extra={"object": key, "error": error})
            del self._events[0]
