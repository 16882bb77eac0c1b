"""ICMP echo: a ping socket where the node allows it (net.ipv4.ping_group_range), otherwise a raw one (CAP_NET_RAW)."""

import asyncio
import itertools
import os
import socket
from typing import Final

from lvsagent.checks.answer import WELL, Answer
from lvsagent.checks.messages import Target
from lvsagent.checks.stream import opened
from lvsapi.health import HealthCheck

ECHO: Final = {4: 8, 6: 128}
REPLY: Final = {4: 0, 6: 129}
LACKING: Final = (
    "ICMP cannot be asked on this node: put the agent's group into net.ipv4.ping_group_range, or give it CAP_NET_RAW"
)

_serial = itertools.count(1)
_identifier: Final = os.getpid() & 0xFFFF


async def check(check: HealthCheck, target: Target) -> Answer:
    """The backend answers our echo request, with the payload that was sent."""
    protocol = socket.IPPROTO_ICMPV6 if target.address.version == 6 else socket.IPPROTO_ICMP
    try:
        async with opened(target, socket.SOCK_DGRAM, protocol) as endpoint:
            return await _echo(endpoint, target, raw=False)
    except PermissionError:
        pass
    try:
        async with opened(target, socket.SOCK_RAW, protocol) as endpoint:
            return await _echo(endpoint, target, raw=True)
    except PermissionError:
        return Answer(ok=False, ours=True, reason=LACKING)


async def _echo(endpoint: socket.socket, target: Target, *, raw: bool) -> Answer:
    version = target.address.version
    sequence = next(_serial) & 0xFFFF
    payload = os.urandom(16)
    endpoint.connect((str(target.address), 0))
    endpoint.send(message(ECHO[version], sequence, payload, with_checksum=raw and version == 4))
    while True:
        data = await asyncio.get_running_loop().sock_recv(endpoint, 2048)
        if raw and version == 4:
            data = data[(data[0] & 0xF) * 4 :]  # the IP header comes with it
        if data[:1] == bytes((REPLY[version],)) and data[6:] == sequence.to_bytes(2) + payload:
            return WELL


def message(kind: int, sequence: int, payload: bytes, *, with_checksum: bool) -> bytes:
    """RFC 792 and 4443. The kernel computes the checksum of ping sockets and of ICMPv6, and numbers the former."""
    head = bytes((kind, 0))
    rest = _identifier.to_bytes(2) + sequence.to_bytes(2) + payload
    return head + (checksum(head + b"\0\0" + rest) if with_checksum else 0).to_bytes(2) + rest


def checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
