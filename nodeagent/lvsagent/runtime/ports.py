"""What the loop needs of others."""

from typing import Protocol

from lvsagent import ipc
from lvsapi.model import Problem, Snapshot


class Source(Protocol):
    """Where objects come from: ``adapters.kubesource`` or ``adapters.manifests``."""

    @property
    def synced(self) -> bool: ...
    @property
    def problems(self) -> tuple[Problem, ...]: ...
    def snapshot(self) -> Snapshot | None: ...
    def expire(self) -> None: ...


class Election(Protocol):
    """What the loop needs of ``adapters.electionclient``."""

    def configure(self, wish: ipc.Configure) -> None: ...


class Nothing:
    """A source that wants nothing, and means it."""

    synced = True
    problems: tuple[Problem, ...] = ()

    def snapshot(self) -> Snapshot:
        """Empty."""
        return Snapshot()

    def expire(self) -> None:
        """Nothing is held back."""
