"""Things that are built once: a folder for each, named by what went into it.

``${XDG_CACHE_HOME:-~/.cache}/lvs-dr-operator`` (``LVS_CACHE`` names another). A folder that is there is whole: it is
built under another name and renamed. Two runs that want the same thing build it once: the second waits.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import record
from .progress import Progress

Build = Callable[[Path, Progress], None]


def root() -> Path:
    """The cache folder, made when missing."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lvs-dr-operator"
    folder = Path(os.environ.get("LVS_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key(*inputs: str | bytes | Path) -> str:
    """12 hex digits over the inputs, in order; a Path counts by its content, not by its name."""
    total = hashlib.sha256()
    for item in inputs:
        data = item.read_bytes() if isinstance(item, Path) else item.encode() if isinstance(item, str) else item
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]


def built(name: str, identity: str, build: Build, *, keep: int = 0) -> Path:
    """The folder ``name-identity``; ``build(empty folder, progress)`` fills it when it is not there yet.

    ``keep`` > 0: of all folders of this name only so many of the youngest stay.
    """
    place = root() / f"{name}-{identity}"
    if place.is_dir():
        return place
    started = time.monotonic()
    with locked(name):
        if place.is_dir():
            return place
        for stale in root().glob(f".{name}-building-*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-building-", dir=root()))
        folder.chmod(0o755)
        try:
            build(folder, Progress(name))
            folder.rename(place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if keep:
            prune(name, keep)
    record.note("built", name, started)
    return place


def prune(name: str, keep: int) -> None:
    """Remove all but the youngest ``keep`` folders of this name."""
    found = [path for path in root().glob(f"{name}-*") if path.is_dir()]
    for old in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process at a time; the lock goes with the process that holds it."""
    folder = root() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Progress(name).say("another run is at it; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
