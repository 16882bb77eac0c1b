"""False takeovers while adverts are lost: a million hours, by way of the gaps that could matter.

Losses are independent. After an advert that arrived, the number of those lost in a row is geometric; gaps too short
to matter are not simulated (and shown not to matter), the others are, each against the real state machine.
"""

import math
import random
from dataclasses import dataclass

import pytest

from lvsagent.vrrp.events import Parameters, Received, Startup, State, Tick
from lvsagent.vrrp.machine import VirtualRouter
from lvsagent.vrrp.packet import Advertisement
from tests.sim.fake_lan import VIP, FakeLan

pytestmark = pytest.mark.sim

LOSS = 0.3
JITTER = 0.002
"""Seconds by which one advert may be later than another."""
HOURS = 1_000_000
ACTIVE = bytes((10, 0, 0, 12))


@dataclass(frozen=True, slots=True)
class Profile:
    """How adverts are sent, and who listens."""

    interval: float
    spacing: float
    priority: int

    @property
    def down(self) -> float:
        return 3 * self.interval + (256 - self.priority) * self.interval / 256

    @property
    def fatal(self) -> int:
        """So many adverts lost in a row may matter; one less never does."""
        return math.floor((self.down - JITTER) / self.spacing)

    @property
    def calculated(self) -> float:
        """False takeovers an hour, when jitter only ever hurts (3600/t x (1-p) x p^k)."""
        return 3600 / self.spacing * (1 - LOSS) * LOSS**self.fatal

    @property
    def advert(self) -> Advertisement:
        """Of the Active that is listened to."""
        return Advertisement(
            virtual_router_id=51,
            priority=254,
            interval=round(self.interval * 100),
            addresses=(VIP,),
            source=ACTIVE,
        )

    def listener(self) -> VirtualRouter:
        """A Backup that starts to listen at 0."""
        machine = VirtualRouter(
            Parameters(
                virtual_router_id=51,
                priority=self.priority,
                interval=self.interval,
                addresses=(VIP,),
                source=bytes((10, 0, 0, 11)),
            )
        )
        machine.handle(Startup(), 0.0)
        return machine

    def falls_for(self, lost: int, jitter: float) -> bool:
        """Does a Backup take over when so many adverts in a row are lost and the next one is late by ``jitter``?"""
        machine = self.listener()
        machine.handle(Received(self.advert), 0.1)
        arrives = 0.1 + (lost + 1) * self.spacing + jitter
        deadline = machine.deadline
        assert deadline is not None
        if deadline < arrives:
            machine.handle(Tick(), deadline)
        return machine.state is State.ACTIVE


SAFE = Profile(0.1, 0.02, 100)
FAST = Profile(0.08, 0.01, 200)
PLAIN = Profile(0.1, 0.1, 100)


def poisson(mean: float, dice: random.Random) -> int:
    """How often something rare happens."""
    if mean > 500:
        return round(dice.gauss(mean, math.sqrt(mean)))
    count, product, bound = 0, dice.random(), math.exp(-mean)
    while product > bound:
        count += 1
        product *= dice.random()
    return count


def false_takeovers(profile: Profile, hours: float, dice: random.Random) -> int:
    """Simulated: the gaps of so many hours that are long enough to matter, each given to the machine."""
    arrived = hours * 3600 / profile.spacing * (1 - LOSS)
    total = 0
    for _ in range(poisson(arrived * LOSS**profile.fatal, dice)):
        lost = profile.fatal
        while dice.random() < LOSS:
            lost += 1
        total += profile.falls_for(lost, dice.uniform(-JITTER, JITTER))
    return total


@pytest.mark.parametrize("profile", [SAFE, FAST, PLAIN])
def test_what_is_not_simulated_never_matters_and_a_little_more_does(profile: Profile) -> None:
    assert not profile.falls_for(profile.fatal - 1, JITTER)
    assert profile.falls_for(profile.fatal + 1, -JITTER)


@pytest.mark.parametrize(("profile", "limit"), [(SAFE, 1e-3), (FAST, 1e-3)])
def test_a_million_hours_at_30_percent_loss_have_no_more_false_takeovers_than_calculated(
    profile: Profile, limit: float
) -> None:
    found = false_takeovers(profile, HOURS, random.Random(9568))
    expected = profile.calculated * HOURS
    assert found <= expected + 4 * math.sqrt(expected) + 1
    assert found / HOURS <= limit
    assert expected / HOURS <= limit


def test_one_advert_an_interval_would_fall_hundreds_of_times_an_hour() -> None:
    found = false_takeovers(PLAIN, 10, random.Random(9568)) / 10
    assert found == pytest.approx(PLAIN.calculated, rel=0.1)
    assert found > 600
    lan = FakeLan([110, 100], seed=1)
    lan.run(1)
    lan.loss = LOSS
    begin = len(lan.log)
    lan.run(360)
    takeovers = [entry for entry in lan.log[begin:] if entry.what is State.ACTIVE]
    assert len(takeovers) > 10, "the whole simulation says the same"


def test_faster_adverts_do_not_make_a_crash_last_longer() -> None:
    for seed in range(20):
        lan = FakeLan([220, 200], seed=seed, interval=FAST.interval, send_interval=FAST.spacing)
        lan.run(1 + seed / 97)
        lan.crash(0)
        lan.run(FAST.down + 0.005)
        assert lan.holders() == [1]
