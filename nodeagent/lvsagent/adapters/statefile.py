"""What must survive the agent: the last good snapshot, and what in the kernel is ours.

Two files in the state folder. ``owned.json`` is written before the kernel is (write-ahead), ``snapshot.json`` after a
change, at leisure. Each is one line of header (version, checksum of the rest) and one of JSON; a file that was cut or
changed is refused as a whole. A disk that does not take them stops nothing.
"""

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lvsagent.core.codec import CodecError, from_json, to_json
from lvsagent.core.diff import Owned
from lvsagent.core.state import ServiceKey, SyncDaemon, SyncRole
from lvsapi.model import Protocol, Snapshot

VERSION = 1
SNAPSHOT = "snapshot.json"
OWNED = "owned.json"


class StateFileError(ValueError):
    """A state file that cannot be used: unreadable, cut, changed, or of a later version. Names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A snapshot and when it was written."""

    snapshot: Snapshot
    saved: float
    """Unix time."""


@dataclass(slots=True)
class StateFiles:
    """The files of one folder. Blocking: call from a worker thread."""

    folder: Path
    errors: int = 0
    """Writes that failed."""
    _written: dict[str, str] = field(default_factory=dict)
    _owned: tuple[Owned, frozenset[object]] | None = None
    """As last written: it is put into words only when it is another one (*measured* with 1,000 services: 2 ms)."""

    def load_snapshot(self) -> Saved | None:
        """None: there is none yet. Raises StateFileError."""
        data = self._load(SNAPSHOT)
        if data is None:
            return None
        try:
            return Saved(snapshot=from_json(Snapshot, data["snapshot"]), saved=float(data["saved"]))
        except (CodecError, KeyError, TypeError, ValueError) as error:
            raise StateFileError(f"{self.folder / SNAPSHOT}: {error}") from error

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Write when it is another one than last time. Raises OSError."""
        body = json.dumps(to_json(snapshot), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(body.encode()).hexdigest()
        if self._written.get(SNAPSHOT) != digest:
            self._store(SNAPSHOT, f'{{"saved":{time.time():.3f},"snapshot":{body}}}')
            self._written[SNAPSHOT] = digest

    def load_owned(self) -> Owned:
        """Empty when there is none yet. Raises StateFileError."""
        data = self._load(OWNED)
        if data is None:
            return Owned()
        try:
            return Owned(
                services=frozenset(_service_key(*fields) for fields in data["services"]),
                loopback=frozenset(ip_address(address) for address in data["loopback"]),
                daemons=frozenset(
                    SyncDaemon(role=SyncRole(role), interface=str(interface), sync_id=int(sync_id))
                    for role, interface, sync_id in data.get("daemons", ())
                ),
                sysctls={str(key): str(value) for key, value in data.get("sysctls", {}).items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateFileError(f"{self.folder / OWNED}: {error}") from error

    def save_owned(self, owned: Owned) -> None:
        """Write when it is another one than last time; on disk when this returns. Raises OSError."""
        # Services of one firewall mark are equal wherever they stand.
        places = frozenset((key.mark, key.address, key.protocol, key.port) for key in owned.services if key.mark)
        if (owned, places) == self._owned:
            return
        self._owned = None
        services = sorted(_service_fields(key) for key in owned.services)
        body = json.dumps(
            {
                "services": services,
                "loopback": sorted(map(str, owned.loopback)),
                "daemons": sorted([int(d.role), d.interface, d.sync_id] for d in owned.daemons),
                "sysctls": dict(sorted(owned.sysctls.items())),
            }
        )
        self._store(OWNED, body)
        self._owned = owned, places

    def forget_owned(self) -> None:
        """Nothing is ours any more. Raises OSError."""
        self._owned = None
        (self.folder / OWNED).unlink(missing_ok=True)

    def _load(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFileError(f"{path}: {error}") from error
        head, _, body = text.partition(b"\n")
        try:
            header = json.loads(head)
            version, digest = header["version"], header["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise StateFileError(f"{path}: no header: the file was cut or changed; it is ignored") from error
        if version != VERSION:
            raise StateFileError(f"{path}: version {version!r}, this agent reads {VERSION}; it is ignored")
        if hashlib.sha256(body).hexdigest() != digest:
            raise StateFileError(f"{path}: the checksum does not fit: the file was cut or changed; it is ignored")
        try:
            data = json.loads(body)
        except ValueError as error:
            raise StateFileError(f"{path}: {error}") from error
        if not isinstance(data, dict):
            raise StateFileError(f"{path}: expected an object")
        return data

    def _store(self, name: str, body: str) -> None:
        data = body.encode() + b"\n"
        header = json.dumps({"version": VERSION, "sha256": hashlib.sha256(data).hexdigest()}).encode() + b"\n"
        path, fresh = self.folder / name, self.folder / f".{name}.new"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(header + data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
            directory = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            self.errors += 1
            self._written.pop(name, None)
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise


def _service_key(address: str, protocol: str, port: int, mark: int = 0) -> ServiceKey:
    """An older agent wrote no marks."""
    return ServiceKey(ip_address(address), Protocol(protocol) if protocol else None, int(port), int(mark))


def _service_fields(key: ServiceKey) -> list[str | int]:
    return [str(key.address), str(key.protocol or ""), key.port, *([key.mark] if key.mark else [])]
