"""The alert the product was asked for, seen firing in a real Prometheus when the Active node crashes."""

import pytest

from tests.e2e.deaths import Crash

pytestmark = pytest.mark.e2e


def test_the_transition_is_alerted_and_names_the_new_node(crash: Crash) -> None:
    assert "LvsVrrpTransition" in crash.alerts, crash.alerts
    assert {alert["node"] for alert in crash.alerts["LvsVrrpTransition"]} & set(crash.holders), crash.alerts
