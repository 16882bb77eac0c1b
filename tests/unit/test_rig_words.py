"""The rig's addresses, command lines and files, without running anything."""

import ipaddress
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig import apt, build_kernel, build_kubernetes, guest, image, layout, namespaces, oci
from tests.rig.__main__ import main
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


@pytest.mark.parametrize("able", [True, False])
def test_a_place_is_a_namespace_where_this_kernel_has_ip_vs_and_else_a_guest_and_everything_is_installed_first(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def here(command: Sequence[str], *, timeout: float | None) -> int:
        done.append(f"namespaces {command} {timeout}")
        return 7

    def guest_runs(linux: Path, command: Sequence[str], **options: Any) -> int:
        done.append(f"{linux} {command} {options['timeout']}")
        return 7

    monkeypatch.setattr(apt, "install", lambda: done.append("installed"))
    monkeypatch.setattr(namespaces, "has", lambda word: able and word == "ipvs")
    monkeypatch.setattr(namespaces, "run", here)
    monkeypatch.setattr(build_kernel, "kernel", lambda: Path("/k"))
    monkeypatch.setattr(guest, "run", guest_runs)
    assert main(["place", "-t", "5", "--", "true", "-c"]) == 7
    assert done == ["installed", f"{'namespaces' if able else '/k/linux'} ['true', '-c'] 5.0"]


def test_an_image_is_read_out_of_dockers_own_archive_too(tmp_path: Path) -> None:
    """As ``docker save`` of Docker 20 to 24 writes it: Debian 12's, and Ubuntu 24.04's."""
    layers = [oci._tar({"bin/run": b"old", "bin/go": b"x"}), oci._tar({"bin/run": b"program", "bin/.wh.go": b""})]
    config = {"config": {"User": "7:7", "Entrypoint": ["run"]}}
    manifest = [{"Config": "c.json", "RepoTags": ["x/y:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    files = {"c.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    archive = tmp_path / "a.tar"
    archive.write_bytes(oci._tar({**files, "1/layer.tar": layers[0], "2/layer.tar": layers[1]}))
    held = oci.read(archive, "bin/")
    assert held.config == config["config"]
    assert {name: file.content for name, file in held.files.items()} == {"bin/run": b"program"}
    before = oci.image_digest(archive)
    files["manifest.json"] = json.dumps([{**manifest[0], "Config": "d.json"}]).encode()
    archive.write_bytes(oci._tar(files))
    assert oci.image_digest(archive) != before
