"""Where the files of the net tier run: in namespaces of this kernel, or in kernels that the rig boots.

A file runs in namespaces of its own here where this kernel has what the file ``NEEDS``: that takes a quarter of the
processor. A file that does not say needs ``OF_MOST``, and with it ip_vs; one that changes what is not of the network
needs a ``machine``, and so always a guest.
"""

import ast
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from tests.rig import apt, guest, namespaces, record
from tests.rig.build_kernel import kernel
from tests.rig.errors import CommandFailed, RigError
from tests.rig.guest import StoodStill
from tests.tally import Count, count
from tests.tier import REPORTS, ROOT, TIME_LIMIT_SECONDS, compile_all, pytest_command

GUESTS_PER_PROCESSOR = 2.5
"""Kernels at a time: the tests mostly wait, but what they wait for must be in time."""
NAMESPACES_PER_PROCESSOR = 1.5
"""Places beside these in namespaces of this kernel: their tests wait, and take a seventh of a processor each."""
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
OF_MOST = ("lan", "filters", "macvlan", "netem", "ipvs")
"""What a file needs of a kernel that does not say."""
Place = Callable[[str, str, tuple[str, ...], list[str]], Count]
"""Tier, name of the report, tests, words for pytest -> what it came to."""
PREPARED = threading.Lock()
"""Held while what the guests need is installed and built."""


def needs(path: Path) -> tuple[str, ...]:
    """What the file says in ``NEEDS`` (words of ``tests.rig.namespaces.FEATURES``), or ``OF_MOST``."""
    for line in ast.parse(path.read_text()).body:
        if isinstance(line, ast.Assign) and [ast.unparse(name) for name in line.targets] == ["NEEDS"]:
            return tuple(str(word) for word in ast.literal_eval(line.value))
    return OF_MOST


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


def apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Those that run in namespaces of this kernel, and those that a guest must have."""
    here = [file for file in files if namespaces.have(needs(file))]
    return here, [file for file in files if file not in here]


def run_net(extra: list[str]) -> Count:
    """The net tier, its files in namespaces of this kernel or in kernels that the rig boots, some at a time. With
    ``extra`` for pytest all of it in one place; in two where this kernel has ip_vs."""
    compile_all()
    apt.install()  # ip(8), with which it is tried what this kernel can
    files = sorted((ROOT / "tests" / "net").glob("test_*.py"))
    if extra:
        return run_selected(files, extra)
    here, guests = apart(files)
    processors = os.cpu_count() or 1
    try:
        if guests:
            prepared()  # before anything runs that minds how busy the machine is
    except CommandFailed as failed:
        print(failed, flush=True)
        return Count(failed=1)
    except RigError as error:
        if not here or not namespaces.has("ipvs"):
            print(error, flush=True)
            return Count(failed=1)
        # Such a machine cannot boot guests (Ubuntu, ARM) and does nearly without.
        print(f"--- not run: {', '.join(named(guests))} need a kernel of their own: {error}", flush=True)
        return run_all(here, [], processors) + Count(skipped=len(guests))
    return run_all(here, guests, processors)


def run_all(here: Sequence[Path], guests: Sequence[Path], processors: int) -> Count:
    """Those files in namespaces, and those in guests; the hungry ones when the others are done."""

    def start(pool: ThreadPoolExecutor, place: Place, files: list[Path]) -> list[Future[Count]]:
        return [pool.submit(place, "net", f"net-{group[0].stem}", named(group), []) for group in places(files)]

    def without(files: Sequence[Path]) -> list[Path]:
        return [file for file in files if file.stem not in HUNGRY]

    kernels = min(len(guests), round(GUESTS_PER_PROCESSOR * processors))
    spaces = round((GUESTS_PER_PROCESSOR + NAMESPACES_PER_PROCESSOR) * processors) - kernels
    with ThreadPoolExecutor(kernels or 1) as many, ThreadPoolExecutor(spaces) as more:
        ran = start(more, run_in_namespaces, without(here))
        ran += start(many, run_in_guest, without(guests))
    with ThreadPoolExecutor(1) as alone:
        for place, those in ((run_in_namespaces, here), (run_in_guest, guests)):
            ran += start(alone, place, [file for file in those if file not in without(those)])
    return sum((one.result() for one in ran), Count())


def run_selected(files: Sequence[Path], extra: list[str]) -> Count:
    """What ``extra`` selects of these files."""
    if not namespaces.has("ipvs"):
        return run_in_guest("net", "net-selected", (), extra)
    here, guests = apart(files)
    found = run_in_namespaces("net", "net-selected-here", named(here), extra)
    return found + run_in_guest("net", "net-selected", named(guests), extra)


def run_again(tests: Sequence[str], extra: list[str]) -> Count:
    """Those tests where they ran before, with nothing beside. Their reports are called ``net-again*.xml``."""
    files = [ROOT / test.partition("::")[0] for test in tests]
    here, _ = apart(files)
    found = Count()
    for place, name, inside in ((run_in_namespaces, "net-again-here", True), (run_in_guest, "net-again", False)):
        if those := tuple(test for test, file in zip(tests, files, strict=True) if (file in here) == inside):
            found += place("net", name, those, extra)
    return found


def named(files: Sequence[Path]) -> tuple[str, ...]:
    """As pytest is told."""
    return tuple(str(file.relative_to(ROOT)) for file in files)


def run_in_namespaces(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Count:
    """Those tests in namespaces of this kernel."""

    def run(command: list[str], output: BinaryIO) -> int:
        with record.noted("ran", name):
            return namespaces.run(command, stdout=output, stderr=output, timeout=TIME_LIMIT_SECONDS)

    return run_apart(run, tier, name, what, extra)


def prepared() -> Path:
    """Packages and the kernel that guests boot, installed and built where they are not. The folder with ``linux``.
    Raises RigError."""
    with PREPARED:
        apt.install()
        return kernel()


def run_in_guest(tier: str, name: str, what: tuple[str, ...], extra: list[str]) -> Count:
    """Those tests in one kernel that the rig boots."""

    def run(command: list[str], output: BinaryIO) -> int:
        linux = prepared() / "linux"
        with record.noted("ran", name):
            return guest.run(linux, command, memory="1G", stdout=output, stderr=output, timeout=TIME_LIMIT_SECONDS)

    return run_apart(run, tier, name, what, extra)


def run_apart(
    run: Callable[[list[str], BinaryIO], int], tier: str, name: str, what: tuple[str, ...], extra: list[str]
) -> Count:
    """What those tests said is printed at once, when they are done. A kernel that stopped is given a second life."""
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
