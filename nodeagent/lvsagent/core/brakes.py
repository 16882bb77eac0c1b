"""What must not be done although it is the difference: after a failure, or because it would remove too much. Pure."""

from collections.abc import Iterable
from enum import StrEnum

from lvsagent.core.diff import (
    AddLoopback,
    AddMark,
    DeleteLoopback,
    DeleteService,
    IpvsOp,
    Op,
    ReinsertDestination,
    SetSysctl,
)
from lvsagent.core.sysctl import EXPIRE_NODEST_CONN

BRAKE_MINIMUM = 4
"""Fewer removals than this never brake: a user who deletes the only few objects means it."""
BRAKE_SECONDS = 60.0
"""How long a step that would remove most is held: long enough to apply what was deleted again."""
GATHER_SECONDS = 0.5
"""How long one waits to see whether more goes. What is deleted one by one goes so much later."""


class Held(StrEnum):
    """Why something is kept that the API does not have any more: the word in log, metric, event and condition."""

    MISSING = "MissingFromList"
    """Objects that a list does not have any more, and nobody saw them deleted."""
    DELETED = "DeletedTogether"
    """Objects that were deleted with most of the others."""
    VANISHED = "EndpointsVanished"
    """Endpoints that went with most of the others, and did not terminate before."""


def most(going: int, total: int) -> bool:
    """Whether a step takes more than half, and more than a handful."""
    return going >= BRAKE_MINIMUM and going * 2 > total


def held_back(op: Op, failed: Iterable[Op]) -> bool:
    """Whether an operation must not run because an earlier one failed: the invariant would break.

    An address does not come onto ``lo`` while a table of it or a sysctl failed; a service does not go while its address
    could not be taken from ``lo``.
    """
    match op:
        case AddLoopback(address):
            return any(isinstance(f, SetSysctl) or (isinstance(f, IpvsOp) and f.service.address == address)
                       or (isinstance(f, AddMark) and f.mark.address == address) for f in failed)  # fmt: skip
        case DeleteService(key):
            return any(isinstance(f, DeleteLoopback) and f.address == key.address for f in failed)
        case ReinsertDestination():
            return SetSysctl(EXPIRE_NODEST_CONN, "0") in failed
        case _:
            return False
