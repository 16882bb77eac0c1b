"""Addresses of an interface, asked of the kernel by a socket that lives in its namespace (rtnetlink(7)).

Tests that wait for an address ask a hundred times a second: starting ip(8) that often would keep a processor busy.
"""

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator

RTM_GETADDR, RTM_NEWADDR, NLMSG_DONE, NLMSG_ERROR = 22, 20, 3, 2
NLM_F_REQUEST_DUMP = 0x301
IFA_ADDRESS, IFA_LOCAL = 1, 2
SIOCGIFINDEX = 0x8933


def open_socket() -> socket.socket:
    """In the namespace of the calling thread."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


def addresses(link: socket.socket, interface: str) -> list[str]:
    """With prefix lengths, in the kernel's order; empty when there is no such interface."""
    with contextlib.suppress(OSError):
        answer = fcntl.ioctl(link, SIOCGIFINDEX, struct.pack("16s16x8x", interface.encode()))
        (index,) = struct.unpack_from("=i", answer, 16)
        return [found for at, found in _dump(link) if at == index]
    return []


def _dump(link: socket.socket) -> Iterator[tuple[int, str]]:
    """Index of the interface and address, of every address."""
    link.send(struct.pack("=IHHII", 20, RTM_GETADDR, NLM_F_REQUEST_DUMP, 0, 0) + bytes(4))
    while True:
        data = link.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise OSError("the kernel lists no addresses")
            family, prefix, _, _, index = struct.unpack_from("=BBBBI", data, 16)
            found = dict(_attributes(data[24:length]))
            packed = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
            if kind == RTM_NEWADDR and packed:
                yield index, f"{socket.inet_ntop(family, packed)}/{prefix}"
            data = data[length + 3 & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[length + 3 & ~3 :]
