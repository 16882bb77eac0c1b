"""The one loop that acts: woken by any event, it looks at everything and writes what differs."""

import logging
import random
import threading
import time
from collections.abc import Callable

from lvsapi import names
from lvsoperator.adapters.kube import Conflict, Kube, KubeError
from lvsoperator.adapters.metrics import Metrics
from lvsoperator.core.reconcile import Decision, reconcile
from lvsoperator.settings import Settings

log = logging.getLogger(__name__)

BACKOFF_FIRST = 0.5
BACKOFF_LAST = 30.0
GRACE_SECONDS = 120.0
"""How much longer than the full pass the last one may be ago before the process counts as stuck."""


def backoff(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row, 1 or more; ``chance`` 0-1 spreads over half of the range."""
    longest = min(BACKOFF_LAST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 10))
    return longest * (0.5 + chance / 2)


class Loop:
    """Level-triggered: an event says only that something changed."""

    def __init__(self, kube: Kube, settings: Settings, metrics: Metrics) -> None:
        self._kube = kube
        self._settings = settings
        self._metrics = metrics
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._finished = time.monotonic()
        self._succeeded: float | None = None
        self._trouble = "no pass yet"

    def wake(self) -> None:
        """Something changed. From any thread, at any rate."""
        self._woken.set()

    def stop(self) -> None:
        """End ``run`` and ``follow`` soon."""
        self._stopped.set()
        self._woken.set()

    def run(self) -> None:
        """Pass after pass until ``stop``."""
        failures = 0
        while not self._stopped.is_set():
            failures = 0 if self.once() else failures + 1
            pause = backoff(failures, random.random()) if failures else self._settings.full_pass_seconds
            self._woken.wait(pause)
            self._stopped.wait(self._settings.debounce_seconds)
            self._woken.clear()

    def follow(self, watch: Callable[[Callable[[], None]], None]) -> None:
        """Keep a blocking watch going until ``stop``; a watch that failed begins again after a pause."""
        failures = 0
        while not self._stopped.is_set():
            try:
                watch(self.wake)
                failures = 0
            except KubeError as error:
                failures += 1
                log.warning("watch failed, the next full pass sees the changes: %s", error)
            except Exception:
                # What the client library makes of a strange line must not end the watching.
                failures += 1
                log.exception("watch failed by an unexpected error, the next full pass sees the changes")
            self._stopped.wait(backoff(max(failures, 1), random.random()))

    def once(self) -> bool:
        """One pass. True when everything could be read and written."""
        began = time.monotonic()
        outcome, trouble = "error", "a pass ended by an unexpected error; see the log"
        try:
            failed = self._carry_out(reconcile(self._kube.observe(), self._settings, _now()))
            outcome = "partial" if failed else "success"
            trouble = f"{failed} objects could not be written; see the log"
        except KubeError as error:
            trouble = str(error)
            log.error("cannot read the cluster, nothing is changed: %s", error)
        except Exception:
            log.exception("a pass ended by an unexpected error")
        self._finished = time.monotonic()
        self._trouble = trouble
        if outcome == "success":
            self._succeeded = self._finished
        self._metrics.passes.labels(outcome).inc()
        self._metrics.seconds.observe(self._finished - began)
        return outcome == "success"

    def _carry_out(self, decision: Decision) -> int:
        """Write what differs; one object that cannot be written stops no other. Returns how many failed."""
        failed = 0
        own = ((body, names.OPERATOR_FIELD_MANAGER) for body in decision.statuses)
        agents = ((body, names.AGENT_FIELD_MANAGER) for body in decision.withdrawn)
        for body, manager in (*own, *agents):
            try:
                self._kube.apply_status(body, manager)
            except Conflict as error:
                failed += 1
                log.info("status not written, the object is looked at again: %s", error)
            except KubeError as error:
                failed += 1
                log.error("status not written: %s", error)
        if decision.daemonset is not None:
            try:
                self._kube.apply_daemonset(decision.daemonset)
                log.info("DaemonSet %s applied", decision.daemonset["metadata"]["name"])
            except KubeError as error:
                failed += 1
                log.error("DaemonSet not written: %s", error)
        for name in decision.keys:
            try:
                self._kube.apply_key(name)
                log.info("a random key was made: %s", name)
            except KubeError as error:
                failed += 1
                log.error("key %s not made: %s", name, error)
        for note in decision.notes:
            log.warning("%s is refused: %s: %s", note.key, note.reason, note.message)
            try:
                self._kube.apply_event(note, _now())
            except KubeError as error:
                log.info("event not written, the condition says the same: %s", error)
        self._metrics.show(decision.infos, decision.refusals)
        return failed

    def health(self) -> str | None:
        """None while passes come to an end, however they end."""
        age = time.monotonic() - self._finished
        if age <= self._settings.full_pass_seconds + GRACE_SECONDS:
            return None
        return f"no pass has ended for {age:.0f} s"

    def readiness(self) -> str | None:
        """None while the last pass that did everything is recent."""
        if self._succeeded is None:
            return self._trouble
        age = time.monotonic() - self._succeeded
        if age <= self._settings.full_pass_seconds + GRACE_SECONDS:
            return None
        return f"the last complete pass was {age:.0f} s ago: {self._trouble}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
