"""Runs the tiers and counts: ``python -m tests.run [unit sim contract net e2e]`` (default: all).

The net tier runs in a kernel with ip_vs that the rig boots, unless this very kernel has it. A file that says what it
``NEEDS`` of a kernel, and so does not need ip_vs, runs in namespaces of its own on this kernel where that can be had:
that takes a quarter of the processor. In all these places, and on the cluster, many share few processors, so what
failed is run once more with nothing beside it, and that is said: a director that was not given the processor for 0.3 s
has rightly been replaced; ``build/again.txt`` remembers it. The last lines are a record of the run (``tests.summary``),
and the very last one is ``N passed, M failed``; the exit status is 0 when nothing failed, something ran, and the cores
are covered (``tests.covered``).
"""

import ast
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, BinaryIO

from tests import summary
from tests.covered import cores_are_covered
from tests.rig import record
from tests.tally import Count, count, failures, said_count

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "reports"
RECORD, REMEMBERED = ROOT / "build" / "record.jsonl", ROOT / "build" / "again.txt"
"""What took how long in this run, and what needed a second try in this run and those before."""
TIERS = ("unit", "sim", "contract", "net", "e2e")
MEASURED = ("unit",)
"""Tiers that the coverage of the pure cores is measured over."""
CODE = ("crds", "operator", "nodeagent", "tests")
"""Folders of our modules."""
TIME_LIMIT_SECONDS = 1500.0
GUESTS_PER_PROCESSOR = 2.5
"""Kernels at a time: the tests mostly wait, but what they wait for must be in time."""
NAMESPACES_PER_PROCESSOR = 1.5
"""Places beside these in namespaces of this kernel: their tests wait, and take a seventh of a processor each."""
TOGETHER = ("unit", "sim", "contract")
"""Tiers that may run at the same time: each keeps one processor busy, and none minds how long it takes."""
BESIDE = "e2e"
"""The tier beside which they run when it is asked for, too: it waits for pods, timers and the dead."""
IDLY = ("chrt", "--idle", "0")
"""How they run there: whoever wants a processor has it at once (sched(7), SCHED_IDLE)."""
AGAIN = ("net", "e2e")
"""Tiers whose failures are run once more."""
SECONDS = {
    "test_lab": 160, "test_liveness_net": 140, "test_affinity_net": 120, "test_peers_net": 110, "test_election_net": 80,
    "test_agent_net": 70, "test_election_conflict_net": 65, "test_faults_guard_net": 65, "test_health_election_net": 55,
    "test_path_agent_net": 55, "test_matrix_takeover_net": 50, "test_uninstall_net": 45, "test_faults_cuts_net": 45,
    "test_faults_process_net": 40, "test_health_net": 40, "test_agent_api_net": 40, "test_faults_limits_net": 35,
    "test_leaving_net": 35, "test_matrix_net": 35, "test_leftovers_net": 30, "test_election_v6_net": 30,
    "test_path_net": 30, "test_faults_strangers_net": 30, "test_authentication_net": 30, "test_faults_arp_net": 25,
    "test_tables_net": 25, "test_matrix_pods_net": 25, "test_faults_links_net": 25, "test_whole_tables_net": 25,
    "test_takeover_net": 25, "test_election_tracking_net": 20, "test_election_peers_net": 20,
}  # fmt: skip
"""Files of the net tier that take longest, and how long beside others: those begin first."""
ORDINARY_SECONDS = 12
"""The other files."""
PLACE_SECONDS = 80
"""Files share a place until it takes so long: each place costs one and a half seconds of a processor, before its first
test."""
HUNGRY = ("test_faults_resources_net", "test_faults_churn_net", "test_faults_flood_net", "test_ipvs_scale_net")
"""Files of the net tier that take all processors on purpose, or judge a time: they run when the others are done."""
MOST_AGAIN = 8
"""Failures that a busy machine may explain; more are a fault."""
PREPARED = threading.Lock()
"""Held while what the guests need is installed and built."""


def pytest_command(tier: str, report: Path, *what: str) -> list[str]:
    """The tier's pytest, with its report, and measuring when its coverage counts."""
    measure = ["--cov", "--cov-branch", "--cov-append", "--cov-report="] if tier in MEASURED else []
    if tier == "net":  # begun a dozen times, in guests where every import is dear
        measure = ["-p", "no:cov", "-p", "no:hypothesispytest"]
    tests = what or (f"tests/{tier}",)
    return [sys.executable, "-m", "pytest", *tests, "-q", "--durations=5", f"--junitxml={report}", *measure]


def run_tier(tier: str, extra: list[str], alone: Callable[[], None] = lambda: None) -> Count:
    """Run it, say how it went. ``alone``: returns when nothing runs beside."""
    for old in (REPORTS / f"{tier}.xml", *REPORTS.glob(f"{tier}-*.xml")):
        old.unlink(missing_ok=True)
    started, used = time.monotonic(), processor_seconds()
    print(f"=== {tier}", flush=True)
    in_guests = tier == "net" and not has_ip_vs()
    found = run_in_places(extra) if in_guests else run_here(tier, tier, (), extra)
    if tier in AGAIN and not extra:
        again = [test for report in REPORTS.glob(f"{tier}*.xml") for test in failures(report)]
        # Only when every failure is one of a test: a kernel that died is not tried again.
        if len(again) == found.failed and 0 < found.failed <= MOST_AGAIN:
            alone()
            print(f"--- once more, with nothing beside: {', '.join(again)}", flush=True)
            begun, once_more = time.monotonic(), (tier, f"{tier}-again", tuple(again), extra)
            recovered = (run_in_guest(*once_more) if in_guests else run_here(*once_more)).passed
            found += Count(passed=recovered, failed=-recovered)
            still = failures(REPORTS / f"{tier}-again.xml") if recovered else again
            for test in again:
                record.note("again", test, begun, passed=test not in still)
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


def compile_all() -> None:
    """Byte code of our own modules, also where the environment forbids to write it (PYTHONDONTWRITEBYTECODE): else each
    of hundreds of processes would compile what it imports, which takes an election twice as long to start."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", *CODE], cwd=ROOT)


def has_ip_vs() -> bool:
    """This very kernel can run the net tier."""
    return os.geteuid() == 0 and Path("/proc/net/ip_vs").exists()


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


def needs(path: Path) -> tuple[str, ...] | None:
    """What the file says in ``NEEDS`` (words of ``tests.rig.namespaces.FEATURES``); None when it does not say."""
    for line in ast.parse(path.read_text()).body:
        if isinstance(line, ast.Assign) and [ast.unparse(name) for name in line.targets] == ["NEEDS"]:
            return tuple(str(word) for word in ast.literal_eval(line.value))
    return None


def places(files: list[Path]) -> list[list[Path]]:
    """Those that share a place, the longest first."""

    def seconds(path: Path) -> int:
        return SECONDS.get(path.stem, ORDINARY_SECONDS)

    found: list[list[Path]] = []
    for path in sorted(files, key=seconds, reverse=True):
        room = PLACE_SECONDS - seconds(path)
        place = next((place for place in found if sum(map(seconds, place)) <= room), None)
        if place is None:
            found.append([path])
        else:
            place.append(path)
    return sorted(found, key=lambda place: sum(map(seconds, place)), reverse=True)


def run_in_places(extra: list[str]) -> Count:
    """The net tier, its files in kernels that the rig boots or in namespaces of this one, some at a time."""
    from tests.rig import apt, namespaces
    from tests.rig.errors import RigError

    if extra:
        return run_in_guest("net", "net-selected", (), extra)
    compile_all()
    apt.install()  # ip(8), with which it is tried what this kernel can
    files = sorted((ROOT / "tests" / "net").glob("test_*.py"))
    here = [file for file in files if (words := needs(file)) is not None and namespaces.have(words)]
    guests = [file for file in files if file not in here]
    hungry = [file for file in guests if file.stem in HUNGRY]
    processors = os.cpu_count() or 1
    try:
        prepared()  # before anything runs that minds how busy the machine is
    except RigError as error:
        print(error, flush=True)
        return Count(failed=1)

    def start(pool: ThreadPoolExecutor, place: Callable[..., Count], files: list[Path]) -> list[Future[Count]]:
        return [
            pool.submit(place, "net", f"net-{group[0].stem}", tuple(str(f.relative_to(ROOT)) for f in group), extra)
            for group in places(files)
        ]

    with (
        ThreadPoolExecutor(round(GUESTS_PER_PROCESSOR * processors)) as many,
        ThreadPoolExecutor(round(NAMESPACES_PER_PROCESSOR * processors)) as more,
    ):
        ran = start(more, run_in_namespaces, here)
        ran += start(many, run_in_guest, [file for file in guests if file not in hungry])
    with ThreadPoolExecutor(1) as alone:
        ran += start(alone, run_in_guest, hungry)
    return sum((one.result() for one in ran), Count())


def run_in_namespaces(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Count:
    """Those tests in namespaces of this kernel."""
    from tests.rig import namespaces

    def run(command: list[str], output: BinaryIO) -> int:
        with record.noted("ran", name):
            return namespaces.run(command, stdout=output, stderr=output, timeout=TIME_LIMIT_SECONDS)

    return run_apart(run, tier, name, what, extra)


def prepared() -> Path:
    """Packages and the kernel that guests boot, installed and built where they are not. The folder with ``linux``.
    Raises RigError."""
    from tests.rig import apt
    from tests.rig.build_kernel import kernel

    with PREPARED:
        apt.install()
        return kernel()


def run_in_guest(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Count:
    """Those tests in one kernel that the rig boots."""
    from tests.rig import guest

    def run(command: list[str], output: BinaryIO) -> int:
        linux = prepared() / "linux"
        with record.noted("ran", name):
            return guest.run(linux, command, memory="1G", stdout=output, stderr=output, timeout=TIME_LIMIT_SECONDS)

    return run_apart(run, tier, name, what, extra)


def run_apart(
    run: Callable[[list[str], BinaryIO], int], tier: str, name: str, what: tuple[str, ...], extra: list[str]
) -> Count:
    """What those tests said is printed at once, when they are done. A kernel that stopped is given a second life."""
    from tests.rig.errors import RigError
    from tests.rig.guest import StoodStill

    report = REPORTS / f"{name}.xml"
    command = [*pytest_command(tier, report, *what), *extra]
    with tempfile.TemporaryFile() as output:
        try:
            try:
                status = run(command, output)
            except StoodStill as still:  # nothing that runs in a kernel can stop all of it: that is the kernel's fault
                output.write(f"{still}\n--- once more\n".encode())
                begun = time.monotonic()
                status = run(command, output)
                record.note("again", f"{name}: its kernel stopped", begun, passed=status == 0)
        except RigError as error:
            output.write(f"{error}\n".encode())
            status = 1
        output.seek(0)
        beside = f", {len(what) - 1} more" if len(what) > 1 else ""
        print(f"--- {name}{beside}\n{output.read().decode(errors='replace')}", end="", flush=True)
        return count(report, status)


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
