"""What else the machine does while timers are measured: ``python -m tests.bench.burden KIND SECONDS``.

Each kind ends by itself. ``malformed`` prints how many packets a second it sent.
"""

import itertools
import json
import socket
import struct
import sys
import time
from typing import Final

from tests.bench.capture import ATTACKER

RATE: Final = 10_000
BURST: Final = 10
OBJECTS: Final = 1_000_000
GROUP: Final = "224.0.0.18"
GROUP_MAC: Final = bytes.fromhex("01005e000012")
OWN_MAC: Final = bytes.fromhex("0200000000ff")


def hog(seconds: float) -> None:
    """One busy loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


def parse(seconds: float) -> None:
    """Parse a list of a million objects again and again, as an agent that reads a very large cluster would."""
    text = "[" + ",".join(f'{{"name":"pod-{number}","ready":true}}' for number in range(OBJECTS)) + "]"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert len(json.loads(text)) == OBJECTS


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(payload: bytes, ttl: int = 255) -> bytes:
    """An Ethernet frame with IPv4 to the group."""
    addresses = socket.inet_aton(ATTACKER) + socket.inet_aton(GROUP)
    head = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(payload), 1, 0, ttl, 112, 0) + addresses
    return GROUP_MAC + OWN_MAC + b"\x08\x00" + head[:10] + checksum(head).to_bytes(2) + head[12:] + payload


def malformed_packets() -> list[bytes]:
    """Adverts of the lab's VRID, each wrong in a way that a receiver meets at another step."""
    vip = socket.inet_aton("10.0.0.200")
    body = struct.pack("!BBBBHH", 0x31, 51, 255, 1, 10, 0) + vip
    return [
        packet(body),  # checksum
        packet(body, ttl=64),
        packet(b"\x41" + body[1:]),  # version
        packet(b"\x32" + body[1:]),  # type
        packet(body[:5]),  # truncated
        packet(body[:3] + b"\xff" + body[4:]),  # more addresses than there are
        packet(body + bytes(200)),  # trailing octets
        packet(bytes(8)),
    ]


def malformed(seconds: float) -> None:
    """RATE packets a second out of ``eth0``."""
    frames = itertools.cycle(malformed_packets())
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        begin = time.monotonic()
        sent = 0
        while (now := time.monotonic()) < begin + seconds:
            for _ in range(BURST):
                out.send(next(frames))
            sent += BURST
            time.sleep(max(0.0, begin + sent / RATE - now))
        print(round(sent / (time.monotonic() - begin)), flush=True)


KINDS: Final = {"hog": hog, "parse": parse, "malformed": malformed}

if __name__ == "__main__":
    KINDS[sys.argv[1]](float(sys.argv[2]))
