"""From what the kernel has to what it shall have, as ordered operations. Pure.

The invariant: **an address attracts traffic only while its tables are complete.** So the order is

1. sysctls (a VIP on ``lo`` without ``arp_ignore`` would be answered for),
2. addresses on ``lo`` that go,
3. services that come or change: destinations are added and edited before others are quiesced, and these before others
   are deleted,
4. firewall marks and sync daemons that come,
5. addresses on ``lo`` that come,
6. firewall marks, services and sync daemons that go (a daemon that changes is stopped before it is started),
7. settings that nobody needs any more, back to what they were.

Stopping after any prefix is safe, and a new diff from there arrives. What is not ours (``Owned``) stays as it is.

``mh`` builds its table from the destinations' last weight above 0 and from the order in which they were inserted, so
both must be the same on every node whatever happened before (*measured* in the kernel: another order sends 0.5 % of
the clients elsewhere with 10 destinations, and a packet that two nodes send elsewhere bounces between them):

* a destination that starts at weight 0 is added with weight 1 and then set to 0;
* a destination that stands at the wrong place is taken out and put back at once (``ReinsertDestination``), which keeps
  its connections, provided that ``expire_nodest_conn`` is off for that moment.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lvsagent.core.state import Destination, KernelState, Mark, Persistent, Refusal, Service, ServiceKey, SyncDaemon
from lvsagent.core.sysctl import EXPIRE_NODEST_CONN, OCCASIONAL, satisfied
from lvsapi.model import IPAddress

NO_SCHEDULER = "none"
"""The kernel's word for a service without a scheduler: its table is built once, when it gets one."""
ORDER_MATTERS = frozenset({"mh", "sh", "dh"})


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Write one kernel setting."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class AddService:
    """Create a service without destinations."""

    service: ServiceKey
    scheduler: str
    flags: int
    persistent: Persistent | None = None


@dataclass(frozen=True, slots=True)
class EditService:
    """Change scheduler, flags and persistence; destinations and connections stay."""

    service: ServiceKey
    scheduler: str
    flags: int
    persistent: Persistent | None = None


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Delete a service with its destinations."""

    service: ServiceKey


@dataclass(frozen=True, slots=True)
class AddDestination:
    """Insert a destination."""

    service: ServiceKey
    destination: Destination


@dataclass(frozen=True, slots=True)
class EditDestination:
    """Change method, weight and limits; its place in the list stays."""

    service: ServiceKey
    destination: Destination


@dataclass(frozen=True, slots=True)
class ReinsertDestination:
    """Delete and insert in one go, to change its place in the list. Connections find it again."""

    service: ServiceKey
    destination: Destination


@dataclass(frozen=True, slots=True)
class DeleteDestination:
    """Delete a destination; its connections end."""

    service: ServiceKey
    destination: Destination


@dataclass(frozen=True, slots=True)
class AddLoopback:
    """Put an address on ``lo`` (/32 or /128, scope host)."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class DeleteLoopback:
    """Take an address from ``lo``."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class AddMark:
    """Packets get a firewall mark from now on."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class DeleteMark:
    """They get it no longer."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class AddRefusal:
    """New clients are refused from now on."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class DeleteRefusal:
    """No longer."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class StartSync:
    """Start a sync daemon."""

    daemon: SyncDaemon


@dataclass(frozen=True, slots=True)
class StopSync:
    """Stop the sync daemon of that role."""

    daemon: SyncDaemon


ServiceOp = AddService | EditService | DeleteService
DestinationOp = AddDestination | EditDestination | ReinsertDestination | DeleteDestination
IpvsOp = ServiceOp | DestinationOp
MarkOp = AddMark | DeleteMark
RefusalOp = AddRefusal | DeleteRefusal
RuleOp = MarkOp | RefusalOp
SyncOp = StartSync | StopSync
Op = SetSysctl | IpvsOp | AddLoopback | DeleteLoopback | RuleOp | SyncOp


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """What we recorded as ours before we wrote it."""

    services: frozenset[ServiceKey] = frozenset()
    loopback: frozenset[IPAddress] = frozenset()
    daemons: frozenset[SyncDaemon] = frozenset()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """What settings were before us that not every node needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A service of somebody else stands where ours belongs. Left untouched."""

    key: ServiceKey
    scheduler: str
    flags: int

    def __str__(self) -> str:
        return (f"{self.key}: an IPVS service that is not ours stands there (scheduler {self.scheduler}, flags"
                f" {self.flags:#x}): delete it (ipvsadm) or choose another address or port")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What to do, and what cannot be done."""

    ops: tuple[Op, ...]
    conflicts: tuple[Conflict, ...] = ()


def diff(want: KernelState, have: KernelState, owned: Owned) -> Difference:
    """Operations that lead from ``have`` to ``want``, in a safe order; none when nothing is to be done.

    ``have`` may hold foreign things. A service at a wanted key is adopted when it is recorded as ours or has the wanted
    scheduler and flags; otherwise it is a conflict, and its address is not put on ``lo``.
    """
    conflicts = [
        Conflict(key=key, scheduler=there.scheduler, flags=there.flags)
        for key, wanted in _sorted(want)
        if (there := have.services.get(key)) and key not in owned.services and not _same_kind(wanted, there)
    ]
    refused = {conflict.key for conflict in conflicts}
    blocked = {key.address for key in refused}
    ops: list[Op] = [SetSysctl(key, value) for key, value in want.sysctls.items()
                     if not satisfied(key, have.sysctls.get(key), value)]  # fmt: skip
    ops += [DeleteLoopback(a) for a in _addresses((owned.loopback & have.loopback) - want.loopback)]
    for key, wanted in _sorted(want):
        if key not in refused:
            ops += _service(wanted, have.services.get(key))
    # A mark must not lead to a service of somebody else.
    strange = {key.identity for key in refused}
    wanted_marks = {mark for mark in want.marks if (mark.address.version, mark.value) not in strange}
    ops += [AddMark(mark) for mark in _marks(wanted_marks - have.marks)]
    going = _daemons((have.daemons & owned.daemons) - want.daemons)
    coming = _daemons(want.daemons - have.daemons)
    replaced = {daemon.role for daemon in coming}
    ops += [StopSync(daemon) for daemon in going if daemon.role in replaced]
    ops += [StartSync(daemon) for daemon in coming]
    ops += [AddLoopback(a) for a in _addresses(want.loopback - have.loopback - blocked)]
    ops += [DeleteMark(mark) for mark in _marks(have.marks - wanted_marks)]
    # A destination comes before the refusal goes, and the other way round: nobody is sent to nowhere.
    refused_ports = frozenset(r for r in want.refusals if r.address not in blocked)
    ops += [AddRefusal(refusal) for refusal in sorted(refused_ports - have.refusals, key=str)]
    ops += [DeleteRefusal(refusal) for refusal in sorted(have.refusals - refused_ports, key=str)]
    # The kernel does not know the addresses of marked services, the record does.
    gone = [key for key in owned.services if key in have.services and key not in want.services]
    ops += [DeleteService(key) for key in sorted(gone, key=_service_order)]
    ops += [StopSync(daemon) for daemon in going if daemon.role not in replaced]
    ops += [SetSysctl(key, value) for key, value in owned.sysctls.items()
            if key not in want.sysctls and have.sysctls.get(key, value) != value]  # fmt: skip
    return Difference(ops=_guarded(ops), conflicts=tuple(conflicts))


def claim(want: KernelState, have: KernelState, owned: Owned) -> Owned:
    """What to record as ours before the operations of ``diff`` run. An address that was on ``lo`` before us stays
    somebody else's; a service that we adopt becomes ours."""
    foreign = {conflict.key for conflict in diff(want, have, owned).conflicts}
    return replace(
        owned,
        services=owned.services | (want.services.keys() - foreign),
        loopback=owned.loopback | (want.loopback - have.loopback),
        daemons=owned.daemons | want.daemons,
        sysctls=originals(owned, want, have),
    )


def release(owned: Owned, want: KernelState, have: KernelState) -> Owned:
    """What is still ours, by what was read back after the operations."""
    return Owned(
        services=frozenset(k for k in owned.services if k in want.services or k in have.services),
        loopback=owned.loopback & (want.loopback | have.loopback),
        daemons=owned.daemons & (want.daemons | have.daemons),
        sysctls=originals(owned, want, have),
    )


def originals(owned: Owned, want: KernelState, have: KernelState) -> Mapping[str, str]:
    """The settings that ``lvs-node-init`` does not remember, as they were before us, while they are not so again."""
    fresh = {key: have.sysctls[key] for key in sorted(OCCASIONAL) if key in want.sysctls and key in have.sysctls}
    kept = {**fresh, **owned.sysctls}
    return {key: value for key, value in kept.items() if key in want.sysctls or have.sysctls.get(key, value) != value}


def _service(wanted: Service, there: Service | None) -> list[Op]:
    key = wanted.key
    final = EditService(key, wanted.scheduler, wanted.flags, wanted.persistent)
    if there is None:
        late = wanted.scheduler in ORDER_MATTERS
        first = AddService(key, NO_SCHEDULER if late else wanted.scheduler, wanted.flags, wanted.persistent)
        return [first, *_insert(key, wanted.destinations), *([final] if late else [])]
    ops = _destinations(key, wanted, there)
    return ops if _same_kind(wanted, there) else [*ops, final]


def _destinations(key: ServiceKey, wanted: Service, there: Service) -> list[Op]:
    present = {destination.key: destination for destination in there.destinations}
    needed = {destination.key for destination in wanted.destinations}
    kept = [destination.key for destination in there.destinations if destination.key in needed]
    ordered = wanted.scheduler in ORDER_MATTERS
    settled = _settled([d.key for d in wanted.destinations], kept) if ordered else len(kept)
    misplaced = set(kept[settled:])
    ops: list[Op] = []
    # Whoever gets new connections from now on comes before who gets none: they always find somebody.
    quiesced: list[Op] = []
    for destination in wanted.destinations:
        before = present.get(destination.key)
        if before is None:
            ops += _insert(key, [destination])
            continue
        first = destination
        if before.weight and not destination.weight:
            first = replace(destination, weight=before.weight)
            quiesced.append(EditDestination(key, destination))
        if destination.key in misplaced:
            ops.append(ReinsertDestination(key, first))
        elif first != before:
            ops.append(EditDestination(key, first))
    return [*ops, *quiesced, *(DeleteDestination(key, d) for d in there.destinations if d.key not in needed)]


def _settled(wanted: Sequence[tuple[IPAddress, int]], kept: Sequence[tuple[IPAddress, int]]) -> int:
    """How many of the kept destinations stand where they will stand: the common beginning."""
    count = 0
    for one, other in zip(wanted, kept, strict=False):
        if one != other:
            break
        count += 1
    return count


def _insert(key: ServiceKey, destinations: Iterable[Destination]) -> list[Op]:
    ops: list[Op] = []
    for destination in destinations:
        if destination.weight == 0:
            ops += [AddDestination(key, replace(destination, weight=1)), EditDestination(key, destination)]
        else:
            ops.append(AddDestination(key, destination))
    return ops


def _guarded(ops: list[Op]) -> tuple[Op, ...]:
    """Reinsertions happen while the kernel does not expire connections whose destination is missing."""
    places = [place for place, op in enumerate(ops) if isinstance(op, ReinsertDestination)]
    if not places:
        return tuple(ops)
    first, last = places[0], places[-1] + 1
    off, on = SetSysctl(EXPIRE_NODEST_CONN, "0"), SetSysctl(EXPIRE_NODEST_CONN, "1")
    return (*ops[:first], off, *ops[first:last], on, *ops[last:])


def _same_kind(wanted: Service, there: Service) -> bool:
    return (wanted.scheduler, wanted.flags, wanted.persistent) == (there.scheduler, there.flags, there.persistent)


def _sorted(state: KernelState) -> list[tuple[ServiceKey, Service]]:
    return sorted(state.services.items(), key=lambda item: _service_order(item[0]))


def _service_order(key: ServiceKey) -> tuple[int, int, str, int]:
    return (key.address.version, int(key.address), key.protocol or "", key.port)


def _marks(marks: Iterable[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda m: (m.address.version, int(m.address), m.protocol or "", m.first, m.last, m.value))


def _daemons(daemons: Iterable[SyncDaemon]) -> list[SyncDaemon]:
    return sorted(daemons, key=lambda daemon: (daemon.role, daemon.interface, daemon.sync_id))


def _addresses(addresses: Iterable[IPAddress]) -> list[IPAddress]:
    return sorted(addresses, key=lambda address: (address.version, int(address)))
