"""A node that alone serves a VirtualService is down: the alert, in a real Prometheus, and the node's return."""

import pytest

from tests.e2e.conftest import Alerted
from tests.load.outage import STRAY

pytestmark = pytest.mark.e2e


def test_a_virtual_service_without_an_active_node_is_alerted(alerted: Alerted) -> None:
    fired = {alert["virtualservice"] for alert in alerted.alerts.get("LvsNoActive", ())}
    assert fired == {"lonely"}, alerted.alerts


def test_the_node_returns_and_new_connections_do_not_fail_meanwhile_nor_are_held_ones_lost(alerted: Alerted) -> None:
    print(alerted.returned)
    assert alerted.returned.back
    assert alerted.returned.outage.strays <= STRAY, str(alerted.returned)
    assert not alerted.returned.lost, str(alerted.returned)
