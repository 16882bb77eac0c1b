"""However whoever called for a cluster ends, nothing of the cluster stays: no process, no network, no folder.

The real keeper, namespaces, LAN and files; in the place of the programs that take long to start, some that do nothing.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.guests import Guests
from tests.rig.keeper import STATE, started_at

pytestmark = pytest.mark.contract

LINKS = {"lan", "management", "swclient", "sw1", "port1", "mg1", "wire1"}
IDLE = "#!/bin/sh\nsetsid sleep 600 &\nexec sleep 600\n"
KUBECTL = """#!/bin/sh
case "$*" in
*readyz*) printf ok ;;
*) printf '%s' '{"items": [
  {"kind": "ServiceAccount", "metadata": {"name": "default"}},
  {"kind": "Node", "metadata": {"name": "node1"}, "spec": {},
   "status": {"conditions": [{"type": "Ready", "status": "True"}]}}]}' ;;
esac
"""
OWNER = """
import signal, sys, time
from pathlib import Path
from tests.rig import guests

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
programs = Path(sys.argv[1])
guests.kernel = guests.kubernetes = lambda: programs
guests.base_disk = lambda linux, archives: programs / "disk"
one = guests.Guests("ends")
one.up(1, owned="released" not in sys.argv)
print("up", flush=True)
if sys.stdin.readline() == "down\\n":
    one.down()
"""


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that has called for a cluster, in a session of its own as a shell's job has."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("linux", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"):
        (programs / name).write_text(KUBECTL if name == "kubectl" else IDLE)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("LVS_RUN", str(tmp_path / "run"))
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[str]:
            root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
            process = stack.enter_context(
                subprocess.Popen(
                    [*root, sys.executable, "-c", OWNER, str(programs), *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            return process

        yield start
        Guests("ends").down()


class Left:
    """What there was of the cluster, and what is left of it."""

    def __init__(self) -> None:
        self.folder = Guests("ends").folder
        self.facts = json.loads((self.folder / STATE).read_text())
        first = Path(f"/proc/{self.facts['first']}/ns")
        self.network = os.readlink(first / "net")
        space = os.readlink(first / "pid")
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        members = [pid for pid in pids if self._space(pid) == space]
        self.began = {pid: started_at(pid) for pid in (self.facts["pid"], *members)}

    @staticmethod
    def _space(pid: int) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{pid}/ns/pid")
        return ""

    @property
    def processes(self) -> list[int]:
        """A number alone names no process: the kernel gives it again."""
        return [pid for pid, began in self.began.items() if began is not None and started_at(pid) == began]

    def nothing(self, *, folder: bool = False, within: float = 30.0) -> None:
        """Asserts it, within so many seconds. ``folder``: that may stay."""
        end = time.monotonic() + within
        while (self.processes or (self.folder.exists() and not folder)) and time.monotonic() < end:
            time.sleep(0.02)
        assert self.processes == []
        assert folder or not self.folder.exists()
        # Without a process only a mount keeps a network and its cables.
        assert self.network not in Path("/proc/self/mountinfo").read_text()
        assert not LINKS & {name for _, name in socket.if_nameindex()}


def test_the_cluster_whose_end_is_watched_is_all_there(owner: Callable[..., subprocess.Popen[str]]) -> None:
    owner()
    left = Left()
    # keeper, process 1, and of etcd, API server, node, controllers and scheduler each with what it left behind itself
    assert len(left.processes) == 2 + 2 * 5
    inside = ["nsenter", f"--target={left.facts['first']}", "--net"]
    inside += [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    links = subprocess.run([*inside, "ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert {line.split(": ")[1].split("@")[0] for line in links.splitlines()} >= LINKS
    with pytest.raises(AssertionError):
        left.nothing(within=0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_when_the_owner_is_ended_by(
    number: signal.Signals, owner: Callable[..., subprocess.Popen[str]]
) -> None:
    process = owner()
    left = Left()
    os.killpg(process.pid, number)  # Ctrl-C, too, goes to all that the shell started
    left.nothing()


def test_nothing_stays_after_down(owner: Callable[..., subprocess.Popen[str]]) -> None:
    process = owner()
    left = Left()
    process.communicate("down\n", timeout=60)
    assert process.returncode == 0
    left.nothing()


def test_a_cluster_that_was_released_outlives_its_owner_until_somebody_says_down(
    owner: Callable[..., subprocess.Popen[str]],
) -> None:
    process = owner("released")
    left = Left()
    process.communicate("", timeout=60)
    time.sleep(0.2)
    assert len(left.processes) == len(left.began)
    down = [sys.executable, "-m", "tests.rig", "down"]
    subprocess.run(down, env={**os.environ, "LVS_RIG": "guests", "LVS_RIG_NAME": "ends"}, check=True, timeout=60)
    left.nothing()


def test_when_the_keeper_itself_is_killed_only_its_folder_stays_and_the_next_one_takes_it(
    owner: Callable[..., subprocess.Popen[str]],
) -> None:
    process = owner()
    left = Left()
    os.kill(left.facts["pid"], signal.SIGKILL)
    left.nothing(folder=True)
    process.kill()
    again = owner()
    assert Left().facts["pid"] != left.facts["pid"]
    again.communicate("down\n", timeout=60)
    assert not left.folder.exists()
