"""The last wish on disk, so that the election runs while the agent does not."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from lvsagent import ipc
from lvsagent.election import aside

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
FILE_NAME: Final = "election.json"


class WishStore:
    """``election.json`` in the state folder. A full or read-only disk costs one log line, nothing else."""

    def __init__(self, folder: Path, log: Callable[..., None], boot_id: Path = BOOT_ID) -> None:
        self._path = folder / FILE_NAME
        self._log = log
        self._boot = boot_id.read_text().strip()
        self._saved: ipc.Configure | None = None
        """What is kept, or about to be."""
        self._failed = False
        """Said already that wishes cannot be kept; the agent repeats its wish."""

    def save(self, wish: ipc.Configure) -> None:
        """Keep it, unless it is kept already. Not synced to the platter."""
        if (text := self.text(wish)) is not None:
            self.write(text)

    def text(self, wish: ipc.Configure) -> str | None:
        """What to ``write`` next, so that the wish is kept; None: it is kept already."""
        kept = replace(wish, generation=-1)
        if kept == self._saved:
            return None
        self._saved = kept
        # Without indent: with it json's encoder is made of functions that refer to each other: never collected.
        return json.dumps({"boot_id": self._boot, "wish": json.loads(ipc.encode(wish))})

    def write(self, text: str) -> None:
        """Put it in the place of what is kept. Waits for the disk."""
        unfinished = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(text)
            unfinished.replace(self._path)
            self._failed = False
        except OSError as error:
            self._saved = None
            if not self._failed:
                self._log("the wish could not be kept; a restart without the agent will serve nothing", error=error)
            self._failed = True

    def load(self) -> ipc.Configure | None:
        """The kept wish with generation -1; None when there is none that can be read.

        After a reboot the tables are gone, so no router is ready, and the node not serving, until the agent says so.
        """
        try:
            content = json.loads(self._path.read_text())
            wish = ipc.decode(json.dumps(content["wish"]).encode())
            if not isinstance(wish, ipc.Configure):
                raise ipc.IpcError(f"not a wish: {type(wish).__name__}")
            same_boot = content["boot_id"] == self._boot
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log("the kept wish cannot be read and is ignored", file=self._path, error=error)
            return None
        routers = wish.routers if same_boot else tuple(replace(router, ready=False) for router in wish.routers)
        return replace(wish, generation=-1, routers=routers, serving=wish.serving and same_boot, healthy=0)


class Keeper:
    """Writes wishes aside: a disk may take nothing for seconds (a snapshot that freezes the file system, a journal that
    waits, a disk that is dying), and addresses live for two."""

    def __init__(self, store: WishStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._next: str | None = None
        """To be written after what is being written; of several the last one."""
        self._idle = threading.Event()
        self._idle.set()

    def save(self, wish: ipc.Configure) -> None:
        """Keep it as soon as the disk takes it."""
        if (text := self._store.text(wish)) is None:
            return
        with self._lock:
            self._next = text
            if not self._idle.is_set():
                return
            self._idle.clear()
        aside.do(self._write)

    def wait(self, seconds: float) -> None:
        """Until everything is written, so long at most."""
        self._idle.wait(seconds)

    def _write(self) -> None:
        while True:
            with self._lock:
                text, self._next = self._next, None
                if text is None:
                    self._idle.set()
                    return
            self._store.write(text)
