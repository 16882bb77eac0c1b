"""Agents that begin as copies of a process which has imported everything already.

In a guest, Python and the agent's libraries take a second of the processor to start; a copy takes a tenth of that, and
runs the same ``main`` with its own command line, environment, log and namespaces. Only for ``lvs-agent`` as it is
(see ``is_agent``); what an agent starts itself, and every other process, starts as ever.

This program is that process: it answers requests on the socket that it inherited, until that is closed.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.rig.guest import die_with_parent

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_SLAVE, MNT_DETACH = 1 << 14, 1 << 19, 2
PR_SET_CHILD_SUBREAPER = 36
ROOM = 4000
"""Bytes for a command line."""
_libc = ctypes.CDLL(None, use_errno=True)


def is_agent(argv: Sequence[str]) -> bool:
    """The agent by its module or by its command, with nothing before."""
    command = Path(sys.executable).parent / "lvs-agent"
    return list(argv[:3]) == [sys.executable, "-m", "lvsagent.cli"] or list(argv[:1]) == [str(command)]


class Copy(subprocess.Popen[bytes]):
    """A child of ours that was not started by this class's own means."""

    def __init__(self, pid: int, argv: Sequence[str]) -> None:
        self.pid, self.args, self.returncode = pid, list(argv), None
        self.stdin = self.stdout = self.stderr = None
        self._waitpid_lock = threading.Lock()
        self._child_created = True


class Nursery:
    """The preloaded process, begun when the first agent is wanted."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def start(self, namespace: str, argv: Sequence[str], environment: Mapping[str, str], output: int) -> Copy:
        """The agent in the network namespace of that name, as ``ip netns exec`` would start it."""
        with self._lock:
            ours = self._begin()
            request = {"namespace": namespace, "argv": list(argv), "environment": dict(environment)}
            data = json.dumps(request).encode()
            # The copy's own parent ends at once; for this moment the next one to inherit is this process.
            _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(ours, [len(data).to_bytes(4, "big")], [output])
                ours.sendall(data)
                pid = int.from_bytes(_exactly(ours, 4), "big")
            finally:
                _libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        return Copy(pid, argv)

    def close(self) -> None:
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None

    def _begin(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            self._socket.settimeout(60)
            with theirs:
                command = [sys.executable, "-m", "tests.net.preloaded", str(theirs.fileno()), " " * ROOM]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], preexec_fn=die_with_parent
                )
        return self._socket


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise EOFError("the preloaded process ended")
        data += part
    return data


def serve(requests: socket.socket) -> None:
    """Until the other end is closed."""
    import lvsagent.cli  # noqa: F401  # what all copies share

    gc.collect()
    gc.freeze()
    while True:
        size, descriptors, _, _ = socket.recv_fds(requests, 4, 1)
        if not size:
            return
        size += _exactly(requests, 4 - len(size)) if len(size) < 4 else b""
        request = json.loads(_exactly(requests, int.from_bytes(size, "big")))
        source, target = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                for unwanted in (source, target, requests.fileno()):
                    os.close(unwanted)
                become(request, descriptors[0])
            os.write(target, pid.to_bytes(4, "big"))
            os._exit(0)
        os.waitpid(between, 0)
        requests.sendall(os.read(source, 4))
        for used in (source, target, *descriptors):
            os.close(used)


def become(request: dict[str, Any], output: int) -> NoReturn:
    """This copy is the agent from now on."""
    status = 1
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    try:
        enter(request["namespace"])
        rename(request["argv"])
        os.environ.clear()
        os.environ.update(request["environment"])
        module = request["argv"][1] == "-m"
        sys.argv = ["lvs-agent", *request["argv"][3 if module else 1 :]]
        from lvsagent.cli import main

        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def enter(namespace: str) -> None:
    """The network namespace of that name, with a /sys that shows it."""
    with Path(f"/run/netns/{namespace}").open() as place:
        _must(_libc.setns(place.fileno(), CLONE_NEWNET))
    _must(_libc.unshare(CLONE_NEWNS))
    _must(_libc.mount(b"", b"/", b"none", MS_SLAVE | MS_REC, None))
    _libc.umount2(b"/sys", MNT_DETACH)
    _must(_libc.mount(b"sys", b"/sys", b"sysfs", 0, None))


def rename(argv: Sequence[str]) -> None:
    """What /proc says of the command line."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    line = b"".join(word.encode() + b"\0" for word in argv)[: end - begin]
    ctypes.memmove(begin, line + bytes(end - begin - len(line)), end - begin)


def _must(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        serve(opened)
