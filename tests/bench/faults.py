"""Crash, orderly end, return: how long the virtual address does not answer."""

import contextlib
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from tests.bench.capture import FinePoller, MiddlingPoller, Poller, hurry
from tests.bench.context import Context, asking
from tests.bench.figures import Figure, Statistic, Summary
from tests.bench.sides import (
    KEEPALIVED,
    KEEPALIVED_1S,
    OURS,
    OURS_1S,
    OURS_FAST,
    SOURCES,
    TUNED,
    BenchError,
    Pair,
)
from tests.bench.trace import Outage, longest_gap, outage

NATURAL_RETURNS = 5
"""So many returns after a cut are left to themselves; then the client's ARP cache is helped, to save time."""
RETURN_LIMIT = 8.0
FINE_MS = 1000 * FinePoller.PERIOD
COARSE_MS = 1000 * Poller.PERIOD

Limits = dict[Statistic, float]
STOP_LIMITS: Limits = {"max": 10}


def crash(pair: Pair, phase: float) -> Outage:
    """Cut dr1 at this part of its interval; wait for dr2; join the cable and wait for dr1 again."""
    pair.capture.restart()
    advert = pair.capture.await_advert(SOURCES["dr1"], 3 * pair.profile.interval + 2)
    time.sleep(max(0.0, advert + phase * pair.profile.interval - time.time()))
    begin = time.time()
    pair.lan.cut("dr1")
    try:
        pair.await_server("dr2", timeout=2 * pair.profile.down + 3)
        return outage(pair.capture.drain(), SOURCES["dr1"], begin - 0.05)
    finally:
        pair.lan.heal("dr1")


def crash_and_heal(pair: Pair, phase: float) -> Outage:
    """The same, and dr1 serves again."""
    found = crash(pair, phase)
    pair.settle()
    return found


def figures_of(
    context: Context, name: str, title: str, ours: Pair, anchor: Pair, found: dict[str, list[Outage]], limits: Limits
) -> list[Figure]:
    """The outage, and by how much the takeover came later than RFC 9568's timer, both beside the anchor."""

    def summary(pair: Pair, *, late: bool) -> Summary:
        samples = found[pair.profile.who]
        values = [each.detection - pair.profile.down if late else each.seconds for each in samples]
        return Summary(context.who(pair), tuple(1000 * value for value in values))

    ages = sorted(1000 * each.age for each in found[ours.profile.who])
    notes = f"age of the last advert at the cut {ages[0]:.0f}-{ages[-1]:.0f} ms; {asking(ours)}"
    same = ours.profile.interval_ms == anchor.profile.interval_ms
    resolution = 1000 * ours.period
    return [
        Figure(
            name=name,
            title=title,
            unit="ms",
            ours=summary(ours, late=False),
            anchor=summary(anchor, late=False),
            limits=limits,
            beside=same,
            resolution=resolution,
            notes=notes,
        ),
        Figure(
            name=f"{name}-beyond-timer",
            title="first answer of the successor, later than last advert + 3 intervals + skew",
            unit="ms",
            ours=summary(ours, late=True),
            anchor=summary(anchor, late=True),
            beside=same,
            resolution=resolution,
            notes=f"timers: {1000 * ours.profile.down:.1f} ms, {1000 * anchor.profile.down:.1f} ms",
        ),
    ]


def crash_at_one_second(context: Context) -> list[Figure]:
    """Both sides at the same moment, side by side: they sleep nearly all the time."""
    with context.pairs(OURS_1S, KEEPALIVED_1S) as pairs, ThreadPoolExecutor(2, initializer=hurry) as pool:
        halves = pool.map(lambda pair: context.in_turn([pair], crash_and_heal), pairs)
        found = {who: outages for half in halves for who, outages in half.items()}
        ours, anchor = pairs
        return figures_of(context, "crash-1s", "outage after a silent crash, interval 1 s", ours, anchor, found, {})


def crash_at_short_intervals(context: Context) -> list[Figure]:
    """0.1 s on both sides; the fast profile beside keepalived at 0.1 s, and beside its nearest equal."""
    with context.pairs(OURS, KEEPALIVED, OURS_FAST, TUNED, poller=MiddlingPoller) as pairs:
        found = context.in_turn(pairs, crash_and_heal)
        ours, keepalived, fast, tuned = pairs
        fast_limits: Limits = {"median": 250, "p99": 270}
        title = "outage after a silent crash"
        return [
            *figures_of(
                context, "crash-0.1s", f"{title}, interval 0.1 s (our default)", ours, keepalived, found, {"max": 350}
            ),
            *figures_of(context, "crash-fast", f"{title}, fast profile", fast, keepalived, found, fast_limits),
            figures_of(context, "crash-fast-tuned", f"{title}, beside keepalived's equal", fast, tuned, found, {})[0],
        ]


def crash_under_loss(context: Context) -> list[Figure]:
    """The same while 30 % of the adverts get lost."""

    def run(pair: Pair, phase: float) -> Outage:
        pair.lose(30, adverts_only=True)
        try:
            return crash(pair, phase)
        finally:
            pair.lose(0, adverts_only=True)
            pair.settle()

    with context.pairs(OURS_FAST, KEEPALIVED, poller=MiddlingPoller) as pairs:
        found = context.in_turn(pairs, run)
        ours, anchor = pairs
        title = "outage after a silent crash at 30 % loss of adverts, fast profile"
        limits: Limits = {"median": 250, "p99": 270}
        return figures_of(context, "crash-fast-loss30", title, ours, anchor, found, limits)[:1]


def _gap(pair: Pair, begin: float) -> float:
    first, last = longest_gap(pair.capture.drain().answers, begin)
    return 1000 * (last - first)


def stop_and_return(pair: Pair, loss: int) -> tuple[float, float]:
    """dr1 gets SIGTERM, dr2 serves; dr1 starts again and takes back. Gaps of both in milliseconds."""
    pair.lose(loss, adverts_only=True)
    try:
        pair.capture.restart()
        begin = time.time()
        pair.dr1.stop()
        pair.await_server("dr2", seconds=0.25, timeout=8)
        stopped = _gap(pair, begin)
    finally:
        pair.lose(0, adverts_only=True)
    pair.capture.restart()
    begin = time.time()
    pair.dr1.start()
    pair.await_server("dr1", seconds=0.3, timeout=RETURN_LIMIT)
    returned = _gap(pair, begin)
    pair.settle()
    return stopped, returned


def planned(context: Context) -> list[Figure]:
    """Orderly end and return, without loss and with."""
    figures = []
    with context.pairs(OURS, KEEPALIVED, poller=FinePoller) as pairs:
        ours, anchor = pairs
        for loss in (0, 30):
            found = context.in_turn(pairs, lambda pair, _: stop_and_return(pair, loss))  # noqa: B023

            def summary(pair: Pair, which: int) -> Summary:
                return Summary(context.who(pair), tuple(gaps[which] for gaps in found[pair.profile.who]))  # noqa: B023

            suffix, under = ("-loss30", " at 30 % loss of adverts") if loss else ("", "")
            figures.append(
                Figure(
                    name=f"stop{suffix}",
                    title=f"outage after SIGTERM{under}, interval 0.1 s",
                    unit="ms",
                    ours=summary(ours, 0),
                    anchor=summary(anchor, 0),
                    limits=STOP_LIMITS,
                    beside=True,
                    resolution=FINE_MS,
                    notes=asking(ours),
                )
            )
            if not loss:
                figures.append(
                    Figure(
                        name="return",
                        title="outage when the better node's program starts again and takes back",
                        unit="ms",
                        ours=summary(ours, 1),
                        anchor=summary(anchor, 1),
                        beside=True,
                        resolution=FINE_MS,
                        notes=asking(ours),
                    )
                )
    return figures


def return_after_cut(context: Context) -> list[Figure]:
    """dr1 was cut off and served on for nobody; its cable is joined: two serve for a moment."""

    def run(pair: Pair, phase: float) -> float:
        pair.capture.restart()
        pair.lan.cut("dr1")
        try:
            pair.await_server("dr2", timeout=5)
            pair.capture.restart()
            begin = time.time()
        finally:
            pair.lan.heal("dr1")
        with contextlib.suppress(BenchError):  # then the gap is as long as we looked
            pair.await_server("dr1", seconds=0.3, timeout=RETURN_LIMIT)
        answers = pair.capture.drain().answers
        moments = [begin, *(answer.at for answer in answers if answer.at > begin)]
        waited = 0.0 if pair.served_by("dr1", 0.1) else time.time() - moments[-1]
        gap = max([waited, *(after - before for before, after in itertools.pairwise(moments))])
        pair.settle()
        return 1000 * gap

    with context.pairs(OURS, KEEPALIVED) as pairs:
        found = context.in_turn(pairs, run, runs=min(context.runs, NATURAL_RETURNS))
        ours, anchor = pairs
        return [
            Figure(
                name="return-after-cut",
                title="outage when the cable of the better node is joined again, interval 0.1 s",
                unit="ms",
                ours=Summary(context.who(ours), tuple(found[ours.profile.who])),
                anchor=Summary(context.who(anchor), tuple(found[anchor.profile.who])),
                beside=True,
                resolution=COARSE_MS,
                notes=f"looked at for {RETURN_LIMIT:g} s",
            )
        ]
