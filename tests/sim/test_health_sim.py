"""Directors with checks in virtual time: backends that go, come and flap, and directors that are cut off from them.

The weights, the decision to stand by and the election are the real ones; checks are asked by each director by itself,
at moments of its own.
"""

import random

import pytest

from lvsagent.checks.messages import Verdict
from lvsagent.core.blind import Blindness, bit_of, views
from lvsagent.core.health import Watch
from lvsagent.vrrp.events import State
from lvsapi.health import CheckType, HealthCheck
from tests.sim.fake_lan import FakeLan
from tests.unit.test_health import ADDRESS, asking, facts

pytestmark = pytest.mark.sim

CHECK = HealthCheck(type=CheckType.TCP, interval_ms=1000, timeout_ms=1000, fall=2)
BACKENDS = ("192.168.139.201", "192.168.139.202")
STEP = 0.05
BEAT = 0.1


class Director:
    """What one node knows."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.name = f"node{number + 1}"
        self.watch = Watch()
        self.resolved = asking(*BACKENDS, checks=[CHECK])
        self.facts = facts(self.name)
        self.targets = self.watch.wish(self.resolved, self.facts, {})
        self.blindness = Blindness()
        self.next = [chance.uniform(0.0, 1.0) for _ in BACKENDS]
        self.failures = [0] * len(BACKENDS)
        self.weights: list[tuple[int, ...]] = []
        """As they changed."""


class World:
    """Directors on a LAN, and the backends behind it."""

    def __init__(self, seed: int, directors: int = 2) -> None:
        self.chance = random.Random(seed)
        self.lan = FakeLan([110 - 10 * number for number in range(directors)], seed=seed)
        self.directors = [Director(number, self.chance) for number in range(directors)]
        self.alive = [True] * len(BACKENDS)
        self.cut: set[int] = set()
        """Directors that reach no backend."""
        self.told: dict[str, int] = {}
        self.now = 0.0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            self.lan.run(STEP)
            for number, director in enumerate(self.directors):
                self._ask(number, director)
            if round(self.now / STEP) % round(BEAT / STEP) == 0:
                self.told = {director.name: director.blindness.bits for director in self.directors}
            for number, director in enumerate(self.directors):
                self._pass(number, director)

    def _ask(self, number: int, director: Director) -> None:
        for place, target in enumerate(director.targets):
            if self.now < director.next[place]:
                continue
            director.next[place] += CHECK.interval_ms / 1000 * self.chance.uniform(0.95, 1.05)
            up = self.alive[place] and number not in self.cut
            director.failures[place] = 0 if up else director.failures[place] + 1
            if up or director.failures[place] >= CHECK.fall:
                director.watch.heard(Verdict(generation=1, name=target.name, up=up), self.now)

    def _pass(self, number: int, director: Director) -> None:
        here = {ADDRESS} if number in self.lan.holders() else set()
        found = director.watch.over(director.resolved, director.facts, here, self.now)
        weights = tuple(backend.weight for backend in found.servers[0].backends)
        if director.weights[-1:] != [weights]:
            director.weights.append(weights)
        told = {name: bits for name, bits in self.told.items() if name != director.name}
        before = director.blindness.standby
        seen = views(director.resolved, director.watch)
        now = director.blindness.judge(seen, director.name, told, self.now)
        if now != before:
            self.lan.stand_by(number, bool(now))

    @property
    def takeovers(self) -> int:
        return sum(entry.what is State.ACTIVE for entry in self.lan.log)


SEEDS = range(8)


@pytest.fixture(params=SEEDS)
def world(request: pytest.FixtureRequest) -> World:
    made = World(request.param)
    made.run(5.0)
    assert made.lan.holders() == [0]
    return made


def test_all_backends_gone_and_back_at_once_move_nothing(world: World) -> None:
    before = world.takeovers
    for _ in range(3):
        world.alive = [False, False]
        world.run(30.0)
        world.alive = [True, True]
        world.run(30.0)
    assert world.takeovers == before
    for director in world.directors:
        assert director.blindness.bits == bit_of(director.resolved.routers[0])
        assert len(director.weights) <= 3 + 3 * 4, "each backend went and came three times, and nothing else happened"


def test_a_director_cut_off_from_the_backends_gives_way_once_and_comes_back_once(world: World) -> None:
    before = world.takeovers
    world.cut = {0}
    world.run(30.0)
    assert world.lan.holders() == [1]
    assert world.takeovers == before + 1
    world.cut = set()
    world.run(40.0)
    assert world.lan.holders() == [0]
    assert world.takeovers == before + 2


def test_a_cut_that_comes_and_goes_moves_the_address_once_in_a_while_at_most(world: World) -> None:
    before = world.takeovers
    for _ in range(60):
        world.cut ^= {0}
        world.run(2.0)
    assert world.takeovers - before <= 2 * 120 / 14, "it stands by for 14 s and more"
    world.cut = set()
    world.run(60.0)
    assert world.lan.holders() == [0]


def test_a_director_that_was_cut_off_is_not_moved_back_when_the_backends_die(world: World) -> None:
    world.cut = {0}
    world.run(30.0)
    before = world.takeovers
    world.alive = [False, False]
    world.run(60.0)
    assert (world.takeovers, world.lan.holders()) == (before, [1])
    world.cut, world.alive = set(), [True, True]
    world.run(60.0)
    assert (world.takeovers, world.lan.holders()) == (before + 1, [0])


def test_both_cut_off_one_after_the_other_move_the_address_once(world: World) -> None:
    before = world.takeovers
    world.cut = {0}
    world.run(20.0)
    world.cut = {0, 1}
    world.run(100.0)
    assert world.takeovers == before + 1


def test_a_flapping_backend_changes_its_own_weight_only(world: World) -> None:
    before = world.takeovers
    for _ in range(10):
        world.alive[0] = not world.alive[0]
        world.run(5.0)
    for director in world.directors:
        assert {weights[1] for weights in director.weights[2:]} == {1}
        assert len(director.weights) <= 3 + 10
    assert world.takeovers == before


def test_when_the_one_that_sees_backends_dies_the_blind_one_serves(world: World) -> None:
    world.cut = {0}
    world.run(30.0)
    world.lan.crash(1)
    world.told = {}
    world.directors.pop(1)
    world.run(5.0)
    assert world.lan.holders() == [0]
