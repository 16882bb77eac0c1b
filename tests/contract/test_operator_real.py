"""lvs-operator as a process, with the rights of deploy/ and no others, against a real API server."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apiserver import running_api_server
from tests.contract.running_operator import ROOT, SECONDS, Cluster, eventually, install, service, virtual_service

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("operator")
    with running_api_server(tmp_path_factory.mktemp("operator-apiserver")) as server:
        found = Cluster(server, home)
        install(found)
        yield found


@pytest.fixture
def clean(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    cluster.kubectl("delete", "lvsvs,services", "-n", "default", "-l", "test=yes")


def test_a_lone_virtual_service_gets_a_router_directors_and_conditions_and_nothing_else(clean: Cluster) -> None:
    clean.apply(service(), virtual_service("web", "192.168.139.123"))
    with clean.ready_operator() as operator:
        clean.condition("web", "Accepted", "True")
        clean.condition("web", "ResolvedRefs", "True")
        obj = clean.get("lvsvs", "web", "-n", "default")
        assert obj is not None
        assert 200 <= obj["status"]["virtualRouterID"] <= 215
        assert {d["node"] for d in obj["status"]["directors"]} == {"node1", "node2", "node3"}
        assert "finalizers" not in obj["metadata"]
        assert "annotations" not in obj["metadata"]
        vrid = obj["status"]["virtualRouterID"]
        line = f'lvs_virtualservice_info{{class="default",namespace="default",virtualservice="web",vrid="{vrid}"}} 1.0'
        assert line in operator.ask("/metrics")[1]
        assert operator.ask("/healthz") == (200, "ok\n")
        assert operator.ask("/nothing")[0] == 404
        assert operator.stop() == 0


def test_what_is_created_and_changed_while_it_runs_is_answered_without_waiting_for_the_next_full_pass(
    clean: Cluster,
) -> None:
    with clean.ready_operator():
        clean.apply(virtual_service("web", "192.168.139.123"))
        missing = clean.condition("web", "ResolvedRefs", "False")
        assert missing["reason"] == "ServiceNotFound"
        assert "default/web" in missing["message"]
        clean.apply(service())
        clean.condition("web", "ResolvedRefs", "True")
        clean.apply(virtual_service("web", "192.168.139.123", ports=[{"port": 80, "targetPort": "metrics"}]))
        wrong = clean.condition("web", "ResolvedRefs", "False", generation=2)
        assert wrong["reason"] == "PortNotFound"
        assert "http (TCP 80)" in wrong["message"]


def test_the_younger_of_two_with_one_address_is_refused_by_name_with_an_event(clean: Cluster) -> None:
    clean.apply(service(), virtual_service("older", "192.168.139.123"))
    time.sleep(1.1)  # creationTimestamp has whole seconds
    clean.apply(virtual_service("younger", "192.168.139.123"))
    with clean.ready_operator():
        clean.condition("older", "Accepted", "True")
        refused = clean.condition("younger", "Accepted", "False")
        assert refused["reason"] == "AddressConflict"
        assert "default/older" in refused["message"]

        def event() -> dict[str, Any] | None:
            field = "--field-selector=involvedObject.name=younger"
            found = clean.get("events", "-n", "default", field)
            return next(iter((found or {}).get("items", [])), None)

        said = eventually(event, "an event about the younger one")
        assert said["firstTimestamp"], "kubectl describe shows its age by this"
        assert (said["type"], said["reason"], said["message"]) == ("Warning", "AddressConflict", refused["message"])
        clean.kubectl("delete", "lvsvs", "older", "-n", "default")
        clean.condition("younger", "Accepted", "True")


def test_a_restart_changes_nothing_anywhere(clean: Cluster) -> None:
    clean.apply(service(), virtual_service("web", "192.168.139.123"), virtual_service("bad", "192.168.139.101"))

    def versions() -> list[str]:
        kinds = "lvsvs,services,events,nodes,daemonsets,deployments"
        found = clean.get(kinds, "-A")
        assert found is not None
        return sorted(f"{o['kind']} {o['metadata']['name']} {o['metadata']['resourceVersion']}" for o in found["items"])

    with clean.ready_operator() as operator:
        clean.condition("bad", "Accepted", "False")
        assert operator.stop() == 0
    before = versions()
    with clean.ready_operator() as operator:
        # every watch has begun and its first events were looked at
        eventually(lambda: operator.passes() >= 2 or None, "a second pass")
        eventually(lambda: "kopf" not in operator.log.read_text() or None, "no complaint of kopf")
    assert versions() == before


def test_the_daemonset_belongs_to_the_deployment_and_is_put_right_when_somebody_touches_it(clean: Cluster) -> None:
    where = ("daemonset", "lvs-agent", "-n", "lvs-system")
    with clean.ready_operator():
        found = eventually(lambda: clean.get(*where), "the DaemonSet")
        deployment = clean.get("deployment", "lvs-operator", "-n", "lvs-system")
        assert deployment is not None
        assert found["metadata"]["ownerReferences"][0]["uid"] == deployment["metadata"]["uid"]
        image = json.dumps([{"op": "replace", "path": "/spec/template/spec/containers/1/image", "value": "other"}])
        clean.kubectl("patch", *where, "--type=json", "-p", image)

        def mended() -> bool | None:
            containers = (clean.get(*where) or {})["spec"]["template"]["spec"]["containers"]
            return all(c["image"] == "lvs-dr-agent:dev" for c in containers) or None

        eventually(mended, "the image is put right")
        clean.kubectl("delete", *where)
        again = eventually(lambda: clean.get(*where), "the DaemonSet is back")
        assert again["metadata"]["uid"] != found["metadata"]["uid"]


def test_an_operator_whose_deployment_is_deleted_does_not_make_the_agents_anew(clean: Cluster) -> None:
    """The garbage collector deletes them with it, while the operator has some seconds left to see that."""
    where, owner = ("daemonset", "lvs-agent", "-n", "lvs-system"), ("deployment", "lvs-operator", "-n", "lvs-system")
    with clean.ready_operator() as operator:
        eventually(lambda: clean.get(*where), "the DaemonSet")
        clean.kubectl("delete", *owner)
        passes = operator.passes()
        clean.kubectl("delete", *where)
        eventually(lambda: operator.passes() > passes or None, "a pass")
        clean.apply(service("another"))
        eventually(lambda: operator.passes() > passes + 1 or None, "one more pass")
        assert clean.get(*where) is None
        clean.kubectl("apply", "--server-side", "-k", str(ROOT / "deploy"))
        clean.apply(service("one-more"))
        again = eventually(lambda: clean.get(*where), "the DaemonSet is back")
        found = clean.get(*owner)
        assert found is not None
        assert again["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]


def vsc(name: str, **vrrp: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lvsdr.io/v1alpha1",
        "kind": "VirtualServiceClass",
        "metadata": {"name": name},
        "spec": {"vrrp": vrrp},
    }


def test_a_class_that_asks_for_hmac_gets_a_key_and_a_rotation_is_left_alone(clean: Cluster) -> None:
    where = ("secret", "lvs-vrrp-keys", "-n", "lvs-system")

    def entries() -> dict[str, str]:
        return dict((clean.get(*where) or {}).get("data", {}))

    with clean.ready_operator() as operator:
        assert clean.get(*where) is None
        clean.apply(vsc("edge", authentication={"type": "HMAC", "mode": "ReceiveOnly"}))
        first = eventually(lambda: entries().get("edge.hmac.1"), "the first key")
        key = base64.b64decode(first).decode()
        assert len(bytes.fromhex(key.removeprefix("hex:"))) == 32
        rotated = json.dumps({"stringData": {"edge.hmac.2": "0123456789abcdef0123456789abcdef"}})
        clean.kubectl("patch", *where, "--type=merge", "-p", rotated)
        clean.kubectl("patch", *where, "--type=merge", "-p", json.dumps({"data": {"edge.hmac.1": None}}))
        clean.apply(vsc("other", authentication={"type": "HMAC"}))
        eventually(lambda: entries().get("other.hmac.1"), "the other class's key")
        passes = operator.passes()
        clean.apply(vsc("other", authentication={"type": "HMAC", "mode": "Permissive"}))
        eventually(lambda: operator.passes() > passes or None, "one more pass")
        assert sorted(entries()) == ["edge.hmac.2", "other.hmac.1"]
        assert key.removeprefix("hex:") not in operator.log.read_text()
    account = "--as=system:serviceaccount:lvs-system:lvs-operator"
    for refused in (
        ("get", "secrets", "-n", "lvs-system"),
        ("get", "secret", "other", "-n", "lvs-system"),
        ("create", "secret", "generic", "other", "-n", "lvs-system"),
        ("delete", *where),
    ):
        done = clean.server.kubectl(*refused, account)
        assert done.returncode != 0, refused
        assert "forbidden" in done.stderr, done.stderr
    clean.kubectl("delete", *where)
    clean.kubectl("delete", "lvsvsc", "edge", "other")


def test_without_the_rights_it_changes_nothing_and_says_which_right_is_missing(clean: Cluster) -> None:
    clean.apply(service(), virtual_service("web", "192.168.139.123"))
    with clean.operator(account="lvs-agent") as operator:
        eventually(lambda: operator.passes() >= 1 or None, "a pass")
        status, words = operator.ask("/readyz")
        assert status == 503
        assert "deployments.apps" in words
        assert "forbidden" in words
    obj = clean.get("lvsvs", "web", "-n", "default")
    assert obj is not None
    assert "status" not in obj


def test_an_unusable_setting_ends_it_with_the_name_of_the_variable(clean: Cluster) -> None:
    with clean.operator(LVS_PORT="http") as operator:
        assert operator.process.wait(timeout=SECONDS) == 2
        assert "LVS_PORT: 'http': must be a number from 0 to 65535" in operator.log.read_text()
