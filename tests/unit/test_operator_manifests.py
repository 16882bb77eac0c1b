"""The agents' DaemonSet: what it may do on a node, and when it is applied again."""

import copy
from typing import Any

import pytest

from lvsapi import names
from lvsoperator.core.manifests import HASH, agent_daemonset, is_applied
from lvsoperator.settings import Settings

pytestmark = pytest.mark.unit

SETTINGS = Settings(agent_image="registry.example/lvs-dr-agent:7")


def daemonset(owner: str | None = "uid-1", settings: Settings = SETTINGS) -> dict[str, Any]:
    return agent_daemonset(settings, owner)


def pod() -> dict[str, Any]:
    found: dict[str, Any] = daemonset()["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = [item for item in pod()["containers"] + pod()["initContainers"] if item["name"] == name]
    return dict(found)


def test_election_and_agent_have_these_capabilities_and_no_other_right() -> None:
    wanted = {"election": ["NET_ADMIN", "NET_RAW", "SYS_NICE", "IPC_LOCK"], "agent": ["NET_ADMIN", "NET_RAW"]}
    assert {item["name"] for item in pod()["containers"]} == set(wanted)
    for name, capabilities in wanted.items():
        context = container(name)["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"], "add": capabilities}
        assert "privileged" not in context
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_heartbeats_have_a_port_on_the_node_that_can_be_chosen() -> None:
    for settings, port in ((SETTINGS, 9480), (Settings(beat_port=1234), 1234)):
        (election,) = [
            item
            for item in daemonset(settings=settings)["spec"]["template"]["spec"]["containers"]
            if item["name"] == "election"
        ]
        assert election["ports"] == [{"name": "beats", "containerPort": port, "protocol": "UDP"}]
        assert {"name": "LVS_BEAT_PORT", "value": str(port)} in election["env"]


def test_agents_tell_each_other_of_connections_on_a_port_that_can_be_chosen() -> None:
    for settings, port in ((SETTINGS, 9481), (Settings(claims_port=1234), 1234)):
        (agent,) = [
            item
            for item in daemonset(settings=settings)["spec"]["template"]["spec"]["containers"]
            if item["name"] == "agent"
        ]
        assert {"name": "claims", "containerPort": port, "protocol": "UDP"} in agent["ports"]
        assert {"name": "LVS_CLAIMS_PORT", "value": str(port)} in agent["env"]


def test_only_the_init_container_is_privileged_and_it_runs_one_command() -> None:
    (init,) = pod()["initContainers"]
    assert init["securityContext"]["privileged"] is True
    assert init["command"] == ["lvs-node-init"]


def test_the_pod_shares_the_network_of_the_node_and_nothing_else() -> None:
    assert pod()["hostNetwork"] is True
    for key in ("hostPID", "hostIPC", "shareProcessNamespace"):
        assert key not in pod()
    paths = {v["name"]: v["hostPath"]["path"] for v in pod()["volumes"] if "hostPath" in v}
    assert paths == {"run": "/run/lvs-dr", "state": "/var/lib/lvs-dr", "proc-sys-net": "/proc/sys/net"}


def test_only_the_agent_container_gets_the_service_accounts_token() -> None:
    assert pod()["automountServiceAccountToken"] is False
    with_token = [
        item["name"]
        for item in pod()["containers"] + pod()["initContainers"]
        if any(mount["name"] == "token" for mount in item["volumeMounts"])
    ]
    assert with_token == ["agent"]


def test_election_and_agent_get_the_keys_read_only_and_need_none() -> None:
    (volume,) = [item for item in pod()["volumes"] if item["name"] == "keys"]
    assert volume["secret"] == {"secretName": "lvs-vrrp-keys", "optional": True, "defaultMode": 0o400}
    mounts = {
        item["name"]: mount
        for item in pod()["containers"] + pod()["initContainers"]
        for mount in item["volumeMounts"]
        if mount["name"] == "keys"
    }
    mount = {"name": "keys", "mountPath": "/etc/lvs-dr/keys", "readOnly": True}
    assert mounts == {"election": mount, "agent": mount}
    for name in mounts:
        assert {"name": "LVS_KEYS_DIR", "value": "/etc/lvs-dr/keys"} in container(name)["env"]


def test_every_mount_has_its_volume_and_every_container_its_node_name_and_folders() -> None:
    volumes = {volume["name"] for volume in pod()["volumes"]}
    for item in pod()["containers"] + pod()["initContainers"]:
        assert {mount["name"] for mount in item["volumeMounts"]} <= volumes
        env = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in item["env"]}
        assert env["NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
        assert (env["LVS_RUN_DIR"], env["LVS_STATE_DIR"]) == ("/run/lvs-dr", "/var/lib/lvs-dr")
        mounts = {mount["mountPath"] for mount in item["volumeMounts"]}
        assert {"/run/lvs-dr", "/var/lib/lvs-dr"} <= mounts


def test_the_agent_writes_kernel_settings_through_the_mounted_folder() -> None:
    agent = container("agent")
    assert {"name": "LVS_PROC_SYS", "value": "/host/proc/sys"} in agent["env"]
    (mount,) = [item for item in agent["volumeMounts"] if item["name"] == "proc-sys-net"]
    assert mount == {"name": "proc-sys-net", "mountPath": "/host/proc/sys/net"}


def test_no_container_has_a_cpu_limit_because_throttling_delays_adverts() -> None:
    for item in pod()["containers"] + pod()["initContainers"]:
        assert "cpu" not in item["resources"].get("limits", {})
        assert {"cpu", "memory"} <= set(item["resources"]["requests"])


def test_the_agents_run_on_every_linux_node_and_are_the_last_to_go() -> None:
    assert pod()["tolerations"] == [{"operator": "Exists"}]
    assert pod()["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod()["priorityClassName"] == "system-node-critical"
    assert pod()["terminationGracePeriodSeconds"] == 15
    assert pod()["serviceAccountName"] == "lvs-agent"


def test_one_agent_is_replaced_at_a_time_and_never_two_run_on_a_node() -> None:
    assert daemonset()["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_probes_ask_the_agent_on_the_loopback_address() -> None:
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container("agent")[probe]["httpGet"] == {"host": "127.0.0.1", "port": 9479, "path": path}


def test_the_image_and_its_pull_policy_come_from_the_settings() -> None:
    manifest = daemonset(settings=Settings(agent_image="a:1", agent_image_pull_policy="Never"))
    spec = manifest["spec"]["template"]["spec"]
    for item in spec["containers"] + spec["initContainers"]:
        assert (item["image"], item["imagePullPolicy"]) == ("a:1", "Never")


def test_the_daemonset_goes_with_the_operators_deployment() -> None:
    (owner,) = daemonset("uid-1")["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "lvs-operator", "uid": "uid-1"}
    assert "ownerReferences" not in daemonset(None)["metadata"]


def test_the_selector_matches_the_pods() -> None:
    spec = daemonset()["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert daemonset()["metadata"]["name"] == names.AGENT_DAEMONSET


def with_server_defaults(manifest: dict[str, Any]) -> dict[str, Any]:
    observed = copy.deepcopy(manifest)
    observed["metadata"] |= {"uid": "x", "resourceVersion": "7", "managedFields": [{}]}
    observed["spec"]["revisionHistoryLimit"] = 10
    observed["spec"]["template"]["spec"] |= {"restartPolicy": "Always", "schedulerName": "default-scheduler"}
    observed["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    observed["status"] = {"numberReady": 3}
    return observed


def test_defaults_that_the_api_server_added_are_no_difference() -> None:
    assert is_applied(daemonset(), with_server_defaults(daemonset()))


@pytest.mark.parametrize("change", ["missing", "image", "removed container", "added container", "type", "hash"])
def test_a_daemonset_that_differs_is_applied_again(change: str) -> None:
    observed: dict[str, Any] | None = with_server_defaults(daemonset())
    assert observed is not None
    spec = observed["spec"]["template"]["spec"]
    if change == "missing":
        observed = None
    elif change == "image":
        spec["containers"][1]["image"] = "other"
    elif change == "removed container":
        spec["containers"].pop()
    elif change == "added container":
        spec["containers"].append({"name": "sidecar"})
    elif change == "type":
        spec["nodeSelector"] = None
    else:
        observed["metadata"]["annotations"][HASH] = "what an older operator applied"
    assert not is_applied(daemonset(), observed)


def test_the_hash_changes_with_the_manifest_and_with_nothing_else() -> None:
    digest = daemonset()["metadata"]["annotations"][HASH]
    assert digest == daemonset()["metadata"]["annotations"][HASH]
    assert digest != daemonset("uid-2")["metadata"]["annotations"][HASH]
    assert digest != daemonset(settings=Settings())["metadata"]["annotations"][HASH]
