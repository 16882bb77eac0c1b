"""The octets of the IPVS netlink family (include/uapi/linux/ip_vs.h, version 1): values to attributes and back."""

import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from lvsagent.adapters.netlink import NESTED, Attributes, attribute, parse_attributes
from lvsagent.core.diff import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    EditDestination,
    EditService,
    IpvsOp,
    ReinsertDestination,
    StartSync,
    SyncOp,
)
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    Persistent,
    Service,
    ServiceFlag,
    ServiceKey,
    SyncDaemon,
    SyncRole,
)
from lvsagent.core.traffic import Counters, Reading
from lvsapi.ipvs import IPIP, Tunnel, TunnelChecksum, TunnelType
from lvsapi.model import IPAddress, Protocol

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE, NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = range(1, 9)
NEW_DAEMON, DEL_DAEMON, GET_DAEMON = 9, 10, 11
CMD_SERVICE, CMD_DEST, CMD_DAEMON = 1, 2, 3
SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK, SVC_SCHED, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK = range(1, 10)
DEST_ADDR, DEST_PORT, DEST_METHOD, DEST_WEIGHT, DEST_UPPER, DEST_LOWER, DEST_FAMILY = 1, 2, 3, 4, 5, 6, 11
DEST_TUN_TYPE, DEST_TUN_PORT, DEST_TUN_FLAGS = 13, 14, 15
SVC_STATS, SVC_STATS64 = 10, 12
DEST_ACTIVE, DEST_INACTIVE, DEST_STATS, DEST_STATS64 = 7, 8, 10, 12
DAEMON_STATE, DAEMON_INTERFACE, DAEMON_SYNC_ID = 1, 2, 3
STATS64 = struct.Struct("=" + "HHQ" * 5)
"""The first five of IPVS_STATS_ATTR_*, as the kernel puts them one after another: length, type, value."""
METHOD_MASK = 0x7
NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
PROTOCOLS = {number: protocol for protocol, number in NUMBERS.items()}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
HOST = {4: 32, 6: 128}
TUNNELS = (TunnelType.IPIP, TunnelType.GUE, TunnelType.GRE)
"""IP_VS_CONN_F_TUNNEL_TYPE_*, by number."""
TUNNEL_CHECKSUMS = (TunnelChecksum.NONE, TunnelChecksum.CSUM, TunnelChecksum.REMCSUM)
"""IP_VS_TUNNEL_ENCAP_FLAG_*, by number."""


def encode_key(key: ServiceKey) -> bytes:
    """What names a service."""
    if key.mark:
        return attribute(SVC_AF, struct.pack("=H", FAMILIES[key.address.version])) + attribute(
            SVC_FWMARK, struct.pack("=I", key.mark)
        )
    assert key.protocol is not None
    return (
        attribute(SVC_AF, struct.pack("=H", FAMILIES[key.address.version]))
        + attribute(SVC_PROTOCOL, struct.pack("=H", NUMBERS[key.protocol]))
        + attribute(SVC_ADDR, key.address.packed.ljust(16, b"\0"))
        + attribute(SVC_PORT, struct.pack("!H", key.port))
    )


HEADS = 8
"""Octets before a service's attributes in an answer: the generic netlink header and that of the nest."""
FWMARK = struct.pack("=H", SVC_FWMARK)
MARKED, NAMED = 16, 44
"""Octets of the attributes that name a service, with a firewall mark and without."""


class Names:
    """Knows answers of a dump that concern us by the attributes with which they begin (net/netfilter/ipvs/ip_vs_ctl.c
    ip_vs_genl_fill_service), without taking them apart: thousands may be somebody else's."""

    def __init__(self, keys: Iterable[ServiceKey], marks: Sequence[range]) -> None:
        """``marks``: every service with such a firewall mark concerns us."""
        self._names = frozenset(map(encode_key, keys))
        self._marks = marks

    def __contains__(self, answer: bytes) -> bool:
        if answer[HEADS + 10 : HEADS + 12] != FWMARK:
            return answer[HEADS : HEADS + NAMED] in self._names
        name = answer[HEADS : HEADS + MARKED]
        (mark,) = struct.unpack_from("=I", name, 12)
        return any(mark in marks for marks in self._marks) or name in self._names


def _service_body(key: ServiceKey, scheduler: str, flags: int, persistent: Persistent | None) -> bytes:
    version = key.address.version
    length = persistent.prefix_length if persistent else HOST[version]
    # IPv4: the mask, as it stands in a packet; IPv6: the length.
    netmask = struct.pack("!I", 0xFFFFFFFF << 32 - length & 0xFFFFFFFF) if version == 4 else struct.pack("=I", length)
    return attribute(
        CMD_SERVICE | NESTED,
        encode_key(key)
        + attribute(SVC_SCHED, scheduler.encode() + b"\0")
        + attribute(SVC_FLAGS, struct.pack("=II", flags, 0xFFFFFFFF & ~ServiceFlag.HASHED))
        + attribute(SVC_TIMEOUT, struct.pack("=I", persistent.timeout if persistent else 0))
        + attribute(SVC_NETMASK, netmask),
    )


def _destination_body(key: ServiceKey, destination: Destination) -> bytes:
    return attribute(CMD_SERVICE | NESTED, encode_key(key)) + attribute(
        CMD_DEST | NESTED,
        attribute(DEST_FAMILY, struct.pack("=H", FAMILIES[destination.address.version]))
        + attribute(DEST_ADDR, destination.address.packed.ljust(16, b"\0"))
        + attribute(DEST_PORT, struct.pack("!H", destination.port))
        + attribute(DEST_METHOD, struct.pack("=I", destination.method))
        + attribute(DEST_WEIGHT, struct.pack("=I", destination.weight))
        + attribute(DEST_UPPER, struct.pack("=I", destination.upper))
        + attribute(DEST_LOWER, struct.pack("=I", destination.lower))
        + attribute(DEST_TUN_TYPE, struct.pack("=B", TUNNELS.index(destination.tunnel.type)))
        + attribute(DEST_TUN_PORT, struct.pack("!H", destination.tunnel.port))
        + attribute(DEST_TUN_FLAGS, struct.pack("=H", TUNNEL_CHECKSUMS.index(destination.tunnel.checksum))),
    )


def encode(op: IpvsOp) -> list[tuple[int, bytes]]:
    """(command, attributes) of each message of an operation."""
    match op:
        case AddService(key, scheduler, flags, persistent):
            return [(NEW_SERVICE, _service_body(key, scheduler, flags, persistent))]
        case EditService(key, scheduler, flags, persistent):
            return [(SET_SERVICE, _service_body(key, scheduler, flags, persistent))]
        case DeleteService(key):
            return [(DEL_SERVICE, attribute(CMD_SERVICE | NESTED, encode_key(key)))]
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


def decode_service(attributes: Attributes) -> Service | None:
    """Without its destinations. None: of a protocol that we do not know."""
    (family,) = struct.unpack("=H", attributes[SVC_AF][:2])
    key = _decode_key(family, attributes)
    if key is None:
        return None
    flags, _ = struct.unpack("=II", attributes[SVC_FLAGS][:8])
    persistent = None
    if flags & ServiceFlag.PERSISTENT:
        (timeout,) = struct.unpack("=I", attributes[SVC_TIMEOUT][:4])
        (netmask,) = struct.unpack("=I", attributes[SVC_NETMASK][:4])
        persistent = Persistent(timeout, netmask.bit_count() if family == socket.AF_INET else netmask)
    return Service(
        key=key,
        scheduler=attributes[SVC_SCHED].rstrip(b"\0").decode(),
        flags=flags & ~ServiceFlag.HASHED,
        destinations=(),
        persistent=persistent,
    )


def _decode_key(family: int, attributes: Attributes) -> ServiceKey | None:
    if SVC_FWMARK in attributes:
        (mark,) = struct.unpack("=I", attributes[SVC_FWMARK][:4])
        return ServiceKey(address=_address(family, bytes(16)), protocol=None, port=0, mark=mark)
    if not {SVC_ADDR, SVC_PORT, SVC_PROTOCOL} <= attributes.keys():
        return None
    protocol = PROTOCOLS.get(struct.unpack("=H", attributes[SVC_PROTOCOL][:2])[0])
    if protocol is None:
        return None
    (port,) = struct.unpack("!H", attributes[SVC_PORT][:2])
    return ServiceKey(address=_address(family, attributes[SVC_ADDR]), protocol=protocol, port=port)


def decode_destination(key: ServiceKey, attributes: Attributes) -> Destination:
    """Of a service of that key, whose family it has unless it says another."""
    family = struct.unpack("=H", attributes[DEST_FAMILY][:2])[0] if DEST_FAMILY in attributes else 0
    (port,) = struct.unpack("!H", attributes[DEST_PORT][:2])
    kinds = (DEST_METHOD, DEST_WEIGHT, DEST_UPPER, DEST_LOWER)
    method, weight, upper, lower = (struct.unpack("=I", attributes[kind][:4])[0] for kind in kinds)
    # BYPASS (4) exists for connections only.
    forwarding = ForwardMethod(method & METHOD_MASK & 3)
    return Destination(
        address=_address(family or FAMILIES[key.address.version], attributes[DEST_ADDR]),
        port=port,
        method=forwarding,
        weight=weight,
        upper=upper,
        lower=lower,
        tunnel=_tunnel(attributes) if forwarding is ForwardMethod.TUNNEL else IPIP,
    )


def service_reading(attributes: Attributes) -> Reading:
    """What a service has counted."""
    return Reading(_counters(attributes, SVC_STATS, SVC_STATS64))


def destination_reading(attributes: Attributes) -> Reading:
    """What a destination has counted, and its connections."""
    active, inactive = (
        struct.unpack("=I", attributes.get(kind, bytes(4))[:4])[0] for kind in (DEST_ACTIVE, DEST_INACTIVE)
    )
    return Reading(_counters(attributes, DEST_STATS, DEST_STATS64), active, inactive)


def _counters(attributes: Attributes, narrow: int, wide: int) -> Counters:
    """From the statistics of 64 bits, where the kernel has them (4.1)."""
    nest = attributes.get(wide) or attributes.get(narrow, b"")
    if len(nest) >= STATS64.size:
        found = STATS64.unpack_from(nest)
        if found[0::3] == (12,) * 5 and found[1::3] == (1, 2, 3, 4, 5):
            return Counters(*found[2::3])
    values = parse_attributes(nest)
    return Counters(*(int.from_bytes(values.get(kind, b""), sys.byteorder) for kind in range(1, 6)))


def _tunnel(attributes: Attributes) -> Tunnel:
    """Kernels before 5.3 have ipip only and say nothing."""
    if not {DEST_TUN_TYPE, DEST_TUN_PORT, DEST_TUN_FLAGS} <= attributes.keys():
        return IPIP
    kind, (flags,) = attributes[DEST_TUN_TYPE][0], struct.unpack("=H", attributes[DEST_TUN_FLAGS][:2])
    return Tunnel(
        type=TUNNELS[kind % len(TUNNELS)],
        port=struct.unpack("!H", attributes[DEST_TUN_PORT][:2])[0],
        checksum=TUNNEL_CHECKSUMS[flags % len(TUNNEL_CHECKSUMS)],
    )


def encode_daemon(op: SyncOp) -> tuple[int, bytes]:
    """(command, attributes)."""
    daemon = op.daemon
    body = attribute(DAEMON_STATE, struct.pack("=I", daemon.role))
    if isinstance(op, StartSync):
        body += attribute(DAEMON_INTERFACE, daemon.interface.encode() + b"\0")
        body += attribute(DAEMON_SYNC_ID, struct.pack("=I", daemon.sync_id))
    return (NEW_DAEMON if isinstance(op, StartSync) else DEL_DAEMON), attribute(CMD_DAEMON | NESTED, body)


def decode_daemon(attributes: Attributes) -> SyncDaemon:
    """One that runs."""
    state, sync_id = (struct.unpack("=I", attributes[kind][:4])[0] for kind in (DAEMON_STATE, DAEMON_SYNC_ID))
    interface = attributes[DAEMON_INTERFACE].partition(b"\0")[0].decode()
    return SyncDaemon(role=SyncRole(state), interface=interface, sync_id=sync_id)


def _address(family: int, data: bytes) -> IPAddress:
    return IPv4Address(data[:4]) if family == socket.AF_INET else IPv6Address(data[:16])
