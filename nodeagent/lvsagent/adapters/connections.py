"""The kernel's IPVS connections: read from /proc/net/ip_vs_conn, written by a sync message of our own making.

Writing has no other way: the kernel takes connections from its sync *backup* daemon only (net/netfilter/ipvs/
ip_vs_sync.c, message version 1). It runs on ``lo`` for the few milliseconds of one write, with a group, a port and a
sync id drawn at random each time: nothing from the network reaches it, and a process of this node would have to guess
them. Entries inherit the forwarding method of their destination and stay when the daemon ends.
"""

import contextlib
import errno
import random
import socket
import struct
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from pathlib import Path
from typing import Final

from lvsagent.adapters.netlink import NESTED, Message, Netlink, NetlinkError, attribute, error_name, parse_attributes
from lvsagent.core.affinity import STATES, Connection, Flow
from lvsagent.core.leftovers import CLOSING
from lvsagent.core.maglev import DestinationKey
from lvsapi.model import IPAddress, Protocol

CONNECTIONS: Final = Path("/proc/thread-self/net/ip_vs_conn")
UDP_SOCKETS: Final = Path("/proc/thread-self/net/udp")
LOOPBACK: Final = "lo"
MOST_LINES: Final = 1_000_000
"""Of the list at one look: the kernel goes through all of them again for every page (ip_vs_conn_array), and a look may
not take minutes."""
IN_MESSAGE: Final = 200
"""Connections. The kernel counts them in one octet; 200 of IPv6 make 14 kB."""
IN_FLIGHT: Final = 4
"""Messages sent before the daemon has to have read them: the kernel drops what its receive buffer (208 KiB) cannot
take (*measured*: half of 10,000 connections sent at once)."""
PATIENCE: Final = 1.0
"""Seconds for the daemon to read what was sent."""
GENERIC: Final = 16
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
NEW_DAEMON, DEL_DAEMON, GET_DAEMON, CMD_DAEMON = 9, 10, 11, 3
DAEMON_STATE, DAEMON_INTERFACE, DAEMON_SYNC_ID, DAEMON_MAXLEN, DAEMON_GROUP, DAEMON_PORT = 1, 2, 3, 4, 5, 7
BACKUP: Final = 2
SYNC_VERSION: Final = 1
TYPE_INET6: Final = 1
ROUTE: Final = 3
"""IP_VS_CONN_F_DROUTE, for an entry whose destination is not there (yet)."""
_NUMBERS: Final = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_PROTOCOLS: Final = {b"TCP": Protocol.TCP, b"UDP": Protocol.UDP, b"SCTP": Protocol.SCTP}
_LASTING: Final = frozenset(
    (str(protocol).encode(), state.encode())
    for protocol, state in (*STATES, *((Protocol.TCP, state) for state in CLOSING))
)
"""What an exception may be in, and what may be left of one."""
_MESSAGE: Final = struct.Struct("!BBHBbH")
_ENTRY: Final = struct.Struct("!BBHIHHHHII")


class Occupied(OSError):
    """Somebody else runs the kernel's one backup daemon."""


def chosen(lines: Iterable[bytes], wanted: Container[bytes] | None = None) -> Iterator[bytes]:
    """The lines of the kernel's list that are worth to be read: there may be millions, most of them half-open in a
    flood.

    ``wanted``: the beginnings of the lines (``line_of``); None: all that carry data or have ended. Templates and
    protocols that we do not know are left out.
    """
    for line in lines:
        fields = line.split(None, 8)
        if fields[2] == b"0000" or fields[0] not in _PROTOCOLS:
            continue
        if (fields[0], fields[7]) in _LASTING if wanted is None else b" ".join(fields[:5]) in wanted:
            yield line


def parse(lines: Iterable[bytes]) -> Iterator[Connection]:
    """One by one, of lines that were chosen."""
    for line in lines:
        name, client, client_port, address, port, destination, mapped, state, expires = line.split(None, 9)[:9]
        yield Connection(
            _PROTOCOLS[name],
            _address(address),
            int(port, 16),
            int(client.replace(b":", b""), 16),
            int(client_port, 16),
            _destination(destination, mapped),
            state.decode(),
            int(expires),
        )


def line_of(flow: Flow) -> bytes:
    """How the kernel's line about a connection begins, with one space between two words."""
    protocol, address, port, client, client_port = flow
    ends = (_hexadecimal(address.version, client), _hexadecimal(address.version, int(address)))
    return f"{protocol} {ends[0]} {client_port:04X} {ends[1]} {port:04X}".encode()


class Listing:
    """The connections of this network namespace, foreign ones included, as they are when this is made.

    The kernel finds its place in the list by counting: of what comes and goes during a read others are left out. So all
    is read first, and kept as it is written there (some 75 octets each); connections are made of it one by one.
    """

    def __init__(self, flows: Iterable[Flow] | None = None) -> None:
        """``flows``: only these, in whichever state; None: all that carry data or have ended."""
        wanted = None if flows is None else frozenset(map(line_of, flows))
        self._kept = BytesIO()
        self.left_out = 0
        """1 when there were more than MOST_LINES: nobody counts them."""
        with CONNECTIONS.open("rb") as lines:
            next(lines, None)
            self._kept.writelines(chosen(islice(lines, MOST_LINES), wanted))
            self.left_out = int(next(lines, None) is not None)

    def __iter__(self) -> Iterator[Connection]:
        self._kept.seek(0)
        return parse(self._kept)


def write(connections: Sequence[Connection]) -> None:
    """Put the connections into the kernel's table, in place of entries with the same client and another destination.

    What the kernel could not take is not reported: read, and write again. Raises Occupied, and OSError when the kernel
    refuses the daemon.
    """
    if not connections:
        return
    drawn = random.SystemRandom()
    group = IPv4Address((239 << 24) + drawn.randrange(1, 1 << 24))
    port, sync_id = drawn.randrange(1024, 1 << 16), drawn.randrange(1, 256)
    with Netlink(GENERIC) as netlink:
        family = _family(netlink)
        _start(netlink, family, group, port, sync_id)
        try:
            _send(connections, group, port, sync_id)
        finally:
            _stop(netlink, family)


def clean() -> None:
    """End a daemon that a killed process of ours left behind."""
    with Netlink(GENERIC) as netlink:
        family = _family(netlink)
        if _left_behind(netlink, family):
            _stop(netlink, family)


def message(sync_id: int, connections: Iterable[Connection]) -> bytes:
    """A sync message (struct ip_vs_sync_mesg and ip_vs_sync_v4 or _v6)."""
    entries = [_entry(connection) for connection in connections]
    body = b"".join(entries)
    return _MESSAGE.pack(0, sync_id, _MESSAGE.size + len(body), len(entries), SYNC_VERSION, 0) + body


def _entry(connection: Connection) -> bytes:
    destination, mapped = connection.destination
    width = len(destination.packed)
    state, _ = STATES[connection.protocol, connection.state]
    ports = (connection.client_port, connection.port, mapped)
    head = _ENTRY.pack(
        TYPE_INET6 if width == 16 else 0,
        _NUMBERS[connection.protocol],
        _ENTRY.size + 3 * width,
        ROUTE,
        state,
        *ports,
        0,
        max(connection.expires, 1),
    )
    return head + connection.client.to_bytes(width) + connection.address.packed + destination.packed


def _send(connections: Sequence[Connection], group: IPv4Address, port: int, sync_id: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
        interface = struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex(LOOPBACK))
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        for number, first in enumerate(range(0, len(connections), IN_MESSAGE), 1):
            opened.sendto(message(sync_id, connections[first : first + IN_MESSAGE]), (str(group), port))
            if number % IN_FLIGHT == 0:
                _until_read(group, port)
        _until_read(group, port)


def _until_read(group: IPv4Address, port: int) -> None:
    """Wait until nothing is in the daemon's receive queue."""
    local = f"{int.from_bytes(group.packed[::-1]):08X}:{port:04X}"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        listed = [line.split() for line in UDP_SOCKETS.read_text().splitlines()]
        if not any(int(fields[4].partition(":")[2], 16) for fields in listed if fields[1] == local):
            return
        time.sleep(0.001)


# -- the daemon ------------------------------------------------------------------------------------------------------


def _start(netlink: Netlink, family: int, group: IPv4Address, port: int, sync_id: int) -> None:
    body = (
        attribute(DAEMON_STATE, struct.pack("=I", BACKUP))
        + attribute(DAEMON_INTERFACE, LOOPBACK.encode() + b"\0")
        + attribute(DAEMON_SYNC_ID, struct.pack("=I", sync_id))
        + attribute(DAEMON_MAXLEN, struct.pack("=H", 0xFFFF))
        + attribute(DAEMON_GROUP, group.packed)
        + attribute(DAEMON_PORT, struct.pack("=H", port))
    )
    for last in (False, True):
        code = _call(netlink, family, NEW_DAEMON, body)
        if code == errno.EEXIST and not last and _left_behind(netlink, family):
            _stop(netlink, family)
        elif code == errno.EEXIST:
            raise Occupied(
                code,
                "the kernel's sync backup daemon is in use on another interface than lo: connections whose place in"
                " the table changed cannot be kept; stop it (ipvsadm --stop-daemon backup)",
            )
        elif code:
            raise OSError(code, f"the kernel refuses a sync backup daemon on {LOOPBACK}: {error_name(code)}")
        else:
            return


def _stop(netlink: Netlink, family: int) -> None:
    with contextlib.suppress(NetlinkError):
        _call(netlink, family, DEL_DAEMON, attribute(DAEMON_STATE, struct.pack("=I", BACKUP)))


def _call(netlink: Netlink, family: int, command: int, body: bytes) -> int:
    """The error number; 0: done."""
    request = struct.pack("=BBH", command, 1, 0) + attribute(CMD_DAEMON | NESTED, body)
    return netlink.batch([Message(family, 0, request)]).get(0, 0)


def _left_behind(netlink: Netlink, family: int) -> bool:
    """Whether the backup daemon that runs is one of ours: nobody else has a use for one on ``lo``."""
    for answer in netlink.dump(Message(family, 0, struct.pack("=BBH", GET_DAEMON, 1, 0))):
        daemon = parse_attributes(parse_attributes(answer[4:]).get(CMD_DAEMON, b""))
        state = daemon.get(DAEMON_STATE, bytes(4))
        if struct.unpack("=I", state[:4]) == (BACKUP,):
            return daemon.get(DAEMON_INTERFACE, b"").partition(b"\0")[0] == LOOPBACK.encode()
    return False


def _family(netlink: Netlink) -> int:
    body = struct.pack("=BBH", CTRL_CMD_GETFAMILY, 1, 0) + attribute(CTRL_ATTR_FAMILY_NAME, b"IPVS\0")
    answer = netlink.request(Message(GENL_ID_CTRL, 0, body))
    (number,) = struct.unpack("=H", parse_attributes(answer[4:])[CTRL_ATTR_FAMILY_ID][:2])
    return int(number)


# -- the list --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _address(text: bytes) -> IPAddress:
    return IPv6Address(text.decode()) if b":" in text else IPv4Address(int(text, 16))


@lru_cache(maxsize=4096)
def _destination(text: bytes, port: bytes) -> DestinationKey:
    return _address(text), int(port, 16)


def _hexadecimal(version: int, address: int) -> str:
    if version == 4:
        return f"{address:08X}"
    digits = f"{address:032x}"
    return ":".join(digits[place : place + 4] for place in range(0, 32, 4))
