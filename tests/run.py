"""Runs the tiers and counts: ``python -m tests.run [unit sim contract net e2e]`` (default: all).

The net tier runs in namespaces of this kernel and in kernels that the rig boots (``tests.places``). In all these
places, and on the cluster, many share few processors, so what failed is run once more with nothing beside it, and that
is said: a director that was not given the processor for 0.3 s has rightly been replaced; ``build/again.txt`` remembers
it. The last lines are a record of the run (``tests.summary``), and the very last one is ``N passed, M failed``; the
exit status is 0 when nothing failed, something ran, and the cores are covered (``tests.covered``).
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO

from tests import summary
from tests.covered import cores_are_covered
from tests.places import run_again, run_net
from tests.rig import record
from tests.tally import Count, count, failures, passes, said_count
from tests.tier import MEASURED, REPORTS, ROOT, TIME_LIMIT_SECONDS, compile_all, pytest_command

RECORD, REMEMBERED = ROOT / "build" / "record.jsonl", ROOT / "build" / "again.txt"
"""What took how long in this run, and what needed a second try in this run and those before."""
TIERS = ("unit", "sim", "contract", "net", "e2e")
TOGETHER = ("unit", "sim", "contract")
"""Tiers that may run at the same time: each keeps one processor busy, and none minds how long it takes."""
BESIDE = "e2e"
"""The tier beside which they run when it is asked for, too: it waits for pods, timers and the dead."""
IDLY = ("chrt", "--idle", "0")
"""How they run there: whoever wants a processor has it at once (sched(7), SCHED_IDLE)."""
AGAIN = ("net", "e2e")
"""Tiers whose failures are run once more."""
MOST_AGAIN = 8
"""Failures that a busy machine may explain; more are a fault."""


def run_tier(tier: str, extra: list[str], alone: Callable[[], None] = lambda: None) -> Count:
    """Run it, say how it went. ``alone``: returns when nothing runs beside."""
    for old in (REPORTS / f"{tier}.xml", *REPORTS.glob(f"{tier}-*.xml")):
        old.unlink(missing_ok=True)
    started, used = time.monotonic(), processor_seconds()
    print(f"=== {tier}", flush=True)
    found = run_net(extra) if tier == "net" else run_here(tier, tier, (), extra)
    if tier in AGAIN and not extra:
        again = [test for report in REPORTS.glob(f"{tier}*.xml") for test in failures(report)]
        # Only when every failure is one of a test: a kernel that died is not tried again.
        if len(again) == found.failed and 0 < found.failed <= MOST_AGAIN:
            alone()
            print(f"--- once more, with nothing beside: {', '.join(again)}", flush=True)
            begun, net = time.monotonic(), tier == "net"
            once_more = run_again(again, extra) if net else run_here(tier, f"{tier}-again", tuple(again), extra)
            found += Count(passed=once_more.passed, failed=-once_more.passed)
            passed = {test for report in REPORTS.glob(f"{tier}-again*.xml") for test in passes(report)}
            for test in again:
                record.note("again", test, begun, passed=test in passed)
    took, used = time.monotonic() - started, processor_seconds() - used
    record.note("tier", tier, started, processors=used, count=str(found))
    print(f"=== {tier}: {found} in {took:.0f} s ({used:.0f} s of processors)\n", flush=True)
    return found


def run_measured(tier: str, extra: list[str]) -> Count:
    """A tier that measures coverage is judged by that, too, when all of it ran."""
    if tier not in MEASURED:
        return run_tier(tier, extra)
    (ROOT / ".coverage").unlink(missing_ok=True)
    found = run_tier(tier, extra)
    if not extra:
        found += Count(passed=1) if cores_are_covered() else Count(failed=1)
        print()
    return found


def processor_seconds() -> float:
    """Used by the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_here(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Count:
    """The tier's tests, or some of them, on this kernel."""
    report = REPORTS / f"{name}.xml"
    return count(report, run_command(tier, [*pytest_command(tier, report, *what), *extra]))


@contextlib.contextmanager
def running_together(tiers: list[str], extra: list[str], *, idly: bool = False) -> Iterator[Callable[[], Count]]:
    """Those tiers at the same time, each in a process of this program. What is yielded waits for them, prints what
    they said, one after another, and counts. ``idly``: they get what others leave of the processors."""
    compile_all()
    print(f"=== {', '.join(tiers)} at the same time{', where processors are idle' if idly else ''}", flush=True)
    with contextlib.ExitStack() as stack:
        running: list[tuple[IO[bytes], subprocess.Popen[bytes]]] = []
        for tier in tiers:
            said = stack.enter_context(tempfile.TemporaryFile())
            command = [*(IDLY if idly else ()), sys.executable, "-m", "tests.run", *extra, tier]
            # A group of its own, so that all of it ends when this run ends before.
            process = subprocess.Popen(command, stdout=said, stderr=said, process_group=0)
            stack.callback(end_group, process)
            running.append((said, process))

        def wait() -> Count:
            total = Count()
            for said, process in running:
                status = process.wait()
                said.seek(0)
                lines = said.read().decode(errors="replace").splitlines() or [""]
                print("\n".join(lines[:-1]), flush=True)
                total += said_count(lines[-1], status)
            running.clear()
            return total

        yield wait


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """What is left of it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_beside(tier: str, others: list[str], extra: list[str]) -> Count:
    """The tier, which mostly waits, and ``others`` in what it leaves of the processors."""
    from tests.rig.errors import RigError

    total = Count()
    try:
        environment_of(tier)  # here it is seen how far it is
    except RigError as error:
        print(error, flush=True)
        return Count(failed=1)
    with running_together(others, extra, idly=True) as wait:

        def alone() -> None:
            nonlocal total
            total += wait()

        found = run_tier(tier, extra, alone)
        alone()
    return total + found


def environment_of(tier: str) -> dict[str, str]:
    """What the tier's pytest needs is installed and built, without a limit of time. Raises RigError."""
    environment = dict(os.environ)
    if tier in ("contract", "e2e"):
        from tests.rig import apt
        from tests.rig.build_kernel import kernel
        from tests.rig.build_kubernetes import kubernetes
        from tests.rig.kind_program import kind_is_possible

        apt.install()
        environment.setdefault("LVS_RIG_BIN", str(kubernetes()))
        if tier == "e2e" and not kind_is_possible():
            kernel()
    return environment


def run_command(tier: str, command: list[str]) -> int:
    """The exit status of the tier's pytest, with what it needs at hand."""
    from tests.rig.errors import RigError

    try:
        environment = environment_of(tier)
        with record.noted("ran", tier):
            return subprocess.run(command, cwd=ROOT, env=environment, timeout=TIME_LIMIT_SECONDS).returncode
    except (RigError, subprocess.TimeoutExpired) as error:
        print(error, flush=True)
        return 1


def main(arguments: list[str]) -> int:
    tiers = [word for word in arguments if word in TIERS] or list(TIERS)
    extra = [word for word in arguments if word not in TIERS]
    os.chdir(ROOT)
    REPORTS.mkdir(parents=True, exist_ok=True)
    started, whole = time.monotonic(), record.VARIABLE not in os.environ  # else a greater run tells of this one
    if whole:
        RECORD.unlink(missing_ok=True)
        os.environ[record.VARIABLE] = str(RECORD)
    total = Count()
    together = [tier for tier in TOGETHER if tier in tiers]
    for tier in [tier for tier in tiers if tier not in TOGETHER]:
        if tier == BESIDE and together:
            total += run_beside(tier, together, extra)
            together = []
        else:
            total += run_tier(tier, extra)
    if len(together) > 1:
        with running_together(together, extra) as wait:
            total += wait()
    elif together:
        total += run_measured(together[0], extra)
    if whole:
        found = summary.notes(RECORD)
        summary.remember(found, REMEMBERED)
        print("\n".join(["=== this run", *summary.told(found, time.monotonic() - started), ""]))
    print(total, flush=True)
    return 0 if total.failed == 0 and total.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
