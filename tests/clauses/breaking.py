"""Breaks a copy of the code at a clause and looks whether the clause's own tests notice."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.clauses.collect import ROOT, Shown
from tests.clauses.model import Aspect, Mutation

PROVED: Final = Path(__file__).with_name("proved.json")
COPIED: Final = ("nodeagent", "crds")
"""Folders whose code is broken; both are import paths."""
LIMIT: Final = 120.0
"""Seconds for the tests of one clause. Broken code may not end at all; that is red too."""
WORK: Final = ROOT / "build" / "clauses"
"""Where the copies are: the rig's guest sees this folder, and not the one for temporary files."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A way to break a clause that turned a test red."""

    clause: str
    digest: str
    """Of the mutation."""
    test: str
    """``file::function``."""


class Survived(Exception):
    """The broken code passed every test of the clause; or it could not be broken."""


def load() -> tuple[Proof, ...]:
    """What was proved by the last run."""
    return tuple(Proof(**each) for each in json.loads(PROVED.read_text())) if PROVED.exists() else ()


def save(proofs: Iterable[Proof]) -> None:
    ordered = sorted(proofs, key=lambda proof: (proof.clause[0], int(proof.clause[1:]), proof.digest))
    PROVED.write_text(json.dumps([asdict(proof) for proof in ordered], indent=1) + "\n")


def occurrences(mutation: Mutation) -> int:
    """How often its old text is in the present code."""
    path = ROOT / mutation.file
    return path.read_text().count(mutation.old) if path.exists() else 0


def prove(clause: str, mutation: Mutation, shown: Sequence[Shown], *, net: bool) -> Proof:
    """Break it, run the clause's tests. Raises Survived. ``net``: also those that need the rig's kernel."""
    if occurrences(mutation) != 1:
        raise Survived(f"the old text is {occurrences(mutation)} times in {mutation.file}: {mutation.old!r}")
    tests = [
        each for each in shown if each.clause == clause and each.aspect is not Aspect.INSTEAD and (net or not each.net)
    ]
    if not tests:
        raise Survived("there is no test to run")
    with broken(mutation) as paths:
        if (red := first_red(tests, paths, LIMIT)) is not None:
            return Proof(clause, mutation.digest, red.name)
    raise Survived(f"green although broken: {', '.join(sorted({each.name for each in tests}))}")


def red_unbroken(clauses: Sequence[str], shown: Sequence[Shown], *, net: bool) -> Shown | None:
    """The first test of these clauses that fails over the code as it is: then nothing can be proved."""
    tests = [each for each in shown if each.clause in clauses and (net or not each.net)]
    with broken(None) as paths:
        return first_red(tests, paths, 10 * LIMIT)


@contextmanager
def broken(mutation: Mutation | None) -> Iterator[list[Path]]:
    """A copy of the code with the mutation in it: its import paths."""
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        copies = [Path(folder, name) for name in COPIED]
        for copy in copies:
            shutil.copytree(ROOT / copy.name, copy, ignore=shutil.ignore_patterns("__pycache__", "*.md", "*.yaml"))
        if mutation is not None:
            target = Path(folder, mutation.file)
            text = target.read_text().replace(mutation.old, mutation.new)
            try:
                compile(text, mutation.file, "exec")
            except SyntaxError as error:
                raise Survived(f"what was broken is not Python any more: {error}") from error
            target.write_text(text)
        yield copies


def first_red(tests: Sequence[Shown], paths: Sequence[Path], limit: float) -> Shown | None:
    """The first of these tests that fails over that code, those first that need no kernel; ``limit``: seconds."""
    batches = [each for each in tests if not each.net], [each for each in tests if each.net]
    found = (_first_red(batch, paths, limit) for batch in batches if batch)
    return next((red for red in found if red is not None), None)


def _first_red(tests: Sequence[Shown], paths: Sequence[Path], limit: float) -> Shown | None:
    report = paths[0].parent / "red.txt"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "tests.clauses.red"]
    command += [f"--red={report}", *dict.fromkeys(each.test for each in tests)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    if tests[0].net:
        command = [sys.executable, "-m", "tests.rig", "place", "--", *command]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return tests[0]
    if done.returncode == 0:
        return None
    red = report.read_text() if report.exists() else ""
    found = next((each for each in tests if each.test == red), None)
    if found is None:
        raise Survived(f"pytest failed, but no test of the clause: {done.stdout[-3000:]}{done.stderr[-1000:]}")
    return found
