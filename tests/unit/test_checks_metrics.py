"""What the agent's metrics say of the process of health checks."""

import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lvsagent.adapters.metrics import AgentCollector
from lvsagent.checks.messages import Statistics
from lvsagent.runtime.checks import ChecksState
from lvsagent.runtime.view import View

pytestmark = pytest.mark.unit


def scrape(state: ChecksState) -> list[str]:
    registry = CollectorRegistry()
    AgentCollector(View(node="n", version="1", heartbeat=time.monotonic(), checks=state)).register(registry)
    return generate_latest(registry).decode().splitlines()


def test_everything_counts_from_zero_before_the_process_said_anything() -> None:
    lines = scrape(ChecksState())
    assert "lvs_checks_running 0.0" in lines
    assert 'lvs_check_asked_total{type="TCP"} 0.0' in lines
    assert 'lvs_check_late_seconds_bucket{le="+Inf"} 0.0' in lines


def test_what_it_said_is_there() -> None:
    said = Statistics(
        targets=2,
        asked={"TCP": 7},
        failed={"TCP": 3},
        unasked=4,
        held_back=5,
        late=(1, 2, 0, 0, 0, 3, 0, 0, 0, 0, 4),
        late_total_us=2_500_000,
    )
    lines = scrape(ChecksState(running=True, restarts=1, targets=2, statistics=said))
    for line in (
        "lvs_checks_running 1.0",
        "lvs_check_targets 2.0",
        "lvs_check_restarts_total 1.0",
        'lvs_check_asked_total{type="TCP"} 7.0',
        'lvs_check_failed_total{type="TCP"} 3.0',
        "lvs_check_unasked_total 4.0",
        "lvs_check_held_back_total 5.0",
        'lvs_check_late_seconds_bucket{le="0.005"} 3.0',
        'lvs_check_late_seconds_bucket{le="0.1"} 6.0',
        'lvs_check_late_seconds_bucket{le="+Inf"} 10.0',
        "lvs_check_late_seconds_sum 2.5",
    ):
        assert line in lines
