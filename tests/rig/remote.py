"""Commands on a node from this machine: the caller's half of ``node_agent.py``."""

import contextlib
import ctypes
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .errors import RigError
from .node_agent import CLONE_NEWNET, FRAME, PORT

_libc = ctypes.CDLL(None, use_errno=True)
Sink = Callable[[bytes], object]


@contextlib.contextmanager
def network_of(namespace: Path) -> Iterator[None]:
    """The calling thread is in that network namespace; sockets opened here stay there."""
    with Path("/proc/thread-self/ns/net").open() as home, namespace.open() as away:
        if _libc.setns(away.fileno(), CLONE_NEWNET) != 0:
            raise RigError(f"{namespace}: {os.strerror(ctypes.get_errno())}; the rig's guests need root")
        try:
            yield
        finally:
            _libc.setns(home.fileno(), CLONE_NEWNET)


def connect(namespace: Path, address: str, deadline: float) -> socket.socket:
    """A connection to the node's agent, tried until ``deadline`` (monotonic seconds): it comes up with the node."""
    with network_of(namespace):
        while True:
            try:
                return socket.create_connection(
                    (address, PORT), timeout=max(0.05, min(0.2, deadline - time.monotonic()))
                )
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RigError(f"{address}: no answer from the node ({error}); it may be down or frozen") from None
                time.sleep(0.02)


def run(connection: socket.socket, argv: Sequence[str], *, stdin: str, timeout: float, out: Sink, error: Sink) -> int:
    """The command's exit status. Raises TimeoutError; the command is then killed."""
    deadline = time.monotonic() + timeout
    with connection:
        connection.sendall(json.dumps({"argv": list(argv), "stdin": stdin}).encode() + b"\n")
        while True:
            kind, size = FRAME.unpack(_exactly(connection, FRAME.size, deadline))
            data = _exactly(connection, size, deadline)
            if kind == 0:
                return int(data)
            (out if kind == 1 else error)(data)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(size - len(data))
        if not piece:
            raise RigError("the node went away in the middle of a command")
        data += piece
    return data


def to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def to_stderr(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
