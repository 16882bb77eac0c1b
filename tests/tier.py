"""The command that runs one tier, or some of its tests."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "reports"
MEASURED = ("unit",)
"""Tiers that the coverage of the pure cores is measured over."""
CODE = ("crds", "operator", "nodeagent", "tests")
"""Folders of our modules."""
TIME_LIMIT_SECONDS = 1500.0


def pytest_command(tier: str, report: Path, *what: str) -> list[str]:
    """The tier's pytest, with its report, and measuring when its coverage counts."""
    measure = ["--cov", "--cov-branch", "--cov-append", "--cov-report="] if tier in MEASURED else []
    if tier == "net":  # begun a dozen times, in guests where every import is dear
        measure = ["-p", "no:cov", "-p", "no:hypothesispytest"]
    tests = what or (f"tests/{tier}",)
    return [sys.executable, "-m", "pytest", *tests, "-q", "--durations=5", f"--junitxml={report}", *measure]


def compile_all() -> None:
    """Byte code of our own modules, also where the environment forbids to write it (PYTHONDONTWRITEBYTECODE): else each
    of hundreds of processes would compile what it imports, which takes an election twice as long to start."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", *CODE], cwd=ROOT)
