"""What must not be done although it is the difference: after a failure, or because it would remove too much. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from lvsagent.core.diff import (
    AddLoopback,
    AddMark,
    DeleteDestination,
    DeleteLoopback,
    DeleteService,
    IpvsOp,
    Op,
    Owned,
    ReinsertDestination,
    SetSysctl,
)
from lvsagent.core.state import KernelState
from lvsagent.core.sysctl import EXPIRE_NODEST_CONN

BRAKE_MINIMUM = 4
"""Fewer removals than this never brake: a user who deletes the only few objects means it."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """A step that would remove more than half of what we serve."""

    removed: int
    total: int
    what: str
    """``services`` or ``destinations``."""

    def __str__(self) -> str:
        return f"would remove {self.removed} of {self.total} {self.what} in one step"


def removal_brake(ops: Iterable[Op], have: KernelState, owned: Owned) -> Brake | None:
    """Tells whether ``ops`` would remove more than half of our services, or of our destinations, in one step.

    At least BRAKE_MINIMUM must go, so that deleting one of few objects passes. A destination at weight 0 has been
    drained before and does not count, nor do those of a service that goes as a whole. The caller decides: an object
    whose deletion was watched may go, what only an empty list says may not.
    """
    ours = {key: service for key, service in have.services.items() if key in owned.services}
    live = {(key, d.key) for key, service in ours.items() for d in service.destinations if d.weight > 0}
    ops = tuple(ops)
    services = {op.service for op in ops if isinstance(op, DeleteService)} & ours.keys()
    going = {(op.service, op.destination.key) for op in ops if isinstance(op, DeleteDestination)} & live
    for what, removed, total in (("services", len(services), len(ours)), ("destinations", len(going), len(live))):
        if removed >= BRAKE_MINIMUM and removed * 2 > total:
            return Brake(removed=removed, total=total, what=what)
    return None
