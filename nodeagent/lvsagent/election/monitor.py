"""Notices of the kernel: what others do to links and addresses of this network namespace (linux/rtnetlink.h)."""

import contextlib
import socket
import struct

from lvsagent.election import bpf
from lvsagent.election.netlink import (
    LONGEST,
    RTM_DELADDR,
    RTM_NEWADDR,
    AddressEvent,
    LinkEvent,
    enlarge,
    event_of,
    messages,
)

RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100


class EventsLost(Exception):
    """More happened than the socket could hold (ENOBUFS), or it cannot be read: read everything anew."""


class Monitor:
    """What others do to links and addresses."""

    def __init__(self, port: int = 0) -> None:
        """``port``: of the ``Rtnetlink`` whose own changes of addresses are not told: renewals are many."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        enlarge(self._socket)
        if port:
            with contextlib.suppress(OSError):  # then we hear of ourselves, too
                bpf.attach(self._socket, _but_from(port))
        self._socket.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self, limit: int = 256) -> list[LinkEvent | AddressEvent]:
        """What happened since the last call; ``limit`` datagrams at most. Raises EventsLost."""
        events: list[LinkEvent | AddressEvent] = []
        try:
            with contextlib.suppress(BlockingIOError):
                for _ in range(limit):
                    for kind, _flags, _sequence, body in messages(self._socket.recv(LONGEST)):
                        if (event := event_of(kind, body)) is not None:
                            events.append(event)
        except OSError as error:
            raise EventsLost from error
        return events


def _but_from(port: int) -> list[bpf.Instruction]:
    """A filter for notices of addresses that somebody else changed. Numbers are in the host's order, BPF loads them as
    if they were in the network's."""
    new, gone, own = (
        int.from_bytes(struct.pack(layout, value))
        for layout, value in (("=H", RTM_NEWADDR), ("=H", RTM_DELADDR), ("=I", port))
    )
    return [
        (bpf.LOAD_HALF, 0, 0, 4),
        (bpf.JUMP_EQUAL, 1, 0, new),
        (bpf.JUMP_EQUAL, 0, 2, gone),
        (bpf.LOAD_WORD, 0, 0, 12),
        (bpf.JUMP_EQUAL, 1, 0, own),
        bpf.ANYTHING,
        bpf.NOTHING,
    ]
