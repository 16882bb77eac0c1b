"""What kind needs where no registry is reached: kind itself, kubeadm, and its node image, from Go modules and Debian.

The image is built as kind builds it: its own ``images/base`` (without the programs that it compiles from git: Debian
has them), Kubernetes in it, and in its containerd the images that kubeadm asks for: one image by several names.
No CoreDNS and no provisioner of volumes: nothing here asks them. ``kindnode/pod-network.sh`` stands in for kindnetd.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from . import apt, cache, image, layout, shell
from .build_kubernetes import SETTINGS, SOURCE, VERSION, go, kubernetes
from .errors import CommandFailed, RigError
from .kind_program import KIND, MODULE
from .progress import Progress
from .small_images import pause

FILES = Path(__file__).with_name("kindnode")
PATCHES = "/kind/patches"
"""Of the control plane, in the image."""
NAME = f"docker.io/kindest/node:v{VERSION}"
KUBERNETES = f"registry.k8s.io/kube-proxy:v{VERSION}"
PATIENCE = ("pkg/cluster/internal/providers/docker/provision.go", "30*time.Second", "300*time.Second")
"""How long kind waits for a node's systemd: no setting of kind's, too short for four of them in a guest."""
MODULES = """
require (
	github.com/coredns/caddy v1.1.1
	github.com/coredns/corefile-migration v1.0.34
	k8s.io/system-validators v1.12.1
)
"""
"""What kubeadm needs beyond the rest of Kubernetes; hashes in ``kindnode/kubeadm.sum``."""


def programs() -> Path:
    """The folder with kind, kubeadm and kubectl in it."""
    inputs = (KIND, str(PATIENCE), VERSION, MODULES, FILES / "kubeadm.sum")
    return cache.built("kind-programs", cache.key(*inputs), _programs)


def node_image() -> Path:
    """The archive, in Docker's own format, of kind's node image (4 minutes)."""
    files = sorted(path for path in FILES.rglob("*") if path.is_file())
    identity = cache.key(KIND, NAME, *(path.name for path in files), *files, str(kubernetes()), str(pause()), "1")
    return cache.built("kind-node", identity, _node_image, keep=2) / "node.tar"


def image_names(listed: str) -> list[str]:
    """Of ``kubeadm config images list`` those that the one image with Kubernetes and etcd stands for."""
    names = [line.strip() for line in listed.splitlines() if line.strip()]
    return [name for name in names if not any(other in name for other in ("coredns", "pause"))]


def _programs(folder: Path, progress: Progress) -> None:
    compiler = go()
    progress.at(f"building kind {KIND} and kubeadm {VERSION}")
    told = json.loads(_go(compiler, folder, "mod", "download", "-json", f"{MODULE}@{KIND}"))
    source = folder / "source"
    shutil.copytree(told["Dir"], source, copy_function=shutil.copyfile)
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    name, before, after = PATIENCE
    text = (source / name).read_text()
    if before not in text:
        raise RigError(f"kind {KIND}: {name} says no {before!r}: adapt PATIENCE")
    (source / name).write_text(text.replace(before, after))
    _go(compiler, source, "build", "-o", str(folder / "kind"), ".")
    shutil.copytree(source / "images/base", folder / "base")
    shutil.rmtree(source)
    source.mkdir()
    (source / "go.mod").write_text((SOURCE / "go.mod").read_text() + MODULES)
    (source / "go.sum").write_text((SOURCE / "go.sum").read_text() + (FILES / "kubeadm.sum").read_text())
    (source / "main.go").write_text('package main\n\nimport _ "k8s.io/kubernetes/cmd/kubeadm/app"\n\nfunc main() {}\n')
    major, minor, _ = VERSION.split(".")
    version = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor, "gitCommit": "rig"}
    flags = " ".join(["-s", "-w", *(f"-X k8s.io/component-base/version.{k}={v}" for k, v in version.items())])
    build = ["build", "-mod=mod", "-ldflags", flags, "-o", str(folder / "kubeadm"), "k8s.io/kubernetes/cmd/kubeadm"]
    _go(compiler, source, *build)
    shutil.rmtree(source)
    os.link(kubernetes() / "kubectl", folder / "kubectl")
    progress.done(f"kind {KIND} and kubeadm {VERSION} built")


def _go(compiler: Path, place: Path, *words: str) -> str:
    return shell.run([compiler, *words], cwd=place, extra=SETTINGS, timeout=1800)


def _node_image(folder: Path, progress: Progress) -> None:
    apt.install(apt.NODES)
    image.base_image(progress)
    place = programs()
    progress.at("building kind's base image")
    _build(place / "base", "base", "localhost/lvs-rig-kind-base", f"BASE_IMAGE={image.BASE}")
    context = folder / "context"
    shutil.copytree(FILES, context)
    os.link(place / "kubeadm", context / "kubeadm")
    os.link(kubernetes() / "kubelet", context / "kubernetes")
    (context / "version").write_text(f"v{VERSION}")
    manifest = context / "default-cni.yaml"
    manifest.write_text(manifest.read_text().replace("VERSION", f"v{VERSION}"))
    progress.at("building the image of the control plane")
    _build(context, "kubernetes", "localhost/lvs-rig-kubernetes")
    _save("localhost/lvs-rig-kubernetes", f"oci-archive:{folder}/kubernetes.tar:{KUBERNETES}")
    _preload(
        folder,
        image_names(shell.run([place / "kubeadm", "config", "images", "list", f"--kubernetes-version=v{VERSION}"])),
    )
    progress.at("building the node image")
    _build(context, "node", "localhost/lvs-rig-kind-node", "BASE=localhost/lvs-rig-kind-base")
    _save("localhost/lvs-rig-kind-node", f"docker-archive:{folder}/node.tar:{NAME}")
    shutil.rmtree(context)
    (folder / "kubernetes.tar").unlink()
    progress.done(f"{NAME} built")


def _build(context: Path, target: str, name: str, *arguments: str) -> None:
    words = [word for argument in arguments for word in ("--build-arg", argument)]
    options = ["--network", "host", "--pull-never", "--layers", "--target", target, "-t", name]
    image.buildah("bud", *options, *words, str(context))


def _save(name: str, where: str) -> None:
    container = image.buildah("from", "--pull-never", name).strip()
    image.buildah("commit", "-q", "--squash", "--rm", container, where)


def _preload(folder: Path, names: list[str]) -> None:
    """``context/containerd.tar``: the folder of a containerd that has unpacked the images and dropped their layers."""
    place = folder / "preload"
    place.mkdir()
    (place / "config.toml").write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    address = place / "socket"
    command: list[str | Path] = ["unshare", "--mount", "containerd", "-c", place / "config.toml", "--address", address]
    command += ["--root", place / "containerd", "--state", place / "state"]

    def ctr(*words: str | Path, check: bool = True) -> str:
        return shell.run(["ctr", "-a", address, "-n", "k8s.io", *words], check=check, timeout=600)

    with (place / "log").open("wb") as log:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=shell.environment())
    try:
        deadline = time.monotonic() + 30
        while not ctr("version", check=False):
            if time.monotonic() > deadline:
                raise CommandFailed("containerd does not answer", (place / "log").read_text())
            time.sleep(0.2)
        for archive in (folder / "kubernetes.tar", pause()):
            ctr("images", "import", archive)
        for name in names:
            if name != KUBERNETES:
                ctr("images", "tag", KUBERNETES, name)
        for tag in ("3.10", "3.10.2"):
            ctr("images", "tag", layout.PAUSE, f"registry.k8s.io/pause:{tag}")
    finally:
        running.terminate()
        running.wait(30)
    for blob in (place / "containerd/io.containerd.content.v1.content/blobs").rglob("*"):
        if blob.is_file() and blob.stat().st_size > 1 << 20:
            blob.unlink()
    shell.run(["tar", "-C", place, "-cf", folder / "context/containerd.tar", "containerd"], timeout=600)
    shutil.rmtree(place)
