"""A User-Mode-Linux kernel with ip_vs, from Debian's newest kernel source.

The source comes from sid through package lists of its own, so that nothing else of the machine is upgraded; when sid
cannot be had, from the machine's own release. Linux 6.19 and later have SMP and the fast ``seccomp`` mode here.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from . import apt, cache, shell
from .errors import CommandFailed, RigError
from .progress import Progress

CONFIG = Path(__file__).with_name("kernel.config")
OBJECTS = 1700
"""Lines that make prints for this configuration (7.2), to say how far it is."""


def kernel() -> Path:
    """The folder with ``linux`` in it; built when it is not in the cache (5 minutes on two cores)."""
    return cache.built("kernel", cache.key(CONFIG, "2"), _build)


def _build(folder: Path, progress: Progress) -> None:
    if platform.machine() != "x86_64":
        raise RigError(f"User-Mode-Linux is for x86-64, and this machine is {platform.machine()}")
    apt.install((*apt.KERNEL, *apt.NETWORK))
    tree = _source(folder, progress)
    progress.at("configuring")
    _make(tree, [f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig"])
    _refuse_lost_options(tree)
    _compile(tree, progress)
    shutil.move(tree / "linux", folder / "linux")
    (folder / "version").write_text(shell.run([folder / "linux", "--version"]))
    for leftover in folder.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
    progress.done(f"Linux {(folder / 'version').read_text().strip()} built")


def _source(folder: Path, progress: Progress) -> Path:
    """Fetch and unpack; answers the source tree."""
    progress.at("fetching Debian's kernel source")
    try:
        archive = _download(folder, _sid_options(folder))
    except CommandFailed as failed:
        progress.say(f"sid's source cannot be had, taking this release's own ({str(failed).splitlines()[-1]})")
        archive = _download(folder, [])
    progress.at(f"unpacking {archive.stem}")
    shell.run(["dpkg", "-x", archive, folder / "deb"])
    (tarball,) = (folder / "deb/usr/src").glob("linux-source-*.tar.xz")
    shell.run(["tar", "xJf", tarball, "-C", folder], timeout=600)
    (tree,) = folder.glob("linux-source-*/")
    shutil.rmtree(folder / "deb")
    archive.unlink()
    return tree


def _sid_options(folder: Path) -> list[str]:
    """apt options that see sid and nothing else, with the mirror that this machine uses."""
    place = folder / "apt"
    for part in ("parts", "lists/partial", "cache/archives/partial"):
        (place / part).mkdir(parents=True)
    (place / "parts/sid.sources").write_text(
        f"Types: deb\nURIs: {debian_mirror()}\nSuites: sid\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    options = ["-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={place / 'parts'}"]
    options += ["-o", f"Dir::State::Lists={place / 'lists'}", "-o", f"Dir::Cache={place / 'cache'}"]
    options += ["-o", "APT::Sandbox::User=root"]
    shell.run(["apt-get", *options, "update", "-qq"], timeout=300)
    return options


def debian_mirror(folder: Path = Path("/etc/apt")) -> str:
    """The address of the Debian archive that this machine uses (not security, not another vendor's)."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(errors="replace") for path in files if path.is_file())
    for line in text.splitlines():
        if line.startswith(("URIs:", "deb ")):
            for word in line.split():
                if "://" in word and re.search(r"/debian/?$", word):
                    return word
    raise RigError(f"no Debian archive (…/debian) among the sources in {folder}; the kernel source comes from one")


def _download(folder: Path, options: list[str]) -> Path:
    names = shell.run(["apt-cache", *options, "depends", "linux-source"])
    found = re.search(r"Depends: (linux-source-\S+)", names)
    if not found:
        raise CommandFailed("apt-cache depends linux-source names no package", names)
    shell.run(["apt-get", *options, "download", "-qq", found[1]], cwd=folder, timeout=900)
    (archive,) = folder.glob("linux-source-*.deb")
    return archive


def _make(tree: Path, arguments: list[str]) -> None:
    shell.run(["make", "ARCH=um", *arguments], cwd=tree, timeout=300)


def _refuse_lost_options(tree: Path) -> None:
    """An option that the kernel's own rules turned off would show up much later, as a riddle."""
    have = set((tree / ".config").read_text().splitlines())
    lost = [line for line in CONFIG.read_text().splitlines() if line.endswith("=y") and line not in have]
    if lost and "CONFIG_SMP=y" not in lost:  # older sources have no SMP here and so no cpusets
        raise RigError(f"{CONFIG.name}: this kernel source does not accept {', '.join(lost)}: name what they depend on")


def _compile(tree: Path, progress: Progress) -> None:
    command = ["make", "ARCH=um", f"-j{(os.cpu_count() or 1) + 1}", "linux"]
    last: list[str] = []
    with subprocess.Popen(
        command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=shell.environment()
    ) as make:
        assert make.stdout is not None
        for count, line in enumerate(make.stdout):
            last = [*last[-40:], line]
            progress.at("compiling, object", count + 1, OBJECTS)
    if make.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: status {make.returncode}", "".join(last))
