"""An event loop that does not wait: for tests of what happens in seconds and hours."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class Instantly(asyncio.SelectorEventLoop):
    """Does not wait: where nothing is to be done, the clock goes on to what comes next."""

    def __init__(self) -> None:
        self.now = 1000.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> list[Any]:
                loop.now += timeout or 0.0
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


def run(what: Coroutine[Any, Any, None]) -> None:
    """As ``asyncio.run``, at once."""
    with asyncio.Runner(loop_factory=Instantly) as runner:
        runner.run(what)
