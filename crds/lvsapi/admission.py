"""Which VirtualServices may be served beside the others. Pure.

An object is refused for what the administrator's class says, for an address of a node, or because an older object was
there first. Every object has the same verdict wherever it is computed: the order of the snapshot decides nothing.
"""

from collections import defaultdict
from collections.abc import Iterable

from lvsapi import names
from lvsapi.model import (
    IPAddress,
    PortRange,
    Problem,
    Protocol,
    Snapshot,
    VirtualService,
    VirtualServiceClass,
)
from lvsapi.status import ConditionType, Reason


def default_class() -> VirtualServiceClass:
    """The class that serves when no class object is named "default"."""
    return VirtualServiceClass(name=names.DEFAULT_CLASS)


def classes_of(snapshot: Snapshot) -> dict[str, VirtualServiceClass]:
    """Classes by name, the built-in one included."""
    return {names.DEFAULT_CLASS: default_class(), **{item.name: item for item in snapshot.classes}}


def by_age(services: Iterable[VirtualService]) -> list[VirtualService]:
    """Oldest first; then by uid, and by key where neither is known (manifests)."""
    return sorted(services, key=lambda item: (item.created, item.uid, item.key))


def refuse(item: VirtualService, reason: Reason, message: str) -> Problem:
    """A problem that means: not accepted."""
    return Problem(key=item.key, condition=ConditionType.ACCEPTED, reason=reason, message=message)


def admit(snapshot: Snapshot) -> tuple[list[VirtualService], list[Problem]]:
    """The objects that may be served, oldest first, and why the others may not."""
    classes = classes_of(snapshot)
    node_of = {
        address: node.name for node in sorted(snapshot.nodes, key=lambda n: n.name) for address in node.addresses
    }
    sound: list[VirtualService] = []
    problems: list[Problem] = []
    for item in by_age(snapshot.virtual_services):
        found = _against_class(item, classes.get(item.class_name))
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
        if not found:
            sound.append(item)
    winners, conflicts = first_come(sound)
    return winners, problems + conflicts


def first_come(services: Iterable[VirtualService]) -> tuple[list[VirtualService], list[Problem]]:
    """The objects, given oldest first, that get their addresses and ports, and why the others do not.

    An address belongs to one namespace and one class; a port of it to one object. Who loses claims nothing.
    """
    owners: dict[IPAddress, VirtualService] = {}
    claims = _Claims()
    winners: list[VirtualService] = []
    problems: list[Problem] = []
    for item in services:
        conflict = _conflict(item, owners, claims)
        if conflict is not None:
            problems.append(refuse(item, Reason.ADDRESS_CONFLICT, conflict))
            continue
        winners.append(item)
        for address in item.addresses:
            owners.setdefault(address, item)
            for ports in item.ranges:
                claims.add(address, ports, item)
    return winners, problems


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


def _conflict(item: VirtualService, owners: dict[IPAddress, VirtualService], claims: _Claims) -> str | None:
    for address in item.addresses:
        owner = owners.get(address)
        if owner is None:
            continue
        head = f"spec.addresses: {address} is in use by the older VirtualService {owner.key}"
        if owner.key.namespace != item.key.namespace:
            return f"{head}, in another namespace; take another address"
        if owner.class_name != item.class_name:
            return f"{head}, with class {owner.class_name}; use that class or take another address"
        for ports in item.ranges:
            holder = claims.holder(address, ports)
            if holder is not None:
                field = "allPorts" if item.all_ports else "ports"
                return (
                    f"spec.{field}: {ports} of {address} is in use by the older VirtualService "
                    f"{holder.key}; take another port or address"
                )
    return None


def _against_class(item: VirtualService, found: VirtualServiceClass | None) -> list[Problem]:
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
