"""Asks the kernels of other nodes whether they run: ICMP echo (RFC 792, RFC 4443), which no process answers."""

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from lvsagent.vrrp.ip import checksum

# linux/icmp.h, linux/icmpv6.h: not in the socket module.
SOL_RAW: Final = 255
ICMP_FILTER: Final = 1
ICMP6_FILTER: Final = 1
ECHO_REPLY: Final = {4: 0, 6: 129}
ECHO_REQUEST: Final = {4: 8, 6: 128}
NONCE: Final = 8
"""Octets that whoever did not see the question cannot guess."""
NODE: Final = 8
LONGEST: Final = 256
MOST: Final = 256
"""Answers that are read at once."""

_HEADER: Final = struct.Struct("!BBHHH")


class Echo:
    """Questions and answers, of both families as far as the kernel allows."""

    def __init__(self) -> None:
        """Raises OSError: no CAP_NET_RAW."""
        self._nonce = os.urandom(NONCE)
        self._identifier = int.from_bytes(os.urandom(2))
        self._sockets: dict[int, socket.socket] = {4: _open_ipv4()}
        with contextlib.suppress(OSError):  # a kernel without IPv6
            self._sockets[6] = _open_ipv6()

    def ask(self, node: bytes, address: str) -> None:
        """One question to the node (``beat.node_id``) at an address. Raises OSError."""
        family = 6 if ":" in address else 4
        opened = self._sockets.get(family)
        if opened is None:
            return
        body = self._nonce + node
        request = _HEADER.pack(ECHO_REQUEST[family], 0, 0, self._identifier, 0) + body
        if family == 4:  # the kernel fills in ICMPv6's
            request = request[:2] + checksum(request) + request[4:]
        opened.sendto(request, (address, 0))

    def answers(self) -> Iterator[tuple[bytes, str]]:
        """Node and source address of what arrived."""
        for family, opened in self._sockets.items():
            with contextlib.suppress(OSError):
                for _ in range(MOST):
                    packet, sender = opened.recvfrom(LONGEST)
                    message = packet[(packet[0] & 0x0F) * 4 :] if family == 4 else packet
                    if len(message) != _HEADER.size + NONCE + NODE:
                        continue
                    kind, _, _, identifier, _ = _HEADER.unpack_from(message)
                    body = message[_HEADER.size :]
                    if (kind, identifier, body[:NONCE]) == (ECHO_REPLY[family], self._identifier, self._nonce):
                        yield body[NONCE:], str(ipaddress.ip_address(sender[0].partition("%")[0]))

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()


def _open_ipv4() -> socket.socket:
    # A bit that is set keeps that type out.
    wanted = struct.pack("=I", 0xFFFF_FFFF & ~(1 << ECHO_REPLY[4]))
    return _opened(socket.AF_INET, socket.IPPROTO_ICMP, SOL_RAW, ICMP_FILTER, wanted)


def _open_ipv6() -> socket.socket:
    words = [0xFFFF_FFFF] * 8
    words[ECHO_REPLY[6] // 32] &= ~(1 << ECHO_REPLY[6] % 32)
    return _opened(
        socket.AF_INET6, socket.IPPROTO_ICMPV6, socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words)
    )


def _opened(family: int, protocol: int, level: int, option: int, wanted: bytes) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        opened.setblocking(False)
        opened.setsockopt(level, option, wanted)
    except OSError:
        opened.close()
        raise
    return opened
