"""Which tests show which clause: what ``pytest --collect-only`` finds of ``@pytest.mark.clause("C26", "held")``."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.clauses.model import Aspect

ROOT: Final = Path(__file__).resolve().parents[2]
MARK: Final = "mark.clause("
TIERS: Final = ("unit", "sim", "contract", "net")


@dataclass(frozen=True, slots=True)
class Shown:
    """A test that shows something about a clause."""

    clause: str
    aspect: Aspect
    test: str
    """pytest's node id, with parameters."""

    @property
    def name(self) -> str:
        """``file::function``, without the folder and the parameters."""
        return self.test.partition("[")[0].removeprefix("tests/")

    @property
    def net(self) -> bool:
        """It needs a kernel with network namespaces, and root."""
        return self.test.startswith("tests/net/")


def marked_files() -> list[str]:
    """Test files with a marker, relative to the root."""
    files = (path for tier in TIERS for path in (ROOT / "tests" / tier).glob("test_*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in files if MARK in path.read_text())


def collect() -> tuple[Shown, ...]:
    """Every marker of every test. Raises RuntimeError with pytest's words."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found.json")
        options = ["-q", "--collect-only", "-p", "no:cacheprovider", "-p", "tests.clauses.plugin"]
        command = [sys.executable, "-m", "pytest", *options, f"--clauses={found}", *marked_files()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"pytest cannot collect: {done.stdout[-4000:]}{done.stderr[-2000:]}")
        return tuple(Shown(clause, Aspect(aspect), test) for clause, aspect, test in json.loads(found.read_text()))
