"""What the agent does next, given what it knows. Pure: time is an argument.

Three decisions keep the invariant (an address attracts traffic only while its tables are complete):

* ``offered``: which addresses of a router the election may hold: those whose tables were read back complete, and those
  that were offered before and still have their tables (a failed edit must not withdraw an address).
* ``Claims``: which addresses the election may hold at this moment, from what it was told and what it confirmed.
* ``split``: operations that take an address down wait until nobody claims it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from lvsagent.core.diff import (
    AddLoopback,
    AddMark,
    AddRefusal,
    Conflict,
    DeleteDestination,
    DeleteLoopback,
    DeleteMark,
    DeleteRefusal,
    DeleteService,
    Op,
    Owned,
    SetSysctl,
    StartSync,
    StopSync,
    originals,
)
from lvsagent.core.failure import OperationFailed
from lvsagent.core.failure import Reason as Failure
from lvsagent.core.hold import Hold
from lvsagent.core.plan import CONDITION
from lvsagent.core.state import KernelState, ServiceKey
from lvsagent.ipc import (
    Configure,
    Configured,
    Liveness,
    Message,
    PeerNode,
    RouterConfig,
    RouterStatistics,
    StateChanged,
    Statistics,
)
from lvsapi.model import IPAddress, ObjectKey, Problem, Protocol, Resolved
from lvsapi.status import Reason

ACTIVE = "Active"
BACKUP = "Backup"
RELEASE_SECONDS = 3.0
"""Longest wait for the election to let an address go: longer than the life of a VIP without its election (2 s)."""
SERVICE_CONFLICT = "ServiceConflict"
PROGRAMMING_FAILED = "ProgrammingFailed"


def address_of(with_prefix: str) -> IPAddress:
    """``192.168.139.123/32`` without its prefix length."""
    return ip_interface(with_prefix).ip


# -- tables ----------------------------------------------------------------------------------------------------------


def places(resolved: Resolved) -> frozenset[ServiceKey]:
    """Of the IPVS services that the objects may ask for, but for those with firewall marks."""
    servers = resolved.servers
    return frozenset(ServiceKey(s.address, s.protocol, s.port) for s in servers if s.protocol is not None)


def unfinished(ops: Iterable[Op], conflicts: Iterable[Conflict], want: KernelState) -> frozenset[IPAddress]:
    """Addresses of the wish whose tables are not complete, given what is still to be done."""
    found = {conflict.key.address for conflict in conflicts}
    for op in ops:
        match op:
            case AddLoopback(address):
                found.add(address)
            case AddMark(mark):
                found.add(mark.address)
            case DeleteDestination() | DeleteService() | DeleteLoopback() | DeleteMark() | SetSysctl():
                pass
            case StartSync() | StopSync() | AddRefusal() | DeleteRefusal():
                pass
            case _:
                found.add(op.service.address)
    return frozenset(found & {key.address for key in want.services})


def standing(want: KernelState, have: KernelState, stood: frozenset[ServiceKey]) -> frozenset[IPAddress]:
    """Addresses of the wish that are on ``lo`` and have all services that ever ``stood`` here, whatever is in them.

    One that never stood (its scheduler's module is missing) is no reason to take away what the others are served by.
    """
    there = {key.address for key in want.services if key in have.services}
    missing = {key.address for key in want.services if key in stood and key not in have.services}
    return frozenset(want.loopback & have.loopback & there) - missing


def offered(
    routers: Sequence[RouterConfig],
    complete: frozenset[IPAddress],
    stands: frozenset[IPAddress],
    before: frozenset[IPAddress],
) -> tuple[RouterConfig, ...]:
    """The routers as the election shall have them. ``before``: addresses offered by the last wish.

    A router none of whose addresses may be offered is not ready: the node takes part in nothing for it.
    """
    fit = complete | (stands & before)
    wish = []
    for router in routers:
        addresses = tuple(address for address in router.addresses if address_of(address) in fit)
        wish.append(replace(router, addresses=addresses or router.addresses, ready=bool(addresses)))
    return tuple(wish)


def returning(hold: Hold | None, claims: "Claims", resolved: Resolved, others: Iterable[str], now: float) -> bool:
    """Whether this node just came back, and ``others`` may have to tell it of connections first."""
    if hold is None or hold.done or not any(server.alike for server in resolved.servers):
        return False
    return hold.holds(now, set(others) - set(claims.liveness.silent), claims.taking_part)


def standing_aside(routers: Iterable[RouterConfig]) -> tuple[RouterConfig, ...]:
    """The same routers, none of them ready."""
    return tuple(replace(router, ready=False) for router in routers)


def addresses_of(routers: Iterable[RouterConfig]) -> frozenset[IPAddress]:
    """What ready routers may hold."""
    return frozenset(address_of(address) for router in routers if router.ready for address in router.addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do now, and what must wait."""

    now: tuple[Op, ...]
    later: tuple[Op, ...]


def split(ops: Iterable[Op], claimed: frozenset[IPAddress] | None, prune: bool) -> Step:
    """``claimed``: addresses that the election may hold, None for unknown. ``prune``: False until the first full sync:
    nothing is removed then, not even a destination."""
    now: list[Op] = []
    later: list[Op] = []
    staying = {op.address for op in ops if isinstance(op, DeleteLoopback)} if claimed is None else claimed
    for op in ops:
        match op:
            case DeleteLoopback(address):
                (now if prune and address not in staying else later).append(op)
            case DeleteService(key):
                waits = any(isinstance(other, DeleteLoopback) and other.address == key.address for other in later)
                (now if prune and not waits else later).append(op)
            case DeleteMark(mark):
                waits = any(isinstance(other, DeleteLoopback) and other.address == mark.address for other in later)
                (now if prune and not waits else later).append(op)
            case DeleteDestination():
                (now if prune else later).append(op)
            case _:
                now.append(op)
    return Step(now=tuple(now), later=tuple(later))


def owning(
    owned: Owned, want: KernelState, have: KernelState, conflicts: Iterable[Conflict], adopt: bool = False
) -> Owned:
    """The record to write before the step is applied: all that will be ours, and all that still is.

    An address that stood on ``lo`` without being recorded is somebody else's, and stays when we go. ``adopt``: the
    record was lost, so what stands where ours belongs is taken for ours.
    """
    foreign = {conflict.key for conflict in conflicts}
    blocked = {key.address for key in foreign} | (set() if adopt else have.loopback - owned.loopback)
    return Owned(
        # The kernel does not know the addresses of marked services: the wish's keys, then the record's, win.
        services=frozenset(want.services.keys() - foreign).union(k for k in owned.services if k in have.services),
        loopback=(owned.loopback & have.loopback) | (want.loopback - blocked),
        daemons=(owned.daemons & have.daemons) | want.daemons,
        sysctls=originals(owned, want, have),
    )


# -- the election ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the election tells the other nodes of this one."""

    node: str = ""
    serving: bool = False
    nodes: tuple[PeerNode, ...] = ()
    healthy: int = 0
    """The routers whose backends it reaches (``core.blind``)."""


@dataclass(slots=True)
class Claims:
    """What the election was told, what it said, and so which addresses it may hold."""

    generation: int = 0
    wish: tuple[RouterConfig, ...] | None = None
    """None: it was told nothing yet by this process."""
    about: About = field(default_factory=About)
    sent: float = 0.0
    confirmed: int = 0
    possible: frozenset[IPAddress] | None = None
    """None: unknown, it may hold anything."""
    routers: dict[str, RouterStatistics] = field(default_factory=dict)
    statistics: Statistics | None = None
    liveness: Liveness = field(default_factory=Liveness)
    """As last heard; it outlives an election that is gone, as the next one says it anew."""

    @property
    def active(self) -> frozenset[str]:
        """Names of the routers that are Active here."""
        return frozenset(name for name, router in self.routers.items() if router.state == ACTIVE)

    def heard(self, message: Message) -> bool:
        """Take note. True when a pass is needed: somebody became Active or not, an address was let go, or there is
        news to report."""
        match message:
            case Configured(generation=generation):
                self.confirmed = generation
                if generation == self.generation and self.wish is not None:
                    self.possible = addresses_of(self.wish)
                return True
            case StateChanged(router=name, state=state):
                known = self.routers.get(name)
                if known:
                    held = known.addresses_held if state == ACTIVE else ()
                    self.routers[name] = replace(
                        known, state=state, active_address=message.active_address, addresses_held=held
                    )
                return True
            case Statistics():
                before = self.active, self._noticed()
                self.statistics = message
                self.routers = {router.router: router for router in message.routers}
                return (self.active, self._noticed()) != before
            case Liveness():
                changed = message != self.liveness
                self.liveness = message
                return changed
            case Configure():
                return False

    @property
    def taking_part(self) -> bool:
        """Whether the election runs a router here, whoever told it to."""
        return any(router.state in (ACTIVE, BACKUP) for router in self.routers.values())

    def _noticed(self) -> dict[str, tuple[str, frozenset[str]]]:
        """What the election found, without the particulars, which may change every second."""
        return {
            name: (router.problem, frozenset(router.findings))
            for name, router in self.routers.items()
            if router.problem or router.findings
        }

    def tell(self, routers: tuple[RouterConfig, ...], now: float, about: About | None = None) -> Configure | None:
        """The message to send, None when the election has this wish already. ``about`` None: nothing new of it."""
        about = about or self.about
        if routers == self.wish and about == self.about:
            return None
        offered_now = addresses_of(routers)
        self.possible = None if self.possible is None else self.possible | offered_now
        self.wish, self.about = routers, about
        self.generation += 1
        self.sent = now
        return Configure(
            generation=self.generation,
            routers=routers,
            node=about.node,
            serving=about.serving,
            nodes=about.nodes,
            healthy=about.healthy,
        )

    def claimed(self, now: float) -> frozenset[IPAddress] | None:
        """Addresses that the election may hold; None for unknown. An election that does not answer is dead, and the
        kernel has removed its addresses, RELEASE_SECONDS after it was told."""
        if self.wish is not None and self.confirmed != self.generation and now - self.sent >= RELEASE_SECONDS:
            return addresses_of(self.wish)
        return self.possible

    def waits_until(self) -> float | None:
        """When ``claimed`` changes without any message."""
        if self.wish is None or self.confirmed == self.generation:
            return None
        return self.sent + RELEASE_SECONDS

    def held(self) -> frozenset[IPAddress]:
        """Addresses that the election says it holds on its uplinks."""
        return frozenset(address_of(address) for router in self.routers.values() for address in router.addresses_held)

    def lost(self) -> None:
        """The election is gone: nothing is Active here any more (its addresses end by themselves)."""
        self.routers = {
            name: replace(router, state="Initialize", addresses_held=()) for name, router in self.routers.items()
        }


# -- what to say about an object -------------------------------------------------------------------------------------


def problems_of_pass(
    resolved: Resolved, conflicts: Iterable[Conflict], failures: Iterable[OperationFailed]
) -> tuple[Problem, ...]:
    """Problems by object, from what the kernel refused."""
    owners: dict[_Port, ObjectKey] = {}
    by_address: dict[IPAddress, ObjectKey] = {}
    for server in resolved.servers:
        key = (server.address, server.protocol, server.port)
        owners[key] = by_address[server.address] = server.owner
    found: dict[tuple[ObjectKey, str], Problem] = {}
    for conflict in conflicts:
        if owner := owners.get(_port(conflict.key)):
            found[owner, str(conflict)] = Problem(
                key=owner, condition=CONDITION, reason=SERVICE_CONFLICT, message=str(conflict)
            )
    for failure in failures:
        for owner in _owners(failure.op, owners, by_address, resolved):
            found.setdefault(
                (owner, ""),
                Problem(key=owner, condition=CONDITION, reason=_reason(failure), message=failure.message),
            )
    return tuple(found.values())


def _reason(failure: OperationFailed) -> str:
    lacking = failure.reason in (Failure.NO_SUCH_SCHEDULER, Failure.NO_IPVS)
    return Reason.KERNEL_UNSUPPORTED if lacking else PROGRAMMING_FAILED


_Port = tuple[IPAddress, Protocol | None, int]


def _port(key: ServiceKey) -> _Port:
    return (key.address, key.protocol, key.port)


def _owners(
    op: Op, owners: Mapping[_Port, ObjectKey], by_address: Mapping[IPAddress, ObjectKey], resolved: Resolved
) -> tuple[ObjectKey, ...]:
    match op:
        case SetSysctl():
            return tuple(sorted({server.owner for server in resolved.servers}))
        case StartSync() | StopSync():
            return tuple(sorted({o for router in resolved.routers if router.connection_sync for o in router.owners}))
        case AddLoopback(address) | DeleteLoopback(address):
            owner = by_address.get(address)
        case AddRefusal(refusal) | DeleteRefusal(refusal):
            key = (refusal.address, refusal.protocol, refusal.first)
            owner = owners.get(key, by_address.get(refusal.address))
        case AddMark(mark) | DeleteMark(mark):
            owner = owners.get((mark.address, mark.protocol, mark.first), by_address.get(mark.address))
        case _:
            owner = owners.get(_port(op.service))
    return (owner,) if owner else ()


def count(ops: Iterable[Op]) -> Mapping[str, int]:
    """How many operations of each kind, for the log."""
    found: dict[str, int] = {}
    for op in ops:
        name = type(op).__name__
        found[name] = found.get(name, 0) + 1
    return found
