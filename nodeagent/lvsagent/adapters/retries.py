"""Which objects failed, and when each may be tried again: one that is refused keeps no other waiting."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lvsagent.adapters.kube import ApiError
from lvsagent.adapters.reflector import backoff

K = TypeVar("K")


@dataclass(slots=True)
class Retries(Generic[K]):
    """Times in monotonic seconds."""

    _until: dict[K, tuple[int, float]] = field(default_factory=dict)
    """How often each failed in a row, and until when it is left alone."""

    def __contains__(self, key: K) -> bool:
        """Whether it failed when it was last tried."""
        return key in self._until

    def due(self, key: K, now: float) -> bool:
        """Whether it may be tried."""
        return key not in self._until or now >= self._until[key][1]

    def failed(self, key: K, error: ApiError, now: float, least: float = 0.0) -> None:
        """It is left alone for longer each time, for ``least`` seconds or more."""
        failures = self._until[key][0] + 1 if key in self._until else 1
        self._until[key] = failures, now + max(least, backoff(failures, error.retry_after))

    def done(self, key: K) -> None:
        """It did not fail."""
        self._until.pop(key, None)

    def keep(self, keys: Container[K]) -> None:
        """The others are not wanted any more."""
        self._until = {key: until for key, until in self._until.items() if key in keys}
