"""IPVS over generic netlink (include/uapi/linux/ip_vs.h, family ``IPVS`` version 1): batches of operations, dumps.

Never flushes, never deletes what it is not told to delete. One thread.
"""

import errno
import os
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from lvsagent.adapters.ipvswire import (
    CMD_DAEMON,
    CMD_DEST,
    CMD_SERVICE,
    GET_DAEMON,
    GET_DEST,
    GET_SERVICE,
    Names,
    decode_daemon,
    decode_destination,
    decode_service,
    destination_reading,
    encode,
    encode_daemon,
    encode_key,
    service_reading,
)
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
    EditDestination,
    EditService,
    IpvsOp,
    ReinsertDestination,
    SyncOp,
)
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.loops import OUR_MARKS
from lvsagent.core.plan import MARKS
from lvsagent.core.state import Service, ServiceKey, SyncDaemon
from lvsagent.core.traffic import Backend, Reading, Readings

GENERIC = 16
CONCERN = (MARKS, OUR_MARKS)
"""Services with such a firewall mark are ours, or in our way."""
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
GENL_NAME = b"IPVS"
"""include/uapi/linux/ip_vs.h IPVS_GENL_NAME."""


class IpvsUnavailable(OSError):
    """The kernel has no IPVS, or we may not use it. The text has the remedy."""


NO_IPVS = (
    f"IPVS not in this kernel ({os.uname().release}): load ip_vs (modprobe -a ip_vs ip_vs_mh) on the node;"
    " to have it at every boot put both names into /etc/modules-load.d/ip_vs.conf. Where modprobe does not find them,"
    " install the rest of the kernel's modules (linux-modules-extra, kernel-modules), or another kernel: CONFIG_IP_VS"
    " and CONFIG_IP_VS_MH, Linux 4.18 or later"
)
NO_PERMISSION = "no permission to program IPVS: the process needs the capability NET_ADMIN"


class Ipvs:
    """The IPVS tables of the network namespace in which it was opened. Raises IpvsUnavailable."""

    def __init__(self) -> None:
        self.readings: Readings = {}
        """What was counted, by the last ``read``."""
        self._marked: frozenset[ServiceKey] = frozenset()
        """Found by it."""
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
            encoded = encode(op)
            messages += (self._message(command, body) for command, body in encoded)
            origin += [op] * len(encoded)
        failed = self._netlink.batch(messages)
        return tuple(_failure(origin[index], code) for index, code in sorted(failed.items()))

    def read(self, wanted: Collection[ServiceKey] | None = None) -> dict[ServiceKey, Service]:
        """Of these, and those with our firewall marks, what there is; None: every service, foreign ones included, but
        those of protocols that we do not know. A marked service shows the unspecified address: the kernel does not know
        better. Of foreign services only the list is read, and that not taken apart.

        A dump goes on by counting, and while a kernel that was given many services moves them to a larger table it
        leaves some out without a word (*measured* with Linux 7.2: one of 1,000 in one of 50 dumps right after them). So
        what is missing is asked for by name, or by a second dump where no names are known.
        """
        found: dict[ServiceKey, Service] = {}
        readings: dict[tuple[ServiceKey, Backend | None], Reading] = {}
        names = None if wanted is None else Names(wanted, CONCERN)
        for answer in self._answers(GET_SERVICE):
            if names is None or answer in names:
                attributes = _attributes(answer, CMD_SERVICE)
                service = decode_service(attributes)
                if service:
                    readings[service.key, None] = service_reading(attributes)
                    found[service.key] = self._complete(service, readings)
        odd = found.keys() ^ self._keys() if wanted is None else {*wanted, *self._marked} - found.keys()
        for key in odd:
            found.pop(key, None)
        found |= self._ask(odd, readings)
        self.readings, self._marked = readings, frozenset(key for key in found if key.mark)
        return found

    def _keys(self) -> set[ServiceKey]:
        services = (decode_service(_attributes(answer, CMD_SERVICE)) for answer in self._answers(GET_SERVICE))
        return {service.key for service in services if service}

    def read_services(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, Service]:
        """Of these what there is, with their destinations. The cost does not grow with the table."""
        return self._ask(keys, {})

    def _ask(
        self, keys: Iterable[ServiceKey], readings: dict[tuple[ServiceKey, Backend | None], Reading]
    ) -> dict[ServiceKey, Service]:
        keys, found = tuple(keys), {}
        questions = [self._message(GET_SERVICE, attribute(CMD_SERVICE | NESTED, encode_key(key))) for key in keys]
        try:
            answers = self._netlink.requests(questions)
        except NetlinkError as error:
            raise _unavailable(error) from error
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, int):
                if answer != errno.ESRCH:
                    raise _unavailable(NetlinkError(answer, os.strerror(answer)))
                continue
            attributes = _attributes(answer, CMD_SERVICE)
            service = decode_service(attributes)
            if service:
                readings[key, None] = service_reading(attributes)
                found[key] = self._complete(replace(service, key=key), readings)
        return found

    def daemons(self) -> frozenset[SyncDaemon]:
        """The sync daemons that run, foreign ones included."""
        found = self._dump(GET_DAEMON, b"", CMD_DAEMON)
        return frozenset(decode_daemon(attributes) for attributes in found)

    def apply_sync(self, ops: Sequence[SyncOp]) -> tuple[OperationFailed, ...]:
        """Start and stop sync daemons, in order."""
        failed = self._netlink.batch([self._message(*encode_daemon(op)) for op in ops])
        return tuple(_sync_failure(ops[index], code) for index, code in sorted(failed.items()))

    def _complete(self, service: Service, readings: dict[tuple[ServiceKey, Backend | None], Reading]) -> Service:
        body = attribute(CMD_SERVICE | NESTED, encode_key(service.key))
        found = []
        for attributes in self._dump(GET_DEST, body, CMD_DEST):
            destination = decode_destination(service.key, attributes)
            found.append(destination)
            readings[service.key, destination.key] = destination_reading(attributes)
        # The kernel inserts at the head of its list and dumps from there.
        return replace(service, destinations=tuple(reversed(found)))

    def _dump(self, command: int, body: bytes, kind: int) -> Iterable[Attributes]:
        return (_attributes(answer, kind) for answer in self._answers(command, body))

    def _answers(self, command: int, body: bytes = b"") -> Sequence[bytes]:
        try:
            return self._netlink.dump(self._message(command, body))
        except NetlinkError as error:
            raise _unavailable(error) from error

    def _message(self, command: int, body: bytes) -> Message:
        return Message(self._family, 0, struct.pack("=BBH", command, 1, 0) + body)


def _attributes(answer: bytes, kind: int) -> Attributes:
    """Of what an answer is about."""
    return parse_attributes(parse_attributes(answer[4:]).get(kind, b""))


def _unavailable(error: NetlinkError) -> IpvsUnavailable:
    text = NO_PERMISSION if error.errno in (errno.EPERM, errno.EACCES) else f"IPVS cannot be read: {error.strerror}"
    return IpvsUnavailable(error.errno, text)


def _family(netlink: Netlink) -> int:
    """The family's number. Asking by name makes the kernel load the module where it may."""
    body = struct.pack("=BBH", CTRL_CMD_GETFAMILY, 1, 0) + attribute(CTRL_ATTR_FAMILY_NAME, GENL_NAME + b"\0")
    answer = netlink.request(Message(GENL_ID_CTRL, 0, body))
    (number,) = struct.unpack("=H", parse_attributes(answer[4:])[CTRL_ATTR_FAMILY_ID][:2])
    return int(number)


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
    }
    if reason is Reason.NO_SUCH_SCHEDULER:
        remedies[reason] = without(op.scheduler if isinstance(op, AddService | EditService) else "")
    remedy = remedies.get(reason, "the next pass reads the table and tries again")
    message = f"{type(op).__name__} {what}: {reason.value} ({error_name(code)}): {remedy}"
    return OperationFailed(op=op, reason=reason, errno=code, message=message)


def without(scheduler: str) -> str:
    """What to do where the kernel lacks a scheduler. No other one is taken in its place: that is the user's to say."""
    return (
        f"this kernel ({os.uname().release}) has no scheduler {scheduler}: load its module on the node (modprobe"
        f" ip_vs_{scheduler}), or set another one in spec.scheduler; nothing else is chosen in its place, because it"
        " would give connections to other backends than the other nodes do"
    )


def _sync_failure(op: SyncOp, code: int) -> OperationFailed:
    reason, remedy = {
        errno.EEXIST: (
            Reason.ALREADY_EXISTS,
            "one of somebody else runs: stop it, or take connectionSync from the class",
        ),
        errno.ESRCH: (Reason.NO_SUCH_DAEMON, "the next pass reads the daemons and tries again"),
        errno.ENODEV: (Reason.NO_SUCH_INTERFACE, "name an interface that is there and up in the class"),
        errno.EPERM: (Reason.NO_PERMISSION, NO_PERMISSION),
    }.get(code, (Reason.OTHER, "the next pass reads the daemons and tries again"))
    message = f"{type(op).__name__} {op.daemon}: {reason.value} ({error_name(code)}): {remedy}"
    return OperationFailed(op=op, reason=reason, errno=code, message=message)
