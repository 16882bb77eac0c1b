"""The client: asks the virtual address all the time, and sees its cable with the kernel's time stamps."""

import contextlib
import ctypes
import os
import select
import socket
import struct
import time
from typing import Final

from tests.bench.trace import Trace, spacings
from tests.net.election_host import VIP, Probe
from tests.net.lan import EVERY_PROTOCOL, Lan

# Not in the socket module of Python 3.11 (asm-generic/socket.h, linux/if_packet.h, linux/rtnetlink.h).
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMPNS: Final = 35
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
RTMGRP_IPV4_IFADDR: Final = 0x10
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21

BUFFER: Final = 64 << 20
ATTACKER: Final = "10.0.0.66"
"""What this host sends is not captured."""
ASKING_PRIORITY: Final = 20
"""SCHED_RR of the asking threads, above the election's (10): a client that does not ask sees no end of an outage."""
BENCH_PRIORITY: Final = 5
"""Of every other thread here, below the election's: one that is put aside while it has the interpreter's lock would
hold up those that ask."""


def hurry(priority: int = BENCH_PRIORITY) -> None:
    """Come before ordinary processes, where that is permitted; children do not inherit it."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


class Poller(Probe):
    """Asks on time, whatever else this machine does."""

    def _work(self) -> None:
        hurry(ASKING_PRIORITY)
        super()._work()


class MiddlingPoller(Poller):
    """For differences of a few milliseconds."""

    PERIOD = 0.002


class FinePoller(Poller):
    """For outages of a few milliseconds."""

    PERIOD = 0.001


class Capture:
    """Frames of a host's ``eth0`` both ways, stamped by the kernel, so that nothing depends on when they are read."""

    def __init__(self, lan: Lan, host: str) -> None:
        self._socket = lan.socket(host, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        _ignore(self._socket, ATTACKER)
        self._socket.bind(("eth0", EVERY_PROTOCOL))
        self._socket.setblocking(False)
        self.trace = Trace.empty()
        self._asked: list[float] = []

    def drain(self) -> Trace:
        """Everything seen since the last ``restart``."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, ancillary, _, _ = self._socket.recvmsg(256, 64)
                seconds, nanoseconds = struct.unpack("@qq", ancillary[0][2])
                self.trace.add(seconds + nanoseconds / 1e9, frame, VIP)
        return self.trace

    def restart(self) -> None:
        """Forget what was seen, apart from how often it was asked."""
        self.drain()
        self._asked += spacings(self.trace.requests)
        self.trace = Trace.empty()

    def await_advert(self, source: str, timeout: float) -> float:
        """Return as soon as a new advert of this source is here; its time. Raises TimeoutError."""
        end = time.monotonic() + timeout
        seen = len(self.drain().of(source))
        while (left := end - time.monotonic()) > 0:
            select.select([self._socket], [], [], left)
            if len(moments := self.drain().of(source)) > seen:
                return moments[-1]
        raise TimeoutError(f"no advert of {source} within {timeout} s")

    @property
    def lost(self) -> int:
        """Frames that the kernel had no room for, since the last look."""
        _, drops = struct.unpack("@II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        return int(drops)

    @property
    def asked(self) -> list[float]:
        """Seconds between requests, up to the last ``restart``."""
        return self._asked


class AddressWatch:
    """Additions and deletions of the virtual address on a host, as the kernel tells them."""

    def __init__(self, lan: Lan, host: str, address: str = VIP) -> None:
        self._socket = lan.socket(host, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self._socket.bind((0, RTMGRP_IPV4_IFADDR))
        self._socket.setblocking(False)
        self._address = socket.inet_aton(address)

    def events(self) -> list[bool]:
        """Since the last call, in order: True for an addition (or a renewal), False for a deletion."""
        found: list[bool] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(1 << 16)
                while len(data) >= 16:
                    length, kind = struct.unpack_from("@IH", data)
                    if kind in (RTM_NEWADDR, RTM_DELADDR) and self._address in data[24:length]:
                        found.append(kind == RTM_NEWADDR)
                    data = data[(length + 3) & ~3 :]
        return found


def _ignore(opened: socket.socket, source: str) -> None:
    """Classic BPF: everything but IPv4 packets of this source."""
    program = [
        (0x28, 0, 0, 12),  # A = EtherType
        (0x15, 0, 2, 0x0800),
        (0x20, 0, 0, 26),  # A = source address
        (0x15, 1, 0, int.from_bytes(socket.inet_aton(source))),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
