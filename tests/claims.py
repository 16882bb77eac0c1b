"""Claims that a demonstration makes, each checked and printed with its figure as soon as it is known."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that was said, whether it was true, and what was seen."""

    text: str
    true: bool
    figure: str


class Claims:
    """Prints a story with its claims. ``status`` is the exit status: 0 only if every claim was true."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self.made: list[Claim] = []
        self._out = out
        self._started = time.monotonic()
        self._colour = out.isatty()

    def heading(self, text: str) -> None:
        """A step begins."""
        self._print(f"\n{self._paint('1', text)}  {self._paint('2', f'[{time.monotonic() - self._started:.0f} s]')}")

    def say(self, *lines: str) -> None:
        """What is seen or done."""
        for text in lines:
            for line in text.splitlines():
                self._print(f"    {line}")

    def check(self, text: str, true: bool, figure: str = "") -> bool:
        """A claim. Returns whether it was true, for those who cannot go on without."""
        self.made.append(Claim(text, true, figure))
        mark = self._paint("32", "✓") if true else self._paint("31;1", "✗")
        self._print(f"  {mark} {text}" + (f": {figure}" if figure else ""))
        return true

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Columns, the first row being their names."""
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.say(self._paint("1", line) if number == 0 else line)

    def close(self) -> int:
        """Print what was not true, if anything; the exit status."""
        false = [claim for claim in self.made if not claim.true]
        seconds = time.monotonic() - self._started
        self._print(f"\n{len(self.made) - len(false)} of {len(self.made)} claims were true, in {seconds:.0f} s.")
        for claim in false:
            self._print(self._paint("31", f"  not true: {claim.text}: {claim.figure}"))
        return self.status

    @property
    def status(self) -> int:
        """0 when at least one claim was made and all were true."""
        return 0 if self.made and all(claim.true for claim in self.made) else 1

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text
