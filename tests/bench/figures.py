"""What the benchmark concludes from its samples. Pure: numbers in, verdicts and words out."""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Statistic = Literal["median", "p99", "p999", "max"]
Verdict = Literal["held", "missed", "measured"]

RESAMPLES: Final = 2000
MOST_SAMPLES: Final = 200
"""More than these are not written out one by one."""
COLUMNS: Final = ("figure", "unit", "runs", "ours: median", "p99", "max", "anchor", "median", "p99", "max", "ratio")


@dataclass(frozen=True, slots=True)
class Summary:
    """Samples of one side, in the figure's unit. ``who`` names program, version and profile."""

    who: str
    samples: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.who}: no samples")

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        return self.quantile(0.99)

    @property
    def p999(self) -> float:
        return self.quantile(0.999)

    @property
    def max(self) -> float:
        return max(self.samples)

    @property
    def runs(self) -> int:
        return len(self.samples)

    def quantile(self, part: float) -> float:
        """Nearest rank: a value that was measured, the smallest that ``part`` of the samples do not exceed."""
        return sorted(self.samples)[max(0, math.ceil(part * self.runs) - 1)]

    def get(self, statistic: Statistic) -> float:
        return {"median": self.median, "p99": self.p99, "p999": self.p999, "max": self.max}[statistic]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"who": self.who, "runs": self.runs}
        found |= {name: round(self.get(name), 3) for name in ("median", "p99", "p999", "max")}
        if self.runs <= MOST_SAMPLES:
            found["samples"] = [round(sample, 3) for sample in self.samples]
        return found


def longer_by(ours: Sequence[float], anchor: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of median(ours) - median(anchor), by resampling each side with replacement."""
    chance = random.Random(seed)
    differences = sorted(
        statistics.median(chance.choices(ours, k=len(ours))) - statistics.median(chance.choices(anchor, k=len(anchor)))
        for _ in range(RESAMPLES)
    )
    return differences[RESAMPLES // 40], differences[-1 - RESAMPLES // 40]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the report."""

    name: str
    title: str
    unit: str
    ours: Summary
    anchor: Summary | None = None
    limits: Mapping[Statistic, float] = field(default_factory=dict)
    """What ours may be at most."""
    beside: bool = False
    """Ours must not be longer than the anchor's, beyond noise and ``resolution``."""
    resolution: float = 0.0
    """Smaller differences cannot be seen by the way this was measured; in ``unit``."""
    compared: Statistic = "median"
    """What ``ratio`` is taken of."""
    notes: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Date and load of the machine meanwhile."""

    @property
    def ratio(self) -> float | None:
        """Ours to the anchor's; None where it says nothing."""
        if self.anchor is None or self.anchor.get(self.compared) <= 0:
            return None
        return self.ours.get(self.compared) / self.anchor.get(self.compared)

    @property
    def broken(self) -> tuple[str, ...]:
        """The limits that were missed, in words."""
        found = [
            f"{name} {self.ours.get(name):.4g} above {most:g}"
            for name, most in self.limits.items()
            if self.ours.get(name) > most
        ]
        if self.beside and self.anchor is not None:
            least, _ = longer_by(self.ours.samples, self.anchor.samples)
            if least > self.resolution:
                found.append(f"longer than {self.anchor.who} by {least:.3g} at least")
        return tuple(found)

    @property
    def verdict(self) -> Verdict:
        if not self.limits and not self.beside:
            return "measured"
        return "missed" if self.broken else "held"

    @property
    def limit(self) -> str:
        """In words; empty: none was set."""
        words = [f"{name} <= {most:g}" for name, most in self.limits.items()]
        return ", ".join([*words, *(["<= anchor"] if self.beside else [])])

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "ours": self.ours.to_json(),
            "anchor": self.anchor.to_json() if self.anchor else None,
            "ratio": None if self.ratio is None else round(self.ratio, 4),
            "compared": self.compared,
            "limit": {**self.limits, **({"beside_anchor": True} if self.beside else {})},
            "resolution": self.resolution,
            "verdict": self.verdict,
            "broken": list(self.broken),
            "notes": self.notes,
            "machine": dict(self.machine),
        }


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def table(figures: Sequence[Figure]) -> str:
    """For a terminal, and as Markdown."""
    rows = [[*COLUMNS, "limit", "verdict"]]
    for figure in figures:
        anchor = figure.anchor
        rows.append(
            [
                *(figure.name, figure.unit, str(figure.ours.runs)),
                *(number(figure.ours.get(name)) for name in ("median", "p99", "max")),
                anchor.who if anchor else "",
                *(number(anchor.get(name)) if anchor else "" for name in ("median", "p99", "max")),
                "" if figure.ratio is None else f"{figure.ratio:.2f}",
                figure.limit,
                figure.verdict,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def spread(runs: int, *, seed: int) -> list[float]:
    """So many phases in [0, 1), evenly spaced, in an order that chance gives: both sides are hit at the same ones."""
    phases = [(place + 0.5) / runs for place in range(runs)]
    random.Random(seed).shuffle(phases)
    return phases
