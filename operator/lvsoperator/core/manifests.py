"""The agents' DaemonSet as a dict, and whether the one in the cluster is still it. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lvsapi import names
from lvsoperator.settings import Settings

AGENT_PORT = 9479
"""Port of /metrics, /healthz and /readyz on the node."""
HASH = f"{names.GROUP}/manifest-hash"
"""Annotation: SHA-256 of what the operator applied. Tells a removed field from one that the API server added."""
RUN_DIR = "/run/lvs-dr"
STATE_DIR = "/var/lib/lvs-dr"
HOST_PROC_SYS = "/host/proc/sys"
KEYS_DIR = "/etc/lvs-dr/keys"
"""UDP, between the agents: connections that the tables would send elsewhere (docs/decisions/0008)."""
TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"

LABELS = {names.LABEL_NAME: names.AGENT_DAEMONSET}
ALL_LABELS = {**LABELS, names.LABEL_PART_OF: names.PART_OF, names.LABEL_MANAGED_BY: names.OPERATOR_DEPLOYMENT}

Manifest = dict[str, Any]


def agent_daemonset(settings: Settings, owner_uid: str | None) -> Manifest:
    """The DaemonSet of the agents for server-side apply.

    ``owner_uid`` is the uid of the operator's Deployment: the garbage collector removes the agents with the operator.
    None (an operator outside of the cluster) leaves it without an owner.
    """
    metadata: Manifest = {"name": names.AGENT_DAEMONSET, "namespace": settings.namespace, "labels": dict(ALL_LABELS)}
    if owner_uid is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": settings.deployment, "uid": owner_uid}
        ]
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": dict(LABELS)},
            # One at a time and never two on a node: two VRRP speakers in one network namespace are worse than none.
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": dict(ALL_LABELS)}, "spec": _pod(settings)},
        },
    }
    metadata["annotations"] = {HASH: _digest(manifest)}
    return manifest


def keys_secret(settings: Settings, key: str, value: str) -> Manifest:
    """One entry of the Secret with the election's keys, for server-side apply by a field manager of its own: the other
    entries, and whoever rotates them, are not touched. ``value``: base64."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.KEYS_SECRET,
            "namespace": settings.namespace,
            "labels": {names.LABEL_PART_OF: names.PART_OF},
        },
        "type": "Opaque",
        "data": {key: value},
    }


def is_applied(wanted: Manifest, observed: Mapping[str, Any] | None) -> bool:
    """Whether the cluster's object already says what ``wanted`` says (it may say more: the API server's defaults)."""
    return observed is not None and _contains(observed, wanted)


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _contains(observed: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(observed, Mapping) and all(
            name in observed and _contains(observed[name], value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(observed, list)
            and len(observed) == len(wanted)
            and all(_contains(have, want) for have, want in zip(observed, wanted, strict=True))
        )
    return bool(observed == wanted)


def _pod(settings: Settings) -> Manifest:
    image: Manifest = {"image": settings.agent_image, "imagePullPolicy": settings.agent_image_pull_policy}
    run = {"name": "run", "mountPath": RUN_DIR}
    state = {"name": "state", "mountPath": STATE_DIR}
    keys = {"name": "keys", "mountPath": KEYS_DIR, "readOnly": True}
    env = [
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LVS_RUN_DIR", "value": RUN_DIR},
        {"name": "LVS_STATE_DIR", "value": STATE_DIR},
    ]
    node_init: Manifest = {
        **image,
        "name": "node-init",
        "command": ["lvs-node-init"],
        "env": env,
        # The only privileged part: it writes the named kernel settings, reads them back, and ends.
        "securityContext": {
            "privileged": True,
            "runAsUser": 0,
            "runAsGroup": 0,
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [run, state],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    election: Manifest = {
        **image,
        "name": "election",
        "command": ["lvs-election"],
        "env": [
            *env,
            {"name": "LVS_KEYS_DIR", "value": KEYS_DIR},
            {"name": "LVS_BEAT_PORT", "value": str(settings.beat_port)},
        ],
        "ports": [{"name": "beats", "containerPort": settings.beat_port, "protocol": "UDP"}],
        # SYS_NICE and IPC_LOCK: real-time scheduling and locked memory, so that a busy node does not look dead.
        "securityContext": _capabilities("NET_ADMIN", "NET_RAW", "SYS_NICE", "IPC_LOCK"),
        "volumeMounts": [run, state, keys],
        # No CPU limit here nor below: throttling delays adverts, and late adverts are a takeover.
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "96Mi"}},
    }
    agent: Manifest = {
        **image,
        "name": "agent",
        "command": ["lvs-agent"],
        "env": [
            *env,
            {"name": "LVS_PROC_SYS", "value": HOST_PROC_SYS},
            {"name": "LVS_KEYS_DIR", "value": KEYS_DIR},
            {"name": "LVS_CLAIMS_PORT", "value": str(settings.claims_port)},
        ],
        "ports": [
            {"name": "metrics", "containerPort": AGENT_PORT, "protocol": "TCP"},
            {"name": "claims", "containerPort": settings.claims_port, "protocol": "UDP"},
        ],
        "securityContext": _capabilities("NET_ADMIN", "NET_RAW"),
        "volumeMounts": [
            run,
            state,
            {"name": "proc-sys-net", "mountPath": f"{HOST_PROC_SYS}/net"},
            {"name": "token", "mountPath": TOKEN_DIR, "readOnly": True},
            # It tells the other agents of connections, and proves it with the key of the heartbeats.
            keys,
        ],
        # Neither probe asks the API server: its outage makes no agent unready and restarts none.
        "startupProbe": {**_probe("/healthz"), "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "384Mi"}},
    }
    return {
        "serviceAccountName": names.AGENT_DAEMONSET,
        # The token goes by volume to the one container that speaks with the API server.
        "automountServiceAccountToken": False,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "enableServiceLinks": False,
        "priorityClassName": "system-node-critical",
        "terminationGracePeriodSeconds": 15,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [node_init],
        "containers": [election, agent],
        "volumes": [
            {"name": "run", "hostPath": {"path": RUN_DIR, "type": "DirectoryOrCreate"}},
            {"name": "state", "hostPath": {"path": STATE_DIR, "type": "DirectoryOrCreate"}},
            # /proc/sys is read-only in a container; the agent sets switches of interfaces that come later.
            {"name": "proc-sys-net", "hostPath": {"path": "/proc/sys/net", "type": "Directory"}},
            # The kubelet brings it, and its changes: no account of the agents may read a Secret.
            {"name": "keys", "secret": {"secretName": names.KEYS_SECRET, "optional": True, "defaultMode": 0o400}},
            {"name": "token", "projected": {"defaultMode": 0o400, "sources": _token_sources()}},
        ],
    }


def _capabilities(*names: str) -> Manifest:
    return {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": list(names)},
    }


def _probe(path: str) -> Manifest:
    return {"httpGet": {"host": "127.0.0.1", "port": AGENT_PORT, "path": path}}


def _token_sources() -> list[Manifest]:
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
            }
        },
    ]
