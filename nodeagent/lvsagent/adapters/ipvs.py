"""IPVS over generic netlink (include/uapi/linux/ip_vs.h, family ``IPVS`` version 1): batches of operations, dumps.

Never flushes, never deletes what it is not told to delete. One thread.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from lvsagent.adapters.netlink import (
    NESTED,
    Attributes,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    error_name,
    parse_attributes,
)
from lvsagent.core.diff import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    EditDestination,
    EditService,
    IpvsOp,
    ReinsertDestination,
)
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.state import Destination, ForwardMethod, Service, ServiceFlag, ServiceKey
from lvsapi.model import IPAddress, Protocol

GENERIC = 16
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE, NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = range(1, 9)
CMD_SERVICE, CMD_DEST = 1, 2
SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK, SVC_SCHED, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK = range(1, 10)
DEST_ADDR, DEST_PORT, DEST_METHOD, DEST_WEIGHT, DEST_UPPER, DEST_LOWER, DEST_FAMILY = 1, 2, 3, 4, 5, 6, 11
METHOD_MASK = 0x7
NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
PROTOCOLS = {number: protocol for protocol, number in NUMBERS.items()}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class IpvsUnavailable(OSError):
    """The kernel has no IPVS, or we may not use it. The text has the remedy."""


NO_IPVS = (
    "IPVS not in this kernel: load ip_vs (modprobe ip_vs ip_vs_mh) on the node;"
    " to have it at every boot put both names into /etc/modules-load.d/ip_vs.conf"
)
NO_PERMISSION = "no permission to program IPVS: the process needs the capability NET_ADMIN"


class Ipvs:
    """The IPVS tables of the network namespace in which it was opened. Raises IpvsUnavailable."""

    def __init__(self) -> None:
        self._netlink = Netlink(GENERIC)
        try:
            self._family = _family(self._netlink)
        except NetlinkError as error:
            self._netlink.close()
            if error.errno == errno.ENOENT:
                raise IpvsUnavailable(error.errno, NO_IPVS) from error
            raise _unavailable(error) from error

    def close(self) -> None:
        """May be called twice."""
        self._netlink.close()

    def apply(self, ops: Sequence[IpvsOp]) -> tuple[OperationFailed, ...]:
        """All operations, in order, going on after failures."""
        messages: list[Message] = []
        origin: list[IpvsOp] = []
        for op in ops:
            encoded = _encode(op)
            messages += (self._message(command, body) for command, body in encoded)
            origin += [op] * len(encoded)
        failed = self._netlink.batch(messages)
        return tuple(_failure(origin[index], code) for index, code in sorted(failed.items()))

    def read(self) -> dict[ServiceKey, Service]:
        """Every service that has an address and a port, foreign ones included; fwmark services are left out."""
        services = (_service(attributes) for attributes in self._dump(GET_SERVICE, b"", CMD_SERVICE))
        return {service.key: self._complete(service) for service in services if service}

    def read_service(self, key: ServiceKey) -> Service | None:
        """One service with its destinations; None when there is none. The cost does not grow with the table."""
        body = attribute(CMD_SERVICE | NESTED, _key(key))
        try:
            answer = self._netlink.request(self._message(GET_SERVICE, body))
        except NetlinkError as error:
            if error.errno == errno.ESRCH:
                return None
            raise _unavailable(error) from error
        service = _service(parse_attributes(parse_attributes(answer[4:])[CMD_SERVICE]))
        return self._complete(service) if service else None

    def _complete(self, service: Service) -> Service:
        body = attribute(CMD_SERVICE | NESTED, _key(service.key))
        found = [_destination(service.key, a) for a in self._dump(GET_DEST, body, CMD_DEST)]
        # The kernel inserts at the head of its list and dumps from there.
        return replace(service, destinations=tuple(reversed(found)))

    def _dump(self, command: int, body: bytes, kind: int) -> Iterable[Attributes]:
        try:
            answers = self._netlink.dump(self._message(command, body))
        except NetlinkError as error:
            raise _unavailable(error) from error
        return (parse_attributes(parse_attributes(answer[4:]).get(kind, b"")) for answer in answers)

    def _message(self, command: int, body: bytes) -> Message:
        return Message(self._family, 0, struct.pack("=BBH", command, 1, 0) + body)


def _unavailable(error: NetlinkError) -> IpvsUnavailable:
    text = NO_PERMISSION if error.errno in (errno.EPERM, errno.EACCES) else f"IPVS cannot be read: {error.strerror}"
    return IpvsUnavailable(error.errno, text)


def _family(netlink: Netlink) -> int:
    """The family's number. Asking by name makes the kernel load the module where it may."""
    body = struct.pack("=BBH", CTRL_CMD_GETFAMILY, 1, 0) + attribute(CTRL_ATTR_FAMILY_NAME, b"IPVS\0")
    answer = netlink.request(Message(GENL_ID_CTRL, 0, body))
    (number,) = struct.unpack("=H", parse_attributes(answer[4:])[CTRL_ATTR_FAMILY_ID][:2])
    return int(number)


# -- values to octets ------------------------------------------------------------------------------------------------


def _key(key: ServiceKey) -> bytes:
    return (
        attribute(SVC_AF, struct.pack("=H", FAMILIES[key.address.version]))
        + attribute(SVC_PROTOCOL, struct.pack("=H", NUMBERS[key.protocol]))
        + attribute(SVC_ADDR, key.address.packed.ljust(16, b"\0"))
        + attribute(SVC_PORT, struct.pack("!H", key.port))
    )


def _service_body(key: ServiceKey, scheduler: str, flags: int) -> bytes:
    netmask = 0xFFFFFFFF if key.address.version == 4 else 128
    return attribute(
        CMD_SERVICE | NESTED,
        _key(key)
        + attribute(SVC_SCHED, scheduler.encode() + b"\0")
        + attribute(SVC_FLAGS, struct.pack("=II", flags, 0xFFFFFFFF & ~ServiceFlag.HASHED))
        + attribute(SVC_TIMEOUT, bytes(4))
        + attribute(SVC_NETMASK, struct.pack("=I", netmask)),
    )


def _destination_body(key: ServiceKey, destination: Destination) -> bytes:
    return attribute(CMD_SERVICE | NESTED, _key(key)) + attribute(
        CMD_DEST | NESTED,
        attribute(DEST_FAMILY, struct.pack("=H", FAMILIES[destination.address.version]))
        + attribute(DEST_ADDR, destination.address.packed.ljust(16, b"\0"))
        + attribute(DEST_PORT, struct.pack("!H", destination.port))
        + attribute(DEST_METHOD, struct.pack("=I", destination.method))
        + attribute(DEST_WEIGHT, struct.pack("=I", destination.weight))
        + attribute(DEST_UPPER, bytes(4))
        + attribute(DEST_LOWER, bytes(4)),
    )


def _encode(op: IpvsOp) -> list[tuple[int, bytes]]:
    """(command, attributes) of each message of an operation."""
    match op:
        case AddService(key, scheduler, flags):
            return [(NEW_SERVICE, _service_body(key, scheduler, flags))]
        case EditService(key, scheduler, flags):
            return [(SET_SERVICE, _service_body(key, scheduler, flags))]
        case DeleteService(key):
            return [(DEL_SERVICE, attribute(CMD_SERVICE | NESTED, _key(key)))]
        case AddDestination(key, destination):
            return [(NEW_DEST, _destination_body(key, destination))]
        case EditDestination(key, destination):
            return [(SET_DEST, _destination_body(key, destination))]
        case DeleteDestination(key, destination):
            return [(DEL_DEST, _destination_body(key, destination))]
        case ReinsertDestination(key, destination):
            body = _destination_body(key, destination)
            if destination.weight:
                return [(DEL_DEST, body), (NEW_DEST, body)]
            # mh needs a last weight above 0, as in core.diff.
            return [
                (DEL_DEST, body),
                (NEW_DEST, _destination_body(key, replace(destination, weight=1))),
                (SET_DEST, body),
            ]


# -- octets to values ------------------------------------------------------------------------------------------------


def _address(family: int, data: bytes) -> IPAddress:
    return IPv4Address(data[:4]) if family == socket.AF_INET else IPv6Address(data[:16])


def _service(attributes: Attributes) -> Service | None:
    if SVC_ADDR not in attributes or SVC_PORT not in attributes:
        return None
    family, protocol = (struct.unpack("=H", attributes[kind][:2])[0] for kind in (SVC_AF, SVC_PROTOCOL))
    if protocol not in PROTOCOLS:
        return None
    (port,) = struct.unpack("!H", attributes[SVC_PORT][:2])
    flags, _ = struct.unpack("=II", attributes[SVC_FLAGS][:8])
    return Service(
        key=ServiceKey(address=_address(family, attributes[SVC_ADDR]), protocol=PROTOCOLS[protocol], port=port),
        scheduler=attributes[SVC_SCHED].rstrip(b"\0").decode(),
        flags=flags & ~ServiceFlag.HASHED,
        destinations=(),
    )


def _destination(key: ServiceKey, attributes: Attributes) -> Destination:
    family = struct.unpack("=H", attributes[DEST_FAMILY][:2])[0] if DEST_FAMILY in attributes else 0
    (port,) = struct.unpack("!H", attributes[DEST_PORT][:2])
    method, weight = (struct.unpack("=I", attributes[kind][:4])[0] for kind in (DEST_METHOD, DEST_WEIGHT))
    return Destination(
        address=_address(family or FAMILIES[key.address.version], attributes[DEST_ADDR]),
        port=port,
        # BYPASS (4) exists for connections only.
        method=ForwardMethod(method & METHOD_MASK & 3),
        weight=weight,
    )


# -- errors ----------------------------------------------------------------------------------------------------------


def _failure(op: IpvsOp, code: int) -> OperationFailed:
    about_destination = isinstance(op, EditDestination | DeleteDestination | ReinsertDestination)
    missing = Reason.NO_SUCH_DESTINATION if about_destination else Reason.NO_SUCH_SCHEDULER
    reason = {
        errno.EEXIST: Reason.ALREADY_EXISTS,
        errno.ESRCH: Reason.NO_SUCH_SERVICE,
        errno.ENOENT: missing,
        errno.EPERM: Reason.NO_PERMISSION,
        errno.EACCES: Reason.NO_PERMISSION,
        errno.EINVAL: Reason.INVALID,
        errno.ENOMEM: Reason.NO_MEMORY,
    }.get(code, Reason.OTHER)
    what = str(op.service)
    if isinstance(op, AddDestination | EditDestination | DeleteDestination | ReinsertDestination):
        what += f" -> {op.destination.address}:{op.destination.port}"
    elif isinstance(op, AddService | EditService):
        what += f" ({op.scheduler})"
    remedies = {
        Reason.NO_PERMISSION: NO_PERMISSION,
        Reason.NO_SUCH_SCHEDULER: "load the scheduler's module on the node (modprobe ip_vs_<scheduler>)",
    }
    remedy = remedies.get(reason, "the next pass reads the table and tries again")
    message = f"{type(op).__name__} {what}: {reason.value} ({error_name(code)}): {remedy}"
    return OperationFailed(op=op, reason=reason, errno=code, message=message)
