"""The project's own images from its Dockerfile: by Docker where it runs, by buildah where it does not.

Without Docker there is no registry either: the base image is made by debootstrap, once. Layers are cached, so a change
of our sources costs seconds.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from . import apt, cache, shell
from .build_kernel import debian_mirror
from .errors import CommandFailed
from .kind_program import docker_runs
from .progress import Progress

ROOT = Path(__file__).resolve().parents[2]
INPUTS = (
    *("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"),
    *("crds", "operator", "nodeagent", "requirements"),
)
IMAGES = {"agent": "docker.io/library/lvs-dr-agent:dev", "operator": "docker.io/library/lvs-dr-operator:dev"}
"""Target in the Dockerfile -> the name that deploy/ asks for."""
SUITE = "trixie"
BASE = f"docker.io/library/debian:{SUITE}-slim"
CERTIFICATES = "/run/pip-certificates.pem"
"""Where the machine's own CA bundle lies while buildah builds: not where Debian's package wants to put its own."""


def images() -> tuple[Path, ...]:
    """OCI archives of our images; built when the sources changed (2 minutes the first time, then seconds)."""
    identity = cache.key(*source_inputs(ROOT), *IMAGES.values())
    folder = cache.built("image", identity, _build, keep=3)
    return tuple(folder / f"{target}.tar" for target in IMAGES)


def archives() -> tuple[Path, ...]:
    """Everything that a cluster needs to run the examples: our images and the web server."""
    from .small_images import web

    return (*images(), web())


def source_inputs(root: Path) -> list[str | bytes]:
    """Names and contents of all that goes into the images."""
    found: list[str | bytes] = []
    for name in INPUTS:
        place = root / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and "__pycache__" not in path.parts:
                found += [str(path.relative_to(root)), path.read_bytes()]
    return found


def build_arguments(environment: Mapping[str, str], *, by_buildah: bool) -> list[str]:
    """What pip needs of this machine to reach its index: nothing, unless the environment says so."""
    arguments: list[str] = []
    if index := environment.get("PIP_INDEX_URL"):
        arguments += ["--build-arg", f"PIP_INDEX_URL={index}"]
    if (bundle := environment.get("PIP_CERT")) and by_buildah:  # Docker cannot show a file to a build
        arguments += ["--build-arg", f"PIP_CERT={CERTIFICATES}", "--volume", f"{bundle}:{CERTIFICATES}:ro"]
    return arguments


def _build(folder: Path, progress: Progress) -> None:
    for target, name in IMAGES.items():
        progress.at(f"building {name}")
        out = folder / f"{target}.tar"
        if docker_runs():
            words = build_arguments(os.environ, by_buildah=False)
            shell.run(["docker", "build", "-q", *words, "--target", target, "-t", name, ROOT], timeout=1800)
            shell.run(["docker", "save", "-o", out, name], timeout=600)
        else:
            _by_buildah(target, name, out, progress)
    progress.done(f"{', '.join(IMAGES.values())} built")


def _by_buildah(target: str, name: str, out: Path, progress: Progress) -> None:
    base_image(progress)
    progress.at(f"building {name} with buildah")
    words = build_arguments(os.environ, by_buildah=True)
    options = ["--network", "host", "--pull-never", "--layers", "--target", target, "-t", name]
    buildah("bud", *options, *words, str(ROOT))
    buildah("push", "-q", name, f"oci-archive:{out}:{name}")


def base_image(progress: Progress) -> None:
    """Make the Debian that no registry gives here, and buildah's store, when they are not there."""
    apt.install(apt.IMAGES)
    with cache.locked("buildah"):
        if buildah("images", "-q", BASE, check=False).strip() == "":
            archive = cache.built("base", cache.key(SUITE, "1"), _debootstrap) / "base.tar"
            container = buildah("from", "scratch").strip()
            buildah("add", container, str(archive), "/")
            buildah("commit", "-q", "--rm", container, BASE)


def buildah(*words: str, check: bool = True) -> str:
    """In a store of the rig's own; without user namespaces, so as root."""
    store = cache.root() / "buildah"
    places = ["--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "overlay"]
    return shell.run(["buildah", *places, *words], check=check, timeout=1800, extra={"BUILDAH_ISOLATION": "chroot"})


def _debootstrap(folder: Path, progress: Progress) -> None:
    progress.at(f"making a {SUITE} base by debootstrap")
    tree = folder / "tree"
    command = ["debootstrap", "--variant=minbase", SUITE, str(tree), debian_mirror()]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None
        last: list[str] = []
        for count, text in enumerate(running.stdout):
            last = [*last[-20:], text]
            progress.at("debootstrap, step", count + 1, 370)
    if running.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: status {running.returncode}", "".join(last))
    for useless in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(tree / useless, ignore_errors=True)
    (tree / "var/cache/apt/archives/partial").mkdir(parents=True)
    (tree / "var/lib/apt/lists/partial").mkdir(parents=True)
    shell.run(["tar", "-C", tree, "--exclude=./dev/*", "-cf", folder / "base.tar", "."])
    shutil.rmtree(tree)
    progress.done(f"{SUITE} base made")
