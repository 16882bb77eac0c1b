"""What routers notice on the wire, for as long as it is news. Pure."""

from dataclasses import dataclass, field
from typing import Final

from lvsagent.ipc import Finding

MEMORY: Final = 10.0
"""Seconds for which a finding counts after it was noted last."""


@dataclass(slots=True)
class Findings:
    """Of one router. Times are seconds on one monotonic clock."""

    _noted: dict[Finding, tuple[float, str]] = field(default_factory=dict)
    _doubts: dict[Finding, tuple[float, float]] = field(default_factory=dict)
    """Since when and until when something was as it should not be, for those findings that are no news at once."""

    def note(self, finding: Finding, sentence: str, now: float) -> None:
        """It is so now. ``sentence`` names the particulars: address, MAC, priority."""
        self._noted[finding] = (now, sentence)

    def doubt(self, finding: Finding, sentence: str | None, now: float, patience: float, pause: float = MEMORY) -> None:
        """Note it once it was so for ``patience`` seconds, said again at least every ``pause`` seconds.

        ``sentence`` None: it is not so.
        """
        if sentence is None:
            self._doubts.pop(finding, None)
            return
        since, last = self._doubts.get(finding, (now, now))
        if now - last > pause:
            since = now
        self._doubts[finding] = (since, now)
        if now - since >= patience:
            self.note(finding, sentence, now)

    def forget(self, finding: Finding) -> None:
        """It is not so any more."""
        self._noted.pop(finding, None)
        self._doubts.pop(finding, None)

    def current(self, now: float) -> dict[str, str]:
        """Finding -> sentence, of those noted within MEMORY."""
        return {str(finding): text for finding, (at, text) in self._noted.items() if now - at <= MEMORY}
