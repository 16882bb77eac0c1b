"""What a process that is about to be replaced leaves for the next one: for which routers it is waited, and until when.

The file lies in the run folder. Times are CLOCK_BOOTTIME seconds, so that a file from before a reboot must be told by
the boot's own id.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from lvsagent.election.wish import BOOT_ID
from lvsagent.vrrp.damping import REMEMBERED

FILE_NAME: Final = "election.handoff"
STARTS_NAME: Final = "election.starts"


def leave(folder: Path, waited: Mapping[str, float], log: Callable[..., None], boot_id: Path = BOOT_ID) -> None:
    """Write it; an error costs a transition, nothing else. ``waited``: router -> until when."""
    try:
        content = {"boot_id": boot_id.read_text().strip(), "until": dict(waited)}
        (folder / FILE_NAME).write_text(json.dumps(content))
    except OSError as error:
        log("the restart cannot be announced to the next process", error=error)


def take(folder: Path, now: float, log: Callable[..., None], boot_id: Path = BOOT_ID) -> frozenset[str]:
    """Routers that are still waited for. The file is gone afterwards: it counts once."""
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text())
        waited = {str(name): float(until) for name, until in content["until"].items()}
        same_boot = content["boot_id"] == boot_id.read_text().strip()
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log("what the process before this one left cannot be read and is ignored", file=path, error=error)
        waited, same_boot = {}, False
    with contextlib.suppress(OSError):
        path.unlink()
    return frozenset(name for name, until in waited.items() if same_boot and now < until)


def started(folder: Path, now: float, log: Callable[..., None], boot_id: Path = BOOT_ID) -> tuple[float, ...]:
    """Note this start. Returns when the processes before this one were started that did not end in order."""
    boot = boot_id.read_text().strip()
    path = folder / STARTS_NAME
    before: list[float] = []
    try:
        content = json.loads(path.read_text())
        if content["boot_id"] == boot:
            before = [float(start) for start in content["starts"]][-REMEMBERED:]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log("earlier starts cannot be read and are ignored", file=path, error=error)
    with contextlib.suppress(OSError):  # then a crash is not remembered, nothing else
        path.write_text(json.dumps({"boot_id": boot, "starts": [*before, now]}))
    return tuple(before)


def ended(folder: Path) -> None:
    """This process, and whatever those before it went through, came to an orderly end."""
    with contextlib.suppress(OSError):
        (folder / STARTS_NAME).unlink()
