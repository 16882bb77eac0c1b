"""Takes a cluster of kind away when the process that brought it up ends, however it ends: its containers would stay.

``python -m tests.rig.kind_keeper NAME``, a process in a session of its own: no Ctrl-C reaches it. It hears of the end
of its owner by the end of its standard input.
"""

import signal
import subprocess
import sys
from pathlib import Path

from . import shell

DONE = b"done"
"""What the owner says when all is taken away."""
ROOT = Path(__file__).resolve().parents[2]


def start(name: str) -> "subprocess.Popen[bytes]":
    """For the cluster of that name, before anything of it is there."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.rig.kind_keeper", name],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        env=shell.environment(),
        start_new_session=True,
    )


def dismiss(keeper: "subprocess.Popen[bytes]") -> None:
    """Nothing is left to be taken away."""
    keeper.communicate(DONE)


def main(name: str) -> None:
    from .kind import Kind

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() != DONE:
        Kind(name).down()


if __name__ == "__main__":
    main(sys.argv[1])
