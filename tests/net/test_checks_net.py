"""Health checks over a LAN: backends that are cut off, and ICMP by both kinds of sockets."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent.checks.lines import TargetsWriter, decode
from lvsagent.checks.messages import Targets, Verdict
from lvsapi.health import CheckType, HealthCheck
from tests.checking import target, tcp
from tests.net.lan import Lan

pytestmark = pytest.mark.net
NEEDS = ("lan",)

WEB = "10.0.0.21"
PATIENCE = 20.0
ICMP = HealthCheck(type=CheckType.ICMP, interval_ms=200, timeout_ms=500)


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as lan:
        lan.add_host("director", "10.0.0.11/24", "fd00::11/64")
        lan.add_host("web", f"{WEB}/24", "fd00::21/64")
        yield lan


class Checking:
    """``lvs-checks`` in the director, asking these."""

    def __init__(self, lan: Lan, log: Path, checks: dict[str, tuple[HealthCheck, str]]) -> None:
        argv = ["ip", "netns", "exec", lan.namespace("director"), sys.executable, "-m", "lvsagent.checks"]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        wish = tuple(target(check, 8080, name=name, address=address) for name, (check, address) in checks.items())
        assert self.process.stdin
        self.process.stdin.write(TargetsWriter().encode(Targets(generation=1, targets=wish)))
        self.process.stdin.flush()
        self.last: dict[str, Verdict] = {}

    def wait(self, name: str, up: bool) -> Verdict:
        """The verdict, when it is known and so."""
        assert self.process.stdout
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:  # a line comes every five seconds at least
            last = self.last.get(name)
            if last and last.known and last.up is up:
                return last
            said = decode(self.process.stdout.readline())
            if isinstance(said, Verdict):
                self.last[said.name] = said
        raise AssertionError(json.dumps({name: str(verdict) for name, verdict in self.last.items()}))

    def __enter__(self) -> "Checking":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.mark.parametrize("groups", ["0 2147483647", "1 0"], ids=["ping socket", "raw socket"])
def test_icmp_is_asked_by_either_socket_over_both_families(lan: Lan, tmp_path: Path, groups: str) -> None:
    lan.run("director", ["sysctl", "-qw", f"net.ipv4.ping_group_range={groups}"])
    asked = {"four": (ICMP, WEB), "six": (ICMP, "fd00::21"), "gone": (ICMP, "10.0.0.99")}
    with Checking(lan, tmp_path / "log", asked) as checking:
        checking.wait("four", True)
        checking.wait("six", True)
        assert checking.wait("gone", False).reason.startswith("ICMP 10.0.0.99: ")
        lan.run("web", ["sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1", "net.ipv6.icmp.echo_ignore_all=1"])
        assert checking.wait("four", False).reason == f"ICMP {WEB}: no complete answer within 500 ms"
        checking.wait("six", False)


def test_a_backend_that_is_cut_off_is_down_after_the_timeout_and_back_when_it_can_be_reached(
    lan: Lan, tmp_path: Path
) -> None:
    lan.popen("web", [sys.executable, "-m", "http.server", "8080", "--directory", str(tmp_path)])
    http = HealthCheck(type=CheckType.HTTP, interval_ms=200, timeout_ms=500)
    checks = {"tcp": (tcp(timeout_ms=500), WEB), "http": (replace(http, fall=2), WEB)}
    with Checking(lan, tmp_path / "log", checks) as checking:
        for name in checks:
            checking.wait(name, True)
        lan.cut("web")
        for name in checks:
            reason = checking.wait(name, False).reason
            assert "no complete answer within 500 ms" in reason or "no route to host" in reason
        lan.heal("web")
        for name in checks:
            checking.wait(name, True)
