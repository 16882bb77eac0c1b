"""The kernel as a model: what an operation does to a state. Pure. ``tests/net`` compares it with the real one."""

from dataclasses import replace
from typing import assert_never

from lvsagent.core.diff import (
    AddDestination,
    AddLoopback,
    AddMark,
    AddRefusal,
    AddService,
    DeleteDestination,
    DeleteLoopback,
    DeleteMark,
    DeleteRefusal,
    DeleteService,
    DestinationOp,
    EditDestination,
    EditService,
    Op,
    ReinsertDestination,
    SetSysctl,
    StartSync,
    StopSync,
)
from lvsagent.core.state import Destination, KernelState, Service


def apply(state: KernelState, op: Op) -> KernelState:
    """The kernel after an operation.

    Raises KeyError where the kernel answers that something does not exist, ValueError where it exists already.
    """
    match op:
        case SetSysctl(key, value):
            return replace(state, sysctls={**state.sysctls, key: value})
        case AddLoopback(address):
            if address in state.loopback:
                raise ValueError(f"{address} is on lo already")
            return replace(state, loopback=state.loopback | {address})
        case DeleteLoopback(address):
            if address not in state.loopback:
                raise KeyError(address)
            return replace(state, loopback=state.loopback - {address})
        case AddService(key, scheduler, flags, persistent):
            if key in state.services:
                raise ValueError(f"{key} exists already")
            service = Service(key=key, scheduler=scheduler, flags=flags, destinations=(), persistent=persistent)
            return _with(state, service)
        case EditService(key, scheduler, flags, persistent):
            there = state.services[key]
            return _with(state, replace(there, scheduler=scheduler, flags=flags, persistent=persistent))
        case DeleteService(key):
            state.services[key]
            return replace(state, services={k: service for k, service in state.services.items() if k != key})
        case AddDestination() | EditDestination() | ReinsertDestination() | DeleteDestination():
            service = state.services[op.service]
            return _with(state, replace(service, destinations=_changed(service.destinations, op)))
        case AddMark(mark):
            return replace(state, marks=state.marks | {mark})
        case DeleteMark(mark):
            return replace(state, marks=state.marks - {mark})
        case AddRefusal(refusal):
            return replace(state, refusals=state.refusals | {refusal})
        case DeleteRefusal(refusal):
            return replace(state, refusals=state.refusals - {refusal})
        case StartSync(daemon):
            if any(other.role is daemon.role for other in state.daemons):
                raise ValueError(f"a {daemon.role.name} runs already")
            return replace(state, daemons=state.daemons | {daemon})
        case StopSync(daemon):
            left = frozenset(other for other in state.daemons if other.role is not daemon.role)
            if left == state.daemons:
                raise KeyError(daemon)
            return replace(state, daemons=left)
        case _:
            assert_never(op)


def _with(state: KernelState, service: Service) -> KernelState:
    return replace(state, services={**state.services, service.key: service})


def _changed(destinations: tuple[Destination, ...], op: DestinationOp) -> tuple[Destination, ...]:
    others = tuple(d for d in destinations if d.key != op.destination.key)
    if isinstance(op, AddDestination):
        if len(others) != len(destinations):
            raise ValueError(f"{op.service}: {op.destination.address} exists already")
        return (*destinations, op.destination)
    if len(others) == len(destinations):
        raise KeyError(op.destination.key)
    match op:
        case DeleteDestination():
            return others
        case ReinsertDestination():
            return (*others, op.destination)
        case EditDestination():
            return tuple(op.destination if d.key == op.destination.key else d for d in destinations)
