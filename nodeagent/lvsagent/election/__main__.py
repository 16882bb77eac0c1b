"""``lvs-election``: the election process. Standard library only, so that nothing else in it costs time."""

import argparse
import contextlib
import ctypes
import fcntl
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from lvsagent.election.keys import Keys
from lvsagent.election.log import Log
from lvsagent.election.loop import Loop
from lvsagent.election.server import Server
from lvsagent.election.wish import WishStore
from lvsagent.liveness.beat import PORT

SOCKET_NAME: Final = "election.sock"
LOCK_NAME: Final = "election.lock"
REALTIME_PRIORITY: Final = 10
MCL_CURRENT_AND_FUTURE: Final = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. 0: orderly end; 1: could not start, the reason is logged."""
    arguments = _parser().parse_args(argv)
    log = Log(arguments.log_format)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock(arguments.run_dir))
            server = Server(arguments.run_dir / SOCKET_NAME, log)
            store = WishStore(arguments.state_dir, log)
            loop = Loop(
                server=server,
                store=store,
                keys=Keys(arguments.keys_dir, log),
                run_folder=arguments.run_dir,
                log=log,
                realtime=_request_realtime(log),
                memory_locked=_lock_memory(log),
                beat_port=arguments.beat_port,
            )
        except OSError as error:
            log("cannot start", error=error)
            return 1
        wakeup, signalled = socket.socketpair()
        stack.enter_context(wakeup)
        stack.enter_context(signalled)
        signalled.setblocking(False)
        signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        # The heap stays as it is now: a collection would stop the timers for nothing.
        gc.collect()
        gc.freeze()
        gc.disable()
        log("ready", pid=os.getpid())
        loop.run(wakeup)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lvs-election", description="VRRP election and virtual addresses of a node.")
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=Path(os.environ.get("LVS_RUN_DIR", "/run/lvs-dr")),
        help="folder of election.sock (LVS_RUN_DIR; default %(default)s)",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(os.environ.get("LVS_STATE_DIR", "/var/lib/lvs-dr")),
        help="folder of the last wish (LVS_STATE_DIR; default %(default)s)",
    )
    parser.add_argument(
        "--keys-dir",
        type=Path,
        default=Path(os.environ.get("LVS_KEYS_DIR", "/etc/lvs-dr/keys")),
        help="folder of CLASS.password and CLASS.hmac.ID (LVS_KEYS_DIR; default %(default)s)",
    )
    parser.add_argument(
        "--beat-port",
        type=int,
        default=os.environ.get("LVS_BEAT_PORT") or PORT,
        help="UDP port of the nodes' heartbeats, the same on every node (LVS_BEAT_PORT; default %(default)s)",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """At most one election by folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"another lvs-election runs with --run-dir {folder}; stop it first") from error
        yield


def _request_realtime(log: Log) -> bool:
    """Come before busy neighbours. Threads inherit it: one that has the interpreter must not wait for a processor."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME_PRIORITY))
    except OSError as error:
        log("runs without real-time priority; a busy node may cost a take-over (grant CAP_SYS_NICE)", error=error)
        return False
    return True


def _lock_memory(log: Log) -> bool:
    """Never wait for swap."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT_AND_FUTURE) != 0:
        error = os.strerror(ctypes.get_errno())
        log("runs without locked memory; swapping may cost a take-over (grant CAP_IPC_LOCK)", error=error)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
