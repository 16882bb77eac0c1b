"""What a list or a watch says about the objects of one resource, and what of it is believed. Pure.

A deletion that was watched is an act of somebody and counts at once. An object that is only missing from a list may be
missing because the API server lost it (a restored etcd, a wrong answer): when a list holds less than half of what its
group held before, what is missing stays for ``HOLD_SECONDS``. An object that no longer parses stays as it was.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lvsapi.model import ObjectKey, Problem

T = TypeVar("T")

HOLD_SECONDS = 600.0
"""How long the objects of a mass disappearance are kept."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """An object of the API that cannot be used."""

    problem: Problem


@dataclass(slots=True)
class Cache(Generic[T]):
    """The objects of one resource. Methods return True when the objects changed."""

    group: Callable[[T], Hashable] = lambda _: None
    """The brake counts within a group (EndpointSlices: within their Service)."""
    objects: dict[ObjectKey, T] = field(default_factory=dict)
    problems: dict[ObjectKey, Problem] = field(default_factory=dict)
    held: dict[ObjectKey, float] = field(default_factory=dict)
    """Missing from the last list but kept: since when (monotonic seconds)."""

    def replace(self, listed: Mapping[ObjectKey, T | Malformed], now: float, wanted: Callable[[T], bool]) -> bool:
        """A complete list. ``wanted``: False for objects that nobody asks for any more; those go without a brake."""
        before = dict(self.objects)
        self.problems = {key: item.problem for key, item in listed.items() if isinstance(item, Malformed)}
        missing = {key: item for key, item in before.items() if key not in listed and wanted(item)}
        there = Counter(self.group(before[key]) for key in listed if key in before)
        there.update(
            self.group(item) for key, item in listed.items() if key not in before and not isinstance(item, Malformed)
        )
        lost = Counter(self.group(item) for item in missing.values())
        self.held = {
            key: self.held.get(key, now)
            for key, item in missing.items()
            if there[self.group(item)] < lost[self.group(item)] and now - self.held.get(key, now) < HOLD_SECONDS
        }
        objects = {key: before[key] for key in self.held}
        for key, item in listed.items():
            if not isinstance(item, Malformed):
                objects[key] = item
            elif key in before:
                objects[key] = before[key]
        self.objects = objects
        return objects != before

    def put(self, key: ObjectKey, item: T | Malformed) -> bool:
        """An object was added or modified."""
        self.held.pop(key, None)
        if isinstance(item, Malformed):
            changed = self.problems.get(key) != item.problem
            self.problems[key] = item.problem
            return changed
        changed = self.problems.pop(key, None) is not None or self.objects.get(key) != item
        self.objects[key] = item
        return changed

    def delete(self, key: ObjectKey) -> bool:
        """A deletion was watched."""
        self.held.pop(key, None)
        gone = self.problems.pop(key, None) is not None
        return (self.objects.pop(key, None) is not None) or gone

    def expire(self, now: float) -> bool:
        """Let go what was held long enough."""
        over = [key for key, since in self.held.items() if now - since >= HOLD_SECONDS]
        for key in over:
            del self.held[key]
            self.objects.pop(key, None)
        return bool(over)
