"""Which of the routers this node shall leave to others, because its tables are not as wanted. Pure.

An address whose services are not there, or are somebody else's, is not offered at all (``core.agent.offered``). One
whose services stand, while the kernel refuses some of what belongs into them, is served rather by this node than by
nobody: the node stands by (priority 1), as one that is drained does. So a backend that every kernel refuses takes no
address away when the Active dies or its election restarts.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from lvsagent.core.agent import address_of
from lvsagent.ipc import RouterConfig
from lvsapi.model import IPAddress


def behind(
    routers: Iterable[RouterConfig],
    incomplete: frozenset[IPAddress],
    active: frozenset[str],
    before: Iterable[RouterConfig],
) -> Mapping[str, tuple[str, ...]]:
    """Routers for which this node is the last choice, each with the addresses whose tables are not as wanted: any other
    director is better, and none is worse than this one. ``before``: as told last.

    The Active stays what it is, as an address that moved for a passing difference would move back; unless it became
    Active as the last choice. Routers of a sync group are chosen together.
    """
    last = {router.name for router in before if router.standby}
    found: dict[str, tuple[str, ...]] = {}
    routers = tuple(routers)
    for router in routers:
        differ = tuple(address for address in router.addresses if address_of(address) in incomplete)
        if differ and (router.name not in active or router.name in last):
            found[router.name] = differ
    groups = {router.sync_group: found[router.name] for router in routers if router.name in found and router.sync_group}
    return {router.name: groups[router.sync_group] for router in routers if router.sync_group in groups} | found


def last_choice(routers: Iterable[RouterConfig], names: Collection[str]) -> tuple[RouterConfig, ...]:
    """The same routers, those of these names standing by."""
    return tuple(replace(router, standby=True) if router.name in names else router for router in routers)
