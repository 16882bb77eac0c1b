"""Packets to virtual addresses out, and what comes back, past this node's own tables.

Out by packet sockets (direct routing: the kernel only puts the link's header before them) and raw ones (tunnels: it
puts its own header before them, too), so that IPVS does not choose a backend. In by a tap: this node has the virtual
address itself, so its kernel takes the answer for a forgery and drops it, or, where that is allowed (``accept_local``),
knows nobody who waits for it.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Collection
from typing import Final

from lvsagent.checks.path_packets import ETHERTYPES, GRE, ICMP, ICMPV6, IPIP, IPV6, RST, SYN, TCP, UDP, Answer, parse
from lvsagent.election import bpf
from lvsagent.election.frames import PACKET_IGNORE_OUTGOING, PACKET_OTHERHOST, SOL_PACKET
from lvsapi.ipvs import Tunnel, TunnelType

LONGEST: Final = 2048
AT_ONCE: Final = 64
"""Packets read in one turn of the loop."""
MOST: Final = 200
"""Own addresses, and virtual ones asked by UDP, that the kernel looks for; with more it lets everything of UDP pass."""
_JUMP_IF_ANY: Final = 0x45
_RETURN_ALL: Final[bpf.Instruction] = (bpf.RETURN, 0, 0, bpf.EVERYTHING)

Key = tuple[bytes, int, bytes]
"""This node's address and port, virtual address."""

_log = logging.getLogger(__name__)


def tap_filter(size: int, sources: Collection[bytes], virtual: Collection[bytes]) -> list[bpf.Instruction]:
    """Packets to ``sources`` that begin or refuse a connection or are ICMP, and UDP from ``virtual``.

    ``size``: octets of an address. Of IPv6 the last four octets are looked at; ``path_packets`` looks at all.
    """
    source, destination, protocol = (12, 16, 9) if size == 4 else (20, 36, 6)
    words = sorted({int.from_bytes(address[-4:]) for address in sources})
    program: list[bpf.Instruction] = [(bpf.LOAD_WORD, 0, 0, destination)]
    program += [(bpf.JUMP_EQUAL, len(words) - at, 0, word) for at, word in enumerate(words)]
    program += [bpf.NOTHING, (bpf.LOAD_BYTE, 0, 0, protocol)]
    program += [(bpf.JUMP_EQUAL, 0, 1, ICMP if size == 4 else ICMPV6), _RETURN_ALL]
    if size == 4:
        flags: list[bpf.Instruction] = [(bpf.LOAD_X_HEADER_LENGTH, 0, 0, 0), (bpf.LOAD_BYTE_INDIRECT, 0, 0, 13)]
    else:
        flags = [(bpf.LOAD_BYTE, 0, 0, 53)]
    program += [
        (bpf.JUMP_EQUAL, 0, len(flags) + 3, TCP),
        *flags,
        (_JUMP_IF_ANY, 0, 1, SYN | RST),
        _RETURN_ALL,
        bpf.NOTHING,
        (bpf.JUMP_EQUAL, 1, 0, UDP),
        bpf.NOTHING,
    ]
    if len(virtual) > MOST:
        return [*program, _RETURN_ALL]
    return [*program, (bpf.LOAD_WORD, 0, 0, source), *bpf.any_of(int.from_bytes(a[-4:]) for a in virtual)]


class Wire:
    """Of one family. For one event loop. Raises OSError: no CAP_NET_RAW."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        """``size``: octets of an address."""
        self._size = size
        self._loop = loop
        self._sources: set[bytes] = set()
        self._virtual: set[bytes] = set()
        self._flows: dict[Key, Callable[[Answer], None]] = {}
        self._tunnels: dict[tuple[int, int], socket.socket] = {}
        # Every interface. What comes before the filter stands belongs to no flow.
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        opened = socket.socket(socket.AF_PACKET, kind, socket.htons(ETHERTYPES[size]))
        try:
            opened.setblocking(False)
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            bpf.attach(opened, [bpf.NOTHING])
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        loop.add_reader(opened.fileno(), self._read)

    def close(self) -> None:
        """May be called twice."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for opened in self._tunnels.values():
            opened.close()
        self._tunnels.clear()

    def listen(self, key: Key, datagrams: bool, heard: Callable[[Answer], None]) -> None:
        """Call ``heard`` for what comes back until ``forget``."""
        source, _, virtual = key
        if source not in self._sources or (datagrams and virtual not in self._virtual):
            self._sources = {source, *sorted(self._sources)[: MOST - 1]}
            if datagrams:
                self._virtual.add(virtual)
            bpf.attach(self._socket, tap_filter(self._size, self._sources, self._virtual))
        self._flows[key] = heard

    def forget(self, key: Key) -> None:
        """No more of it."""
        self._flows.pop(key, None)

    def send(self, packet: bytes, interface: str, mac: bytes) -> None:
        """To the host with that MAC. Raises OSError."""
        self._socket.sendto(packet, (interface, ETHERTYPES[self._size], 0, 0, mac))

    def send_by_tunnel(self, content: bytes, tunnel: Tunnel, backend: str) -> None:
        """``content``: ``path_packets.encapsulated``. Raises OSError."""
        family = socket.AF_INET6 if ":" in backend else socket.AF_INET
        match tunnel.type:
            case TunnelType.GUE:
                kind, protocol = socket.SOCK_DGRAM, 0
            case TunnelType.GRE:
                kind, protocol = socket.SOCK_RAW, GRE
            case TunnelType.IPIP:
                kind, protocol = socket.SOCK_RAW, IPIP if self._size == 4 else IPV6
        opened = self._tunnels.get((family, protocol))
        if opened is None:
            opened = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
            bpf.attach(opened, [bpf.NOTHING])
            self._tunnels[family, protocol] = opened
        opened.sendto(content, (backend, tunnel.port))

    def _read(self) -> None:
        try:
            with contextlib.suppress(BlockingIOError):
                for _ in range(AT_ONCE):
                    packet, (_interface, _type, kind, *_rest) = self._socket.recvfrom(LONGEST)
                    answer = parse(packet) if kind != PACKET_OTHERHOST else None
                    heard = self._flows.get((answer.source, answer.port, answer.virtual)) if answer else None
                    if answer is not None and heard is not None:
                        heard(answer)
        except OSError as error:  # ENETDOWN: an interface went down; the others go on
            _log.info("a packet socket said", extra={"error": error})
