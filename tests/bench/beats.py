"""What heartbeats cost the election: ``python -m tests.bench.beats`` (two minutes, loopback sockets, no root).

The real process with 0, 3, 30 and 100 other nodes, beside a Python process that only wakes up as often. The other nodes
are one process with a socket each. Figures are the kernel's own (schedstat), in percent of one processor.
"""

import argparse
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lvsagent import ipc
from lvsagent.election.beats import INTERVAL, TICK
from lvsagent.liveness.beat import Beat, encode, node_id
from lvsagent.liveness.proof import Proofs
from lvsagent.vrrp import auth

PORT: Final = 19480
SETTLE: Final = 3.0
SEVERAL: Final = ((0, False), (3, False), (30, False), (100, False), (100, True))
"""How many other nodes, and whether they prove their beats."""
KEY: Final = b"k" * 32


def main() -> int:
    """Print the table, or be the other nodes."""
    parser = argparse.ArgumentParser(description="CPU of the election's heartbeats.")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default %(default)s)")
    parser.add_argument("--others", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--proved", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.others:
        others(arguments.others, arguments.proved)
        return 0
    print("| other nodes | sent /s | heard /s | % of a processor |\n|---|---|---|---|")
    for count, proved in SEVERAL:
        sent, heard, share = measure(count, proved, arguments.seconds)
        print(f"| {count}{', with a key' if proved else ''} | {sent:.0f} | {heard:.0f} | {share:.2f} |", flush=True)
    print(f"| a process that only wakes up every {TICK * 1000:.0f} ms | | | {anchor(arguments.seconds):.2f} |")
    return 0


def measure(count: int, proved: bool, seconds: float) -> tuple[float, float, float]:
    """Beats sent and heard a second, and percent of a processor."""
    nodes = tuple(ipc.PeerNode(name=f"p{k}", addresses=(_address(k),)) for k in range(count + 1))
    with tempfile.TemporaryDirectory() as name, _running(Path(name), proved) as process:
        connection = _connect(Path(name))
        wish = ipc.Configure(generation=1, routers=(), node="p0", serving=True, nodes=nodes if count else ())
        connection.sendall(ipc.encode(wish))
        with _others(count, proved):
            time.sleep(SETTLE)
            first, begin, used = _statistics(connection), time.monotonic(), _used(process.pid)
            time.sleep(seconds)
            used, last, took = _used(process.pid) - used, _statistics(connection), time.monotonic() - begin
        connection.close()
    assert not last.beats_dropped, last.beats_dropped
    return (
        (last.beats_sent - first.beats_sent) / took,
        (last.beats_received - first.beats_received) / took,
        100 * used / took,
    )


def anchor(seconds: float) -> float:
    """Percent of a processor for waking up and nothing else."""
    with select.epoll() as epoll:
        end, used = time.monotonic() + seconds, _used(os.getpid())
        while time.monotonic() < end:
            epoll.poll(TICK)
    return 100 * (_used(os.getpid()) - used) / seconds


def others(count: int, proved: bool) -> None:
    """The other nodes, until the process is ended."""
    sockets, signers = [], []
    for number in range(1, count + 1):
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((_address(number), PORT))
        opened.setblocking(False)
        signer = Proofs(node_id(f"p{number}"), auth.Clock(time.time(), time.monotonic()))
        signer.use(auth.KeyRing({1: KEY}) if proved else None, 0.0)
        sockets.append(opened)
        signers.append(signer)
    incarnation, sequence, following = int(time.time() * 1000), 0, time.monotonic()
    while True:
        sequence += 1
        for number, (opened, signer) in enumerate(zip(sockets, signers, strict=True), 1):
            beat = Beat(node_id(f"p{number}"), incarnation, sequence, INTERVAL, True)
            opened.sendto(signer.sign(encode(beat), time.time(), time.monotonic()), (_address(0), PORT))
            try:
                while opened.recv(256):
                    pass
            except BlockingIOError:
                continue
        following += INTERVAL
        time.sleep(max(0.0, following - time.monotonic()))


def _address(number: int) -> str:
    return f"127.0.7.{number + 1}"


@contextmanager
def _running(folder: Path, proved: bool) -> Iterator["subprocess.Popen[bytes]"]:
    """The election."""
    if proved:
        (folder / "keys").mkdir()
        (folder / "keys" / "nodes.hmac.1").write_bytes(KEY)
        (folder / "keys" / "nodes.hmac.1").chmod(0o400)
    options = ["--run-dir", folder, "--state-dir", folder, "--keys-dir", folder / "keys", "--beat-port", PORT]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "lvsagent.election", *map(str, options)], stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _others(count: int, proved: bool) -> Iterator[None]:
    if not count:
        yield
        return
    command = [sys.executable, "-m", "tests.bench.beats", "--others", str(count), *(["--proved"] if proved else [])]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _connect(folder: Path) -> socket.socket:
    end = time.monotonic() + 10.0
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(folder / "election.sock"))
        except OSError:
            connection.close()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        else:
            return connection


def _statistics(connection: socket.socket) -> ipc.Statistics:
    """The last ones that were sent, or the next ones."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 20):
            pass
    except BlockingIOError:
        connection.setblocking(True)
    rest = b""
    while True:
        rest += connection.recv(1 << 20)
        *lines, rest = rest.split(b"\n")
        for message in map(ipc.decode, lines):
            if isinstance(message, ipc.Statistics):
                return message


def _used(pid: int) -> float:
    """Seconds of processor time."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    sys.exit(main())
