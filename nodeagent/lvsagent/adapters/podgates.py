"""Writes readiness gates of pods: condition ``lvsdr.io/path`` in ``status.conditions``, by server-side apply.

Only pods that declare the gate are written, and a condition that is True is left: what fails later loses its weight,
not its readiness, which others than clients of virtual addresses go by.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lvsagent.adapters.kube import ApiClient, ApiError
from lvsagent.adapters.reflector import backoff
from lvsagent.adapters.retries import Retries
from lvsagent.core.gates import Gate
from lvsagent.runtime.logs import Throttle
from lvsapi import names
from lvsapi.model import ObjectKey

FIELD_MANAGER = "lvs-agent-gate"
SECONDS_BETWEEN = 2.0
"""From one word about a pod to the next that says no; a yes does not wait."""
REFUSED_SECONDS = 300.0
"""Without the right to read or write a pod: until it is tried again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """Of one pod."""

    gated: bool = False
    """It declares the gate, and the gate is not open yet."""
    since: str = ""
    """Since when the condition is False; empty: there is none."""
    said: Gate | None = None
    at: float = 0.0


@dataclass(slots=True)
class PodGates:
    """``want`` the gates, ``run`` until cancelled."""

    client: ApiClient
    clock: Callable[[], str]
    """Now, RFC 3339."""
    _wanted: dict[tuple[ObjectKey, str], Gate] = field(default_factory=dict)
    _known: dict[tuple[ObjectKey, str], _Known] = field(default_factory=dict)
    _retries: Retries[tuple[ObjectKey, str]] = field(default_factory=Retries)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _throttle: Throttle = field(default_factory=Throttle)
    _fresh: bool = False
    """Something was wanted anew and is not told yet."""

    def want(self, gates: tuple[Gate, ...]) -> None:
        """All that this node has to say."""
        wanted = {(gate.pod, gate.uid): gate for gate in gates}
        if wanted != self._wanted:
            self._wanted = wanted
            self._known = {key: known for key, known in self._known.items() if key in wanted}
            self._retries.keep(wanted)
            self._fresh = True
            self._wake.set()

    @property
    def settled(self) -> bool:
        """Everything was said, or refused."""
        return not self._fresh and all(key in self._known or key in self._retries for key in self._wanted)

    async def run(self) -> None:
        """Write for ever."""
        failures = 0
        while True:
            await self._wait()
            self._wake.clear()
            try:
                wanted = self._wanted
                for key, gate in tuple(wanted.items()):
                    if self._retries.due(key, time.monotonic()):
                        await self._try(key, gate)
                self._fresh = wanted is not self._wanted
                failures = 0
            except ApiError as error:
                failures += 1
                await asyncio.sleep(backoff(failures, error.retry_after))

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(SECONDS_BETWEEN):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _try(self, key: tuple[ObjectKey, str], gate: Gate) -> None:
        """A pod that is refused is tried again by itself. Raises ApiError when the others need not be tried."""
        try:
            await self._tell(gate)
        except ApiError as error:
            forbidden = error.reason == "http_403"
            self._retries.failed(key, error, time.monotonic(), REFUSED_SECONDS if forbidden else 0.0)
            self._complain(gate, error, forbidden)
            if error.everywhere:
                raise
        else:
            self._retries.done(key)

    def _complain(self, gate: Gate, error: ApiError, forbidden: bool) -> None:
        about = error.reason if error.everywhere or forbidden else f"{gate.pod} {error.reason}"
        if not self._throttle.allows(about, time.monotonic()):
            return
        if forbidden:
            _log.warning(
                "agents may not write readiness gates: pods with the gate %s wait for ever."
                " Allow it with kubectl apply -k deploy/readiness-gate, or declare no gate",
                names.PATH_GATE,
                extra={"object": gate.pod, "error": error},
            )
        else:
            _log.warning(
                "a readiness gate cannot be written; trying again",
                extra={"object": gate.pod, "reason": error.reason, "error": error},
            )

    async def _tell(self, gate: Gate) -> None:
        now = time.monotonic()
        known = self._known.get((gate.pod, gate.uid))
        path = f"/api/v1/namespaces/{gate.pod.namespace}/pods/{gate.pod.name}"
        if known is None:
            known = await self._ask(path, gate)
            self._known[gate.pod, gate.uid] = known
        unchanged = known.said == gate or (not gate.status and now - known.at < SECONDS_BETWEEN)
        if not known.gated or (known.said is not None and unchanged):
            return
        if gate.status or not known.since:
            known.since = self.clock()
        try:
            await self.client.apply_status(f"{path}/status", _body(gate, known.since), FIELD_MANAGER)
        except ApiError as error:
            if error.reason not in ("http_404", "http_409", "http_422"):
                raise
            # Deleted or replaced meanwhile: the next slice says so.
            _log.info("a readiness gate was not taken", extra={"object": gate.pod, "error": error})
        known.said, known.at = gate, time.monotonic()
        known.gated = not gate.status

    async def _ask(self, path: str, gate: Gate) -> _Known:
        try:
            pod = await self.client.get(path)
        except ApiError as error:
            if error.reason == "http_404":
                return _Known()
            raise
        return known_of(pod, gate.uid)


def known_of(pod: Mapping[str, Any], uid: str) -> _Known:
    """What a Pod says of its gate. Another pod of that name has none that is ours to write."""
    declared = (pod.get("spec") or {}).get("readinessGates") or []
    if (pod.get("metadata") or {}).get("uid") != uid:
        return _Known()
    if not any(isinstance(item, Mapping) and item.get("conditionType") == names.PATH_GATE for item in declared):
        return _Known()
    conditions = (pod.get("status") or {}).get("conditions") or []
    mine: Mapping[str, Any] = next((item for item in conditions if item.get("type") == names.PATH_GATE), {})
    since = mine.get("lastTransitionTime") if mine.get("status") == "False" else ""
    return _Known(gated=mine.get("status") != "True", since=str(since or ""))


def _body(gate: Gate, since: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": gate.pod.name, "namespace": gate.pod.namespace, "uid": gate.uid},
        "status": {
            "conditions": [
                {
                    "type": names.PATH_GATE,
                    "status": "True" if gate.status else "False",
                    "reason": gate.reason,
                    "message": gate.message,
                    "lastTransitionTime": since,
                }
            ]
        },
    }
