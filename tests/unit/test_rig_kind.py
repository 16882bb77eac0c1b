"""The kind provider's command lines and files, without running anything."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig import kind, kind_node, kind_program, layout, patience, shell
from tests.rig.__main__ import node_of
from tests.rig.cluster import cluster
from tests.rig.errors import RigError

pytestmark = pytest.mark.unit


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
    monkeypatch.setattr("tests.rig.kind.kind", lambda: Path("kind"))
    monkeypatch.setattr("tests.rig.kind_keeper.start", lambda name: recorder.lines.append("keeper starts"))
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


def test_kind_down_takes_nodes_and_client_away(recorded: Recorded) -> None:
    kind.Kind("x").down()
    assert recorded.lines == [
        "kind delete cluster --name lvs-x",
        "docker rm -f lvs-x-client",
        "docker network rm lvs-x",
    ]


def test_what_a_killed_run_has_left_is_in_nobodys_way(recorded: Recorded) -> None:
    cluster = kind.Kind("x")
    cluster.kubeconfig.write_text("of then")
    cluster.up(1)
    created = next(line for line in recorded.lines if line.startswith("docker network create"))
    before = recorded.lines[: recorded.lines.index(created)]
    assert {"docker rm -f lvs-x-client", "docker network rm lvs-x", "keeper starts"} <= set(before)
    assert not cluster.kubeconfig.exists()


def test_images_wait_for_a_cluster_that_is_not_up(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = kind.Kind("x")
    cluster.kubeconfig.write_text("of a run that was killed")
    monkeypatch.setattr(kind.Kind, "nodes", ())
    cluster.load_images([Path("a.tar")])
    assert recorded.lines == []


def program(folder: Path, name: str, script: str) -> None:
    """An executable shell script of that name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder in which programs are looked for."""
    place = tmp_path / "programs"
    place.mkdir()
    monkeypatch.setattr(shell, "SEARCH_PATH", str(place))
    monkeypatch.setenv("LVS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LVS_RIG", raising=False)
    return place


@pytest.mark.parametrize(
    ("docker", "modprobe", "loaded", "chosen"),
    [
        ("exit 0", "exit 1", True, True),
        ("exit 0", "exit 0", False, True),
        ("exit 0", "exit 1", False, False),
        ("exit 0", "", False, False),
        ("exit 1", "exit 0", True, False),
        ("", "exit 0", True, False),
    ],
)
def test_a_docker_engine_that_answers_and_ip_vs_are_all_that_kind_asks_of_a_machine(
    programs: Path, tmp_path: Path, docker: str, modprobe: str, loaded: bool, chosen: bool
) -> None:
    for name, script in (("docker", docker), ("modprobe", modprobe)):
        if script:
            program(programs, name, script)
    if loaded:
        (tmp_path / "ip_vs").mkdir()
    assert kind_program.kind_is_possible(tmp_path) is chosen


def test_the_machines_own_kind_is_taken_and_else_one_is_built_once(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "go", 'echo "$@" >>"$0.asked"; : >"$GOBIN/kind"')
    monkeypatch.setattr(kind_program, "go", lambda: programs / "go")
    built = kind_program.kind()
    assert built.parent.parent.name == "cache"
    assert kind_program.kind() == built
    assert (programs / "go.asked").read_text() == f"install -ldflags -s -w sigs.k8s.io/kind@{kind_program.KIND}\n"
    program(programs, "kind", "")
    assert kind_program.kind() == programs / "kind"


def test_a_machine_without_kubectl_uses_the_one_of_its_nodes_and_leaves_none_behind(
    recorded: Recorded, programs: Path, tmp_path: Path
) -> None:
    one = kind.Kind("x")
    one.up(2)
    (copied,) = [line for line in recorded.lines if line.startswith("docker cp")]
    place = copied.split()[-1]
    assert copied.split()[-2] == "lvs-x-control-plane:/usr/bin/kubectl"
    assert Path(place).name == "kubectl", "it is a program of many names"
    assert any(line.startswith(f"{place} --kubeconfig") for line in recorded.lines)
    one.down()
    assert not Path(place).parent.exists()
    recorded.lines.clear()
    program(programs, "kubectl", "")
    one.up(2)
    assert not [line for line in recorded.lines if line.startswith("docker cp")]
    assert any(line.startswith(f"{programs}/kubectl --kubeconfig") for line in recorded.lines)


def test_which_provider_is_taken(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(cluster("x")).__name__ == "Guests"
    program(programs, "docker", "")
    program(programs, "modprobe", "")
    assert type(cluster("x")).__name__ == "Kind"
    assert type(cluster("x", provider="guests")).__name__ == "Guests"
    monkeypatch.setenv("LVS_RIG", "podman")
    with pytest.raises(RigError, match="'podman': choose guests or kind"):
        cluster("x")


def test_a_slow_machine_gets_more_time_and_what_is_no_number_is_refused(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert patience.patient(2.0) == 2.0
    monkeypatch.setenv("LVS_PATIENCE", "2.5")
    kind.Kind("x").up(2)
    (create,) = [line for line in recorded.lines if line.startswith("kind create")]
    assert create.endswith("--wait 300s")
    for wrong in ("", "0", "-1", "much", "nan"):
        monkeypatch.setenv("LVS_PATIENCE", wrong)
        with pytest.raises(RigError, match=f"LVS_PATIENCE='{wrong}': choose a number above 0"):
            patience.patient(1.0)


def test_the_control_plane_is_patched_where_the_node_image_has_patches(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def directories() -> list[str]:
        kind.Kind("x").up(1)
        parts = [yaml.safe_load(text) for text in yaml.safe_load(recorded.stdin)["kubeadmConfigPatches"]]
        return [part["patches"]["directory"] for part in parts if "patches" in part]

    assert directories() == []
    monkeypatch.setenv("LVS_KIND_PATCHES", kind_node.PATCHES)
    assert directories() == [kind_node.PATCHES]
    for file in (kind_node.FILES / "patches").iterdir():
        (container,) = yaml.safe_load(file.read_text())["spec"]["containers"]
        assert file.name == f"{container['name']}+strategic.yaml"
