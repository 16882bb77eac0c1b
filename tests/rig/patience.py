"""How slow this machine is: ``LVS_PATIENCE=5`` makes every limit of time for getting somewhere five times as long.

For what a machine needs to come up (a container, a pod, an image), never for what the product promises.
"""

import os

from .errors import RigError

VARIABLE = "LVS_PATIENCE"


def patient(seconds: float) -> float:
    """So many seconds, for this machine. Raises RigError where the variable is no number above 0."""
    text = os.environ.get(VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not factor > 0:
        raise RigError(f"{VARIABLE}={text!r}: choose a number above 0, as in {VARIABLE}=3")
    return seconds * factor
