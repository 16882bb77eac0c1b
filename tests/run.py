"""Runs the tiers one after another and counts: ``python tests/run.py [unit sim contract net e2e]`` (default: all).

The net tier runs in a kernel with ip_vs that the rig boots, unless this very kernel has it. The last line is
``N passed, M failed``; the exit status is 0 when nothing failed, something ran, and the cores are covered.
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "reports"
TIERS = ("unit", "sim", "contract", "net", "e2e")
MEASURED = ("unit",)
"""Tiers that the coverage of the pure cores is measured over."""
CORES = ("*/lvsapi/*", "*/lvsoperator/core/*", "*/lvsagent/core/*", "*/lvsagent/vrrp/*", "*/lvsagent/liveness/*")
COVERED_PERCENT = 95
DECODER = (
    *(f"*/lvsagent/vrrp/{name}.py" for name in ("packet", "v2", "auth", "ip", "advert")),
    *(f"*/lvsagent/liveness/{name}.py" for name in ("beat", "proof")),
)
"""What looks at bytes that anybody may send: every branch."""
TIME_LIMIT_SECONDS = 1500.0
GUESTS_PER_PROCESSOR = 2
"""Kernels at a time: the tests mostly wait."""


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


def pytest_command(tier: str, report: Path, what: str = "") -> list[str]:
    """The tier's pytest, with its report, and measuring when its coverage counts."""
    measure = ["--cov", "--cov-branch", "--cov-append", "--cov-report="] if tier in MEASURED else []
    tests = what or f"tests/{tier}"
    return [sys.executable, "-m", "pytest", tests, "-q", "--durations=5", f"--junitxml={report}", *measure]


def run_tier(tier: str, extra: list[str]) -> Count:
    """Run it, say how it went."""
    for old in (REPORTS / f"{tier}.xml", *REPORTS.glob(f"{tier}-*.xml")):
        old.unlink(missing_ok=True)
    started = time.monotonic()
    print(f"=== {tier}", flush=True)
    if tier == "net" and not has_ip_vs():
        found = run_in_guests(extra)
    else:
        report = REPORTS / f"{tier}.xml"
        found = count(report, run_command(tier, [*pytest_command(tier, report), *extra]))
    print(f"=== {tier}: {found} in {time.monotonic() - started:.0f} s\n", flush=True)
    return found


def has_ip_vs() -> bool:
    """This very kernel can run the net tier."""
    return os.geteuid() == 0 and Path("/proc/net/ip_vs").exists()


def run_in_guests(extra: list[str]) -> Count:
    """The net tier in kernels that the rig boots: one for each file, some at a time; one alone for a selection."""
    from tests.rig import apt, guest
    from tests.rig.build_kernel import kernel
    from tests.rig.errors import RigError

    apt.install()
    linux = kernel() / "linux"
    files = sorted((ROOT / "tests" / "net").glob("test_*.py"), key=lambda path: -path.stat().st_size)
    jobs = [""] if extra else [str(path.relative_to(ROOT)) for path in files]

    def run(what: str) -> tuple[str, Count]:
        report = REPORTS / f"net-{Path(what or 'selected').stem}.xml"
        command = [*pytest_command("net", report, what), *extra]
        with tempfile.TemporaryFile() as output:
            try:
                status = guest.run(
                    linux, command, memory="1G", stdout=output, stderr=output, timeout=TIME_LIMIT_SECONDS
                )
            except RigError as error:
                output.write(f"{error}\n".encode())
                status = 1
            output.seek(0)
            return output.read().decode(errors="replace"), count(report, status)

    total = Count()
    with ThreadPoolExecutor(max_workers=GUESTS_PER_PROCESSOR * (os.cpu_count() or 1)) as pool:
        for what, job in [(what, pool.submit(run, what)) for what in jobs]:
            said, found = job.result()
            print(f"--- {what}\n{said}", end="", flush=True)
            total += found
    return total


def run_command(tier: str, command: list[str]) -> int:
    """The exit status of the tier's pytest, with what it needs at hand."""
    from tests.rig.errors import RigError

    try:
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
    return all(
        subprocess.run(
            [sys.executable, "-m", "coverage", "report", f"--include={','.join(files)}", "--skip-covered",
             f"--fail-under={percent}"],
            cwd=ROOT,
        ).returncode == 0
        for files, percent in ((CORES, COVERED_PERCENT), (DECODER, 100))
    )  # fmt: skip


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
