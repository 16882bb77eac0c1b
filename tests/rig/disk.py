"""The disk that every node starts with: an ext4 image in which containerd has unpacked the images once.

Each node sees it through a copy-on-write file of its own, so three nodes share one copy and start with no import.
"""

import shutil
import subprocess
from pathlib import Path

from . import cache, guest, layout, oci, shell
from .errors import CommandFailed
from .progress import Progress
from .small_images import pause

SIZE = "8G"
"""As the node sees it; the file holds only what is written."""
HERE = Path(__file__).parent


def base_disk(linux: Path, archives: tuple[Path, ...]) -> Path:
    """The image file with these archives (and pause) unpacked. ``linux`` is the kernel that does it."""
    wanted = (pause(), *archives)
    identity = cache.key(
        layout.containerd(), HERE / "node-init", HERE / "disk.py", *(oci.image_digest(path) for path in wanted)
    )

    def build(folder: Path, progress: Progress) -> None:
        _preload(folder, linux, wanted, progress)

    return cache.built("disk", identity, build, keep=4) / "disk"


def _preload(folder: Path, linux: Path, archives: tuple[Path, ...], progress: Progress) -> None:
    progress.at(f"unpacking {len(archives)} images for the nodes")
    disk, log = folder / "disk", folder / "log"
    shell.run(["truncate", "-s", SIZE, disk])
    # With a journal: a node that crashes finds its files whole when it boots again.
    shell.run(["mkfs.ext4", "-q", "-J", "size=16", "-E", "lazy_itable_init=1", disk])
    (folder / "containerd.toml").write_text(layout.containerd())
    (folder / "cni.conflist").write_text(layout.cni(1))
    images = " ".join(str(path) for path in archives)
    (folder / "environment").write_text(
        layout.shell_variables(
            name="preload",
            address="127.0.0.2",
            gateway="",
            management="",
            routes="",
            bin="",
            python="true",
            agent="",
            images=images,
            task="preload",
        )
    )
    arguments = guest.kernel_arguments(linux, HERE / "node-init", folder, memory="1G", cpus=2)
    arguments += [f"ubd0={disk}", "con=null", "con0=null,fd:1", f"rig_node={folder}"]
    with log.open("wb") as out:
        subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            timeout=300,
            preexec_fn=guest.die_with_parent,
            env=shell.environment(),
        )
    status = folder / "status"
    if not status.exists() or status.read_text().strip() != "0":
        said = "".join(path.read_text(errors="replace") for path in (*folder.glob("*.log"), log) if path.exists())
        raise CommandFailed(f"the images {images} could not be unpacked for the nodes", said)
    for leftover in folder.iterdir():
        if leftover != disk:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    progress.done(f"{len(archives)} images unpacked")
