"""The process of health checks as Prometheus metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from lvsagent.checks.messages import LATE_BUCKETS_MS, Statistics
from lvsagent.runtime.checks import ChecksState
from lvsapi.health import CheckType

NOTHING = Statistics(
    targets=0,
    asked={},
    failed={},
    unasked=0,
    held_back=0,
    late=(0,) * (len(LATE_BUCKETS_MS) + 1),
    late_total_us=0,
)


def of_checks(state: ChecksState) -> Iterator[Metric]:
    """Every family. Counters begin anew with each process."""
    said = state.statistics or NOTHING
    yield GaugeMetricFamily("lvs_checks_running", "The process of health checks is there.", value=float(state.running))
    yield GaugeMetricFamily("lvs_check_targets", "Backends that are to be asked.", value=state.targets)
    restarts = CounterMetricFamily("lvs_check_restarts", "Ends of the process of health checks.")
    restarts.add_metric([], state.restarts)
    asked = CounterMetricFamily("lvs_check_asked", "Questions that ended, by type.", labels=["type"])
    failed = CounterMetricFamily("lvs_check_failed", "Questions that failed, by type.", labels=["type"])
    for kind in CheckType:
        asked.add_metric([kind], said.asked.get(kind, 0))
        failed.add_metric([kind], said.failed.get(kind, 0))
    unasked = CounterMetricFamily(
        "lvs_check_unasked", "Questions that this node could not ask, for want of a socket or a port."
    )
    unasked.add_metric([], said.unasked)
    held = CounterMetricFamily("lvs_check_held_back", "Times that questions waited because too many were open.")
    held.add_metric([], said.held_back)
    yield from (restarts, asked, failed, unasked, held)
    yield HistogramMetricFamily(
        "lvs_check_late_seconds",
        "How late questions were asked.",
        buckets=_cumulative(said.late),
        sum_value=said.late_total_us / 1e6,
    )


def _cumulative(counts: tuple[int, ...]) -> list[tuple[str, float]]:
    running, pairs = 0, []
    for bound, count in zip((*(str(each / 1000) for each in LATE_BUCKETS_MS), "+Inf"), counts, strict=True):
        running += count
        pairs.append((bound, float(running)))
    return pairs
