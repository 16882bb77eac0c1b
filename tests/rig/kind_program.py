"""kind itself: this machine's, or that of its Go module. So a machine needs no more than a Docker engine and ip_vs."""

import shutil
import subprocess
from pathlib import Path

from . import cache, shell
from .build_kubernetes import SETTINGS, go
from .progress import Progress

KIND = "v0.33.0"
MODULE = "sigs.k8s.io/kind"


def kind() -> Path:
    """The program; built when this machine has none (half a minute, and as long again for the modules)."""
    if found := shutil.which("kind", path=shell.SEARCH_PATH):
        return Path(found)
    return cache.built("kind", cache.key(MODULE, KIND), _build) / "kind"


def kind_is_possible(modules: Path = Path("/sys/module")) -> bool:
    """Docker answers, and this kernel has ip_vs (loaded, or loadable). The rest the rig gets itself."""
    if not docker_runs():
        return False
    if (modules / "ip_vs").exists():
        return True
    return bool(shutil.which("modprobe", path=shell.SEARCH_PATH)) and _succeeds("modprobe", "--dry-run", "ip_vs")


def docker_runs() -> bool:
    """A Docker daemon answers, and we may ask it."""
    return bool(shutil.which("docker", path=shell.SEARCH_PATH)) and _succeeds("docker", "info")


def _build(folder: Path, progress: Progress) -> None:
    progress.at(f"building kind {KIND} from its Go module")
    shell.run(
        [go(), "install", "-ldflags", "-s -w", f"{MODULE}@{KIND}"],
        extra={**SETTINGS, "GOBIN": str(folder)},
        timeout=1800,
    )
    progress.done(f"kind {KIND} built")


def _succeeds(*command: str) -> bool:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=shell.environment())
    return done.returncode == 0
