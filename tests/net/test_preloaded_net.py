"""An agent that begins as a copy is the process that the command would have been."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.lan import Lan
from tests.net.preloaded import Copy, is_agent

pytestmark = pytest.mark.net
NEEDS = ("lan",)

AGENT = [sys.executable, "-m", "lvsagent.cli"]


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as lan:
        lan.add_host("d1", "10.0.0.1/24")
        yield lan


def test_it_ends_with_the_status_of_the_command_and_says_the_same(lan: Lan, tmp_path: Path) -> None:
    for number, options in enumerate((["--help"], ["--no-such-option"], ["--node-name", ""])):
        log = tmp_path / f"{number}.log"
        copy = lan.popen("d1", [*AGENT, *options], log=log)
        assert isinstance(copy, Copy)
        environment = {**os.environ, "NODE_NAME": ""}
        command = str(Path(sys.executable).parent / "lvs-agent")
        real = subprocess.run([command, *options], capture_output=True, text=True, timeout=60, env=environment)
        assert copy.wait(60) == real.returncode
        assert log.read_text() == real.stdout + real.stderr


def test_it_is_a_child_of_ours_in_its_hosts_network_and_its_command_line_is_its_own(lan: Lan, tmp_path: Path) -> None:
    options = [
        "--manifests",
        str(tmp_path),
        "--node-name",
        "d1",
        "--no-election",
        "--metrics-address",
        "127.0.0.1:9479",
    ]
    options += ["--run-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    copy = lan.popen("d1", [*AGENT, *options], log=tmp_path / "log")
    assert isinstance(copy, Copy)
    process = Path("/proc", str(copy.pid))
    assert int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    end = time.monotonic() + 20
    while lan.get("d1", "http://127.0.0.1:9479/healthz") != "ok\n":
        assert copy.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.05)
    shown = (process / "cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    assert shown == [*AGENT, *options]
    with lan.inside("d1"):
        inside = Path("/proc/thread-self/ns/net").readlink()
    assert (process / "ns" / "net").readlink() == inside
    assert (process / "root/sys/class/net/eth0").exists()
    copy.send_signal(signal.SIGKILL)
    assert copy.wait(10) == -signal.SIGKILL
    assert not process.exists(), "it is no zombie"


def test_only_the_agent_as_it_is_begins_so() -> None:
    assert is_agent([*AGENT, "--node-name", "n"])
    assert is_agent([str(Path(sys.executable).parent / "lvs-agent")])
    assert not is_agent(["setpriv", "--", *AGENT])
    assert not is_agent([sys.executable, "-m", "lvsagent.election"])
