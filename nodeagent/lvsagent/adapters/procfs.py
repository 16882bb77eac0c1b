"""Kernel settings under a root folder (``/proc/sys``, or where the host's is mounted)."""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lvsagent.core.diff import SetSysctl
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.sysctl import (
    IPVS,
    Record,
    RecordError,
    decode_record,
    dotted,
    remember,
    satisfied,
    side_effects,
    undo,
)

VARIABLE = "LVS_PROC_SYS"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def root(environment: Mapping[str, str]) -> Path:
    """The folder of the settings by the environment: LVS_PROC_SYS, else /proc/sys."""
    return Path(environment.get(VARIABLE) or "/proc/sys")


def boot_id() -> str:
    """The kernel's name of this boot; the same in every container."""
    return BOOT_ID.read_text().strip()


class Sysctls:
    """Settings of the network namespace that the folder shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Value by key; None where there is none or it cannot be read."""
        return {key: self._read(key) for key in keys}

    def interfaces(self) -> list[str]:
        """Names that have settings, without ``all`` and ``default``."""
        try:
            names = os.listdir(self.folder / "net/ipv4/conf")
        except OSError:
            return []
        return sorted(set(names) - {"all", "default"})

    def write(self, key: str, value: str) -> OperationFailed | None:
        """Write a value and read it back."""
        try:
            # One write(2), never create: a file that is not there is a setting that the kernel does not have.
            descriptor = os.open(self.folder / key, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            return self._failure(key, value, error.errno or errno.EIO)
        now = self._read(key)
        if now != value:
            message = (
                f"{dotted(key)}: wrote {value}, reads {now}: something else on this node sets it; find and stop it"
            )
            return OperationFailed(op=SetSysctl(key, value), reason=Reason.NOT_VERIFIED, errno=0, message=message)
        return None

    def _read(self, key: str) -> str | None:
        try:
            return " ".join((self.folder / key).read_text().split())  # the kernel puts tabs between several values
        except OSError:
            return None

    def _failure(self, key: str, value: str, code: int) -> OperationFailed:
        reason, remedy = _refusal(key, code, self.folder)
        message = f"{dotted(key)}={value}: {reason.value} ({os.strerror(code)}): {remedy}"
        return OperationFailed(op=SetSysctl(key, value), reason=reason, errno=code, message=message)


def _refusal(key: str, code: int, folder: Path) -> tuple[Reason, str]:
    match code:
        case errno.ENOENT if key in IPVS:
            return Reason.NO_SUCH_SYSCTL, "ip_vs is not loaded: modprobe ip_vs on the node"
        case errno.ENOENT:
            return Reason.NO_SUCH_SYSCTL, f"{folder} has no such file: is it the host's /proc/sys?"
        case errno.EROFS:
            return Reason.READ_ONLY, (
                f"{folder} is read-only, as in every unprivileged container: mount the host's /proc/sys/net read-write"
                f" and name it by --proc-sys or {VARIABLE}"
            )
        case errno.EPERM | errno.EACCES:
            return Reason.NO_PERMISSION, "run as root with the capability NET_ADMIN"
        case _:
            return Reason.OTHER, "see sysctl(8)"


class Originals:
    """The record of what the node had before us: ``sysctl.json`` in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "sysctl.json"

    def load(self) -> Record | None:
        """None when there is none. One that cannot be read is put aside as ``sysctl.json.unreadable``."""
        try:
            return decode_record(self.path.read_text())
        except FileNotFoundError:
            return None
        except (RecordError, UnicodeDecodeError):
            self.path.replace(self.path.with_name(self.path.name + ".unreadable"))
            return None

    def save(self, record: Record) -> None:
        """In one piece or not at all, also when the power goes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".new")
        with temporary.open("w") as file:
            file.write(record.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def remove(self) -> None:
        """Also when there is none."""
        self.path.unlink(missing_ok=True)


def prepare(
    sysctls: Sysctls, originals: Originals, boot: str, wanted: Mapping[str, str]
) -> tuple[OperationFailed, ...]:
    """Record the originals, write what is not as wanted, verify. Writes nothing when all is well. Raises OSError, and
    has written nothing, when they cannot be recorded."""
    values = sysctls.read([*wanted, *side_effects(sysctls.interfaces())])
    if all(satisfied(key, values[key], value) for key, value in wanted.items()):
        return ()
    originals.save(remember(originals.load(), boot, values, wanted))
    return settle(sysctls, wanted)


def settle(sysctls: Sysctls, wanted: Mapping[str, str]) -> tuple[OperationFailed, ...]:
    """Write what is not as wanted, verify."""
    there = sysctls.read(wanted)
    missing = [key for key, value in wanted.items() if not satisfied(key, there[key], value)]
    return tuple(failure for key in missing if (failure := sysctls.write(key, wanted[key])))


def restore(sysctls: Sysctls, originals: Originals, boot: str) -> tuple[OperationFailed, ...]:
    """Write back what the record says, where our value still stands, and forget the record when all went well."""
    record = originals.load()
    if record is None:
        return ()
    values = undo(record, boot, sysctls.read(record.changes))
    failures = tuple(failure for key, value in values.items() if (failure := sysctls.write(key, value)))
    if not failures:
        originals.remove()
    return failures
