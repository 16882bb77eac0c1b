"""The lines between the agent and its process of health checks. Pure.

A wish is read in slices, because thousands of targets take a second and questions must not wait for that; a target that
is as it was in the wish before is not read again.
"""

import json
from collections.abc import Iterator
from typing import Any

from lvsagent.checks.messages import Statistics, Target, Targets, Verdict
from lvsagent.core.codec import CodecError, from_json, to_json

SLICE = 20
"""Targets."""
LONGEST_LINE = 64 << 20
"""Bytes."""


class LineError(ValueError):
    """The line is none of these."""


class TargetsWriter:
    """Of wishes that resemble each other: the text of a target is made once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Target, str]] = {}

    def encode(self, wish: Targets) -> bytes:
        """One line."""
        self._known = {target.name: (target, self._text(target)) for target in wish.targets}
        texts = ",".join(text for _, text in self._known.values())
        return f'{{"generation":{wish.generation},"targets":[{texts}]}}\n'.encode()

    def _text(self, target: Target) -> str:
        known = self._known.get(target.name)
        return known[1] if known and known[0] == target else json.dumps(to_json(target))


class TargetsReader:
    """The other end."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, Target]] = {}

    def decode(self, line: bytes) -> Iterator[Targets | None]:
        """None after every slice, the wish at the end. Raises LineError."""
        data = _object(line)
        items, generation = data.get("targets"), data.get("generation")
        if not isinstance(items, list) or not isinstance(generation, int):
            raise LineError(f"expected generation and targets, got {line[:80]!r}")
        targets = []
        for number, item in enumerate(items, 1):
            targets.append(self._target(item))
            if number % SLICE == 0:
                yield None
        self._known = {target.name: (item, target) for target, item in zip(targets, items, strict=True)}
        yield Targets(generation=generation, targets=tuple(targets))

    def _target(self, item: Any) -> Target:
        name = item.get("name") if isinstance(item, dict) else None
        known = self._known.get(name) if isinstance(name, str) else None
        if known and known[0] == item:
            return known[1]
        try:
            return from_json(Target, item)
        except CodecError as error:
            raise LineError(f"a target cannot be read: {error}") from error


def encode(said: Verdict | Statistics) -> bytes:
    """One line."""
    return json.dumps(to_json(said)).encode() + b"\n"


def decode(line: bytes) -> Verdict | Statistics:
    """What the process said. Raises LineError."""
    data = _object(line)
    try:
        return from_json(Verdict, data) if "name" in data else from_json(Statistics, data)
    except CodecError as error:
        raise LineError(f"{error} in {line[:200]!r}") from error


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise LineError(f"{error} in {line[:80]!r}") from error
    if not isinstance(data, dict):
        raise LineError(f"expected an object, got {line[:80]!r}")
    return data
