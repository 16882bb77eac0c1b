"""Ways to break the state machine (RFC 9568 section 6.4), a clause each."""

from collections.abc import Mapping
from typing import Final

from tests.clauses.model import Mutation

MACHINE: Final = "nodeagent/lvsagent/vrrp/machine.py"
EVENTS: Final = "nodeagent/lvsagent/vrrp/events.py"

STATES: Final[Mapping[str, tuple[Mutation, ...]]] = {
    "C17": (
        Mutation(
            "the owner waits like any other",
            MACHINE,
            "mine.effective_priority == OWNER_PRIORITY and",
            "mine.effective_priority > OWNER_PRIORITY and",
        ),
    ),
    "C18": (
        Mutation(
            "the first wait is twice as long",
            MACHINE,
            "self._active_interval = mine.interval\n",
            "self._active_interval = 2 * mine.interval\n",
        ),
        Mutation(
            "it says an advert at once",
            MACHINE,
            "        yield self._change(State.BACKUP, Cause.STARTUP",
            "        yield self._advertise(now)\n        yield self._change(State.BACKUP, Cause.STARTUP",
        ),
        Mutation("no Skew_Time", EVENTS, "return 3 * interval + self.skew(interval)", "return 3 * interval"),
    ),
    "C24": (
        Mutation(
            "a Backup says farewell",
            MACHINE,
            "            if self._leaving is None:\n                yield self._advert(priority=0)\n"
            "            yield Release(self.parameters.addresses)",
            "            yield Release(self.parameters.addresses)\n        yield self._advert(priority=0)",
        ),
    ),
    "C25": (
        Mutation(
            "no advert at the take-over",
            MACHINE,
            "        yield Acquire(self.parameters.addresses)\n        yield self._advertise(now)\n",
            "        yield Acquire(self.parameters.addresses)\n",
        ),
        Mutation(
            "no announcement at the take-over",
            MACHINE,
            "        self._announcements.start(now)\n        yield from self._announce(now)\n"
            "        self.active_address",
            "        self.active_address",
        ),
    ),
    "C26": (
        Mutation(
            "priority 0 is ignored",
            MACHINE,
            "self._timer = min(self._timer, now + mine.skew(self._active_interval))",
            "pass",
        ),
    ),
    "C27": (
        Mutation(
            "the interval is not adopted",
            MACHINE,
            "self._active_interval = self._learned(advertisement, authenticated)",
            "self._learned(advertisement, authenticated)",
        ),
        Mutation(
            "an equal priority does not put it off",
            MACHINE,
            "            advertisement.priority >= mine.effective_priority\n",
            "            advertisement.priority > mine.effective_priority\n",
        ),
        Mutation(
            "it preempts although it may not",
            EVENTS,
            "return not self.standby and allowed",
            "return not self.standby",
        ),
    ),
    "C28": (
        Mutation(
            "a worse router puts it off",
            MACHINE,
            "            self._expiry = Cause.PREEMPTION",
            "            self._arm_active_down(now)\n            self._expiry = Cause.PREEMPTION",
        ),
    ),
    "C35": (
        Mutation(
            "no farewell",
            MACHINE,
            "            if self._leaving is None:\n                yield self._advert(priority=0)\n",
            "",
        ),
        Mutation(
            "the farewell has its usual priority",
            MACHINE,
            "            if self._leaving is None:\n                yield self._advert(priority=0)",
            "            if self._leaving is None:\n                yield self._advertise(now)",
        ),
    ),
    "C36": (
        Mutation(
            "it waits two intervals",
            MACHINE,
            "following = self._timer + self.parameters.spacing",
            "following = self._timer + 2 * self.parameters.spacing",
        ),
        Mutation(
            "no advert",
            MACHINE,
            "            elif now >= self._timer:\n                yield self._advertise(now)\n",
            "            elif now >= self._timer:\n",
        ),
    ),
    "C37": (
        Mutation(
            "it says nothing",
            MACHINE,
            "        if advertisement.priority == 0:\n            yield self._advertise(now)\n",
            "        if advertisement.priority == 0:\n",
        ),
        Mutation(
            "the timer is left alone",
            MACHINE,
            "            self._timer = now + mine.spacing\n            return",
            "            return",
        ),
    ),
    "C38": (
        Mutation(
            "a higher priority is answered like a losing one",
            MACHINE,
            "(advertisement.priority, advertisement.source) > (mine.effective_priority, mine.source)",
            "advertisement.priority == mine.effective_priority and advertisement.source > mine.source",
        ),
        Mutation(
            "the interval is not adopted",
            MACHINE,
            "                self._learned(advertisement, authenticated),\n                now,",
            "                mine.interval,\n                now,",
        ),
    ),
    "C39": (
        Mutation(
            "addresses do not count",
            MACHINE,
            "(advertisement.priority, advertisement.source) > (mine.effective_priority, mine.source)",
            "advertisement.priority > mine.effective_priority",
        ),
        Mutation(
            "octets are compared signed",
            MACHINE,
            "(advertisement.priority, advertisement.source) > (mine.effective_priority, mine.source)",
            "(advertisement.priority, [o ^ 128 for o in advertisement.source])"
            " > (mine.effective_priority, [o ^ 128 for o in mine.source])",
        ),
    ),
    "C40": (
        Mutation(
            "it discards in silence, as RFC 5798 asked",
            MACHINE,
            "if mine.version != 2 and now - self._advertised",
            "if mine.version == 9 and now - self._advertised",
        ),
    ),
    "C51": (
        Mutation(
            "announced first, acquired later",
            MACHINE,
            "        yield Acquire(self.parameters.addresses)\n        yield self._advertise(now)\n"
            "        self._timer = now + self.parameters.spacing\n        self._forget()\n"
            "        self._announcements.start(now)\n        yield from self._announce(now)\n",
            "        yield self._advertise(now)\n"
            "        self._timer = now + self.parameters.spacing\n        self._forget()\n"
            "        self._announcements.start(now)\n        yield from self._announce(now)\n"
            "        yield Acquire(self.parameters.addresses)\n",
        ),
    ),
    "C56": (
        Mutation(
            "an address more is not announced",
            MACHINE,
            "            yield Acquire(fresh)\n            self._announcements.start(now)\n",
            "            yield Acquire(fresh)\n",
        ),
    ),
    "V5": (
        Mutation(
            "version 2 answers like version 3",
            MACHINE,
            "if mine.version != 2 and now - self._advertised",
            "if now - self._advertised",
        ),
    ),
}
