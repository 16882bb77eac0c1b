"""A real server of the matrix, a process of its own: says its name on every connection, and again for every line.

``python -I -S matrix_server.py NAME PLACES``; PLACES is JSON, a list of (protocol number, port, address). The line
``later`` is answered when a datagram with the line ``now`` comes. What comes by GRE over IPv6, for which not every
kernel has a device, is taken apart here.
"""

import contextlib
import json
import resource
import selectors
import socket
import sys

UDP, GRE, IPV6 = 17, 47, 0x86DD


def listener(protocol: int, port: int, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == UDP else socket.SOCK_STREAM
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind((address, port))
    if protocol != UDP:
        opened.listen(64)
    return opened


def unwrapped(packet: bytes) -> bytes:
    """What a GRE packet (RFC 2784) carries; nothing when it is not IPv6, or its checksum is wrong."""
    flags, kind = int.from_bytes(packet[:2], "big"), int.from_bytes(packet[2:4], "big")
    if flags & 0x8000:
        total = sum(int.from_bytes(packet[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(packet), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        if total != 0xFFFF:
            return b""
    return packet[8 if flags & 0x8000 else 4 :] if kind == IPV6 else b""


def main(name: bytes, places: list[tuple[int, int, str]]) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = selectors.DefaultSelector()
    for protocol, port, address in places:
        found.register(listener(protocol, port, address), selectors.EVENT_READ, protocol)
    tunnel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, GRE)
    found.register(tunnel, selectors.EVENT_READ, GRE)
    inside = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    inside.bind(("lo", IPV6))
    late: list[socket.socket] = []
    print("listening", flush=True)
    while True:
        for key, _ in found.select():
            opened = key.fileobj
            assert isinstance(opened, socket.socket)
            try:
                if key.data == UDP:
                    line, peer = opened.recvfrom(2048)
                    if line == b"later\n":
                        late.append(connected(opened, peer))
                    elif line == b"now\n":
                        say(name, late)
                    else:
                        opened.sendto(name, peer)
                elif key.data == GRE:
                    packet = unwrapped(opened.recv(65536))
                    if packet:
                        inside.send(bytes(12) + IPV6.to_bytes(2, "big") + packet)
                elif key.data:
                    connection, _ = opened.accept()
                    connection.send(name)
                    found.register(connection, selectors.EVENT_READ, 0)
                else:
                    line = opened.recv(65536)
                    if line.endswith(b"later\n"):
                        late.append(opened)
                    elif line.endswith(b"\n"):
                        opened.send(name)
                    elif not line:
                        raise ConnectionResetError  # the client closes
            except OSError:
                if key.data == 0:
                    found.unregister(opened)
                    opened.close()


def say(name: bytes, late: list[socket.socket]) -> None:
    while late:
        with contextlib.suppress(OSError):
            late.pop(0).send(name)


def connected(opened: socket.socket, peer: tuple[str, int]) -> socket.socket:
    """Another socket of the same address, for that client."""
    one = socket.socket(opened.family, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(opened.getsockname())
    one.connect(peer)
    return one


if __name__ == "__main__":
    main(sys.argv[1].encode(), json.loads(sys.argv[2]))
