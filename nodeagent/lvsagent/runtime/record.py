"""The record on disk of what is ours: written before the kernel is, and again until the disk has taken it."""

import logging
import time
from dataclasses import dataclass, field

from lvsagent.core.diff import Owned
from lvsagent.runtime.logs import Throttle
from lvsagent.runtime.view import View
from lvsagent.runtime.worker import Worker

AGAIN = 5.0
"""Seconds until a disk that took no record is tried again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Record:
    """What an agent that starts anew will find. One that is behind would take an address of ours for somebody else's,
    and leave it on ``lo`` for ever; or a service of somebody else's for ours."""

    worker: Worker
    view: View
    written: Owned | None
    """As it stands on disk; None: it could not be read, or not be written."""
    _again: float = 0.0
    """Not before, monotonic seconds."""
    _throttle: Throttle = field(default_factory=Throttle)

    def tried(self, owned: Owned, error: str) -> None:
        """It was written, or could not be: why."""
        self.written = None if error else owned
        if error:
            now = time.monotonic()
            self._again = now + AGAIN
            self.view.state_errors += 1
            if self._throttle.allows("state", now):
                _log.error("the record of what is ours cannot be written", extra={"error": error})

    async def keep(self, owned: Owned) -> None:
        """Write it, unless it stands there: not every change of it comes with an operation."""
        if owned != self.written and time.monotonic() >= self._again:
            self.tried(owned, await self.worker.save(owned))
