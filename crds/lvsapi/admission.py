"""Which VirtualServices may be served beside the others. Pure.

An object is refused for what the administrator's class says, for an address of a node, or because an older object was
there first. Every object has the same verdict wherever it is computed: the order of the snapshot decides nothing.

What is wrong with an object that is served and has not changed since is somebody else's doing: a class that was edited
or deleted, a Node that lists the address because its Active node has it. It is said, and takes nothing away.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lvsapi import names
from lvsapi.model import (
    IPAddress,
    ObjectKey,
    PortRange,
    Problem,
    Protocol,
    Snapshot,
    VirtualService,
    VirtualServiceClass,
)
from lvsapi.status import ConditionType, Reason

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def default_class() -> VirtualServiceClass:
    """The class that serves when no class object is named "default"."""
    return VirtualServiceClass(name=names.DEFAULT_CLASS)


def classes_of(snapshot: Snapshot, broken: Container[str] = ()) -> dict[str, VirtualServiceClass]:
    """Classes by name, the built-in one included unless one of its name is ``broken``."""
    found = {names.DEFAULT_CLASS: default_class(), **{item.name: item for item in snapshot.classes}}
    return {name: item for name, item in found.items() if name not in broken}


def by_age(services: Iterable[VirtualService]) -> list[VirtualService]:
    """Oldest first; then by uid, and by key where neither is known (manifests)."""
    return sorted(services, key=_age)


def _age(item: VirtualService) -> tuple[str, str, ObjectKey]:
    return (item.created, item.uid, item.key)


def by_right(services: Iterable[VirtualService]) -> list[VirtualService]:
    """Who has what it claims comes first; then by age."""
    return sorted(services, key=lambda item: (not item.settled, _age(item)))


def refuse(item: VirtualService, reason: Reason, message: str) -> Problem:
    """A problem that means: not accepted."""
    return Problem(key=item.key, condition=ConditionType.ACCEPTED, reason=reason, message=message)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who may be served, and what is wrong."""

    winners: list[VirtualService]
    """Those that are served already first, then by age."""
    held: frozenset[ObjectKey]
    """Of these who only keep what they have."""
    problems: list[Problem]


def admit(snapshot: Snapshot, broken: Mapping[str, str] = NOTHING) -> Admitted:
    """The objects that may be served, and why others may not. ``broken``: by the name of a class that does not parse,
    what is wrong with it."""
    classes = classes_of(snapshot, broken)
    node_of = {
        address: node.name for node in sorted(snapshot.nodes, key=lambda n: n.name) for address in node.addresses
    }
    sound: list[VirtualService] = []
    held: set[ObjectKey] = set()
    problems: list[Problem] = []
    for item in by_right(snapshot.virtual_services):
        found = _against_class(item, classes.get(item.class_name), broken.get(item.class_name))
        found += [
            refuse(
                item,
                Reason.ADDRESS_OF_NODE,
                f"spec.addresses: {address} is the address of node {node_of[address]}; take an unused one",
            )
            for address in item.addresses
            if address in node_of
        ]
        problems += found
        if not found or item.settled:
            sound.append(item)
        if found and item.settled:
            held.add(item.key)
    winners, conflicts = first_come(sound)
    return Admitted(winners, frozenset(held), problems + [one for one in conflicts if one.key not in held])


def first_come(services: Iterable[VirtualService]) -> tuple[list[VirtualService], list[Problem]]:
    """The objects, given by right, that get their addresses and ports, and why the others do not.

    An address belongs to one namespace and one class; a port of it to one object. Who loses claims nothing.
    """
    taken = _Taken()
    winners: list[VirtualService] = []
    losers: list[VirtualService] = []
    for item in services:
        if taken.conflict(item) is not None:
            losers.append(item)
        else:
            winners.append(item)
            taken.add(item)
    if losers:
        # The message must not depend on who had it first when: it would change with the next decision.
        taken = _Taken()
        for item in by_age(winners):
            taken.add(item)
    return winners, [refuse(item, Reason.ADDRESS_CONFLICT, taken.conflict(item) or "") for item in losers]


class _Claims:
    """Who has which ports of an address: quickly found where they are single ones, as most are."""

    def __init__(self) -> None:
        self._single: dict[tuple[IPAddress, Protocol | None, int], VirtualService] = {}
        self._all: dict[IPAddress, list[tuple[PortRange, VirtualService]]] = defaultdict(list)
        self._wide: dict[IPAddress, list[tuple[PortRange, VirtualService]]] = defaultdict(list)

    def add(self, address: IPAddress, ports: PortRange, item: VirtualService) -> None:
        self._all[address].append((ports, item))
        if ports.first == ports.last:
            self._single[address, ports.protocol, ports.first] = item
        else:
            self._wide[address].append((ports, item))

    def holder(self, address: IPAddress, ports: PortRange) -> VirtualService | None:
        """The first one that has a port of these."""
        single = ports.first == ports.last
        if single and (found := self._single.get((address, ports.protocol, ports.first))):
            return found
        others = self._wide[address] if single else self._all[address]
        return next((item for other, item in others if other.overlaps(ports)), None)


class _Taken:
    """Addresses and ports of those who won."""

    def __init__(self) -> None:
        self._owners: dict[IPAddress, VirtualService] = {}
        self._claims = _Claims()

    def add(self, item: VirtualService) -> None:
        for address in item.addresses:
            self._owners.setdefault(address, item)
            for ports in item.ranges:
                self._claims.add(address, ports, item)

    def conflict(self, item: VirtualService) -> str | None:
        """Why the object must not be added."""
        for address in item.addresses:
            owner = self._owners.get(address)
            if owner is None:
                continue
            head = f"spec.addresses: {address} is in use by {_named(owner, item)}"
            if owner.key.namespace != item.key.namespace:
                return f"{head}, in another namespace; take another address"
            if owner.class_name != item.class_name:
                return f"{head}, with class {owner.class_name}; use that class or take another address"
            for ports in item.ranges:
                holder = self._claims.holder(address, ports)
                if holder is not None:
                    field = "allPorts" if item.all_ports else "ports"
                    return (
                        f"spec.{field}: {ports} of {address} is in use by {_named(holder, item)}; "
                        "take another port or address"
                    )
        return None


def _named(owner: VirtualService, item: VirtualService) -> str:
    older = _age(owner) < _age(item)
    return f"the older VirtualService {owner.key}" if older else f"VirtualService {owner.key}, which had it first"


def _against_class(item: VirtualService, found: VirtualServiceClass | None, wrong: str | None) -> list[Problem]:
    if wrong is not None:
        text = f"spec.className: class {item.class_name} cannot be used; repair it: {wrong}"
        return [refuse(item, Reason.CLASS_NOT_FOUND, text)]
    if found is None:
        text = f"spec.className: there is no VirtualServiceClass {item.class_name}; create it or name another"
        return [refuse(item, Reason.CLASS_NOT_FOUND, text)]
    problems = []
    if found.namespaces and item.key.namespace not in found.namespaces:
        text = (
            f"spec.className: class {found.name} does not serve namespace {item.key.namespace}, only "
            f"{', '.join(found.namespaces)}; name another class or add the namespace to the class"
        )
        problems.append(refuse(item, Reason.NAMESPACE_NOT_ALLOWED, text))
    if found.connection_sync and item.service is not None:
        text = (
            f"spec.serviceRef: class {found.name} has connectionSync, which breaks connections to pods: the kernel "
            "puts what it hears in the place of the entries of the pods' nodes; name a class without it, or realServers"
        )
        problems.append(refuse(item, Reason.CONNECTION_SYNC_NEEDS_REAL_SERVERS, text))
    for address in item.addresses:
        if found.pools and not any(address in pool for pool in found.pools):
            text = (
                f"spec.addresses: {address} is in none of the addressPools of class {found.name}: "
                f"{', '.join(map(str, found.pools))}; take an address of these"
            )
            problems.append(refuse(item, Reason.ADDRESS_NOT_IN_POOL, text))
        if found.vrrp.version == 2 and address.version == 6:
            text = (
                f"spec.addresses: {address}: class {found.name} uses VRRP version 2, which carries IPv4 only; take an "
                "IPv4 address or a class with vrrp.version 3"
            )
            problems.append(refuse(item, Reason.ADDRESS_FAMILY_NOT_ELECTED, text))
    return problems
