"""Sync groups: routers that are Active together or not at all (keepalived.conf(5) ``vrrp_sync_group``). Pure."""

from collections.abc import Iterable, Iterator

from lvsagent.vrrp.events import Cause, Event, Promote, Resign, State
from lvsagent.vrrp.machine import VirtualRouter


def decisions(members: Iterable[VirtualRouter]) -> Iterator[tuple[VirtualRouter, Event]]:
    """What to tell which router of one group now; to be asked again whenever one of them has changed.

    All become Active when each of them would be by itself. As soon as one is not Active any more the others hand over.
    """
    routers = tuple(members)
    if all(router.willing or (router.state is State.ACTIVE and not router.leaving) for router in routers):
        for router in routers:
            if router.willing:
                yield router, Promote()
    elif not any(router.leaving for router in routers):
        for router in routers:
            if router.state is State.ACTIVE:
                yield router, Resign(Cause.SYNC_GROUP)
