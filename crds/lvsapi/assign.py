"""Which virtual router carries a VirtualService, and which nodes may be Active for it. Pure.

The operator calls it and writes the result to status; standalone, the agent calls it itself. Every node and every
restart decides alike, and what is assigned already stays where it may.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from hashlib import sha256

from lvsapi.admission import NOTHING, admit, by_age, classes_of, refuse
from lvsapi.model import (
    Assignment,
    Director,
    IPAddress,
    Node,
    ObjectKey,
    Problem,
    Snapshot,
    VirtualService,
    VirtualServiceClass,
)
from lvsapi.rules import MAX_ADDRESSES
from lvsapi.status import Reason

TOP_PRIORITY = 250
"""Below 254, so that a named director or a keepalived beside us can be put above all."""
PRIORITY_STEP = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignments:
    """What was decided."""

    assignments: Mapping[ObjectKey, Assignment]
    """Objects that are refused have none."""
    problems: tuple[Problem, ...]
    """All with condition Accepted, in the objects' order of age."""


@dataclass(slots=True)
class _Router:
    """A VRID in the making."""

    owner: VirtualServiceClass
    addresses: dict[int, set[IPAddress]] = field(default_factory=lambda: {4: set(), 6: set()})

    def has_room(self, wanted: Iterable[IPAddress]) -> bool:
        return all(
            len(kept | {a for a in wanted if a.version == v}) <= MAX_ADDRESSES for v, kept in self.addresses.items()
        )

    def add(self, wanted: Iterable[IPAddress]) -> None:
        for address in wanted:
            self.addresses[address.version].add(address)

    @property
    def load(self) -> int:
        return sum(map(len, self.addresses.values()))


def assign(snapshot: Snapshot, broken: Mapping[str, str] = NOTHING) -> Assignments:
    """A VRID and ranked directors for every VirtualService that may be served, and why the others may not.

    VRID: the one asked for; else the one it has, while its class still allows it; else the least loaded of the class.
    Objects that share an address share the virtual router. Who is served keeps what it has while its refusal is not its
    own doing. ``broken``: as for ``admit``.
    """
    admitted = admit(snapshot, broken)
    winners, problems = admitted.winners, admitted.problems
    known = classes_of(snapshot, broken)
    classes = {item.class_name: VirtualServiceClass(name=item.class_name) for item in winners} | known
    places, refused = _place(winners, classes, admitted.held)
    problems += refused
    ranked: dict[tuple[str, int], tuple[Director, ...]] = {}
    assignments: dict[ObjectKey, Assignment] = {}
    for item in winners:
        vrid = places.get(item.key)
        if vrid is None:
            continue
        owner = classes[item.class_name]
        if owner.name not in known:
            assert item.assigned is not None  # It would not be here.
            assignments[item.key] = replace(item.assigned, virtual_router_id=vrid)
            continue
        if (owner.name, vrid) not in ranked:
            ranked[owner.name, vrid] = rank(owner, vrid, snapshot.nodes)
        directors = ranked[owner.name, vrid]
        if not directors:
            text = (
                f"spec.className: no node has the labels of directors.nodeSelector of class {owner.name}: "
                f"{_labels(owner)}; label a node or change the class"
            )
            problems.append(refuse(item, Reason.NO_DIRECTORS, text))
            # An empty list of nodes is more often an outage than a wish: who has directors keeps them.
            directors = item.assigned.directors if item.assigned is not None else ()
        if directors:
            assignments[item.key] = Assignment(virtual_router_id=vrid, directors=directors)
    order = {item.key: index for index, item in enumerate(by_age(snapshot.virtual_services))}
    return Assignments(assignments=assignments, problems=tuple(sorted(problems, key=lambda p: order[p.key])))


def rank(owner: VirtualServiceClass, virtual_router_id: int, nodes: Iterable[Node]) -> tuple[Director, ...]:
    """Directors of a virtual router, highest priority first.

    The class's named ones; else the nodes with the class's labels by rendezvous hashing: virtual routers spread over
    the nodes, and a node that comes or goes moves only what it gains or held. Both families rank alike.
    """
    if owner.directors:
        return tuple(sorted(owner.directors, key=lambda d: (-d.priority, d.node)))
    wanted = owner.director_selector.items()
    candidates = {node.name for node in nodes if all(node.labels.get(k) == v for k, v in wanted)}
    # Routers that move together are ranked alike, or they would pull in two directions.
    group = owner.vrrp.sync_group
    router = f"sync group {group}" if group else f"{owner.name}/{virtual_router_id}"
    order = sorted(candidates, key=lambda name: (sha256(f"{name} {router}".encode()).digest(), name))
    return tuple(
        Director(node=name, priority=max(1, TOP_PRIORITY - PRIORITY_STEP * place)) for place, name in enumerate(order)
    )


def with_assignments(snapshot: Snapshot, assignments: Mapping[ObjectKey, Assignment]) -> Snapshot:
    """The snapshot as if every assignment, and no other, stood in status already."""
    services = tuple(
        replace(item, assigned=assignments.get(item.key), observed_generation=item.generation)
        for item in snapshot.virtual_services
    )
    return replace(snapshot, virtual_services=services)


def nodes_alone(snapshot: Snapshot) -> Snapshot:
    """The snapshot with nodes that do not list the virtual addresses which are served.

    Some components write into a Node what they find on its uplink. A virtual address is no way to a node: it is on
    ``lo`` of the one that asks.
    """
    virtual = {a for item in snapshot.virtual_services if item.assigned is not None for a in item.addresses}
    nodes = tuple(
        replace(node, addresses=tuple(a for a in node.addresses if a not in virtual))
        if not virtual.isdisjoint(node.addresses)
        else node
        for node in snapshot.nodes
    )
    return replace(snapshot, nodes=nodes) if nodes != snapshot.nodes else snapshot


def _place(
    winners: list[VirtualService], classes: Mapping[str, VirtualServiceClass], held: Set[ObjectKey]
) -> tuple[dict[ObjectKey, int], list[Problem]]:
    """VRIDs by object. Who only keeps what it has is placed first, then who is served, then what is asked for, then
    what is placed already, then the new; each by right."""
    routers: dict[int, list[_Router]] = defaultdict(list)
    places: dict[ObjectKey, int] = {}
    problems: list[Problem] = []
    asking: list[tuple[int, list[VirtualService]]] = []
    later: list[list[VirtualService]] = []
    groups = _sharing(winners)
    for group in groups:
        keeping = [item for item in group if item.key in held]
        has = next((item.assigned.virtual_router_id for item in keeping if item.assigned is not None), None)
        if has is not None:
            _put(routers, has, classes[group[0].class_name], keeping, places)
    for group in groups:
        asked = next((places[item.key] for item in group if item.key in places), None)
        if asked is None:
            asked = next((item.virtual_router_id for item in group if item.virtual_router_id is not None), None)
        if asked is None:
            later.append(group)
        else:
            asking.append((asked, group))
    # Who is served by a virtual router keeps it before somebody of another class who asks for it later.
    for asked, group in (one for one in asking if _served_by(*one)):
        problems += _take_all(routers, asked, group, classes[group[0].class_name], places)
    later = [
        group
        for group in later
        if not any(item.settled for item in group) or not _keep(routers, group, classes[group[0].class_name], places)
    ]
    for asked, group in (one for one in asking if not _served_by(*one)):
        problems += _take_all(routers, asked, group, classes[group[0].class_name], places)
    unplaced: list[list[VirtualService]] = []
    for group in later:
        if not _keep(routers, group, classes[group[0].class_name], places):
            unplaced.append(group)
    for group in unplaced:
        owner = classes[group[0].class_name]
        first, last = owner.vrrp.virtual_router_ids
        free = [v for v in range(first, last + 1) if _fits(routers, v, owner, group)]
        if free:
            vrid = min(free, key=lambda v: (sum(r.load for r in routers[v] if r.owner == owner), v))
            _put(routers, vrid, owner, group, places)
            continue
        # A range that was taken from under it is its class's doing.
        outside = (item.assigned.virtual_router_id for item in group if item.settled and item.assigned is not None)
        kept_all_the_same = next((v for v in outside if _fits(routers, v, owner, group)), None)
        if kept_all_the_same is not None:
            _put(routers, kept_all_the_same, owner, group, places)
        text = (
            f"spec.className: class {owner.name} has no free virtual router: each of {first}-{last} is used by another "
            f"class or carries {MAX_ADDRESSES} addresses; give the class a range of its own in vrrp.virtualRouterIDs"
        )
        problems += [refuse(item, Reason.NO_FREE_VIRTUAL_ROUTER_ID, text) for item in group]
    return places, problems


def _served_by(vrid: int, group: Iterable[VirtualService]) -> bool:
    """Whether one of them is served as it is, by this virtual router."""
    return any(item.settled and item.assigned is not None and item.assigned.virtual_router_id == vrid for item in group)


def _keep(
    routers: dict[int, list[_Router]],
    group: list[VirtualService],
    owner: VirtualServiceClass,
    places: dict[ObjectKey, int],
) -> bool:
    """Place objects where they are already, if that may be."""
    kept = [item.assigned.virtual_router_id for item in group if item.assigned is not None]
    vrid = next((v for v in kept if _in_range(owner, v) and _fits(routers, v, owner, group)), None)
    if vrid is not None:
        _put(routers, vrid, owner, group, places)
    return vrid is not None


def _take_all(
    routers: dict[int, list[_Router]],
    asked: int,
    group: Iterable[VirtualService],
    owner: VirtualServiceClass,
    places: dict[ObjectKey, int],
) -> list[Problem]:
    """Place objects where they, or one of them, ask to be; those that are placed stay."""
    problems = []
    for item in group:
        if item.key in places:
            continue
        refusal = _take(routers, asked, item, owner)
        if refusal is None:
            places[item.key] = asked
        else:
            problems.append(refusal)
    return problems


def _take(
    routers: dict[int, list[_Router]], vrid: int, item: VirtualService, owner: VirtualServiceClass
) -> Problem | None:
    """Place an object at the VRID that it, or an older one with its address, asks for; or say why not."""
    path = "spec.virtualRouterID"
    if item.virtual_router_id not in (None, vrid):
        text = (
            f"{path}: {item.virtual_router_id}: an older VirtualService carries an address of this one; ask for {vrid}"
        )
        return refuse(item, Reason.VIRTUAL_ROUTER_ID_CONFLICT, text)
    rival = next((r.owner.name for r in routers[vrid] if _clash(r.owner, owner)), None)
    if rival is not None:
        text = f"{path}: {vrid} is used by class {rival} on the same network; ask for another"
        return refuse(item, Reason.VIRTUAL_ROUTER_ID_CONFLICT, text)
    if not _fits(routers, vrid, owner, [item]):
        text = f"{path}: {vrid} carries {MAX_ADDRESSES} addresses already; ask for another"
        return refuse(item, Reason.NO_FREE_VIRTUAL_ROUTER_ID, text)
    _put(routers, vrid, owner, [item], {})
    return None


def _fits(
    routers: dict[int, list[_Router]], vrid: int, owner: VirtualServiceClass, group: Iterable[VirtualService]
) -> bool:
    wanted = {address for item in group for address in item.addresses}
    return all(
        router.has_room(wanted) if router.owner == owner else not _clash(router.owner, owner)
        for router in routers[vrid]
    )


def _put(
    routers: dict[int, list[_Router]],
    vrid: int,
    owner: VirtualServiceClass,
    group: Iterable[VirtualService],
    places: dict[ObjectKey, int],
) -> None:
    router = next((r for r in routers[vrid] if r.owner == owner), None)
    if router is None:
        router = _Router(owner)
        routers[vrid].append(router)
    for item in group:
        router.add(item.addresses)
        places[item.key] = vrid


def _clash(one: VirtualServiceClass, other: VirtualServiceClass) -> bool:
    """Whether two classes must not use one VRID: they are two VRRP instances, and may meet on one network."""
    apart = one.interface and other.interface and one.interface != other.interface
    return one.name != other.name and not apart


def _in_range(owner: VirtualServiceClass, vrid: int) -> bool:
    first, last = owner.vrrp.virtual_router_ids
    return first <= vrid <= last


def _sharing(winners: list[VirtualService]) -> list[list[VirtualService]]:
    """Objects that share addresses, directly or by way of others, in groups; all in the order given."""
    group_of: dict[IPAddress, list[VirtualService]] = {}
    groups: dict[int, list[VirtualService]] = {}
    place = {item.key: index for index, item in enumerate(winners)}
    for item in winners:
        merged = [item]
        for group in {id(group_of[a]): group_of[a] for a in item.addresses if a in group_of}.values():
            merged += group
            del groups[id(group)]
        groups[id(merged)] = merged
        for member in merged:
            group_of.update(dict.fromkeys(member.addresses, merged))
    ordered = [sorted(group, key=lambda item: place[item.key]) for group in groups.values()]
    return sorted(ordered, key=lambda group: place[group[0].key])


def _labels(owner: VirtualServiceClass) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(owner.director_selector.items())) or "none (there are no nodes)"
