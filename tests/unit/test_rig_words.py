"""The rig's addresses, command lines and files, without running anything."""

import ipaddress
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig import apt, build_kernel, build_kubernetes, guest, image, kind, kind_node, layout, oci
from tests.rig.__main__ import node_of
from tests.rig.errors import RigError

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]


def test_nodes_vips_and_client_have_addresses_of_their_own() -> None:
    taken = [layout.CONTROL_PLANE, layout.CLIENT, *(layout.node_address(n) for n in range(1, 20)), *layout.VIPS]
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("name", ["node", "node0", "node20", "master"])
def test_what_is_no_node_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a node"):
        layout.node_number(name)


def test_a_guest_boots_over_this_machines_files_with_the_fast_mode() -> None:
    words = guest.kernel_arguments(Path("/k/linux"), Path("/w/init"), Path("/w"), memory="1G", cpus=2)
    assert words[0] == "/k/linux"
    assert {"rootfstype=hostfs", "mem=1G", "ncpus=2", "seccomp=on", "init=/w/init", "uml_dir=/w"} <= set(words)


def test_variables_are_quoted_for_the_guests_shell() -> None:
    assert guest.exports({"A": "it's", "TERM": "xterm", "BASH_FUNC_x%%": "()"}) == "export A='it'\"'\"'s'\n"


def node(name: str, *, ready: bool = True, taint: bool = False) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"taints": [{"key": "node.kubernetes.io/not-ready"}]} if taint else {},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def test_a_node_is_ready_when_a_pod_can_start_on_it() -> None:
    account = {"kind": "ServiceAccount", "metadata": {"name": "default"}}
    nodes = [node("node1"), node("node2", ready=False), node("node3", taint=True)]
    assert layout.schedulable([*nodes, account]) == {"node1"}
    assert layout.schedulable(nodes) == set()


def test_the_configuration_files_are_what_their_readers_parse() -> None:
    assert yaml.safe_load(layout.kubelet(2, "/pki"))["tlsCertFile"] == "/pki/node2.crt"
    assert yaml.safe_load(layout.kube_proxy(2, "ipvs", "/p"))["mode"] == "ipvs"
    assert "ipvs" not in yaml.safe_load(layout.kube_proxy(2, "ipvs", "/p"))
    assert json.loads(layout.cni(2))["plugins"][0]["ipam"]["subnet"] == "10.244.2.0/24"


def test_kube_proxy_is_told_to_leave_every_vip_alone_and_nothing_else() -> None:
    told = yaml.safe_load(layout.kube_proxy(2, "ipvs-excluding", "/p"))
    assert told["mode"] == "ipvs"
    networks = [ipaddress.ip_network(text) for text in told["ipvs"]["excludeCIDRs"]]
    assert sorted(str(address) for network in networks for address in network) == sorted(layout.VIPS)
    assert layout.VIPS[0] == "192.168.139.120"


@pytest.mark.parametrize(
    ("text", "version"), [("go1.26.8", (1, 26, 8)), ("go1.27", (1, 27)), ("go1.19.8\n", (1, 19, 8)), ("devel", ())]
)
def test_the_version_of_go_is_read(text: str, version: tuple[int, ...]) -> None:
    assert build_kubernetes.go_version(text) == version


def test_the_mirror_of_debian_is_found_in_both_forms_of_sources(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "a.sources").write_text("Types: deb\nURIs: http://mirror.test/debian-security\nSuites: x\n")
    with pytest.raises(RigError, match="no Debian archive"):
        build_kernel.debian_mirror(tmp_path)
    (parts / "b.sources").write_text("Types: deb\nURIs: http://mirror.test/debian\nSuites: x\n")
    assert build_kernel.debian_mirror(tmp_path) == "http://mirror.test/debian"
    (tmp_path / "sources.list").write_text("deb [trusted=yes] http://old.test/debian/ bookworm main\n")
    assert build_kernel.debian_mirror(tmp_path) == "http://old.test/debian/"


def test_every_scheduler_is_in_the_kernels_configuration() -> None:
    text = build_kernel.CONFIG.read_text()
    for scheduler in "rr wrr lc wlc fo ovf lblc lblcr dh sh mh sed nq twos".upper().split():
        assert f"CONFIG_IP_VS_{scheduler}=y\n" in text


def test_no_package_is_named_twice() -> None:
    assert len(set(apt.EVERYTHING)) == len(apt.EVERYTHING)


def test_the_images_have_the_names_that_deploy_asks_for() -> None:
    kustomization = yaml.safe_load((ROOT / "deploy" / "kustomization.yaml").read_text())
    wanted = {f"docker.io/library/{entry['name']}:{entry['newTag']}" for entry in kustomization["images"]}
    assert wanted == set(image.IMAGES.values())


def test_a_change_of_any_source_is_a_change_of_the_images(tmp_path: Path) -> None:
    (tmp_path / "crds").mkdir()
    source = tmp_path / "crds" / "model.py"
    source.write_text("1")
    before = image.source_inputs(tmp_path)
    source.write_text("2")
    assert image.source_inputs(tmp_path) != before


def test_pip_gets_the_machines_certificates_only_when_the_machine_has_its_own() -> None:
    assert image.build_arguments({}, by_buildah=True) == []
    words = image.build_arguments({"PIP_CERT": "/ca.pem"}, by_buildah=True)
    assert words[-1] == "/ca.pem:/run/pip-certificates.pem:ro"
    assert image.build_arguments({"PIP_CERT": "/ca.pem"}, by_buildah=False) == []


def test_an_archive_of_one_program_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        oci.write(tmp_path / name, "docker.io/x/y:1", {"/run": b"program"}, ["/run"])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        (entry,) = json.load(index)["manifests"]
        assert f"blobs/sha256/{entry['digest'][7:]}" in archive.getnames()
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/x/y:1"
    assert oci.image_digest(tmp_path / "a.tar").startswith("sha256:")


def test_an_image_that_was_written_is_read_and_an_upper_layer_takes_away_what_it_names(tmp_path: Path) -> None:
    oci.write(tmp_path / "a.tar", "docker.io/x/y:1", {"/bin/run": b"program", "/etc/x": b"12"}, ["/bin/run"], "7:7")
    held = oci.read(tmp_path / "a.tar", "bin/")
    assert (held.config["User"], held.config["Entrypoint"], held.size) == ("7:7", ["/bin/run"], 9)
    assert {name: file.content for name, file in held.files.items()} == {"bin/run": b"program", "etc/x": b""}
    file = held.files["bin/run"]
    lower = dict.fromkeys(("a/1", "a/2", "b/1", "b/c/2", "bc", "d/1"), file)
    upper = dict.fromkeys(("a/.wh.1", "d/.wh..wh..opq", "d/2", ".wh.b", "e"), file)
    assert set(oci._over(lower, upper)) == {"a/2", "bc", "d/2", "e"}


class Recorded:
    """Stands in for ``shell.run``: keeps command lines, answers what docker and kind would."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stdin = ""
        self.extra: dict[str, str] = {}

    def __call__(self, argv: Sequence[str | Path], **options: Any) -> str:
        line = " ".join(str(word) for word in argv)
        self.lines.append(line)
        self.stdin = options.get("stdin") or self.stdin
        self.extra |= options.get("extra") or {}
        if line.startswith("kind get nodes"):
            return "lvs-x-control-plane\nlvs-x-worker2\nlvs-x-worker\n"
        if "get nodes,serviceaccounts" in line or "get nodes" in line:
            return "lvs-x-worker Ready\nlvs-x-worker2 Ready\n"
        if "State.Status" in line:
            return "running\n"
        if "State.Pid" in line:
            return "4711\n"
        if "IPAddress" in line:
            return "192.168.139.66\n"
        return ""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorded:
    recorder = Recorded()
    monkeypatch.setenv("LVS_CACHE", str(tmp_path))
    monkeypatch.setattr("tests.rig.shell.run", recorder)
    return recorder


def test_kind_gets_as_many_workers_as_asked_and_the_mode_of_kube_proxy(recorded: Recorded) -> None:
    cluster = kind.Kind("x", "iptables")
    cluster.load_images([Path("a.tar")])
    cluster.up(2)
    config = yaml.safe_load(recorded.stdin)
    assert [entry["role"] for entry in config["nodes"]] == ["control-plane", "worker", "worker"]
    assert config["networking"]["kubeProxyMode"] == "iptables"
    assert "kind load image-archive --name lvs-x --nodes lvs-x-worker,lvs-x-worker2 a.tar" in recorded.lines


def test_kind_gets_the_addresses_that_kube_proxy_leaves_alone(recorded: Recorded) -> None:
    kind.Kind("x", "ipvs-excluding").up(1)
    config = yaml.safe_load(recorded.stdin)
    assert config["networking"]["kubeProxyMode"] == "ipvs"
    patch = yaml.safe_load(config["kubeadmConfigPatches"][-1])
    assert patch["kind"] == "KubeProxyConfiguration"
    assert "192.168.139.120/29" in patch["ipvs"]["excludeCIDRs"]


def test_kinds_nodes_stand_on_the_guests_lan_and_containers_never_get_a_vip(recorded: Recorded) -> None:
    cluster = kind.Kind("x")
    cluster.up()
    assert recorded.extra == {"KIND_EXPERIMENTAL_DOCKER_NETWORK": "lvs-x"}
    (network,) = [line.split() for line in recorded.lines if line.startswith("docker network create")]
    assert network[network.index("--subnet") + 1] == "192.168.139.0/24"
    containers = ipaddress.ip_network(network[network.index("--ip-range") + 1])
    assert not [vip for vip in (*cluster.vips, layout.CLIENT) if ipaddress.ip_address(vip) in containers]


def test_kinds_control_plane_is_no_node_to_the_cluster_that_it_serves(recorded: Recorded) -> None:
    kind.Kind("x").up()
    assert any(line.endswith("delete node lvs-x-control-plane") for line in recorded.lines)


def test_kind_takes_the_node_image_that_the_environment_names(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVS_KIND_IMAGE", "kindest/node:v1")
    kind.Kind("x").up()
    (create,) = [line for line in recorded.lines if line.startswith("kind create")]
    assert "--image kindest/node:v1" in create


def test_kinds_nodes_are_the_workers_by_the_names_that_kubectl_uses(recorded: Recorded) -> None:
    cluster = kind.Kind("x")
    assert cluster.nodes == ("lvs-x-worker", "lvs-x-worker2")
    assert node_of(cluster, "2") == "lvs-x-worker2"
    with pytest.raises(RigError, match="not a node"):
        node_of(cluster, "3")


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("boot", "docker start lvs-x-worker"),
        ("freeze", "docker pause lvs-x-worker"),
        ("thaw", "docker unpause lvs-x-worker"),
    ],
)
def test_what_happens_to_a_kind_node_happens_to_its_container(recorded: Recorded, method: str, line: str) -> None:
    getattr(kind.Kind("x"), method)("lvs-x-worker")
    assert recorded.lines == [line]


def test_a_kind_node_that_dies_says_no_goodbye_and_keeps_its_address(recorded: Recorded) -> None:
    kind.Kind("x").crash("lvs-x-worker")
    wanted = [
        "nsenter --target=4711 --net -- ip link set eth0 down",
        "docker kill --signal KILL lvs-x-worker",
        "docker network disconnect lvs-x lvs-x-worker",
        "docker network connect --ip 192.168.139.66 lvs-x lvs-x-worker",
    ]
    done = [line.removeprefix("sudo ") for line in recorded.lines if "inspect" not in line]
    assert done == wanted


def test_a_cut_on_kind_drops_one_way_for_arp_too_and_heal_undoes_both(recorded: Recorded) -> None:
    cluster = kind.Kind("x")
    cluster.cut("lvs-x-worker", "in")
    assert recorded.lines == ["docker exec -i lvs-x-worker nft -f -"]
    assert 'chain ingress { type filter hook ingress device "eth0" priority -500; policy drop; }' in recorded.stdin
    assert "hook egress" not in recorded.stdin
    cluster.cut("lvs-x-worker")
    assert "hook egress" in recorded.stdin
    cluster.heal("lvs-x-worker")
    assert recorded.lines[-1] == "docker exec -i lvs-x-worker nft delete table netdev lvs-cut"


def test_kinds_client_is_a_process_of_this_machine_in_the_clients_network(recorded: Recorded) -> None:
    kind.Kind("x").client_run(["ip", "address"])
    assert "nsenter --target=4711 --net -- ip address" in recorded.lines[-1]


def test_the_one_image_with_kubernetes_has_every_name_that_kubeadm_lists_for_it() -> None:
    listed = "example/kube-proxy:v1\nexample/coredns/coredns:v2\nexample/pause:3\nexample/etcd:4\n"
    assert kind_node.image_names(listed) == ["example/kube-proxy:v1", "example/etcd:4"]


def test_kind_down_takes_client_and_nodes_away(recorded: Recorded) -> None:
    kind.Kind("x").down()
    assert recorded.lines == [
        "docker rm -f lvs-x-client",
        "kind delete cluster --name lvs-x",
        "docker network rm lvs-x",
    ]
