"""The end of a run of the tests as a record: tiers and their times, what was built, what needed a second try.

Made from the notes that all processes of the run left (``tests.rig.record``).
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHORT_SECONDS = 1.0
"""What was built in less is not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing that a process of the run did. Seconds of the monotonic clock."""

    what: str
    """``tier``: all of it; ``ran``: pytest itself; ``built``: something that is cached; ``again``: a second try."""
    name: str
    start: float
    end: float
    more: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.end - self.start


def notes(place: Path) -> list[Note]:
    """Those in the file, in the order of their ends. None when there is no file."""
    lines = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    return [
        Note(what=line.pop("what"), name=line.pop("name"), start=line.pop("start"), end=line.pop("end"), more=line)
        for line in lines
    ]


def together(found: Iterable[Note]) -> float:
    """Seconds in which one of them or more went on."""
    total, until = 0.0, float("-inf")
    for note in sorted(found, key=lambda one: one.start):
        total += max(0.0, note.end - max(note.start, until))
        until = max(until, note.end)
    return total


def told(found: list[Note], seconds: float) -> list[str]:
    """The record in lines; ``seconds``: the whole run."""
    lines = []
    for tier in (one for one in found if one.what == "tier"):
        used = f"{tier.more['processors']:.0f} s of processors"
        lines.append(f"  {tier.name:9} {tier.more['count']:40} {tier.seconds:5.0f} s, {used}")
    again = [one for one in found if one.what == "again"]
    named = f" ({', '.join(one.name for one in again)})" if again else ""
    lines.append(f"  needed a second try: {len(again)}{named}")
    built = [one for one in found if one.what == "built" and one.seconds >= SHORT_SECONDS]
    named = f" ({', '.join(f'{one.name} {one.seconds:.0f} s' for one in built)})" if built else ""
    beside = ", both counted where at the same time" if built else ""
    ran = together(one for one in found if one.what == "ran")
    lines.append(f"  built in {together(built):.0f} s{named}, ran in {ran:.0f} s{beside}; {seconds:.0f} s in all")
    return lines


def remember(found: Iterable[Note], place: Path) -> None:
    """Second tries of this run after those of runs before, a line each: when, which, and how it went."""
    now = time.strftime("%Y-%m-%d %H:%M")
    lines = [
        f"{now} {one.name} {'passed' if one.more['passed'] else 'failed again'}\n"
        for one in found
        if one.what == "again"
    ]
    if lines:
        with place.open("a") as file:
            file.writelines(lines)
