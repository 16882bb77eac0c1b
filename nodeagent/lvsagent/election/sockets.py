"""The wire: VRRP over raw IPv4 and ARP over packet sockets, bound to one interface each."""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from lvsagent.vrrp import packet
from lvsagent.vrrp.arp import ETHERTYPE_ARP

# Not in the socket module of Python 3.11 (asm-generic/socket.h, linux/in.h, linux/if_packet.h).
SO_ATTACH_FILTER: Final = 26
IP_MULTICAST_ALL: Final = 49
SOL_PACKET: Final = 263
PACKET_IGNORE_OUTGOING: Final = 23
TOS_INTERNETWORK_CONTROL: Final = 0xC0
PRIORITY_CONTROL: Final = 7
"""TC_PRIO_CONTROL."""

_BPF_LOAD_BYTE_INDIRECT: Final = 0x50
_BPF_LOAD_WORD: Final = 0x20
_BPF_LOAD_X_HEADER_LENGTH: Final = 0xB1
_BPF_JUMP_EQUAL: Final = 0x15
_BPF_RETURN: Final = 0x06
_EVERYTHING: Final = 0xFFFF

Instruction = tuple[int, int, int, int]


class AdvertSocket:
    """Adverts of one interface, in and out."""

    def __init__(self, interface: str, index: int, source: bytes) -> None:
        """Raises OSError: no CAP_NET_RAW, no such interface."""
        self.interface = interface
        self.index = index
        self.source = source
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, packet.PROTOCOL)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY_CONTROL)
            # Group, address to send from, interface by index: names and addresses may change under us.
            membership = packet.GROUP_V4 + source + struct.pack("@i", index)
            opened.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, membership)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, packet.HOP_LIMIT)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TOS_INTERNETWORK_CONTROL)
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        self._group = socket.inet_ntoa(packet.GROUP_V4)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def listen_for(self, virtual_router_ids: Iterable[int]) -> None:
        """Let the kernel drop the adverts of other virtual routers; of any version, so that ours are counted."""
        accept = sorted(virtual_router_ids)
        # X = length of the IP header; A = the octet after the next behind it, the VRID in every version of VRRP.
        program: list[Instruction] = [(_BPF_LOAD_X_HEADER_LENGTH, 0, 0, 0), (_BPF_LOAD_BYTE_INDIRECT, 0, 0, 1)]
        _attach(self._socket, [*program, *_any_of(accept)])

    def send(self, payload: bytes) -> None:
        """Multicast one advert. Raises OSError."""
        self._socket.sendto(payload, (self._group, 0))

    def receive(self, limit: int = 64) -> Iterator[bytes]:
        """IPv4 packets, header included; ``limit`` at most, so that a flood cannot hold up the timers."""
        return _receive(self._socket, 2048, limit)


class ArpSocket:
    """ARP frames of one interface, in and out."""

    def __init__(self, interface: str, index: int, mac: bytes) -> None:
        """Raises OSError: no CAP_NET_RAW, no such interface."""
        self.interface = interface
        self.index = index
        self.mac = mac
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            opened.setblocking(False)
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            _attach(opened, [(_BPF_RETURN, 0, 0, 0)])
            opened.bind((interface, ETHERTYPE_ARP))
        except BaseException:
            opened.close()
            raise
        self._socket = opened

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def listen_for(self, addresses: Iterable[bytes]) -> None:
        """Let the kernel drop ARP whose sender is not one of these addresses."""
        accept = sorted(int.from_bytes(address) for address in addresses)
        _attach(self._socket, [(_BPF_LOAD_WORD, 0, 0, 28), *_any_of(accept)])

    def send(self, frame: bytes) -> None:
        """Put one frame on the wire. Raises OSError."""
        self._socket.send(frame)

    def receive(self, limit: int = 64) -> Iterator[bytes]:
        """Frames; ``limit`` at most."""
        return _receive(self._socket, 256, limit)


def _receive(opened: socket.socket, size: int, limit: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        for _ in range(limit):
            yield opened.recv(size)


def _any_of(values: Iterable[int]) -> list[Instruction]:
    """Accept when the accumulator is one of the values: two instructions each, so that no jump is far."""
    program: list[Instruction] = []
    for value in values:
        program += [(_BPF_JUMP_EQUAL, 0, 1, value), (_BPF_RETURN, 0, 0, _EVERYTHING)]
    return [*program, (_BPF_RETURN, 0, 0, 0)]


def _attach(opened: socket.socket, program: list[Instruction]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
