"""Lateness of the timers beside other work, seen from outside by the spacing of adverts; CPU and memory."""

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.capture import ATTACKER
from tests.bench.context import Context
from tests.bench.figures import Figure, Summary
from tests.bench.sides import OURS, OURS_FAST, SOURCES, TUNED, TUNED_REALTIME, BenchError, Director, Pair, Profile
from tests.bench.trace import additions, lateness

HOGS = 8
P999_LIMIT_MS = 3.0
CPU_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one director over a window."""

    cpu_percent: float
    """Of one core."""
    resident_mib: float


@dataclass(frozen=True, slots=True)
class Observed:
    """One pair over a window under load."""

    late_ms: list[float]
    adverts_per_second: float
    """On the wire, of all virtual routers and directors."""
    changes: int
    """How often the second director took the address."""
    active: Usage
    backup: Usage


def cpu_seconds(director: Director) -> float:
    """Time on a processor so far, of all threads (/proc/PID/task/TID/schedstat, nanoseconds)."""
    found = 0
    for pid in director.pids():
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += int((task / "schedstat").read_text().split()[0])
    return found / 1e9


def resident_mib(director: Director) -> float:
    """VmRSS of all processes of the program."""
    lines = [line for pid in director.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def observe(pairs: Sequence[Pair], seconds: float) -> dict[str, Observed]:
    """All pairs at the same time, each on its own LAN. By profile."""
    for pair in pairs:
        pair.capture.restart()
        for watch in pair.watches.values():
            watch.events()
    directors = [director for pair in pairs for director in (pair.dr1, pair.dr2)]
    before = {id(director): cpu_seconds(director) for director in directors}
    begin = time.time()
    time.sleep(seconds)
    end = time.time()
    used = {
        id(director): Usage(
            100 * (cpu_seconds(director) - before[id(director)]) / (end - begin), resident_mib(director)
        )
        for director in directors
    }
    found = {}
    for pair in pairs:
        trace = pair.capture.drain()
        moments = [begin, *(at for at in trace.of(SOURCES["dr1"]) if begin < at < end), end]
        late = [1000 * each for each in lateness(moments, pair.profile.interval)]
        if pair.capture.lost:
            raise BenchError(f"{pair.profile.who}: the capture lost frames")
        changes = additions(pair.watches["dr2"].events())
        found[pair.profile.who] = Observed(
            late, len(trace.adverts) / (end - begin), changes, used[id(pair.dr1)], used[id(pair.dr2)]
        )
    return found


@contextlib.contextmanager
def burdened(
    pair: Pair, host: str, kind: str, seconds: float, count: int = 1, log: Path | None = None
) -> Iterator[None]:
    """So many processes of tests.bench.burden meanwhile."""
    argv = [sys.executable, "-m", "tests.bench.burden", kind, str(seconds)]
    processes = [pair.lan.popen(host, argv, log=log) for _ in range(count)]
    try:
        time.sleep(1.0)  # until they are at work
        yield
    finally:
        for process in processes:
            process.kill() if log is None else process.wait(seconds + 10)
            process.wait()


def lateness_under_load(context: Context) -> list[Figure]:
    """Idle, eight hogs, a parser of a million objects, 10,000 malformed packets a second."""
    figures: list[Figure] = []
    with context.pairs(OURS_FAST, TUNED, TUNED_REALTIME, poller=None) as pairs:
        ours = pairs[0]
        seconds = context.window / 2
        figures += _figures(context, "idle", "nothing else", pairs, observe(pairs, seconds))
        with burdened(ours, "client", "hog", seconds + 5, HOGS):
            figures += _figures(context, "hogs", f"{HOGS} busy loops", pairs, observe(pairs, seconds))
        with burdened(ours, "client", "parse", seconds + 5):
            figures += _figures(context, "parse", "a parser of 10^6 objects", pairs, observe(pairs, seconds))
        found: dict[str, Observed] = {}
        rates = []
        for pair in pairs:  # each its own flood, one after the other
            pair.lan.add_host("attacker", f"{ATTACKER}/16")
            log = context.folder / f"{pair.profile.program}-{pair.profile.realtime}-flood"
            with burdened(pair, "attacker", "malformed", seconds + 2, log=log):
                found |= observe([pair], seconds)
            rates.append(int(log.read_text()))
        title = f"malformed adverts, {min(rates)}-{max(rates)} a second"
        figures += _figures(context, "malformed", title, pairs, found)
    return figures


def _figures(
    context: Context, name: str, load: str, pairs: Sequence[Pair], found: dict[str, Observed]
) -> Iterator[Figure]:
    ours, plain, realtime = pairs
    mine = found[ours.profile.who]

    def one(suffix: str, title: str, unit: str, values: dict[str, list[float]], anchor: Pair) -> Figure:
        return Figure(
            name=f"{suffix}-{name}{'-rt' if anchor is realtime else ''}",
            title=f"{title}; beside: {load}",
            unit=unit,
            ours=Summary(context.who(ours), tuple(values[ours.profile.who])),
            anchor=Summary(context.who(anchor), tuple(values[anchor.profile.who])),
        )

    late = {who: each.late_ms for who, each in found.items()}
    for anchor in (plain, realtime):
        figure = one("late", "how late adverts leave that are sent every 10 ms", "ms", late, anchor)
        notes = "p99.9: " + ", ".join(f"{side.who} {side.p999:.2f} ms" for side in (figure.ours, anchor_of(figure)))
        yield replace(figure, limits={"p999": P999_LIMIT_MS}, compared="p999", notes=notes)
    changes = {who: [float(each.changes)] for who, each in found.items()}
    yield replace(one("changes", "takeovers", "takeovers", changes, plain), limits={"max": 0})
    cpu = {who: [each.active.cpu_percent] for who, each in found.items()}
    yield replace(
        one("cpu", "CPU of the Active, 100 adverts a second", "% of a core", cpu, plain),
        notes=f"the Backup: ours {mine.backup.cpu_percent:.1f} %, "
        f"keepalived {found[plain.profile.who].backup.cpu_percent:.1f} %",
    )
    if name == "idle":
        memory = {who: [each.active.resident_mib] for who, each in found.items()}
        yield one("memory", "resident memory of the Active", "MiB", memory, plain)


def anchor_of(figure: Figure) -> Summary:
    assert figure.anchor is not None
    return figure.anchor


def cpu_by_routers(context: Context) -> list[Figure]:
    """1, 16 and 100 virtual routers at 0.1 s, and as many in the fast profile as the fast profile is for."""
    figures = []
    anchor = replace(TUNED, who="keepalived 0.1 s", interval_ms=100, silent_adverts=3)
    cases: list[tuple[str, Profile, Profile]] = [
        (f"{count}", replace(OURS, routers=count), replace(anchor, routers=count)) for count in (1, 16, 100)
    ]
    cases += [(f"fast-{count}", replace(OURS_FAST, routers=count), replace(TUNED, routers=count)) for count in (1, 16)]
    for name, mine, other in cases[:: 3 if context.quick else 1]:
        with context.pairs(mine, other, poller=None) as (ours, keepalived):
            found = observe([ours, keepalived], min(CPU_SECONDS, context.window))
            for role in ("active", "backup"):
                usage = {who: getattr(each, role).cpu_percent for who, each in found.items()}
                late = found[mine.who].late_ms
                rates = {who: each.adverts_per_second for who, each in found.items()}
                memory = {who: getattr(each, role).resident_mib for who, each in found.items()}
                figures.append(
                    Figure(
                        name=f"cpu-{role}-{name}",
                        title=f"CPU of the {role} director, {mine.routers} routers, adverts every {mine.interval:g} s",
                        unit="% of a core",
                        ours=Summary(context.who(ours), (usage[mine.who],)),
                        anchor=Summary(context.who(keepalived), (usage[other.who],)),
                        notes=f"resident: ours {memory[mine.who]:.1f} MiB, keepalived {memory[other.who]:.1f} MiB; "
                        f"adverts a second {rates[mine.who]:.0f} and {rates[other.who]:.0f}, "
                        f"ours late by {statistics.median(late):.2f} ms (median)",
                    )
                )
    return figures
