"""What a list or a watch says about the objects of one resource, and what of it is believed. Pure.

A deletion that was watched is an act of somebody and counts. But one that takes most objects in one go, where it would
withdraw addresses (``brake``), is rather an accident than a wish: it is held for a minute, in which it can be undone.
An object that is only missing from a list may be missing because the API server lost it (a restored etcd, a wrong
answer): when a list holds less than half of what its group held before, what is missing stays for ten minutes, and for
longer while the API server is another than it was. An object that no longer parses stays as it was.
See docs/decisions/0012.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lvsagent.core.brakes import BRAKE_SECONDS, GATHER_SECONDS, most
from lvsapi.model import ObjectKey, Problem

T = TypeVar("T")

HOLD_SECONDS = 600.0
"""How long the objects of a mass disappearance are kept."""
WINDOW = 10.0
"""Seconds within which deletions count as one step."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """An object of the API that cannot be used."""

    problem: Problem


@dataclass(slots=True)
class Cache(Generic[T]):
    """The objects of one resource. Methods return True when the objects changed."""

    group: Callable[[T], Hashable] = lambda _: None
    """Lists are judged by group (EndpointSlices: by their Service)."""
    brake: bool = False
    """Deletions are held when they would take most of the objects."""
    objects: dict[ObjectKey, T] = field(default_factory=dict)
    problems: dict[ObjectKey, Problem] = field(default_factory=dict)
    held: dict[ObjectKey, float] = field(default_factory=dict)
    """Missing from the last list but kept: since when (monotonic seconds)."""
    leaving: dict[ObjectKey, float] = field(default_factory=dict)
    """Deleted, and still there: since when."""
    _gone: list[float] = field(default_factory=list)
    """When others went that were deleted."""

    def replace(self, listed: Mapping[ObjectKey, T | Malformed], now: float, wanted: Callable[[T], bool]) -> bool:
        """A complete list. ``wanted``: False for objects that nobody asks for any more; those go without a brake."""
        before = dict(self.objects)
        self.problems = {key: item.problem for key, item in listed.items() if isinstance(item, Malformed)}
        self.leaving = {key: since for key, since in self.leaving.items() if key not in listed}
        missing = {
            key: item for key, item in before.items() if key not in listed and key not in self.leaving and wanted(item)
        }
        there = Counter(self.group(before[key]) for key in listed if key in before)
        there.update(
            self.group(item) for key, item in listed.items() if key not in before and not isinstance(item, Malformed)
        )
        lost = Counter(self.group(item) for item in missing.values())
        self.held = {
            key: self.held.get(key, now)
            for key, item in missing.items()
            if there[self.group(item)] < lost[self.group(item)]
        }
        objects = {key: before[key] for key in (*self.held, *self.leaving)}
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
        self.leaving.pop(key, None)
        if isinstance(item, Malformed):
            changed = self.problems.get(key) != item.problem
            self.problems[key] = item.problem
            return changed
        changed = self.problems.pop(key, None) is not None or self.objects.get(key) != item
        self.objects[key] = item
        return changed

    def delete(self, key: ObjectKey, now: float) -> bool:
        """A deletion was watched. With a brake the object goes with ``expire``."""
        self.held.pop(key, None)
        gone = self.problems.pop(key, None) is not None
        if not self.brake:
            return (self.objects.pop(key, None) is not None) or gone
        if key in self.objects:
            self.leaving.setdefault(key, now)
        return gone

    def braking(self, now: float) -> bool:
        """Whether the deletions of these seconds would take most of the objects."""
        self._gone = [moment for moment in self._gone if now - moment < WINDOW]
        return most(len(self.leaving) + len(self._gone), len(self.objects) + len(self._gone))

    def expire(self, now: float, same: bool = True) -> bool:
        """Let go what was held long enough. ``same``: the API server is the one that it was; if not, what is missing
        stays until as much has come back."""
        there = Counter(self.group(item) for key, item in self.objects.items() if key not in self.held)
        kept = Counter(self.group(self.objects[key]) for key in self.held)
        over = [
            key
            for key, since in self.held.items()
            if now - since >= HOLD_SECONDS
            and (same or there[self.group(self.objects[key])] >= kept[self.group(self.objects[key])])
        ]
        patience = BRAKE_SECONDS if self.braking(now) else GATHER_SECONDS
        deleted = [key for key, since in self.leaving.items() if now - since >= patience]
        return self._let_go(over, now) | self._let_go(deleted, now)

    def release(self, now: float) -> bool:
        """Let everything go of which the deletion was watched."""
        return self._let_go(list(self.leaving), now)

    def _let_go(self, keys: list[ObjectKey], now: float) -> bool:
        for key in keys:
            self.held.pop(key, None)
            if self.leaving.pop(key, None) is not None:
                self._gone.append(now)
            self.objects.pop(key, None)
        return bool(keys)
