"""How the kernel would reach a backend: route, next hop's MAC, own ports that listen. Blocking, for moments.

include/uapi/linux/rtnetlink.h, neighbour.h. Nothing is changed, and no capability is needed.
"""

import errno
import fcntl
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from lvsagent.adapters.netlink import Message, Netlink, NetlinkError, attribute, parse_attributes
from lvsapi.model import IPAddress, Protocol

_ROUTE: Final = 0
_RTM_GETROUTE, _RTM_GETNEIGH = 26, 30
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_NDMSG: Final = struct.Struct("=BxxxiHBB")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_VIA = 1, 4, 5, 7, 18
_NDA_DST, _NDA_LLADDR = 1, 2
_RTN_LOCAL: Final = 2
_NUD_REACHABLE, _NUD_STALE, _NUD_DELAY, _NUD_PROBE, _NUD_NOARP, _NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x40, 0x80
_USABLE: Final = _NUD_REACHABLE | _NUD_STALE | _NUD_DELAY | _NUD_PROBE | _NUD_NOARP | _NUD_PERMANENT
_SIOCGIFHWADDR: Final = 0x8927
_ARPHRD_ETHER: Final = 1
_DISCARD: Final = 9
_LISTENS: Final = {Protocol.TCP: "0A", Protocol.UDP: "07"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """To one address."""

    local: bool
    """It is this node's own."""
    index: int
    """Of the interface."""
    hop: bytes
    """The next hop's address: the gateway's, or the address itself."""
    on_link: bool
    """The address itself is the next hop."""
    source: bytes
    """This node's address towards it; empty: the kernel names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """The next hop as the kernel knows it."""

    mac: bytes
    """Empty: not known (yet), or the link has none."""
    fresh: bool
    """Nobody needs to look whether it is still so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface."""

    name: str
    mac: bytes
    ethernet: bool


class Routes:
    """Raises OSError: no netlink socket."""

    def __init__(self) -> None:
        self._netlink = Netlink(_ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def to(self, address: IPAddress) -> Route:
        """Raises NetlinkError: there is none (ENETUNREACH), or it is one that refuses."""
        family, size = (socket.AF_INET, 32) if address.version == 4 else (socket.AF_INET6, 128)
        body = _RTMSG.pack(family, size, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, address.packed)
        answer = self._netlink.request(Message(_RTM_GETROUTE, 0, body))
        found = parse_attributes(answer[_RTMSG.size :])
        via = found.get(_RTA_GATEWAY) or found.get(_RTA_VIA, b"")[2:] or address.packed
        return Route(
            local=answer[7] == _RTN_LOCAL,
            index=int.from_bytes(found.get(_RTA_OIF, bytes(4)), "little" if _LITTLE else "big"),
            hop=via,
            on_link=via == address.packed,
            source=found.get(_RTA_PREFSRC, b""),
        )

    def neighbor(self, route: Route) -> Neighbor:
        """Of the next hop. Raises NetlinkError."""
        family = socket.AF_INET if len(route.hop) == 4 else socket.AF_INET6
        body = _NDMSG.pack(family, route.index, 0, 0, 0) + attribute(_NDA_DST, route.hop)
        try:
            answer = self._netlink.request(Message(_RTM_GETNEIGH, 0, body))
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            return Neighbor(mac=b"", fresh=False)
        _, _, state, _, _ = _NDMSG.unpack_from(answer)
        mac = parse_attributes(answer[_NDMSG.size :]).get(_NDA_LLADDR, b"") if state & _USABLE else b""
        return Neighbor(mac=mac, fresh=bool(state & _USABLE & ~_NUD_STALE))


def look_for(address: IPAddress) -> None:
    """Have the kernel ask for the next hop's MAC, or whether it is still so: an empty datagram to the port of discard,
    for which nothing more is needed than a socket."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as opened, suppress(OSError):
        opened.sendto(b"", (str(address), _DISCARD))


def link(index: int) -> Link:
    """Raises OSError: it is gone."""
    name = socket.if_indextoname(index)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        answer = fcntl.ioctl(opened, _SIOCGIFHWADDR, struct.pack("@16sH22x", name.encode(), 0))
    kind = struct.unpack_from("@H", answer, 16)[0]
    return Link(name=name, mac=answer[18:24], ethernet=kind == _ARPHRD_ETHER)


def listens(address: IPAddress, port: int, protocol: Protocol, proc_net: Path = Path("/proc/thread-self/net")) -> bool:
    """Whether a socket of this node would get a packet to that address and port. Raises OSError."""
    state = _LISTENS[protocol]
    accepted = {(address.packed, port), (bytes(len(address.packed)), port), (bytes(16), port)}
    for suffix in ("", "6"):
        table = proc_net / f"{protocol.lower()}{suffix}"
        if table.exists() and accepted & set(listening(table.read_text(), state)):
            return True
    return False


def listening(table: str, state: str) -> list[tuple[bytes, int]]:
    """(address, port) of /proc/net/{tcp,udp}[6] in that state; addresses are there in words of the machine's order."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == state:
            address, _, port = fields[1].partition(":")
            words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
            packed = b"".join(struct.pack("=I", word) for word in words)
            mapped = ip_address(packed).ipv4_mapped if len(packed) == 16 else None  # type: ignore[union-attr]
            found.append((mapped.packed if mapped is not None else packed, int(port, 16)))
    return found


_LITTLE: Final = struct.pack("=H", 1) == b"\1\0"
