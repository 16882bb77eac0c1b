"""Packet loss: who takes over although nothing failed, and how long the address does not answer meanwhile."""

import itertools
import time
from collections.abc import Sequence

from tests.bench.capture import Poller
from tests.bench.context import Context, asking
from tests.bench.figures import Figure, Summary
from tests.bench.sides import DIRECTORS, KEEPALIVED, OURS_FAST, TUNED, Pair
from tests.bench.trace import additions, gap_in

PERCENT = 30
SLICES = 4
"""Parts of the window; each gives one sample of the longest outage."""
COARSE_MS = 1000 * Poller.PERIOD
CHANCE_MS = 8 * COARSE_MS
"""When every other question or answer is lost, pauses differ by so much for no other reason."""


def takeovers(pair: Pair) -> int:
    """How often the second director took the address since the last look."""
    return additions(pair.watches["dr2"].events())


def window(context: Context, pairs: Sequence[Pair], *, adverts_only: bool) -> dict[str, tuple[int, list[float]]]:
    """All pairs at the same time, each on its own LAN. By profile: takeovers, longest outage of each slice in ms."""
    for pair in pairs:
        pair.capture.restart()
        for watch in pair.watches.values():
            watch.events()
    begin = time.time()
    for pair in pairs:
        pair.lose(PERCENT, adverts_only=adverts_only)
    end = begin + context.window
    while time.time() < end:
        time.sleep(min(1.0, max(0.0, end - time.time())))
        for pair in pairs:
            pair.capture.drain()
    found = {}
    for pair in pairs:
        answers = pair.capture.drain().answers
        length = context.window / SLICES
        edges = [begin + length * place for place in range(SLICES + 1)]
        gaps = [1000 * gap_in(answers, first, last) for first, last in itertools.pairwise(edges)]
        found[pair.profile.who] = (takeovers(pair), gaps)
    for pair in pairs:
        pair.lose(0, adverts_only=adverts_only)
    for pair in pairs:
        pair.settle(timeout=20)
    return found


def loss(context: Context) -> list[Figure]:
    """30 % of the adverts, then 30 % of everything."""
    figures = []
    with context.pairs(OURS_FAST, KEEPALIVED, TUNED) as (ours, keepalived, tuned):
        for adverts_only, name, of in ((True, "adverts", "of adverts"), (False, "all", "of everything")):
            found = window(context, (ours, keepalived, tuned), adverts_only=adverts_only)
            for anchor, suffix in ((keepalived, ""), (tuned, "-tuned")):
                for kind, unit in ((0, "takeovers"), (1, "ms")):

                    def summary(pair: Pair, which: int) -> Summary:
                        count, gaps = found[pair.profile.who]  # noqa: B023
                        return Summary(context.who(pair), tuple(gaps) if which else (float(count),))

                    figures.append(
                        Figure(
                            name=f"loss30-{name}-{'outage' if kind else 'takeovers'}{suffix}",
                            title=(
                                f"{'longest outage' if kind else 'takeovers'} in {context.window:g} s "
                                f"at {PERCENT} % loss {of}, fast profile"
                            ),
                            unit=unit,
                            ours=summary(ours, kind),
                            anchor=summary(anchor, kind),
                            limits={} if kind else {"max": 0},
                            beside=True,
                            resolution=0.0 if not kind else COARSE_MS if adverts_only else CHANCE_MS,
                            notes=f"{SLICES} parts of the window; {asking(ours)}" if kind else DIRECTORS[1],
                        )
                    )
    return figures
