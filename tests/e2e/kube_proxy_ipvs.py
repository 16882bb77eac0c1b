"""kube-proxy in IPVS mode on the real cluster: it deletes our services at its syncs, and that is survived and said.

Not part of the suite, whose cluster has kube-proxy in nftables mode:
``LVS_RIG_PROXY=ipvs .venv/bin/python -m pytest -s tests/e2e/kube_proxy_ipvs.py``
"""

import pytest

from tests.demo.world import World, wait_for
from tests.e2e.conftest import TARGET
from tests.load.report import distribution, failures

pytestmark = pytest.mark.e2e


def test_what_kube_proxy_deletes_is_put_back_and_the_object_says_who_does_it(world: World) -> None:
    assert wait_for(lambda: world.condition("NodeHealthy").get("status") == "False", 90.0), world.condition(
        "NodeHealthy"
    )
    found = world.condition("NodeHealthy")
    print(found["reason"], found["message"])
    assert found["reason"] == "TablesContested"
    assert "kube-proxy, which runs in IPVS mode here" in found["message"]
    assert "excludeCIDRs" in found["message"]
    with world.load(TARGET, hold=0, duration=40.0) as load:
        report = load.wait(60.0)
    bad = failures(report.attempts, 0.0, report.ended).count
    print(f"{bad} of {len(report.attempts)} new connections failed in 40 s; {distribution(report.attempts)}")
    assert bad <= 0.1 * len(report.attempts)
