"""``make bench``: the election beside keepalived, in the same run on the same machine. docs/benchmark.md explains it.

Exit status 0: everything was measured; 1: something could not be, or with ``--strict`` missed its limit.
"""

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.bench import checks, faults, load, loss
from tests.bench.capture import hurry
from tests.bench.context import Context
from tests.bench.figures import Figure, table
from tests.bench.sides import keepalived_version

ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULT_RUNS: Final = 30
WINDOW: Final = 40.0
QUICK_RUNS: Final = 2
QUICK_WINDOW: Final = 3.0
GUEST_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Some figures that are measured together, and about how many seconds that takes."""

    name: str
    measure: Callable[[Context], list[Figure]]
    seconds: float
    seconds_per_run: float = 0.0
    windows: float = 0.0

    def estimate(self, runs: int, window: float) -> float:
        return self.seconds + runs * self.seconds_per_run + self.windows * window


SCENARIOS: Final = (
    Scenario("crash-1s", faults.crash_at_one_second, 5, 5.2),
    Scenario("crash-short", faults.crash_at_short_intervals, 5, 3.2),
    Scenario("crash-loss30", faults.crash_under_loss, 4, 1.8),
    Scenario("planned", faults.planned, 5, 6.5),
    Scenario("return-after-cut", faults.return_after_cut, 12),
    Scenario("loss30", loss.loss, 8, 0, 2),
    Scenario("load", load.lateness_under_load, 22, 0, 3),
    Scenario("cpu", load.cpu_by_routers, 12, 0, 0.8),
    Scenario("checks", checks.checks, 190, 0, 1.5),
)


def main() -> int:
    options = _parser().parse_args()
    chosen = [scenario for scenario in SCENARIOS if fnmatch.fnmatch(scenario.name, options.only)]
    if not chosen:
        print(f"--only {options.only}: no such scenario; there are {', '.join(each.name for each in SCENARIOS)}")
        return 1
    runs = options.runs or (QUICK_RUNS if options.quick else DEFAULT_RUNS)
    window = QUICK_WINDOW if options.quick else WINDOW
    _install()
    if not _namespaces_work():
        return _in_guest()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces are taken away
    hurry()
    estimate = sum(scenario.estimate(runs, window) for scenario in chosen)
    print(f"{runs} runs of each: about {estimate / 60:.0f} min {estimate % 60:.0f} s", flush=True)
    return _measure(chosen, options, runs, window)


def _measure(chosen: list[Scenario], options: argparse.Namespace, runs: int, window: float) -> int:
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lvs-bench-") as folder:
        context = Context(
            runs=runs, window=window, quick=options.quick, folder=Path(folder), version=keepalived_version()
        )
        for scenario in chosen:
            print(f"  {time.monotonic() - began:5.0f} s  {scenario.name} …", flush=True)
            before = _processor_times()
            date, load_before = time.strftime("%Y-%m-%dT%H:%M:%S%z"), os.getloadavg()[0]
            try:
                fresh = scenario.measure(context)
            except Exception as error:  # the others can still be measured
                failed[scenario.name] = f"{type(error).__name__}: {error}"
                print(f"           {failed[scenario.name][:300]}", flush=True)
                continue
            after = _processor_times()
            machine = {
                "date": date,
                "load_before": round(load_before, 2),
                "load_after": round(os.getloadavg()[0], 2),
                "busy": round(1 - (after[1] - before[1]) / max(1, after[0] - before[0]), 3),
            }
            figures += [replace(figure, machine=machine) for figure in fresh]
            _write(options.json, _document(figures, context, failed, options.quick))
    _write(options.json, _document(figures, context, failed, options.quick))
    print(f"\n{table(figures)}\n")
    for figure in figures:
        if figure.broken:
            print(f"missed: {figure.name} ({figure.title}): {'; '.join(figure.broken)}")
    for name, reason in failed.items():
        print(f"not measured: {name}: {reason}")
    held = sum(figure.verdict == "held" for figure in figures)
    missed = sum(figure.verdict == "missed" for figure in figures)
    print(f"{held} held, {missed} missed, {len(figures) - held - missed} without a limit; {options.json}")
    return 1 if failed or (options.strict and missed) else 0


def _document(figures: list[Figure], context: Context, failed: dict[str, str], quick: bool) -> dict[str, Any]:
    """build/bench.json."""
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    machine = os.uname()
    return {
        "revision": revision.stdout.strip(),
        "kernel": f"{machine.sysname} {machine.release} {machine.machine}",
        "processors": os.cpu_count(),
        "python": sys.version.split()[0],
        "guest": "LVS_IN_GUEST" in os.environ,
        "quick": quick,
        "runs": context.runs,
        "window_seconds": context.window,
        "not_measured": failed,
        "repeated_runs": context.troubles,
        "figures": [figure.to_json() for figure in figures],
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _processor_times() -> tuple[int, int]:
    """All, and idle (with waiting for disks), of all processors (/proc/stat, ticks)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def _install() -> None:
    from tests.rig import apt

    apt.install(("keepalived", "iproute2", "nftables"))


def _namespaces_work() -> bool:
    """Root, with network namespaces and nftables in them."""
    if os.geteuid() != 0:
        return False
    argv = ["unshare", "--net", "nft", "add", "table", "netdev", "trial"]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def _in_guest() -> int:
    """The same command in a kernel of its own, where it is root; its timers are worse."""
    from tests.rig import apt, guest
    from tests.rig.build_kernel import kernel

    print("no root or no namespaces here: in a guest kernel, whose timers are worse", flush=True)
    apt.install()
    command = [sys.executable, "-m", "tests.bench", *sys.argv[1:]]
    return guest.run(kernel() / "linux", command, memory="2G", timeout=GUEST_SECONDS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser.add_argument("--runs", type=int, help=f"of each figure that has runs (default {DEFAULT_RUNS})")
    parser.add_argument("--only", default="*", metavar="PATTERN", help=f"scenarios of this name: {names}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs, {QUICK_WINDOW:g} s windows: a try")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="default: %(default)s")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a limit is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
