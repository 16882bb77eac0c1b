"""A folder of YAML files as a source of snapshots: the same objects as in the API, without one.

Files end in .yaml, .yml or .json and hold any number of documents; a v1 List is its items. A file that cannot be used
keeps what it last said, also over a restart: then nobody knows which objects were its own, and all of the last good
state stay until it can be used. The others go on. What is removed from the folder is removed from the node; a blank
file is none that was removed, but one that a full disk or a crash has left.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lvsagent.adapters.reflector import Health
from lvsagent.core.brakes import Held
from lvsagent.core.manifests import Document, Objects, assemble, read_document
from lvsapi.errors import SpecError
from lvsapi.model import ObjectKey, Problem, Snapshot

POLL_SECONDS = 0.5
SUFFIXES = (".yaml", ".yml", ".json")

_log = logging.getLogger(__name__)

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class _File:
    stamp: tuple[int, int, int]
    """mtime (ns), size, inode."""
    objects: Objects
    errors: tuple[str, ...]
    known: bool
    """This process could use it once."""


@dataclass(slots=True)
class ManifestSource:
    """Snapshots from a folder. ``node`` is a director by itself when no manifest names any node."""

    folder: Path
    node: str
    changed: Callable[[], None]
    synced: bool = False
    errors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By file: what is wrong with it, with document and field."""
    _files: dict[str, _File] = field(default_factory=dict)
    _seed: Snapshot | None = None
    """The last good state."""
    _left: Objects = field(default_factory=Objects)
    """What of it may be in a file that could not be used yet."""
    _unreadable: str = ""

    @property
    def health(self) -> Mapping[str, Health]:
        """There is no API."""
        return {}

    @property
    def held(self) -> Mapping[tuple[str, Held], int]:
        """Nothing is held back: what is in the folder is meant."""
        return {}

    def release(self) -> frozenset[ObjectKey]:
        """There is nothing to let go."""
        return frozenset()

    def lasting(self, snapshot: Snapshot) -> Snapshot:
        """All of it."""
        return snapshot

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Files that are not (wholly) in force."""
        return tuple(
            Problem(key=ObjectKey("", name), condition="Accepted", reason="Invalid", message=message)
            for name, messages in sorted(self.errors.items())
            for message in messages
        )

    def seed(self, snapshot: Snapshot) -> None:
        """Serve from a saved snapshot until the folder can be read."""
        self._seed, self._left = snapshot, Objects.of_snapshot(snapshot)

    def snapshot(self) -> Snapshot | None:
        """What the folder says, and of the last good state what it says nothing about as long as there is a file that
        could not be used yet; None when it could never be read."""
        if not self.synced:
            return self._seed
        files = [(name, file.objects) for name, file in sorted(self._files.items())]
        return assemble([*files, ("", self._left)]).with_node(self.node)

    def expire(self) -> None:
        """Nothing is held back."""

    def poll(self) -> bool:
        """Read what changed. True when anything did. Blocking, but short."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(SUFFIXES))
        except OSError as error:
            if str(error) != self._unreadable:
                self._unreadable = str(error)
                _log.error("the folder of manifests cannot be read; what is known stays", extra={"error": error})
            return False
        self._unreadable = ""
        changed = not self.synced
        self.synced = True
        for name in set(self._files) - set(names):
            self._left = self._left.without(self._files.pop(name).objects)
            self.errors.pop(name, None)
            changed = True
            _log.info("a manifest was removed", extra={"file": name})
        for name in names:
            changed = self._read(name) or changed
        if self._left.by_key and all(file.known for file in self._files.values()):
            self._left, changed = Objects(), True
        return changed

    async def run(self) -> None:
        """Poll for ever."""
        while True:
            if self.poll():
                self.changed()
            await asyncio.sleep(POLL_SECONDS)

    def _read(self, name: str) -> bool:
        path = self.folder / name
        known = self._files.get(name)
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if known and known.stamp == stamp:
                return False
            objects, errors = _parse(name, path.read_bytes())
        except OSError as error:
            stamp, objects, errors = (0, 0, 0), Objects(), (f"{name}: {error}",)
        if errors:
            # Nothing half done: of a file with an error, all that it last said stays, and nothing that is new.
            objects = known.objects if known else Objects()
        usable = not errors or (known is not None and known.known)
        if errors and errors != self.errors.get(name):
            stays = "its last good version stays in force"
            if not usable:
                stays = "everything that was served before stays" if self._left.by_key else "nothing of it is served"
            for message in errors:
                _log.error(f"a manifest cannot be used; {stays}", extra={"error": message})
        before = known.objects if known else None
        self._left = self._left.without(before or objects)
        self._files[name] = _File(stamp=stamp, objects=objects, errors=errors, known=usable)
        was = self.errors.pop(name, ())
        if errors:
            self.errors[name] = errors
        return objects != before or errors != was


def _parse(name: str, content: bytes) -> tuple[Objects, tuple[str, ...]]:
    """Objects of a file and everything that is wrong with it."""
    found: list[Document] = []
    errors: list[str] = []
    if not content.strip():
        return Objects(), (f"{name}: is empty: remove the file, if what it said shall go",)
    try:
        documents = [(number, data) for number, data in enumerate(_documents(content), 1) if data is not None]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        return Objects(), (f"{name}: is no YAML: {' '.join(str(error).split())}: correct the syntax",)
    for number, data in documents:
        for place, item in _items(data):
            where = f"{name}: document {number}{place}"
            try:
                document = read_document(item)
            except SpecError as error:
                errors += [f"{where}: {error.name}: {field}" for field in error.errors]
            except ValueError as error:
                errors.append(f"{where}: {error}")
            else:
                found += [document] if document else []
    try:
        return Objects.of(found), tuple(errors)
    except ValueError as error:
        return Objects(), (*errors, f"{name}: {error}")


def _documents(content: bytes) -> Iterable[Any]:
    return yaml.load_all(content, Loader=_Loader)


def _items(data: Any) -> list[tuple[str, Any]]:
    if isinstance(data, dict) and str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list):
        return [(f", item {number}", item) for number, item in enumerate(data["items"], 1)]
    return [("", data)]
