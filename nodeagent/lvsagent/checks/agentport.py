"""Agent: a port of the backend serves one line that says how much of its weight it wants (HAProxy's agent-check)."""

import re
from typing import Final

from lvsagent.checks.answer import Answer, failed
from lvsagent.checks.messages import Target
from lvsagent.checks.stream import Garbled, connected, short
from lvsapi.health import HealthCheck

MOST_PERCENT: Final = 256
LONGEST: Final = 256
"""Bytes of the line."""
DOWN: Final = frozenset({"down", "fail", "stopped", "maint"})
UP: Final = frozenset({"up", "ready"})

_NUMBER = re.compile(r"(\d{1,3})%?", re.ASCII)


async def check(check: HealthCheck, target: Target) -> Answer:
    """``75``, ``75%``, ``drain``, ``up``, ``down #why``, or several of these in one line, by space or comma."""
    async with connected(check, target) as stream:
        try:
            line = await stream.line(LONGEST)
        except Garbled as error:
            return failed(check, target, str(error))
    said, _, why = short(line, LONGEST).partition("#")
    words = said.lower().replace(",", " ").split()
    if not words:
        return failed(check, target, "says nothing, expected a number, drain, up or down")
    percent = 100
    for word in words:
        number = _NUMBER.fullmatch(word)
        if number and int(number[1]) <= MOST_PERCENT:
            percent = int(number[1])
        elif word in DOWN:
            return failed(check, target, f"says {word}" + (f": {why.strip()}" if why.strip() else ""))
        elif word not in UP and word != "drain":
            return failed(check, target, f"says {word!r}, expected a number up to {MOST_PERCENT}, drain, up or down")
    return Answer(ok=True, percent=0 if "drain" in words else percent)
