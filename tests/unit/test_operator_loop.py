"""The loop that acts, and what wakes it; the API server is played."""

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import kopf
import pytest
from prometheus_client import CollectorRegistry

from lvsapi.names import OPERATOR_FIELD_MANAGER
from lvsoperator.adapters.kube import PAGE, Permanent, Transient, lenient
from lvsoperator.adapters.metrics import Metrics
from lvsoperator.core.reconcile import Note, Observed
from lvsoperator.handlers import Connection, NodeFilter, in_cluster, operator_settings
from lvsoperator.loop import BACKOFF_LAST, Loop, backoff
from lvsoperator.settings import Settings

pytestmark = pytest.mark.unit


def virtual_service(name: str, last_byte: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": 1},
        "spec": {
            "addresses": [f"192.168.139.{last_byte}"],
            "ports": [{"port": 80}],
            "realServers": [{"address": "192.168.139.9"}],
        },
    }


class PlayedKube:
    """Answers as it is told, and remembers what was written."""

    def __init__(self, *objects: dict[str, Any], classes: tuple[dict[str, Any], ...] = ()) -> None:
        self.objects = objects
        self.classes = classes
        self.failure: Exception | None = None
        self.refuse: set[str] = set()
        self.written: list[str] = []

    def observe(self) -> Observed:
        if self.failure is not None:
            raise self.failure
        nodes = ({"metadata": {"name": "node1"}},)
        return Observed(virtual_services=self.objects, classes=self.classes, nodes=nodes, keys=frozenset())

    def apply_status(self, body: Mapping[str, Any], manager: str) -> None:
        name = body["metadata"]["name"]
        self._write(name if manager == OPERATOR_FIELD_MANAGER else f"{name} for {manager}")

    def apply_daemonset(self, body: Mapping[str, Any]) -> None:
        self._write(body["metadata"]["name"])

    def apply_key(self, name: str) -> None:
        self._write(name)

    def apply_event(self, note: Note, now: str) -> None:
        self._write(f"event of {note.key.name}")

    def _write(self, name: str) -> None:
        if name in self.refuse:
            raise Permanent(f"PATCH {name}", "422: no")
        self.written.append(name)


def made(kube: PlayedKube) -> tuple[Loop, CollectorRegistry]:
    registry = CollectorRegistry()
    return Loop(kube, Settings(), Metrics(registry)), registry  # type: ignore[arg-type]


def outcomes(registry: CollectorRegistry) -> dict[str, float]:
    names = ("success", "partial", "error")
    return {name: registry.get_sample_value("lvs_reconcile_total", {"outcome": name}) or 0.0 for name in names}


def served(registry: CollectorRegistry) -> set[str]:
    (family,) = [metric for metric in registry.collect() if metric.name == "lvs_virtualservice_info"]
    return {sample.labels["virtualservice"] for sample in family.samples}


def test_a_pass_writes_every_status_the_daemonset_and_an_event_for_the_refused() -> None:
    kube = PlayedKube(virtual_service("web", 123), virtual_service("bad", 300))
    loop, registry = made(kube)
    assert loop.once()
    assert sorted(kube.written) == ["bad", "event of bad", "lvs-agent", "web"]
    assert outcomes(registry) == {"success": 1, "partial": 0, "error": 0}
    assert served(registry) == {"web"}


def test_a_refused_object_is_a_metric_until_it_is_not_refused_any_more() -> None:
    kube = PlayedKube(virtual_service("web", 123), virtual_service("bad", 300))
    loop, registry = made(kube)

    def refused(name: str) -> float | None:
        labels = {"namespace": "default", "virtualservice": name, "reason": "Invalid"}
        return registry.get_sample_value("lvs_virtualservice_refused", labels)

    assert loop.once()
    assert (refused("web"), refused("bad")) == (None, 1.0)
    kube.objects = (virtual_service("web", 123), virtual_service("bad", 124))
    assert loop.once()
    assert refused("bad") is None


def test_what_agents_said_of_an_object_that_nobody_serves_is_taken_away_in_their_name() -> None:
    bad = {**virtual_service("bad", 300), "status": {"active": {"node": "node1"}}}
    kube = PlayedKube(virtual_service("web", 123), bad)
    assert made(kube)[0].once()
    assert sorted(kube.written) == ["bad", "bad for lvs-agent", "event of bad", "lvs-agent", "web"]


@pytest.mark.parametrize("refused", ["a", "lvs-agent"])
def test_one_object_that_cannot_be_written_stops_no_other(refused: str) -> None:
    kube = PlayedKube(virtual_service("a", 121), virtual_service("b", 122))
    kube.refuse = {refused}
    loop, registry = made(kube)
    assert not loop.once()
    assert sorted(kube.written) == sorted({"a", "b", "lvs-agent"} - {refused})
    assert outcomes(registry) == {"success": 0, "partial": 1, "error": 0}
    assert loop.readiness() == "1 objects could not be written; see the log"


@pytest.mark.parametrize("refused", [set(), {"edge.hmac.1"}])
def test_a_class_that_asks_for_hmac_gets_its_first_key(refused: set[str]) -> None:
    edge = {"metadata": {"name": "edge"}, "spec": {"vrrp": {"authentication": {"type": "HMAC"}}}}
    kube = PlayedKube(virtual_service("web", 123), classes=(edge,))
    kube.refuse = refused
    assert made(kube)[0].once() is (not refused)
    assert sorted(kube.written) == sorted({"edge.hmac.1", "lvs-agent", "web"} - refused)


def test_an_event_that_cannot_be_written_is_no_failure() -> None:
    kube = PlayedKube(virtual_service("bad", 300))
    kube.refuse = {"event of bad"}
    assert made(kube)[0].once()


@pytest.mark.parametrize("failure", [Transient("GET /api/v1/nodes", "503: away"), ZeroDivisionError("a bug")])
def test_a_cluster_that_cannot_be_read_changes_nothing_and_the_process_is_still_healthy(failure: Exception) -> None:
    kube = PlayedKube(virtual_service("web", 123))
    loop, registry = made(kube)
    assert loop.readiness() == "no pass yet"
    loop.once()
    kube.failure, kube.written = failure, []
    assert not loop.once()
    assert kube.written == []
    assert outcomes(registry) == {"success": 1, "partial": 0, "error": 1}
    assert served(registry) == {"web"}
    assert loop.health() is None
    assert loop.readiness() is None  # one failed pass is no news yet


def test_an_operator_that_never_read_the_cluster_is_not_ready_and_says_why() -> None:
    kube = PlayedKube()
    kube.failure = Permanent("GET /api/v1/nodes", "403: forbidden")
    loop, _ = made(kube)
    loop.once()
    assert loop.readiness() == "GET /api/v1/nodes: 403: forbidden"


def test_passes_that_stopped_coming_make_it_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("lvsoperator.loop.time.monotonic", lambda: clock[0])
    loop, _ = made(PlayedKube())
    loop.once()
    clock[0] += 420.0
    assert loop.health() is None
    clock[0] += 1.0
    assert loop.health() == "no pass has ended for 421 s"
    assert "421 s ago" in str(loop.readiness())


def test_the_loop_runs_until_it_is_stopped() -> None:
    kube = PlayedKube()
    loop, registry = made(kube)

    def observe() -> Observed:
        loop.stop()
        return Observed()

    kube.observe = observe  # type: ignore[method-assign]
    loop.run()
    assert outcomes(registry)["success"] == 1


@pytest.mark.parametrize("failure", [Transient("watch daemonsets", "gone"), KeyError("raw_object")])
def test_a_watch_that_fails_or_ends_is_begun_again(failure: Exception) -> None:
    loop, _ = made(PlayedKube())
    calls: list[int] = []

    def watch(wake: Callable[[], None]) -> None:
        calls.append(len(calls))
        wake()
        if len(calls) == 1:
            raise failure
        loop.stop()

    loop.follow(watch)
    assert calls == [0, 1]


def test_pauses_grow_to_a_limit_and_are_spread() -> None:
    assert [backoff(n, 1.0) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff(99, 1.0) == BACKOFF_LAST
    assert backoff(99, 0.0) == BACKOFF_LAST / 2


def node(ready: str = "True", **labels: str) -> dict[str, Any]:
    address = {"type": "InternalIP", "address": "192.168.139.101"}
    status = {"addresses": [address], "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": "node1", "labels": labels}, "status": status}


def test_a_nodes_heartbeat_wakes_nobody_but_labels_and_its_end_do() -> None:
    seen = NodeFilter()
    assert seen.changed(None, node())
    assert not seen.changed("MODIFIED", node(ready="False"))
    assert seen.changed("MODIFIED", node(role="edge"))
    assert seen.changed("DELETED", node(role="edge"))
    assert not seen.changed("DELETED", node(role="edge"))
    assert seen.changed("ADDED", node(role="edge"))


def test_kopf_scans_nothing_posts_nothing_and_ends_every_watch_in_time() -> None:
    found = operator_settings()
    assert isinstance(found, kopf.OperatorSettings)
    assert found.scanning.disabled
    assert not found.posting.enabled
    assert found.watching.chunk_size == PAGE
    assert found.watching.server_timeout is not None
    assert found.watching.client_timeout is not None
    assert found.watching.client_timeout > found.watching.server_timeout


def test_kopf_and_the_client_judge_certificates_alike_and_no_stricter_than_kubectl() -> None:
    for context in (lenient(ssl.create_default_context()), Connection(server="https://api").as_ssl_context()):
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


@pytest.mark.parametrize(
    ("environment", "server"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://10.96.0.1:6443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1"}, "https://[fd00::1]:443"),
        ({}, None),
    ],
)
def test_kopf_finds_the_api_server_without_dns(environment: dict[str, str], server: str | None) -> None:
    assert in_cluster(environment) == server
