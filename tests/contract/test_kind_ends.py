"""However whoever called for a cluster of kind ends, it is taken away. In the place of docker, kind and kubectl there
are programs that write down what they were asked."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.rig import shell

pytestmark = pytest.mark.contract

PROGRAM = """#!/bin/sh
echo "${0##*/} $*" >>{log}
case "${0##*/} $*" in
"kind get nodes"*) [ ! -e {up} ] || echo lvs-ends-worker ;;
"kind create"*) cat >/dev/null; : >{up} ;;
"kind delete"*) sleep 0.2; rm -f {up} ;;
*State.Status*) echo running ;;
*"get nodes"*) echo lvs-ends-worker Ready ;;
esac
"""
OWNER = """
import signal, sys
from tests.rig.kind import Kind

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
one = Kind("ends")
one.up(1, owned="released" not in sys.argv)
print("up", flush=True)
if sys.stdin.readline() == "down\\n":
    one.down()
"""
END = "kind delete cluster --name lvs-ends"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the programs were asked, a line each."""
    folder, found = tmp_path / "programs", tmp_path / "log"
    folder.mkdir()
    for name in ("docker", "kind", "kubectl"):
        (folder / name).write_text(PROGRAM.replace("{log}", str(found)).replace("{up}", str(tmp_path / "up")))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{shell.SEARCH_PATH}")
    monkeypatch.setenv("LVS_CACHE", str(tmp_path / "cache"))
    return found


def owner(*words: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def times_taken_away(log: Path) -> int:
    return log.read_text().splitlines().count(END)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, None])
def test_a_cluster_of_kind_goes_with_its_owner(log: Path, number: signal.Signals | None) -> None:
    with owner() as process:
        assert times_taken_away(log) == 0
        if number is None:
            process.communicate("", 20)
        else:
            process.send_signal(number)
    end = time.monotonic() + 20
    while "docker network rm lvs-ends" not in log.read_text().partition(END)[2]:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    assert times_taken_away(log) == 1


def test_what_its_owner_took_away_is_not_taken_away_again(log: Path) -> None:
    with owner() as process:
        process.communicate("down\n", 20)
    assert times_taken_away(log) == 1


def test_a_cluster_that_was_called_for_to_stay_stays(log: Path) -> None:
    with owner("released") as process:
        process.kill()
    time.sleep(1.0)
    assert times_taken_away(log) == 0
