"""Running other programs: their output or a good message."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import CommandFailed, RigError
from .patience import patient

# Debian keeps half of what the rig needs in sbin, which an ordinary user's PATH leaves out.
SEARCH_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with a full PATH and ``extra``."""
    return {**os.environ, "PATH": SEARCH_PATH, **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float | None = 120.0,
    cwd: Path | None = None,
    extra: Mapping[str, str] | None = None,
) -> str:
    """Standard output. Raises CommandFailed with both streams when the status is not 0 (unless ``check`` is False), and
    after ``timeout`` seconds, which ``LVS_PATIENCE`` makes longer."""
    timeout = None if timeout is None else patient(timeout)
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd=cwd,
            env=environment(extra),
        )
    except subprocess.TimeoutExpired as expired:
        raise CommandFailed(f"{shlex.join(command)}: no end within {timeout} s", str(expired.stdout or "")) from None
    except FileNotFoundError:
        raise RigError(
            f"{command[0]}: not found on this machine (make rig-tools installs what the rig needs)"
        ) from None
    if check and done.returncode != 0:
        raise CommandFailed(
            f"{shlex.join(command)}: status {done.returncode}", done.stdout + done.stderr, done.returncode
        )
    return done.stdout
