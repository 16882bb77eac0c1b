"""Namespaces on a kernel that is not ours alone: nothing of them is seen outside, and nothing stays."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.rig import namespaces
from tests.rig.errors import CommandFailed

pytestmark = pytest.mark.net
NEEDS = ("lan",)


def said(script: str, timeout: float = 20.0) -> str:
    with tempfile.TemporaryFile() as output:
        namespaces.run(["bash", "-c", script], stdout=output, stderr=output, timeout=timeout)
        output.seek(0)
        return output.read().decode()


def seen() -> tuple[str, ...]:
    """What a stray would show in."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    settings = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    return links, settings, Path("/proc/mounts").read_text(), *map(str, sorted(Path("/run").iterdir()))


def test_interfaces_settings_files_and_processes_are_its_own_and_go_with_it() -> None:
    before = seen()
    marker = f"here-{os.getpid()}"
    script = f"""
        ip netns add inside; ip link add name left type veth peer name right; echo x >/run/{marker}; echo $TMPDIR
        echo $((1 - $(cat /proc/sys/net/ipv4/ip_forward))) >/proc/sys/net/ipv4/ip_forward
        setsid sleep 1{os.getpid()} >/dev/null 2>&1 & ls /run/{marker}; ip -o link | wc -l"""
    assert said(script).split() == ["/run/tmp", f"/run/{marker}", "3"]
    assert seen() == before
    await_end(f"sleep\x001{os.getpid()}")


def commands() -> str:
    """Command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:  # it ended just now
            continue
    return "\n".join(found)


def await_end(command: str) -> None:
    end = time.monotonic() + 10
    while command in commands():
        assert time.monotonic() < end, f"{command!r} lives on"
        time.sleep(0.02)


def test_the_clock_and_what_is_not_of_the_network_are_out_of_reach() -> None:
    panic = Path("/proc/sys/kernel/panic").read_text()
    script = """
        date -s 2001-01-01 >/dev/null 2>&1 && echo clock; echo 77 2>/dev/null >/proc/sys/kernel/panic && echo panic
        ls /sys/fs/cgroup/* 2>/dev/null && echo cgroup; hostname of-its-own && hostname"""
    assert said(script).split() == ["of-its-own"]
    assert Path("/proc/sys/kernel/panic").read_text() == panic
    assert time.time() > 1_500_000_000


def test_a_command_without_end_is_ended_with_all_that_it_started() -> None:
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match=r"no end within 0\.5 s"):
        said(f"setsid sleep 2{os.getpid()} & sleep 2{os.getpid()}", timeout=0.5)
    assert time.monotonic() - begin < 10
    await_end(f"sleep\x002{os.getpid()}")


def test_the_status_is_the_commands_and_what_the_kernel_can_do_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert namespaces.run([sys.executable, "-c", "raise SystemExit(7)"], timeout=20) == 7
    assert namespaces.has("lan")
    monkeypatch.setitem(namespaces.FEATURES, "teleport", "ip link add name a type teleport; true")
    assert not namespaces.have(["lan", "teleport"])
    with pytest.raises(KeyError):
        namespaces.has("no such word")
