"""What the kernel did, as the tests of the matrix write it, and as it was recorded for docs/matrix.md.

A part is a mapping of mappings of numbers: ``spread`` is case, real server, connections; ``kept`` is case, step,
connections that lived on (of ``matrix.CONNECTIONS``); ``pods`` is case, step and ``held`` or ``kept``, connections to
pods that live.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lvsapi.ipvs import Scheduler
from tests.net.matrix import BY_PACKET, CONNECTIONS, STEPS, SYNCHRONISED

Part = Mapping[str, Mapping[str, int]]

RECORDED: Final = Path(__file__).with_name("matrix.json")
BUILD: Final = Path(__file__).resolve().parents[2] / "build"
PARTS: Final = ("spread", "kept", "pods")


def recorded() -> Mapping[str, Part]:
    """By part."""
    found: Mapping[str, Part] = json.loads(RECORDED.read_text())
    return found


def certain(scheduler: Scheduler, numbers: Mapping[str, int]) -> tuple[bool, ...]:
    """What of a case of ``kept`` is no chance: whether all connections lived on, in every step of a scheduler that goes
    by packet and table, in all steps together of others; and with the sync daemon."""
    steps = [numbers[step] == CONNECTIONS for step in STEPS]
    return (*(steps if scheduler in BY_PACKET else [all(steps)]), numbers[SYNCHRONISED] == CONNECTIONS)


def write(part: str, results: Part) -> None:
    """Beside those of earlier runs, which stay until ``make matrix`` takes them."""
    BUILD.mkdir(exist_ok=True)
    (BUILD / f"matrix-{part}.json").write_text(json.dumps(results))


def take() -> None:
    """What the tests found last is what is recorded."""
    found = {part: json.loads((BUILD / f"matrix-{part}.json").read_text()) for part in PARTS}
    lines = []
    for part, cases in found.items():
        rows = ",\n".join(f"  {json.dumps(case)}: {json.dumps(numbers)}" for case, numbers in cases.items())
        lines.append(f" {json.dumps(part)}: {{\n{rows}\n }}")
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    take()
