"""Which keys the operator makes, and that it says none of them."""

import base64
import io
import json
import logging
from typing import Any

import pytest

from lvsoperator.adapters.kube import Kube, Permanent
from lvsoperator.core.reconcile import Observed, missing_keys, reconcile
from lvsoperator.settings import Settings

pytestmark = pytest.mark.unit


def vsc(name: str, kind: object = "HMAC") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"vrrp": {"authentication": {"type": kind}}}}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ((), ("a.b.hmac.1", "edge.hmac.1")),
        (("edge.hmac.7",), ("a.b.hmac.1",)),
        (("edge.hmac.1", "edge.hmac.2", "a.b.hmac.1"), ()),
        (("edge.password", "edge.hmac.", "edge.hmac.x", "b.hmac.1"), ("a.b.hmac.1", "edge.hmac.1")),
    ],
)
def test_a_class_that_has_no_key_gets_its_first_and_no_other(names: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    classes = (vsc("edge"), vsc("a.b"), vsc("plain", "None"), {"metadata": {"name": "bare"}, "spec": None})
    observed = Observed(classes=classes, keys=frozenset(names))
    assert missing_keys(observed) == wanted
    assert reconcile(observed, Settings(), "now").keys == wanted


def test_without_a_look_at_the_secret_nothing_is_made() -> None:
    assert missing_keys(Observed(classes=(vsc("edge"),))) == ()


def test_a_class_that_cannot_be_used_gets_none() -> None:
    broken = {"metadata": {"name": "edge"}, "spec": {"vrrp": {"authentication": {"type": "HMAC"}, "version": 9}}}
    assert missing_keys(Observed(classes=(broken,), keys=frozenset())) == ()


class Api:
    """Stands for the official client: answers with one object, or refuses."""

    def __init__(self, answer: dict[str, Any] | None = None, status: int = 200) -> None:
        self.answer = answer or {}
        self.status = status
        self.bodies: list[dict[str, Any]] = []
        self.queries: list[dict[str, str]] = []
        self.paths: list[str] = []

    def param_serialize(self, method: str, path: str, **more: Any) -> tuple[str, str]:
        self.paths.append(path)
        self.queries.append(dict(more["query_params"]))
        if more["body"] is not None:
            self.bodies.append(json.loads(more["body"]))
        return method, path

    def call_api(self, method: str, path: str, **_: Any) -> "Api":
        return self

    def read(self) -> bytes:
        return json.dumps(self.answer if self.status < 300 else {"message": "forbidden"}).encode()


def test_a_key_is_random_is_32_octets_and_belongs_to_a_manager_of_its_own() -> None:
    api = Api()
    kube = Kube(api, Settings(namespace="elsewhere"))
    for name in ("edge.hmac.1", "edge.hmac.1", "other.hmac.1"):
        kube.apply_key(name)
    assert set(api.paths) == {"/api/v1/namespaces/elsewhere/secrets/lvs-vrrp-keys"}
    values = [base64.b64decode(value).decode() for body in api.bodies for value in body["data"].values()]
    assert all(value.startswith("hex:") and len(bytes.fromhex(value[4:])) == 32 for value in values)
    assert len(set(values)) == 3
    managers = [query["fieldManager"] for query in api.queries]
    assert managers[0] == managers[1] != managers[2]
    assert {query["force"] for query in api.queries} == {"false"}


def test_no_key_is_in_a_log_or_an_error() -> None:
    api = Api(status=403)
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(Permanent) as caught:
            Kube(api, Settings()).apply_key("edge.hmac.1")
    finally:
        logging.getLogger().removeHandler(handler)
    (value,) = api.bodies[0]["data"].values()
    for part in (value, base64.b64decode(value).decode()[4:]):
        assert part not in str(caught.value) + text.getvalue()


def test_the_secret_is_read_only_when_a_class_asks_for_hmac_and_only_its_names_are_kept() -> None:
    secret = {"metadata": {"uid": "u"}, "data": {"edge.hmac.1": "c2VjcmV0"}}
    plain = Api({"metadata": {"uid": "u"}, "items": [vsc("plain", "None")]})
    assert Kube(plain, Settings()).observe().keys is None
    assert not any("secrets" in path for path in plain.paths)
    asked = Api({**secret, "items": [vsc("edge")]})
    found = Kube(asked, Settings()).observe()
    assert found.keys == frozenset({"edge.hmac.1"})
    assert "c2VjcmV0" not in str(found.keys)


def test_a_secret_that_may_not_be_read_stops_nothing_else() -> None:
    kube = Kube(Api(status=403), Settings())
    assert kube._key_names() is None
    assert Kube(Api(status=404), Settings())._key_names() == frozenset()
