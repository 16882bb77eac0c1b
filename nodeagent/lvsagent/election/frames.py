"""Ethernet frames in and out: ARP and Neighbour Discovery over packet sockets, bound to one interface each."""

import contextlib
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from lvsagent.election import bpf
from lvsagent.vrrp import arp, ndp, packet, probe

# Not in the socket module of Python 3.11 (linux/if_packet.h).
SOL_PACKET: Final = 263
PACKET_IGNORE_OUTGOING: Final = 23
PACKET_OTHERHOST: Final = 3
ETHERTYPE_IPV4: Final = 0x0800
PACKET_TYPE: Final = 0xFFFFF004
"""SKF_AD_OFF + SKF_AD_PKTTYPE (linux/filter.h): where a filter finds for whom the frame is."""
_FOR_US: Final[list[bpf.Instruction]] = [
    (bpf.LOAD_BYTE, 0, 0, PACKET_TYPE),
    (bpf.JUMP_EQUAL, 0, 1, PACKET_OTHERHOST),
    bpf.NOTHING,
]
"""Not for another host, and of this network: what comes with the tag of a VLAN that has no interface here is shown
without its tag, and another network may have the same addresses."""


class FrameSocket:
    """Frames of one Ethernet type on one interface; nothing is heard before a filter is set."""

    def __init__(self, interface: str, index: int, mac: bytes, ethertype: int) -> None:
        """Raises OSError: no CAP_NET_RAW, no such interface."""
        self.interface = interface
        self.index = index
        self.mac = mac
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            opened.setblocking(False)
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            bpf.attach(opened, [bpf.NOTHING])
            opened.bind((interface, ethertype))
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        self._wanted: frozenset[bytes] = frozenset()
        self._deaf = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """Put one frame on the wire. Raises OSError."""
        self._socket.send(frame)

    def receive(self, limit: int = 64) -> Iterator[bytes]:
        """Frames; ``limit`` at most."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(limit):
                yield self._socket.recv(2048)

    def _filter(self, wanted: frozenset[bytes], exact: list[bpf.Instruction], coarse: list[bpf.Instruction]) -> bool:
        """Hear of these addresses from now on, whatever the filter lets pass. False: the kernel took none."""
        if wanted == self._wanted and not self._deaf:
            return True
        self._wanted = wanted
        self._deaf = not bpf.attach_some(self._socket, [*_FOR_US, *exact], [*_FOR_US, *coarse])
        return not self._deaf


class ArpSocket(FrameSocket):
    """ARP: who has which IPv4 address."""

    def __init__(self, interface: str, index: int, mac: bytes) -> None:
        super().__init__(interface, index, mac, arp.ETHERTYPE_ARP)

    def listen_for(self, addresses: Iterable[bytes]) -> bool:
        """Hear ARP whose sender is one of these addresses; the kernel drops the rest as far as it can. False: the
        kernel takes no filter, and what was heard before is heard."""
        wanted = frozenset(addresses)
        exact = [(bpf.LOAD_WORD, 0, 0, 28), *bpf.any_of(map(int.from_bytes, wanted))]
        return self._filter(wanted, exact, [bpf.ANYTHING])

    def announcements(self, address: bytes, virtual: bytes | None) -> tuple[bytes, ...]:
        """The frames that say that the address is here, or at the virtual MAC."""
        mac = virtual or self.mac
        return arp.announcement(address, mac), arp.announcing_reply(address, mac)

    def probe(self, address: bytes) -> bytes:
        """The frame that asks whether somebody has the address."""
        return probe.arp_probe(address, self.mac)

    def claims(self) -> list[arp.Claim]:
        """What others claimed since the last call. Raises OSError."""
        found = (claim for frame in self.receive() if (claim := arp.parse(frame)) is not None)
        return [claim for claim in found if claim.address in self._wanted]


class NdSocket(FrameSocket):
    """Neighbour Discovery: who has which IPv6 address."""

    def __init__(self, interface: str, index: int, mac: bytes) -> None:
        super().__init__(interface, index, mac, ndp.ETHERTYPE_IPV6)
        self._forwards = _forwards(interface)

    def listen_for(self, addresses: Iterable[bytes]) -> bool:
        """Hear advertisements of these addresses and solicitations from them; the rest as of ``ArpSocket``."""
        wanted = frozenset(addresses)
        program: list[bpf.Instruction] = [
            (bpf.LOAD_BYTE, 0, 0, 20),
            (bpf.JUMP_EQUAL, 1, 0, ndp.NEXT_HEADER_ICMPV6),
            bpf.NOTHING,
            (bpf.LOAD_BYTE, 0, 0, 54),
            (bpf.JUMP_EQUAL, 2, 0, ndp.ADVERTISEMENT),
            (bpf.JUMP_EQUAL, 3, 0, ndp.SOLICITATION),
            bpf.NOTHING,
            (bpf.LOAD_WORD, 0, 0, 74),  # the target's last four octets
            (bpf.JUMP, 0, 0, 1),
            (bpf.LOAD_WORD, 0, 0, 34),  # the source's
        ]
        exact = [*program, *bpf.any_of(int.from_bytes(address[12:]) for address in wanted)]
        return self._filter(wanted, exact, [*program, bpf.ANYTHING])

    def announcements(self, address: bytes, virtual: bytes | None) -> tuple[bytes, ...]:
        """The frames that say that the address is here, or at the virtual MAC."""
        return (ndp.announcement(address, virtual or self.mac, forwards=self._forwards),)

    def probe(self, address: bytes) -> bytes:
        """The frame that asks whether somebody has the address."""
        return ndp.probe(address, self.mac)

    def claims(self) -> list[arp.Claim]:
        """What others claimed since the last call. Raises OSError."""
        found = (claim for frame in self.receive() if (claim := ndp.parse(frame)) is not None)
        return [claim for claim in found if claim.address in self._wanted]


NeighborSocket = ArpSocket | NdSocket


class Tap:
    """Adverts on an interface as they come from the wire, whatever a firewall does with them afterwards."""

    def __init__(self, interface: str, family: int, virtual_router_ids: Iterable[int]) -> None:
        """Raises OSError: no CAP_NET_RAW, no such interface."""
        self.interface = interface
        protocol = packet.PROTOCOL
        if family == 4:
            program: list[bpf.Instruction] = [
                (bpf.LOAD_BYTE, 0, 0, 23),
                (bpf.JUMP_EQUAL, 1, 0, protocol),
                bpf.NOTHING,
                (bpf.LOAD_X_HEADER_LENGTH, 0, 0, 14),
                (bpf.LOAD_BYTE_INDIRECT, 0, 0, 15),
            ]
        else:
            program = [
                (bpf.LOAD_BYTE, 0, 0, 20),
                (bpf.JUMP_EQUAL, 1, 0, protocol),
                bpf.NOTHING,
                (bpf.LOAD_BYTE, 0, 0, 55),
            ]
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            opened.setblocking(False)
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            bpf.attach(opened, [*program, *bpf.any_of(virtual_router_ids)])
            opened.bind((interface, ETHERTYPE_IPV4 if family == 4 else ndp.ETHERTYPE_IPV6))
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        self._family = family

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, limit: int = 64) -> Iterator[int]:
        """Virtual router IDs of adverts that are meant for this node too; ``limit`` frames at most."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(limit):
                frame, (_name, _type, kind, *_) = self._socket.recvfrom(128)
                at = 14 + (4 * (frame[14] & 0x0F) if self._family == 4 else 40) + 1
                if kind != PACKET_OTHERHOST and at < len(frame):
                    yield frame[at]


def _forwards(interface: str) -> bool:
    """Is this node a router for IPv6 packets that arrive here?"""
    setting = Path("/proc/sys/net/ipv6/conf", interface, "forwarding")
    with contextlib.suppress(OSError):
        return setting.read_text().strip() != "0"
    return False
