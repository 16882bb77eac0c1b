"""What took how long in a run of the tests: lines of JSON in the file that ``LVS_RECORD`` names, from many processes.

Without ``LVS_RECORD`` nothing is written. Times are seconds of the monotonic clock, which all processes of a machine
share.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

VARIABLE = "LVS_RECORD"


def note(what: str, name: str, started: float, **more: Any) -> None:
    """One line: it began at ``started`` and ends now."""
    place = os.environ.get(VARIABLE)
    if place:
        line = {"what": what, "name": name, "start": started, "end": time.monotonic(), **more}
        with open(place, "a") as file:
            file.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def noted(what: str, name: str) -> Iterator[None]:
    """A note of what is done meanwhile, however it ends."""
    started = time.monotonic()
    try:
        yield
    finally:
        note(what, name, started)
