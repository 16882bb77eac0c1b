"""kopf tells that something changed; nothing more is taken from it.

Only ``on.event``: no finalizer, no annotation, nothing of ours on anybody's objects. What the event carried is not
used, because kopf's memory keeps objects that vanished while it was away.
"""

import dataclasses
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from lvsapi import names
from lvsoperator.adapters.kube import PAGE, lenient


class Connection(kopf.ConnectionInfo):
    """kopf's, with certificates judged as ``adapters.kube`` judges them."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """The context for every request of kopf."""
        return lenient(super().as_ssl_context())


class NodeFilter:
    """Kubelets write their node's status all the time; only labels and addresses matter here."""

    def __init__(self) -> None:
        self._seen: dict[str, object] = {}

    def changed(self, kind: str | None, node: Mapping[str, Any]) -> bool:
        """Whether the event (``kind`` ADDED, MODIFIED, DELETED, None) tells anything new of the node."""
        metadata = node.get("metadata", {})
        name = metadata.get("name", "")
        if kind == "DELETED":
            return self._seen.pop(name, None) is not None
        facts = (dict(metadata.get("labels") or {}), list(node.get("status", {}).get("addresses") or ()))
        if self._seen.get(name) == facts:
            return False
        self._seen[name] = facts
        return True


def in_cluster(environment: Mapping[str, str]) -> str | None:
    """The API server as a pod is told of it. kopf takes its name instead, and so would need a DNS that works."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def registry(wake: Callable[[], None]) -> kopf.OperatorRegistry:
    """The handlers: every one of them wakes the loop."""
    found = kopf.OperatorRegistry()
    nodes = NodeFilter()

    def woken(**_: object) -> None:
        wake()

    def node_woken(type: str | None, body: kopf.Body, **_: object) -> None:  # noqa: A002 (kopf's name)
        if nodes.changed(type, body):
            wake()

    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        pod = kopf.login_with_service_account(**kwargs)
        info = pod or kopf.login_with_kubeconfig(**kwargs)
        if info is None:
            return None
        values = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
        return Connection(**{**values, "server": in_cluster(os.environ) or info.server} if pod else values)

    kopf.on.login(registry=found)(login)
    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=found, id="virtual-service")(woken)
    kopf.on.event(names.GROUP, names.VERSION, names.CLASS_PLURAL, registry=found, id="class")(woken)
    kopf.on.event("", "v1", "services", registry=found, id="service")(woken)
    kopf.on.event("", "v1", "nodes", registry=found, id="node")(node_woken)
    return found


def operator_settings() -> kopf.OperatorSettings:
    """kopf's own settings: the fewest rights, and no watch that stays silent for ever."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # would list CRDs and namespaces of the whole cluster
    settings.posting.enabled = False
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 270
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = PAGE
    return settings
