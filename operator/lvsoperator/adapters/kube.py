"""The API server through the official client: lists as plain dicts, server-side apply, nothing else.

Every failure is Transient (the world's fault, likely to pass) or Permanent (a right, a kind or a field is missing; it
passes when somebody changes something). Both name the operation and carry the server's own words.
"""

import base64
import hashlib
import json
import logging
import secrets
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from urllib3.util.ssl_ import create_urllib3_context

from lvsapi import names
from lvsapi.status import said_anew
from lvsoperator.core.manifests import keys_secret
from lvsoperator.core.reconcile import Note, Observed, uses_hmac
from lvsoperator.settings import Settings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
PAGE = 100
"""Objects a list request asks for at once: a Node with its images is 25 kB of JSON, and much more as Python objects."""
KEY_OCTETS = 32
CONFLICTS = 4
"""How often a status is written anew that somebody else has written meanwhile."""
WATCH_SECONDS = 240
"""A watch is closed by the server after so long and begun anew."""

VIRTUAL_SERVICES = f"/apis/{names.API_VERSION}/{names.PLURAL}"
CLASSES = f"/apis/{names.API_VERSION}/{names.CLASS_PLURAL}"
SERVICES = "/api/v1/services"
NODES = "/api/v1/nodes"
USED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Service": {"metadata": ("name", "namespace", "uid"), "spec": ("ports", "externalTrafficPolicy")},
    "Node": {"metadata": ("name", "labels"), "status": ("addresses",)},
}
"""What is kept of Kubernetes' own objects, of which a cluster may have thousands."""


class KubeError(Exception):
    """An operation that the API server refused or never answered."""

    def __init__(self, operation: str, reason: str) -> None:
        self.operation = operation
        self.reason = reason
        super().__init__(f"{operation}: {reason}")


class Transient(KubeError):
    """Not answered, or answered 409, 429 or 5xx: the same request may succeed later."""


class Conflict(Transient):
    """Answered 409: somebody has changed, or made anew, what this was decided about."""


class Permanent(KubeError):
    """Answered otherwise: the same request fails until the cluster or the object changes."""


def connect() -> client.ApiClient:
    """A client from the pod's service account, else from KUBECONFIG. Raises Permanent without either."""
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise Permanent("connect", f"no service account and no kubeconfig: {error}; set KUBECONFIG") from error
    settings.retries = False
    api = client.ApiClient(settings)
    api.rest_client.pool_manager.connection_pool_kw["ssl_context"] = lenient(create_urllib3_context())
    return api


def lenient(context: ssl.SSLContext) -> ssl.SSLContext:
    """As strict as kubectl: Python 3.13 refuses certificates without key identifiers, which many clusters have."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class Kube:
    """What the operator reads and writes. Blocking; one thread at a time, apart from ``follow_agents``."""

    def __init__(self, api: client.ApiClient, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._owned = False
        """There was a Deployment: this is an operator of a cluster."""
        self._daemonset = f"/apis/apps/v1/namespaces/{settings.namespace}/daemonsets/{names.AGENT_DAEMONSET}"
        self._secret = f"/api/v1/namespaces/{settings.namespace}/secrets/{names.KEYS_SECRET}"
        self._deployment = f"/apis/apps/v1/namespaces/{settings.namespace}/deployments/{settings.deployment}"

    def serves_our_kinds(self) -> bool:
        """Whether the API server tells of both our kinds where kopf looks for them. Raises KubeError."""
        groups = {item.get("name") for item in self._request("GET", "/apis").get("groups") or ()}
        ours = self._get(f"/apis/{names.API_VERSION}") if names.GROUP in groups else None
        kinds = {item.get("name") for item in (ours or {}).get("resources") or ()}
        return {names.PLURAL, names.CLASS_PLURAL} <= kinds

    def observe(self) -> Observed:
        """Everything a pass looks at, listed anew. Raises Transient or Permanent; never a part of it."""
        deployment = self._get(self._deployment)
        self._owned |= deployment is not None
        classes = self._list(CLASSES, names.API_VERSION, names.CLASS_KIND)
        return Observed(
            virtual_services=self._list(VIRTUAL_SERVICES, names.API_VERSION, names.KIND),
            classes=classes,
            services=self._list(SERVICES, "v1", "Service"),
            nodes=self._list(NODES, "v1", "Node"),
            daemonset=self._get(self._daemonset),
            owner_uid=None if deployment is None else deployment["metadata"]["uid"],
            # Whoever made the agents anew now would leave them behind, without an owner.
            disowned=self._owned and (deployment is None or "deletionTimestamp" in deployment["metadata"]),
            keys=self._key_names() if any(map(uses_hmac, classes)) else None,
        )

    def _key_names(self) -> frozenset[str] | None:
        """What the Secret has entries for. Without the right to read it all else goes on."""
        try:
            secret = self._get(self._secret)
        except Permanent as error:
            log.error("keys of the election cannot be looked after: %s", error)
            return None
        return frozenset() if secret is None else frozenset(secret.get("data") or ())

    def apply_status(self, body: Mapping[str, Any], manager: str = names.OPERATOR_FIELD_MANAGER) -> None:
        """Server-side apply of one manager's fields of one VirtualService's status: ours, or the agents'. Raises
        Conflict when the object is not the one any more that was decided about."""
        metadata = body["metadata"]
        path = f"/apis/{names.API_VERSION}/namespaces/{metadata['namespace']}/{names.PLURAL}/{metadata['name']}"
        for _ in range(CONFLICTS):
            try:
                return self._apply(f"{path}/status", body, manager)
            except Conflict:
                # An agent may write every second, and a pass over a large cluster takes longer.
                anew = said_anew(body, self._get(path) or {})
                if anew is None:
                    raise
                body = anew
        self._apply(f"{path}/status", body, manager)

    def apply_daemonset(self, body: Mapping[str, Any]) -> None:
        """Server-side apply of the agents' DaemonSet."""
        self._apply(self._daemonset, body)

    def apply_key(self, name: str) -> None:
        """Make one entry with a random key of 32 octets in the Secret; one that is there already is a conflict. The key
        is in no log, no error and no variable that lives longer than this call."""
        value = base64.b64encode(f"hex:{secrets.token_hex(KEY_OCTETS)}".encode()).decode()
        owner = f"{names.OPERATOR_FIELD_MANAGER}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        query = {"fieldManager": owner, "force": "false"}
        self._request("PATCH", self._secret, query, keys_secret(self._settings, name, value))

    def apply_event(self, note: Note, now: str) -> None:
        """One Event beside the object; the same note again changes nothing but its time."""
        namespace = note.key.namespace
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": note.name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "namespace": namespace,
                "name": note.key.name,
                "uid": note.uid,
            },
            "type": "Warning",
            "reason": note.reason,
            "message": note.message,
            "source": {"component": names.OPERATOR_DEPLOYMENT},
            "reportingComponent": f"{names.GROUP}/{names.OPERATOR_DEPLOYMENT}",
            "firstTimestamp": now,  # without it kubectl describe knows no age
            "lastTimestamp": now,
            "count": 1,
        }
        self._apply(f"/api/v1/namespaces/{namespace}/events/{note.name}", body)

    def follow_agents(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when the agents' DaemonSet changes; returns when the server ends the watch. Raises KubeError.

        A watch of its own: kopf's would need the right to read the DaemonSets of every namespace.
        """
        api = client.AppsV1Api(self._api)
        seen: int | None = None
        chosen = f"metadata.name={names.AGENT_DAEMONSET}"
        listed = self._request("GET", self._daemonset.rpartition("/")[0], {"fieldSelector": chosen})
        wake()  # What was deleted before the list is in no event.
        try:
            for event in watch.Watch().stream(
                api.list_namespaced_daemon_set,
                self._settings.namespace,
                field_selector=chosen,
                resource_version=listed["metadata"]["resourceVersion"],
                timeout_seconds=WATCH_SECONDS,
                _request_timeout=(CONNECT_SECONDS, WATCH_SECONDS + READ_SECONDS),
            ):
                metadata = event["raw_object"].get("metadata", {})
                generation = metadata.get("generation")
                if event["type"] == "DELETED" or generation != seen:  # the status changes with every pod
                    wake()
                seen = generation
        except ApiException as error:
            raise _named("watch daemonsets", error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Transient("watch daemonsets", _brief(error)) from error

    def _list(self, path: str, api_version: str, kind: str) -> tuple[Mapping[str, Any], ...]:
        items: list[Mapping[str, Any]] = []
        query = {"limit": str(PAGE)}
        while True:
            page = self._request("GET", path, query)
            # the server leaves kind and apiVersion out of a built-in list's items
            items += (
                {"apiVersion": api_version, "kind": kind, **_used(kind, item)} for item in page.get("items") or ()
            )
            following = page.get("metadata", {}).get("continue")
            if not following:
                return tuple(items)
            query = {"limit": str(PAGE), "continue": following}

    def _get(self, path: str) -> Mapping[str, Any] | None:
        try:
            return self._request("GET", path)
        except NotFound:
            return None

    def _apply(self, path: str, body: Mapping[str, Any], manager: str = names.OPERATOR_FIELD_MANAGER) -> None:
        self._request("PATCH", path, {"fieldManager": manager, "force": "true"}, body)

    def _request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        operation = f"{method} {path}"
        headers = {"Accept": "application/json"}
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml"
            payload = json.dumps(body)
        try:
            prepared = self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=payload,
                auth_settings=["BearerToken"],
            )
            response = self._api.call_api(*prepared, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
            raw = response.read()
        except ApiException as error:
            raise _named(operation, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Transient(operation, _brief(error)) from error
        if not 200 <= response.status <= 299:
            raise _refused(operation, response.status, raw)
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise Transient(operation, f"the answer is not JSON: {raw[:80]!r}") from error
        if not isinstance(answer, dict):
            raise Transient(operation, f"the answer is not an object: {raw[:80]!r}")
        return answer


def _used(kind: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object without what nobody reads."""
    if kind not in USED:
        return {**item, "metadata": {k: v for k, v in item.get("metadata", {}).items() if k != "managedFields"}}
    return {
        part: {name: item[part][name] for name in wanted if name in item[part]}
        for part, wanted in USED[kind].items()
        if part in item
    }


class NotFound(Permanent):
    """Answered 404: the object, or its whole kind, does not exist."""


def _refused(operation: str, status: int, raw: bytes) -> KubeError:
    try:
        words = json.loads(raw)["message"]
    except (ValueError, KeyError, TypeError):
        words = raw[:200].decode("utf-8", "replace")
    reason = f"{status}: {words}"
    if status == 404:
        return NotFound(operation, reason)
    if status == 409:
        return Conflict(operation, reason)
    if status in (408, 429) or status >= 500:
        return Transient(operation, reason)
    return Permanent(operation, reason)


def _named(operation: str, error: ApiException) -> KubeError:
    if not error.status:
        return Transient(operation, _brief(error))
    body = error.body or ""
    return _refused(operation, error.status, body.encode() if isinstance(body, str) else body)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
