"""Names, addresses and configuration files of the cluster of guests: values in, text out."""

import json
import shlex
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, summarize_address_range
from pathlib import Path
from typing import Any

import yaml

LAN = "192.168.139"
CONTROL_PLANE = f"{LAN}.1"
CLIENT = f"{LAN}.50"
VIPS = tuple(f"{LAN}.{last}" for last in range(120, 141))
"""Addresses that nobody on the LAN has."""
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
MANAGEMENT = "10.255.255"
"""A cable of its own to each node, in a network namespace of its own there: commands arrive while the LAN is cut."""
PAUSE = "docker.io/lvs-rig/pause:1"
EXCLUDING = "-excluding"
PROXY_MODES = ("nftables", "iptables", "ipvs", f"ipvs{EXCLUDING}")
"""Of kube-proxy; the last with ``excludeCIDRs`` of the addresses that ``VIPS`` are taken from."""


def node_name(number: int) -> str:
    return f"node{number}"


def node_number(node: str) -> int:
    """``node2`` or ``2`` is 2."""
    digits = node.removeprefix("node")
    if not digits.isdigit() or not 1 <= int(digits) <= 19:
        raise ValueError(f"{node!r} is not the name of a node: node1, node2, …")
    return int(digits)


def node_address(number: int) -> str:
    return f"{LAN}.{100 + number}"


def management_address(number: int) -> str:
    return f"{MANAGEMENT}.{number}"


def pod_network(number: int) -> str:
    return f"10.244.{number}.0/24"


def mac(cable: int, number: int) -> str:
    """Hardware address of a node's card: cable 0 is the LAN, 1 management."""
    return f"52:54:00:00:{cable:02x}:{number:02x}"


def schedulable(objects: Iterable[Mapping[str, Any]]) -> set[str]:
    """Of ``kubectl get nodes,serviceaccounts`` the nodes on which a pod of the default account can start now."""
    found = list(objects)
    if not any(item["kind"] == "ServiceAccount" and item["metadata"]["name"] == "default" for item in found):
        return set()
    return {
        item["metadata"]["name"]
        for item in found
        if item["kind"] == "Node"
        and not item["spec"].get("taints")
        and any(part["type"] == "Ready" and part["status"] == "True" for part in item["status"]["conditions"])
    }


def shell_variables(**values: str) -> str:
    """Lines that a shell reads as assignments."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def cni(number: int) -> str:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "subnet": pod_network(number), "routes": [{"dst": "0.0.0.0/0"}]},
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "0.4.0", "name": "pod", "plugins": plugins})


def containerd() -> str:
    """Paths are Debian's. Nothing here differs between nodes, so images can be unpacked once for all of them."""
    return f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def kube_proxy(number: int, mode: str, kubeconfig: str) -> str:
    return yaml.safe_dump(
        {
            **kube_proxy_mode(mode),
            "clusterCIDR": PODS,
            "hostnameOverride": node_name(number),
            "conntrack": {"maxPerCore": 0},
            "clientConnection": {"kubeconfig": kubeconfig},
        }
    )


def kube_proxy_mode(mode: str) -> dict[str, Any]:
    """The part of its configuration that says what it does (``PROXY_MODES``)."""
    configuration: dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.removesuffix(EXCLUDING),
    }
    if mode.endswith(EXCLUDING):
        networks = summarize_address_range(IPv4Address(VIPS[0]), IPv4Address(VIPS[-1]))
        configuration["ipvs"] = {"excludeCIDRs": [str(network) for network in networks]}
    return configuration


def kubelet(number: int, pki: str) -> str:
    """evictionHard must not be 0, and the size of a memory file system cannot be asked: hence the odd settings."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "failSwapOn": False,
            "resolvConf": "",
            "clusterDomain": "cluster.local",
            "clusterDNS": ["10.96.0.10"],
            "nodeStatusUpdateFrequency": "4s",
            "evictionHard": {"memory.available": "10Mi"},
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": False,
            "serializeImagePulls": False,
            "tlsCertFile": f"{pki}/{node_name(number)}.crt",
            "tlsPrivateKeyFile": f"{pki}/{node_name(number)}.key",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        }
    )


def api_server(pki: Mapping[str, str]) -> list[str]:
    """Arguments of kube-apiserver; ``pki`` maps file names to paths."""
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        f"--advertise-address={CONTROL_PLANE}",
        f"--tls-cert-file={pki['apiserver.crt']}",
        f"--tls-private-key-file={pki['apiserver.key']}",
        f"--client-ca-file={pki['ca.crt']}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-account-key-file={pki['sa.pub']}",
        f"--service-account-signing-key-file={pki['sa.key']}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-cluster-ip-range={SERVICES}",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={pki['to-kubelet.crt']}",
        f"--kubelet-client-key={pki['to-kubelet.key']}",
        f"--kubelet-certificate-authority={pki['ca.crt']}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def etcd(data: Path) -> list[str]:
    """Arguments of etcd. No fsync: the cluster does not outlive its machine."""
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    listen = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"]
    return [f"--data-dir={data}", "--unsafe-no-fsync", "--log-level=warn", *listen]
