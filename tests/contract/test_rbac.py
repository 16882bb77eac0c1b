"""The rights in deploy/ are those that the code uses: none is missing, none is too many, none is a wildcard."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml

from lvsapi import names
from lvsapi.model import ObjectKey
from lvsoperator.adapters.kube import Kube, Transient
from lvsoperator.core.manifests import agent_daemonset
from lvsoperator.core.reconcile import Note
from lvsoperator.handlers import registry
from lvsoperator.settings import Settings

pytestmark = pytest.mark.contract

DEPLOY = Path(__file__).parents[2] / "deploy"
AGENT_SOURCES = Path(__file__).parents[2] / "nodeagent" / "lvsagent" / "adapters"


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource. namespace "" is every namespace, name "" every object."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""


def granted(file: str) -> set[Right]:
    found: set[Right] = set()
    for document in yaml.safe_load_all((DEPLOY / file).read_text()):
        if document["kind"] not in ("ClusterRole", "Role"):
            continue
        namespace = document["metadata"].get("namespace", "")
        for rule in document["rules"]:
            assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}, "no other kind of rule is needed"
            found |= {
                Right(verb, group, resource, namespace, name)
                for verb in rule["verbs"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for name in rule.get("resourceNames", [""])
            }
    return found


def allows(rights: set[Right], wanted: Right) -> bool:
    return any(
        (right.verb, right.group, right.resource) == (wanted.verb, wanted.group, wanted.resource)
        and right.namespace in ("", wanted.namespace)
        and right.name in ("", wanted.name)
        for right in rights
    )


def right_of(verb: str, path: str) -> Right:
    """What a request asks for, as the API server sees it."""
    found = re.fullmatch(
        r"/(?:api|apis/(?P<group>[^/]+))/v[^/]+(?:/namespaces/(?P<ns>[^/]+))?/(?P<res>[a-z]+)"
        r"(?:/(?P<name>[^/]+))?(?P<sub>/status)?",
        path,
    )
    assert found is not None, path
    if verb == "GET":
        verb = "get" if found["name"] else "list"
    resource = found["res"] + (found["sub"] or "")
    return Right(verb.lower(), found["group"] or "", resource, found["ns"] or "", found["name"] or "")


class RecordingApi:
    """Stands for the official client: notes what is asked and then does not answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def param_serialize(self, method: str, path: str, **_: Any) -> tuple[str, str]:
        self.requests.append((method, path))
        return method, path

    def call_api(self, *_: Any, **__: Any) -> "RecordingApi":
        return self

    status = 200

    def read(self) -> bytes:
        return b'{"metadata": {"uid": "uid"}, "items": []}'


def used_by_operator() -> Iterator[Right]:
    settings = Settings()
    api = RecordingApi()
    kube = Kube(api, settings)
    kube.observe()
    kube.apply_status({"metadata": {"namespace": "default", "name": "web"}})
    kube.apply_daemonset(agent_daemonset(settings, "uid"))
    kube._key_names()
    kube.apply_key("edge.hmac.1")
    kube.apply_event(Note(key=ObjectKey("default", "web"), uid="u", reason="r", message="m"), "now")
    for method, path in api.requests:
        right = right_of(method, path)
        yield right
        # server-side apply of an object that is not there yet is a create; a status is never there without its object
        if method == "PATCH" and not right.resource.endswith("/status"):
            name = right.name if right.resource == "secrets" else ""
            yield Right("create", right.group, right.resource, right.namespace, name)
    for handler in registry(lambda: None)._watching.get_all_handlers():  # every kind that kopf lists and watches
        selector = handler.selector
        assert selector is not None
        for verb in ("list", "watch"):
            yield Right(verb, selector.group or "", str(selector.plural or selector.any_name))
    for verb in ("list", "watch"):  # Kube.follow_agents
        yield Right(verb, "apps", "daemonsets", settings.namespace)


AGENT_USES = {
    *(
        Right(verb, group, resource)
        for verb in ("list", "watch")
        for group, resource in (
            (names.GROUP, names.PLURAL),
            (names.GROUP, names.CLASS_PLURAL),
            ("", "services"),
            ("", "nodes"),
            ("discovery.k8s.io", "endpointslices"),
        )
    ),
    Right("patch", names.GROUP, f"{names.PLURAL}/status"),
    Right("create", "", "events"),
}

GATE = "readiness-gate/rbac-agent.yaml"
GATE_USES = {Right("get", "", "pods"), Right("patch", "", "pods/status")}
"""Of adapters/podgates.py; for those who want it."""


def test_the_operator_may_do_everything_that_its_code_asks_for() -> None:
    rights = granted("rbac-operator.yaml")
    used = set(used_by_operator())
    assert len(used) > 10
    assert not [right for right in used if not allows(rights, right)]


def test_the_operator_has_no_right_that_its_code_never_uses() -> None:
    used = set(used_by_operator())
    reading = {"get", "list", "watch"}  # get goes with list: it shows nothing more
    unused = [
        right
        for right in granted("rbac-operator.yaml")
        if not any(
            (use.group, use.resource) == (right.group, right.resource)
            and (use.verb == right.verb or {use.verb, right.verb} <= reading)
            for use in used
        )
    ]
    assert unused == []


def test_the_agent_has_exactly_the_rights_it_uses() -> None:
    reading = {
        Right("get", right.group, right.resource, right.namespace, right.name)
        for right in AGENT_USES
        if right.verb == "list"
    }
    assert granted("rbac-agent.yaml") == AGENT_USES | reading
    assert granted(GATE) == GATE_USES


def test_the_agents_sources_ask_for_the_kinds_in_the_table_and_no_other() -> None:
    text = "\n".join(path.read_text() for path in sorted(AGENT_SOURCES.glob("*.py")))
    text = text.replace("{OUR_API}", f"/apis/{names.API_VERSION}").replace("{names.API_VERSION}", names.API_VERSION)
    text = text.replace("{names.PLURAL}", names.PLURAL).replace("{names.CLASS_PLURAL}", names.CLASS_PLURAL)
    # a path is a literal that names group, version and, after a namespace or none, the kind
    paths = re.findall(r'"/?(?:api/v1|apis/([a-z0-9.]+)/v[0-9a-z]+)/(?:namespaces/\{[^}]*\}/)?([a-z]+)', text)
    found = {(group, resource) for group, resource in paths if resource != "namespaces"}
    assert ("discovery.k8s.io", "endpointslices") in found
    assert found <= {(right.group, right.resource.removesuffix("/status")) for right in AGENT_USES | GATE_USES}


@pytest.mark.parametrize("file", ["rbac-agent.yaml", "rbac-operator.yaml", GATE])
def test_no_wildcard_and_no_right_to_grant_rights(file: str) -> None:
    for right in granted(file):
        assert "*" not in (right.verb + right.group + right.resource)
        assert right.group != "rbac.authorization.k8s.io"
        assert right.verb not in ("escalate", "bind", "impersonate", "delete", "deletecollection")
        assert "/exec" not in right.resource


def test_one_secret_is_the_operators_and_none_the_agents() -> None:
    found = {right for right in granted("rbac-operator.yaml") if right.resource.startswith("secrets")}
    assert found == {
        Right(verb, "", "secrets", names.SYSTEM_NAMESPACE, names.KEYS_SECRET) for verb in ("create", "get", "patch")
    }
    assert not [right for right in granted("rbac-agent.yaml") if right.resource.startswith("secrets")]


def test_only_the_operators_own_namespace_lets_it_write_workloads() -> None:
    for right in granted("rbac-operator.yaml"):
        if right.group == "apps":
            assert right.namespace == names.SYSTEM_NAMESPACE
            assert right.verb in ("list", "watch", "create") or right.name


def test_every_role_is_bound_to_the_service_account_of_its_name() -> None:
    for file in ("rbac-agent.yaml", "rbac-operator.yaml"):
        documents = list(yaml.safe_load_all((DEPLOY / file).read_text()))
        roles = {(d["kind"], d["metadata"]["name"]) for d in documents if d["kind"].endswith("Role")}
        bound = {(d["roleRef"]["kind"], d["roleRef"]["name"]) for d in documents if d["kind"].endswith("Binding")}
        assert roles == bound
        account = next(d["metadata"] for d in documents if d["kind"] == "ServiceAccount")
        for document in documents:
            for subject in document.get("subjects", []):
                assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


def test_the_right_to_pods_is_bound_to_the_agents_only() -> None:
    role, binding = yaml.safe_load_all((DEPLOY / GATE).read_text())
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (role["kind"], role["metadata"]["name"])
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"], subject["namespace"]) == (
        "ServiceAccount",
        names.AGENT_DAEMONSET,
        names.SYSTEM_NAMESPACE,
    )


def test_a_request_that_is_not_answered_is_an_error_that_names_the_operation() -> None:
    class Silent(RecordingApi):
        def call_api(self, *_: Any, **__: Any) -> RecordingApi:
            raise OSError("connection refused")

    with pytest.raises(Transient, match=r"GET /apis/apps/v1/.*OSError: connection refused"):
        Kube(Silent(), Settings()).observe()


def test_kopf_gets_no_other_kind_of_handler_and_so_leaves_nothing_on_the_objects() -> None:
    found = registry(lambda: None)
    assert isinstance(found, kopf.OperatorRegistry)
    for kind in ("_changing", "_spawning", "_indexing", "_webhooks"):
        assert not list(getattr(found, kind).get_all_handlers())
