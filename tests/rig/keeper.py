"""The process that owns a cluster of guests: private namespaces around it, a TCP door to its API server, and an end.

``python -m rig.keeper RUN_DIR OWNER_FD``. Everything of the cluster lives in the process, network and mount namespaces
made here, so when process 1 of them dies the kernel ends all of it, whatever it was doing: nothing to look for, nothing
to forget. It dies with this keeper. The keeper ends at SIGTERM, or when the owner's end of the pipe OWNER_FD closes,
which happens however the owner ends; a byte in the pipe sets it free.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from . import shell
from .guest import die_with_parent

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
API = ("127.0.0.1", 6443)
STATE = "keeper.json"
_libc = ctypes.CDLL(None, use_errno=True)


def started_at(pid: int) -> int | None:
    """When the process started, in clock ticks since boot: with the pid it names one process for ever. None: gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    return None


def main(run_dir: Path, owner: int) -> int:
    """Make the namespaces, say so in ``keeper.json``, wait for the end, take everything away."""
    door = socket.create_server(("127.0.0.1", 0))  # made here: it stays in this machine's own network
    if _libc.unshare(CLONE_NEWPID | CLONE_NEWNET) != 0:
        print(f"unshare: {os.strerror(ctypes.get_errno())}; the rig's guests need root", file=sys.stderr)
        return 1
    first = os.fork()
    if first == 0:
        _first_process()
    try:
        facts = {"pid": os.getpid(), "start": started_at(os.getpid()), "first": first, "port": door.getsockname()[1]}
        (run_dir / (STATE + ".new")).write_text(json.dumps(facts))
        (run_dir / (STATE + ".new")).rename(run_dir / STATE)
        asyncio.run(_wait(door, owner, first))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(first, 0)  # returns when everything in the namespace is gone
        shutil.rmtree(run_dir, ignore_errors=True)
    return 0


def _first_process() -> None:
    """Process 1 of the cluster: collects the dead, holds the namespaces."""
    die_with_parent()
    _libc.unshare(CLONE_NEWNS)  # the keeper stays outside: there it knows processes by this machine's numbers
    shell.run(["mount", "--make-rprivate", "/"])
    shell.run(["mount", "-t", "proc", "proc", "/proc"])
    shell.run(["mount", "-t", "tmpfs", "run", "/run"])
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        signal.sigtimedwait({signal.SIGCHLD}, 1.0)


async def _wait(door: socket.socket, owner: int, first: int) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, over.set)

    def owner_says() -> None:
        """A byte: it lives on without me. The end of the pipe: I am gone."""
        loop.remove_reader(owner)
        if not os.read(owner, 1):
            over.set()

    loop.add_reader(owner, owner_says)
    loop.add_reader(os.pidfd_open(first), over.set)
    async with await asyncio.start_server(_carry, sock=door):
        await over.wait()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection from this machine to the API server inside."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        inner_reader, inner_writer = await asyncio.open_connection(*API)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer), return_exceptions=True)
    writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
