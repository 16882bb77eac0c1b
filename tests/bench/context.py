"""What every scenario is told, and the way in which runs of several sides take turns."""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.bench.capture import Poller
from tests.bench.figures import spread
from tests.bench.sides import BenchError, Pair, Profile

T = TypeVar("T")
SEED = 20
ATTEMPTS = 3
"""How often one run may fail to be measured before the scenario is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The options."""

    runs: int
    window: float
    """Seconds under loss or load."""
    folder: Path
    quick: bool
    version: str
    """Of keepalived."""
    troubles: list[str] = field(default_factory=list)
    """Runs that could not be measured, and why."""

    @contextlib.contextmanager
    def pairs(self, *profiles: Profile, poller: type[Poller] | None = Poller) -> Iterator[list[Pair]]:
        """One of each, ready; started side by side, because that is mostly waiting."""
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(profiles)) as pool:
            starting: list[Future[Pair]] = [
                pool.submit(Pair, profile, self.folder, poller=poller) for profile in profiles
            ]
            for each in starting:
                with contextlib.suppress(Exception):  # raised below, when all the others are in hand
                    stack.enter_context(each.result())
            yield [each.result() for each in starting]

    def in_turn(
        self, pairs: Sequence[Pair], run: Callable[[Pair, float], T], *, runs: int | None = None
    ) -> dict[str, list[T]]:
        """A B A B: one run of each, at the same phase, then the next. Results by profile; raises BenchError."""
        found: dict[str, list[T]] = {pair.profile.who: [] for pair in pairs}
        for phase in spread(runs or self.runs, seed=SEED):
            for pair in pairs:
                found[pair.profile.who].append(self.measured(pair, lambda p=pair, at=phase: run(p, at)))  # type: ignore[misc]
        return found

    def measured(self, pair: Pair, run: Callable[[], T]) -> T:
        """The result of the run, tried again when it says that it could not be measured."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return run()
            except (BenchError, TimeoutError, ValueError) as error:
                self.troubles.append(f"{pair.profile.who}: {error}")
                if attempt == ATTEMPTS:
                    raise BenchError(f"{pair.profile.who}: {error}") from error
                pair.repair()
        raise AssertionError("not reached")

    def who(self, pair: Pair) -> str:
        """Name for the report, with keepalived's version."""
        return pair.profile.who.replace("keepalived", f"keepalived {self.version}")


def asking(pair: Pair) -> str:
    """How well the client asked, for the notes."""
    spacings = sorted(pair.capture.asked)
    if not spacings:
        return ""
    late = spacings[int(0.99 * (len(spacings) - 1))]
    return (
        f"the client asked every {1000 * statistics.median(spacings):.1f} ms "
        f"(p99 {1000 * late:.1f}, longest {1000 * spacings[-1]:.0f} ms)"
    )
