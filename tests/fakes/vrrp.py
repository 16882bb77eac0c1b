"""A virtual router as RFC 9568 section 6.4 describes it, in each of its states, and what it is told. Virtual time."""

from dataclasses import replace

from lvsagent.vrrp.events import (
    Acquire,
    Announce,
    Cause,
    Parameters,
    Received,
    SendAdvert,
    Startup,
    State,
    StateChanged,
    Tick,
)
from lvsagent.vrrp.machine import VirtualRouter
from lvsagent.vrrp.packet import Advertisement

VIP, VIP2 = bytes((10, 0, 0, 200)), bytes((10, 0, 0, 201))
OURS = bytes((10, 0, 0, 11))
LOWER, HIGHER = bytes((10, 0, 0, 9)), bytes((10, 0, 0, 200))
PARAMETERS = Parameters(virtual_router_id=51, priority=100, interval=1.0, addresses=(VIP,), source=OURS)
SKEW = 156 / 256
DOWN = 3 + SKEW
ADVERT = SendAdvert(100, 1.0, (VIP,))
FAREWELL = SendAdvert(0, 1.0, (VIP,))
TAKE_OVER = (Acquire((VIP,)), ADVERT, Announce((VIP,)))


def received(priority: int, source: bytes = LOWER, interval: int = 100) -> Received:
    return Received(
        Advertisement(virtual_router_id=51, priority=priority, interval=interval, addresses=(VIP,), source=source)
    )


def router(**changes: object) -> VirtualRouter:
    return VirtualRouter(replace(PARAMETERS, **changes))  # type: ignore[arg-type]


def backup(**changes: object) -> VirtualRouter:
    machine = router(**changes)
    machine.handle(Startup(), 0.0)
    assert machine.state is State.BACKUP
    return machine


def active(**changes: object) -> VirtualRouter:
    """Active since 0.0, advertised then, next advert at 1.0; announced until 1.2 and then at 11.2."""
    machine = backup(**changes)
    machine._timer = 0.0
    machine.handle(Tick(), 0.0)
    while machine._announcements.deadline != 11.2:
        machine._announcements.due(machine._announcements.deadline or 0.0)
    assert machine.state is State.ACTIVE
    return machine


def became(previous: State, state: State, cause: Cause) -> StateChanged:
    return StateChanged(previous, state, cause)
