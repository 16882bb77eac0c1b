"""Are the pure cores covered? Branches and lines, by what the unit tier's coverage left in ``.coverage``.

The cores are what the import contract calls pure (``pyproject.toml``): one list says what may do no I/O and what is
measured. A percentage of lines and branches together hides the second: there are four lines to a branch.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = "the pure cores do no I/O and know no clock"
FOLDERS = {"lvsapi": "crds", "lvsoperator": "operator", "lvsagent": "nodeagent"}
"""Where our packages lie."""
DECODER = (
    *(f"lvsagent.vrrp.{name}" for name in ("packet", "v2", "auth", "ip", "advert")),
    *(f"lvsagent.liveness.{name}" for name in ("beat", "proof")),
)
"""What looks at bytes that anybody may send: every line and branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many of all."""

    covered: int
    all: int

    @property
    def percent(self) -> float:
        """100 where there are none."""
        return 100.0 * self.covered / self.all if self.all else 100.0

    def __add__(self, other: "Share") -> "Share":
        return Share(covered=self.covered + other.covered, all=self.all + other.all)

    def __str__(self) -> str:
        return f"{self.percent:.1f} % ({self.covered} of {self.all})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What was seen of one file. Lines count too: some files have no branch."""

    branches: Share
    lines: Share
    missing: str = ""
    """Lines, and branches as ``from->to``; a negative line is the end of what begins there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """In percent, of branches as of lines."""

    name: str
    whole: float
    each: float


PURE = Demand(name="the pure cores", whole=95.0, each=90.0)
EVERY = Demand(name="the decoder", whole=100.0, each=100.0)


def pure_modules(pyproject: Path = ROOT / "pyproject.toml") -> tuple[str, ...]:
    """Modules and packages that the import contract calls pure."""
    contracts = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["name"] == CONTRACT]
    return tuple(contract["source_modules"])


def files_of(modules: Iterable[str], root: Path = ROOT) -> tuple[str, ...]:
    """The files of modules and packages, below ``root``. Raises FileNotFoundError for one that is neither."""
    found: set[str] = set()
    for name in modules:
        place = root / FOLDERS[name.split(".")[0]] / name.replace(".", "/")
        files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
        for path in files:
            path.stat()
            found.add(str(path.relative_to(root)))
    return tuple(sorted(found))


def covered(report: Mapping[str, Any]) -> dict[str, Covered]:
    """By file, of what ``coverage json`` wrote."""
    found = {}
    for name, seen in report["files"].items():
        numbers = seen["summary"]
        missing = [str(line) for line in seen["missing_lines"]]
        missing += [f"{begin}->{end}" for begin, end in seen["missing_branches"]]
        found[name] = Covered(
            branches=Share(covered=numbers["covered_branches"], all=numbers["num_branches"]),
            lines=Share(covered=numbers["covered_lines"], all=numbers["num_statements"]),
            missing=", ".join(missing),
        )
    return found


def judged(demand: Demand, seen: Mapping[str, Covered], files: Iterable[str]) -> tuple[str, list[str]]:
    """A sentence about the whole, and what is wrong."""
    names = list(files)
    bad = [f"{name}: not measured" for name in names if name not in seen]
    there = {name: seen[name] for name in names if name in seen}
    branches = sum((one.branches for one in there.values()), Share(covered=0, all=0))
    lines = sum((one.lines for one in there.values()), Share(covered=0, all=0))
    for what, share in (("branches", branches), ("lines", lines)):
        if share.percent < demand.whole:
            bad.append(f"{demand.name}: {what} {share}, needs {demand.whole:.0f} %")
    for name, one in there.items():
        if min(one.branches.percent, one.lines.percent) < demand.each:
            bad.append(
                f"{name}: branches {one.branches}, lines {one.lines}, needs {demand.each:.0f} %; missing: {one.missing}"
            )
    return f"{demand.name}: branches {branches}, lines {lines}", bad


def cores_are_covered() -> bool:
    """Said, and judged."""
    with tempfile.TemporaryDirectory(prefix="lvs-coverage-") as folder:
        place = Path(folder) / "coverage.json"
        done = subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", str(place)], cwd=ROOT)
        if done.returncode != 0:
            return False
        seen = covered(json.loads(place.read_text()))
    good = True
    for demand, modules in ((PURE, pure_modules()), (EVERY, DECODER)):
        sentence, bad = judged(demand, seen, files_of(modules))
        print("\n".join([f"coverage of {sentence}: {'too little' if bad else 'enough'}", *bad]), flush=True)
        good = good and not bad
    return good
