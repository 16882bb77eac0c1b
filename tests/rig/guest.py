"""One command in one kernel with ip_vs, over this machine's own files.

The kernel is a process of this machine (User-Mode-Linux), its root folder is ours (hostfs), it is up in 0.3 s. The
command is root there, has network namespaces, nftables, IPVS and netem, and no network to the outside. ``/run`` and
the folder for temporary files are its own; everything else that it writes is written here.
"""

import contextlib
import ctypes
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from . import shell
from .errors import CommandFailed

NOT_PASSED_ON = {"TERM", "SHLVL", "_", "OLDPWD", "PWD", "TMPDIR", "LS_COLORS"}
PR_SET_PDEATHSIG = 1
WORK = "lvs-guest-"
STILL_SECONDS = 60.0
"""A kernel that shows no sign of life for so long has stopped. Its clock would say nothing: that stands, too."""
_libc = ctypes.CDLL(None, use_errno=True)

INIT = """\
#!/bin/bash
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run
ln -s /proc/self/fd /dev/fd; mkdir -p /dev/pts /dev/shm /run/tmp; mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm; mount -t cgroup2 cgroup /sys/fs/cgroup; ip link set lo up
for console in 1 2 3; do stty raw -echo </dev/tty$console; done
{{ exec 9<> <(:); while read -rt 1 -u 9; [ $? -gt 128 ]; do echo; done >/dev/tty3; }} &
. {work}/environment; cd {cwd}
bash {work}/command </dev/null > >(exec cat >/dev/tty1) 2> >(exec cat >/dev/tty2)
status=$?; kill %1; wait; sync; echo $status >{work}/status
echo o >/proc/sysrq-trigger; sleep 60
"""


class StoodStill(CommandFailed):
    """The guest's kernel stopped: no process of it ran any more."""


def sweep(folder: Path) -> None:
    """Remove the work folders of runs that were killed with -9; their kernels died with them."""
    for path in folder.glob(f"{WORK}*"):
        owner = path.name.removeprefix(WORK).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def die_with_parent() -> None:
    """For ``preexec_fn``: the kernel kills this process when the one that started it ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def kernel_arguments(linux: Path, init: Path, work: Path, *, memory: str, cpus: int, name: str = "guest") -> list[str]:
    """The command line that boots ``linux`` over this machine's files. ``work`` takes the kernel's own small files."""
    return [
        *(str(linux), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "panic=-1"),
        *(
            "dummy.numdummies=0",
            "bonding.max_bonds=0",
            "fb_tunnels=none",
        ),  # else every namespace is born with nine devices
        *(f"init={init}", f"mem={memory}", "seccomp=on", f"ncpus={cpus}", f"uml_dir={work}", f"umid={name}"),
    ]


def exports(variables: Mapping[str, str]) -> str:
    """Shell lines that set the variables."""
    usable = {name: text for name, text in variables.items() if name.isidentifier() and name not in NOT_PASSED_ON}
    return "".join(f"export {name}={shlex.quote(text)}\n" for name, text in sorted(usable.items()))


def run(
    linux: Path,
    command: Sequence[str],
    *,
    memory: str = "1G",
    cpus: int = 1,
    disk: Path | None = None,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    timeout: float | None = None,
) -> int:
    """The command's exit status; its output goes to ``stdout`` and ``stderr`` (default: this process's own) as it
    comes. ``disk``: a file that is /dev/ubda in the guest. Raises CommandFailed, with the kernel's last words, when
    the kernel ended without the command, or after ``timeout`` seconds, and StoodStill when it stopped. Nothing stays,
    also after Ctrl-C or a kill.
    """
    sweep(Path(tempfile.gettempdir()))
    work = Path(tempfile.mkdtemp(prefix=f"{WORK}{os.getpid()}-"))
    try:
        variables = {**shell.environment(), "TMPDIR": "/run/tmp", "LVS_IN_GUEST": "1"}
        (work / "environment").write_text(exports(variables))
        (work / "command").write_text(shlex.join(command) + "\n")
        init = work / "init"
        init.write_text(INIT.format(work=work, cwd=shlex.quote(os.getcwd())))
        init.chmod(0o755)
        with (work / "log").open("wb") as log:
            arguments = kernel_arguments(linux, init, work, memory=memory, cpus=cpus)
            arguments += [*([f"ubd0={disk}"] if disk else []), "con=null"]
            stopped = _boot(arguments, log, (stdout or sys.stdout.buffer, stderr or sys.stderr.buffer), timeout)
        if stopped:
            raise StoodStill(f"{shlex.join(command)}: the guest's kernel stopped", stopped)
        status = work / "status"
        if stopped is None or not status.exists():
            reason = f"no end within {timeout} s" if stopped is None else "the guest ended without it"
            raise CommandFailed(f"{shlex.join(command)}: {reason}", (work / "log").read_text(errors="replace"))
        return int(status.read_text())
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _boot(arguments: list[str], log: IO[bytes], sinks: tuple[BinaryIO, BinaryIO], timeout: float | None) -> str | None:
    """Run the kernel to its end: "". None when the time was up first; what it was doing when it stopped."""
    beats = _Beats()
    pipes = (os.pipe(), os.pipe(), os.pipe())
    consoles = [f"con{number}=null,fd:{pipe[1]}" for number, pipe in enumerate(pipes, start=1)]
    kernel = subprocess.Popen(
        [*arguments, f"con0=null,fd:{log.fileno()}", *consoles],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[log.fileno(), *(pipe[1] for pipe in pipes)],
        preexec_fn=die_with_parent,
        env=shell.environment(),
    )
    copies = []
    taken: list[BinaryIO | _Beats] = [*sinks, beats]
    for (source, other_end), sink in zip(pipes, taken, strict=True):
        os.close(other_end)
        copies.append(threading.Thread(target=_copy(source, sink), daemon=True))
        copies[-1].start()
    end = time.monotonic() + (math.inf if timeout is None else timeout)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                kernel.wait(min(1.0, max(0.0, end - time.monotonic())))
                return ""
            if time.monotonic() >= end:
                return None
            if time.monotonic() - beats.last > STILL_SECONDS:
                return threads(kernel.pid)
    finally:
        kernel.kill()
        kernel.wait()
        for copy in copies:
            copy.join(5)


class _Beats:
    """Hears the guest's heart."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def write(self, data: bytes) -> None:
        self.last = time.monotonic()

    def flush(self) -> None:
        pass


def threads(pid: int) -> str:
    """What each thread of the process is doing: name, state, clock ticks used, where it waits in the kernel."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        with contextlib.suppress(OSError):
            name, _, stat = (task / "stat").read_text().rpartition(")")
            fields = stat.split()
            used = int(fields[11]) + int(fields[12])
            waits = (task / "wchan").read_text()
            lines.append(
                f"{name.partition('(')[2]} {fields[0]} {used} ticks, {waits}: {(task / 'syscall').read_text()}"
            )
    return "".join(lines) or f"no process {pid}"


def _copy(source: int, sink: "BinaryIO | _Beats") -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(BrokenPipeError), open(source, "rb", buffering=0) as stream:
            while data := stream.read(65536):
                sink.write(data)
                sink.flush()

    return run
