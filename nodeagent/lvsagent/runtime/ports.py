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
