"""What the operator says about Ready, which is the agents' to say, and what it takes away of theirs: real API."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import config

from lvsapi import names
from lvsapi.parse import assigned_in
from lvsapi.status import agent_status, operator_status
from lvsoperator.adapters.kube import Conflict, Kube
from lvsoperator.settings import Settings
from tests.apiserver import running_api_server
from tests.contract.running_operator import Cluster, eventually, install, service, virtual_service

pytestmark = pytest.mark.contract

NOW = "2026-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("operator")
    with running_api_server(tmp_path_factory.mktemp("operator-apiserver")) as server:
        found = Cluster(server, home)
        install(found)
        found.apply(service())
        yield found


@pytest.fixture
def clean(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    cluster.kubectl("delete", "lvsvs", "--all", "-n", "default")


def live(cluster: Cluster, name: str = "web") -> dict[str, Any]:
    found = cluster.get("lvsvs", name, "-n", "default")
    assert found is not None
    return found


def say(cluster: Cluster, body: dict[str, Any], manager: str) -> str:
    """Apply a status; what the API server says against it, empty if nothing."""
    what = ("apply", "--server-side", "--force-conflicts", f"--field-manager={manager}", "--subresource=status")
    done = cluster.server.kubectl(*what, "-f", "-", stdin=yaml.safe_dump(body))
    return done.stderr if done.returncode else ""


def serve(cluster: Cluster) -> None:
    """As the Active node's agent."""
    body = agent_status(live(cluster), node="node1", since=NOW, ready=3, total=3, problems=(), now=NOW, kept=None)
    assert say(cluster, body, names.AGENT_FIELD_MANAGER) == ""


def test_an_object_that_nobody_serves_yet_is_not_ready_and_whoever_serves_it_has_the_word(clean: Cluster) -> None:
    with clean.ready_operator() as operator:
        clean.apply(virtual_service("web", "192.168.139.123"))
        assert clean.condition("web", "Ready", "Unknown")["reason"] == "Pending"
        serve(clean)
        clean.condition("web", "Ready", "True")
        passes = operator.passes()
        clean.apply(service("another"))
        eventually(lambda: operator.passes() > passes or None, "one more pass")
        ready = clean.condition("web", "Ready", "True")
        assert ready["reason"] == "Ready"
        assert live(clean)["status"]["active"]["node"] == "node1"


def test_what_agents_said_of_an_object_that_is_refused_now_is_taken_away(clean: Cluster) -> None:
    with clean.ready_operator():
        clean.apply(virtual_service("web", "192.168.139.123"))
        clean.condition("web", "Accepted", "True")
        serve(clean)
        clean.apply(virtual_service("web", "192.168.139.101"))
        clean.condition("web", "Accepted", "False", generation=2)
        assert clean.condition("web", "Ready", "False", generation=2)["reason"] == "NotAccepted"

        def bare() -> bool | None:
            status = live(clean)["status"]
            said = {item["type"] for item in status["conditions"]}
            return ("active" not in status and "backends" not in status and len(said) == 3) or None

        eventually(bare, "nothing of the agents is left")
        assert clean.server.kubectl("wait", "--for=condition=Ready", "lvsvs/web", "--timeout=0").returncode != 0
        clean.apply(virtual_service("web", "192.168.139.124"))
        assert clean.condition("web", "Ready", "Unknown", generation=3)["reason"] == "Pending"


def test_a_status_is_not_written_to_an_object_that_was_made_anew_meanwhile(clean: Cluster) -> None:
    clean.apply(virtual_service("web", "192.168.139.123"))
    old = live(clean)
    clean.kubectl("delete", "lvsvs", "web", "-n", "default")
    clean.apply(virtual_service("web", "192.168.139.101"))
    decided = assigned_in({"virtualRouterID": 200, "directors": [{"node": "node1", "priority": 250}]})
    assert "has been modified" in say(clean, operator_status(old, decided, (), NOW), names.OPERATOR_FIELD_MANAGER)
    assert "status" not in live(clean)
    assert say(clean, operator_status(live(clean), None, (), NOW), names.OPERATOR_FIELD_MANAGER) == ""


def test_an_object_whose_status_somebody_else_writes_all_the_time_is_decided_about_all_the_same(
    clean: Cluster,
) -> None:
    """A pass over a large cluster takes longer than the second between two writes of an agent."""
    clean.apply(virtual_service("web", "192.168.139.123"))
    seen = live(clean)
    serve(clean)
    decided = assigned_in({"virtualRouterID": 200, "directors": [{"node": "node1", "priority": 250}]})
    kube = Kube(config.new_client_from_config(str(clean.server.kubeconfig)), Settings())
    kube.apply_status(operator_status(seen, decided, (), NOW))
    clean.condition("web", "Accepted", "True")
    assert clean.condition("web", "Ready", "True")["reason"] == "Ready"
    clean.kubectl("delete", "lvsvs", "web", "-n", "default")
    clean.apply(virtual_service("web", "192.168.139.101"))
    with pytest.raises(Conflict):
        kube.apply_status(operator_status(seen, decided, (), NOW))
    assert "status" not in live(clean)


def test_a_word_on_ready_that_an_agent_has_given_meanwhile_stands(clean: Cluster) -> None:
    clean.apply(virtual_service("web", "192.168.139.123"))
    seen = live(clean)
    serve(clean)
    decided = assigned_in({"virtualRouterID": 200, "directors": [{"node": "node1", "priority": 250}]})
    assert "has been modified" in say(clean, operator_status(seen, decided, (), NOW), names.OPERATOR_FIELD_MANAGER)
    clean.condition("web", "Ready", "True")
