"""kind without Docker on this machine: an engine in one guest with ip_vs, and there kind's four containers.

A guest is slower than a machine: the cluster takes some minutes to come up, and its takeovers are measured on two
shared processors. It shows that the kind provider does what it says, not how fast.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import apt, cache, guest, image, kind_node, shell
from .build_kernel import kernel
from .errors import CommandFailed
from .progress import Progress

ENGINE = Path(__file__).with_name("kind-engine")
SIZE = "40G"
"""As the guest sees it; the file holds only what is written."""
PROCESSORS = 2
"""All of a small machine's: four nodes and a control plane live in this one kernel."""


def run(command: Sequence[str], memory: str = "9G", timeout: float | None = None) -> int:
    """The status of the command in a guest where Docker runs, kind is there and its node image is loaded."""
    image.archives()  # nothing is fetched in a guest
    linux, disk = kernel() / "linux", engine_disk()
    with tempfile.TemporaryDirectory(prefix="lvs-engine-") as folder:
        ours = {
            **needs(folder),
            "LVS_RIG": "kind",
            "LVS_PATIENCE": os.environ.get("LVS_PATIENCE", "8"),
            "LVS_KIND_IMAGE": kind_node.NAME,
            "LVS_KIND_PATCHES": kind_node.PATCHES,
            "PATH": f"{kind_node.programs()}:{shell.SEARCH_PATH}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        copy_on_write = Path(f"{folder}/disk,{disk}")
        command = ["env", *words(ours), str(ENGINE), *command]
        return guest.run(linux, command, memory=memory, cpus=PROCESSORS, disk=copy_on_write, timeout=timeout)


def needs(folder: str) -> dict[str, str]:
    """The environment of ``kind-engine``."""
    return {"LVS_ENGINE": folder, "LVS_ROOT": str(image.ROOT), "LVS_PYTHON": sys.executable}


def words(variables: Mapping[str, str]) -> list[str]:
    """As env(1) wants them."""
    return [f"{name}={value}" for name, value in variables.items()]


def engine_disk() -> Path:
    """The disk of an engine that has loaded kind's node image."""
    archive = kind_node.node_image()

    def build(folder: Path, progress: Progress) -> None:
        progress.at("loading kind's node image into an engine")
        apt.install((*apt.NETWORK, *apt.ENGINE))
        disk = folder / "disk"
        shell.run(["truncate", "-s", SIZE, disk])
        shell.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", disk])
        command = ["env", *words(needs(str(folder))), str(ENGINE), "docker", "load", "--quiet", "--input", str(archive)]
        with (folder / "log").open("wb") as log:
            linux = kernel() / "linux"
            status = guest.run(linux, command, memory="4G", disk=disk, stdout=log, stderr=log, timeout=1800)
        if status != 0:
            raise CommandFailed(f"{archive} could not be loaded", (folder / "log").read_text(errors="replace"))
        progress.done("kind's node image loaded")

    return cache.built("kind-disk", cache.key(ENGINE, str(archive)), build, keep=1) / "disk"
