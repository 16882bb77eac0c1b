"""The operator and its own kinds: not there yet when it starts, and deleted while it runs."""

import json
from collections.abc import Iterator

import pytest

from tests.apiserver import running_api_server
from tests.contract.running_operator import ROOT, Cluster, eventually, install, service, virtual_service

pytestmark = pytest.mark.contract

CRDS = str(ROOT / "crds")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("operator")
    with running_api_server(tmp_path_factory.mktemp("operator-apiserver")) as server:
        found = Cluster(server, home)
        install(found, kinds=False)  # to delete them right after they were made takes the API server up to a minute
        yield found


@pytest.fixture
def without_kinds(cluster: Cluster) -> Cluster:
    cluster.kubectl("delete", "-k", CRDS, "--ignore-not-found", "--wait=true", "--timeout=55s")
    return cluster


def test_it_hears_of_objects_whose_kinds_were_not_there_when_it_started(without_kinds: Cluster) -> None:
    with without_kinds.operator() as operator:
        eventually(lambda: operator.passes() >= 2 or None, "two passes")
        status, words = operator.ask("/readyz")
        assert status == 503
        assert "lvsvirtualservice" in words
        assert operator.ask("/healthz") == (200, "ok\n")
        without_kinds.kubectl("apply", "--server-side", "-k", CRDS)
        eventually(lambda: operator.ask("/readyz")[0] == 200 or None, "the operator is ready")
        without_kinds.apply(service(), virtual_service("web", "192.168.139.123"))
        without_kinds.condition("web", "Accepted", "True")
        without_kinds.apply(virtual_service("web", "192.168.139.123", scheduler="rr"))
        without_kinds.condition("web", "Accepted", "True", generation=2)
        assert operator.stop() == 0


def test_it_ends_in_order_while_it_waits_for_its_kinds(without_kinds: Cluster) -> None:
    with without_kinds.operator() as operator:
        eventually(lambda: operator.passes() >= 1 or None, "a pass")
        assert operator.stop() == 0
        assert "kubectl apply -k crds/" in operator.log.read_text()


def test_kinds_that_were_deleted_and_came_back_are_heard_of_again_or_it_ends_to_be_started_anew(
    without_kinds: Cluster,
) -> None:
    """An accident with the CRDs: whoever restores them is answered, if need be after the kubelet's restart."""
    without_kinds.kubectl("apply", "--server-side", "-k", CRDS)
    with without_kinds.ready_operator() as operator:
        without_kinds.kubectl("delete", "-k", CRDS, "--wait=true", "--timeout=55s")
        without_kinds.kubectl("apply", "--server-side", "-k", CRDS)
        without_kinds.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=55s")
        without_kinds.apply(service(), virtual_service("web", "192.168.139.123"))

        def answered() -> bool | None:
            found = without_kinds.get("lvsvs", "web", "-n", "default") or {}
            return "status" in found or operator.process.poll() is not None or None

        eventually(answered, "the object is accepted, or the operator has ended")
        if operator.process.poll() is None:
            without_kinds.apply(virtual_service("web", "192.168.139.123", scheduler="rr"))
            without_kinds.condition("web", "Accepted", "True", generation=2)


def newer(cluster: Cluster, crd: str, parents: tuple[str, ...]) -> None:
    """The schema of a later release: one more field of spec, with a default that every object has at once."""
    found = cluster.get("crd", f"{crd}.lvsdr.io")
    assert found is not None
    level = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in ("spec", *parents):
        level = level["properties"][name]
    level["properties"]["afterMyTime"] = {"type": "string", "default": "as before"}
    cluster.kubectl("replace", "-f", "-", stdin=json.dumps(found))


def test_a_newer_schema_makes_nothing_of_what_there_is_invalid(without_kinds: Cluster) -> None:
    """An upgrade applies the CRDs first; a downgrade leaves them."""
    without_kinds.kubectl("apply", "--server-side", "-k", CRDS)
    with without_kinds.ready_operator() as operator:
        edge = {"apiVersion": "lvsdr.io/v1alpha1", "kind": "VirtualServiceClass", "metadata": {"name": "edge"}}
        edge["spec"] = {"vrrp": {"virtualRouterIDs": {"first": 7, "last": 7}}}
        without_kinds.apply(edge, service(), virtual_service("web", "192.168.139.123", className="edge"))
        without_kinds.condition("web", "Accepted", "True")
        newer(without_kinds, "lvsvirtualservices", ())
        newer(without_kinds, "lvsvirtualserviceclasses", ("vrrp",))

        def defaulted() -> bool | None:
            found = without_kinds.get("lvsvs", "web", "-n", "default") or {}
            return found.get("spec", {}).get("afterMyTime") == "as before" or None

        eventually(defaulted, "the new field is there")
        passes = operator.passes()
        without_kinds.apply(virtual_service("web", "192.168.139.123", className="edge", scheduler="rr"))
        eventually(lambda: operator.passes() > passes or None, "a pass")
        without_kinds.condition("web", "Accepted", "True", generation=2)
        found = without_kinds.get("lvsvs", "web", "-n", "default") or {}
        assert found["status"]["virtualRouterID"] == 7
