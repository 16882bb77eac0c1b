"""The agent's end of ``lvs-checks``: it ends when it is told to, whatever is said at that moment."""

import asyncio

import pytest

from lvsagent.checks.lines import encode
from lvsagent.checks.messages import Verdict
from lvsagent.runtime.checks import Checks

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("turns", range(6))
def test_a_line_that_comes_as_it_is_cancelled_does_not_keep_it_alive(turns: int) -> None:
    async def story() -> None:
        checks = Checks(verdict=lambda _: None, allow_exec=False, log_format="text")
        pipe = asyncio.StreamReader()
        listening = asyncio.create_task(checks._listen(pipe))
        await asyncio.sleep(0.01)
        pipe.feed_data(encode(Verdict(generation=1, name="a", up=True, reason="")))
        for _ in range(turns):
            await asyncio.sleep(0)
        listening.cancel()
        done, _ = await asyncio.wait({listening}, timeout=5.0)
        assert done, "it goes on listening"
        assert listening.cancelled()

    asyncio.run(story())
