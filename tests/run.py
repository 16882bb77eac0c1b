"""Runs the tiers one after another and counts: ``python tests/run.py [unit sim contract net e2e]`` (default: all).

The net tier runs in a kernel with ip_vs that the rig boots, unless this very kernel has it. The last line is
``N passed, M failed``; the exit status is 0 when nothing failed, something ran, and the cores are covered.
"""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "reports"
TIERS = ("unit", "sim", "contract", "net", "e2e")
MEASURED = ("unit", "sim")
"""Tiers that the coverage of the pure cores is measured over."""
CORES = ("*/lvsapi/*", "*/lvsoperator/core/*", "*/lvsagent/core/*", "*/lvsagent/vrrp/*")
COVERED_PERCENT = 95
TIME_LIMIT_SECONDS = 1500.0


@dataclass(frozen=True)
class Count:
    """What one tier came to."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def count(report: Path, status: int) -> Count:
    """From a JUnit report. A run that died without one, or with a bad status and no failure in it, is one failure."""
    total = Count()
    if report.exists():
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            total += Count(max(0, ran - failed - skipped), failed, skipped)
    empty = status == 5 and total == Count()
    if status != 0 and not empty and total.failed == 0:
        total += Count(failed=1)
    return total


def pytest_command(tier: str, report: Path) -> list[str]:
    """The tier's pytest, with its report, and measuring when its coverage counts."""
    measure = ["--cov", "--cov-branch", "--cov-append", "--cov-report="] if tier in MEASURED else []
    return [sys.executable, "-m", "pytest", f"tests/{tier}", "-q", "--durations=5", f"--junitxml={report}", *measure]


def run_tier(tier: str, extra: list[str]) -> Count:
    """Run it, say how it went."""
    report = REPORTS / f"{tier}.xml"
    report.unlink(missing_ok=True)
    command = [*pytest_command(tier, report), *extra]
    started = time.monotonic()
    print(f"=== {tier}", flush=True)
    status = run_command(tier, command)
    found = count(report, status)
    print(f"=== {tier}: {found} in {time.monotonic() - started:.0f} s\n", flush=True)
    return found


def run_command(tier: str, command: list[str]) -> int:
    """The exit status of the tier's pytest, wherever it has to run."""
    from tests.rig.errors import RigError

    try:
        if tier == "net" and not (os.geteuid() == 0 and Path("/proc/net/ip_vs").exists()):
            from tests.rig import apt, guest
            from tests.rig.build_kernel import kernel

            apt.install()
            return guest.run(kernel() / "linux", command, memory="1G", timeout=TIME_LIMIT_SECONDS)
        environment = dict(os.environ)
        if tier in ("contract", "e2e"):
            from tests.rig import apt
            from tests.rig.build_kubernetes import kubernetes

            apt.install()
            environment.setdefault("LVS_RIG_BIN", str(kubernetes()))
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=TIME_LIMIT_SECONDS).returncode
    except (RigError, subprocess.TimeoutExpired) as error:
        print(error, flush=True)
        return 1


def cores_are_covered() -> bool:
    """Branch coverage of the pure cores, said and judged."""
    command = [sys.executable, "-m", "coverage", "report", f"--include={','.join(CORES)}", "--skip-covered"]
    return subprocess.run([*command, f"--fail-under={COVERED_PERCENT}"], cwd=ROOT).returncode == 0


def main(arguments: list[str]) -> int:
    tiers = [word for word in arguments if word in TIERS] or list(TIERS)
    extra = [word for word in arguments if word not in TIERS]
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    REPORTS.mkdir(parents=True, exist_ok=True)
    (ROOT / ".coverage").unlink(missing_ok=True)
    total = Count()
    for tier in tiers:
        total += run_tier(tier, extra)
    covered = True
    if set(MEASURED) <= set(tiers) and not extra:
        covered = cores_are_covered()
        print(f"branch coverage of the pure cores: {'enough' if covered else f'below {COVERED_PERCENT} %'}\n")
        total += Count(passed=1) if covered else Count(failed=1)
    print(total, flush=True)
    return 0 if total.failed == 0 and total.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
