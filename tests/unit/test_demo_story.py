"""The demo cannot go green by mistake: its story over a cluster that is made up, each time with one thing wrong."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.claims import Claims
from tests.demo.nodes import NodeState
from tests.demo.story import EXAMPLE, HELD, PORT, RATE, VIP, CannotGoOn, Story
from tests.demo.world import World
from tests.load.outage import TIMEOUT, Stall
from tests.load.report import Attempt, Held, Report

pytestmark = pytest.mark.unit

PODS = {"web-1": "node1", "web-2": "node2", "web-3": "node3"}
TABLE = {f"10.244.{number}.2:8080": 1 for number in (1, 2, 3)}
CLEAN = NodeState(addresses=frozenset({"eth0 192.168.139.101/24"}), settings={"net/ipv4/ip_forward": "1"})
OWN = "192.168.139.50:4711"


class Clock:
    """Stands in for the module ``time``: nobody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """What is wrong with the product; as it stands, nothing."""

    silent: tuple[float, float] = (0.0, 0.3)
    """From when to when after the crash nobody is answered."""
    late: tuple[float, ...] = ()
    """When after the crash single connections fail."""
    lost: int = 0
    """Held connections of living pods, lost at the crash."""
    lost_at_the_return: int = 0
    failing_at_the_return: int = 0
    """New connections."""
    holders: tuple[str, ...] = ("node2",)
    """After the crash."""
    holders_at_the_end: tuple[str, ...] = ("node1",)
    leftover: Mapping[str, Any] = field(default_factory=dict)
    """Of a node, when all has gone."""
    seen: str = OWN
    """The client's address as pods see it."""
    on_the_return: Mapping[str, int] = field(default_factory=lambda: TABLE)
    answering: tuple[str, ...] = tuple(PODS)
    tables: tuple[Mapping[str, int], ...] = (TABLE, TABLE, TABLE)
    ready: str = "True"
    agents_left: int = 0
    stood: tuple[Stall, ...] = ()
    """The machine did, by seconds after the crash."""


class Made:
    """A cluster, and the world around it."""

    nodes = ("node1", "node2", "node3")

    def __init__(self, wrong: Wrong, clock: Clock) -> None:
        self.wrong, self.clock, self.cluster = wrong, clock, self
        self.applied: set[str] = set()
        self.crashed = self.booted = 0.0

    def kubectl(self, verb: str, *words: str) -> str:
        if verb == "apply":
            self.applied.add(words[-1])
        if verb == "delete":
            self.applied.discard(words[-1])
        return ""

    def client_run(self, argv: Iterable[str], check: bool = True) -> str:
        return f"RemoteAddr: {OWN}"

    def crash(self, node: str) -> None:
        assert node == "node1"
        self.crashed = self.clock.now

    def boot(self, node: str) -> None:
        assert node == "node1"
        self.booted = self.clock.now

    def freeze_api(self) -> None:
        raise AssertionError("nobody asked for that")

    def agents_ready(self) -> tuple[int, int]:
        return 3, 3

    def agent_pods(self) -> int:
        return self.wrong.agents_left

    def ready_pods(self, selector: str) -> dict[str, str]:
        return dict(PODS)

    def condition(self, kind: str) -> dict[str, str]:
        return {"status": self.wrong.ready}

    def holders(self, vip: str, nodes: Iterable[str] | None = None) -> list[str]:
        if not self.crashed:
            return ["node1"]
        return list(self.wrong.holders_at_the_end if self.booted else self.wrong.holders)

    def tables(self, vip: str, port: int) -> dict[str, dict[str, int]]:
        return {"node1": dict(self.wrong.on_the_return), "node2": dict(TABLE), "node3": dict(TABLE)}

    def states(self) -> dict[str, NodeState]:
        if str(EXAMPLE) in self.applied:
            tables = [{f"TCP {VIP}:{PORT}": table} for table in self.wrong.tables]
            return {node: replace(CLEAN, tables=mine) for node, mine in zip(self.nodes, tables, strict=True)}
        left = self.wrong.leftover if self.crashed else {}
        return {"node1": CLEAN, "node2": replace(CLEAN, **left), "node3": CLEAN}

    def load(self, target: str, *, hold: int, duration: float, **_: float) -> "MadeLoad":
        return MadeLoad(self, hold, duration)

    @contextlib.contextmanager
    def witness(self, seconds: float) -> Iterator[Any]:
        shift = self.clock.now
        yield SimpleNamespace(
            stalls={"this machine": [Stall(one.begin + shift, one.end + shift) for one in self.wrong.stood]}
        )


class MadeLoad:
    """A load run whose report says what is wrong."""

    def __init__(self, made: Made, hold: int, duration: float) -> None:
        self.made, self.hold, self.duration, self.begin = made, hold, duration, made.clock.now
        self.progress = {"held": hold, "alive": hold, "held_by": {}, "new_last_second": 50}

    def __enter__(self) -> "MadeLoad":
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait_until(self, told: Callable[[Mapping[str, Any]], bool], seconds: float) -> bool:
        return told(self.progress)

    def wait(self, seconds: float) -> Report:
        self.made.clock.now += self.duration
        return self.report()

    def stop(self) -> Report:
        return self.report()

    def report(self) -> Report:
        now, wrong = self.made.clock.now, self.made.wrong
        starts = [self.begin + number / RATE for number in range(int((now - self.begin) * RATE))]
        attempts = [self._attempt(number, start) for number, start in enumerate(starts)]
        if self.made.booted:
            failing = [number for number, one in enumerate(attempts) if one.start > self.made.booted]
            for number in failing[: wrong.failing_at_the_return]:
                attempts[number] = replace(attempts[number], failure="reset")
        return Report("t", self.begin, now, tuple(attempts), tuple(self._held(number) for number in range(self.hold)))

    def _attempt(self, number: int, start: float) -> Attempt:
        made, wrong = self.made, self.made.wrong
        after = start - made.crashed if made.crashed else -1.0
        silent = wrong.silent[0] <= after < wrong.silent[1] or any(one <= after < one + 1 / RATE for one in wrong.late)
        failure = "timeout" if silent else ""
        server = wrong.answering[number % len(wrong.answering)]
        return Attempt(start, TIMEOUT if failure else 0.01, failure, "" if failure else server, wrong.seen, OWN)

    def _held(self, number: int) -> Held:
        made, server = self.made, f"web-{number % 3 + 1}"
        failure, ended = "", 0.0
        if made.crashed and server == "web-1":
            failure, ended = "timeout", made.crashed + 12.0
        if made.crashed and server == "web-2" and number // 3 < made.wrong.lost:
            failure, ended = "reset", made.crashed + 1.0
        if made.booted and server == "web-3" and number // 3 < made.wrong.lost_at_the_return:
            failure, ended = "reset", made.booted + 1.0
        return Held(number, server, made.wrong.seen, OWN, self.begin, 9, 0.0, 0.1, failure, ended)


def told(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """The exit status of the story, and what was not true."""
    clock = Clock()
    monkeypatch.setattr("tests.demo.story.time", clock)
    monkeypatch.setattr("tests.demo.world.time", clock)
    claims = Claims(io.StringIO())
    with contextlib.suppress(CannotGoOn):  # the claim without which it cannot was not true
        Story(cast(World, Made(wrong, clock)), claims).tell()
    return claims.close(), [claim.text for claim in claims.made if not claim.true]


def test_when_all_is_well_the_status_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(Wrong(), monkeypatch) == (0, [])


@pytest.mark.parametrize(
    ("wrong", "untrue"),
    [
        (Wrong(silent=(0.0, 1.2)), "new connections again within 1 s"),
        (Wrong(silent=(0.3, 1.4)), "none fails that began 0.5 s after the crash or later"),
        (Wrong(late=(4.0,)), "none fails that began 0.5 s after the crash or later"),
        (Wrong(lost=1), "every established connection whose pod and node are alive lives on"),
        (Wrong(holders=("node2", "node3")), "another node is Active now"),
        (Wrong(holders=()), "another node is Active now"),
        (Wrong(lost_at_the_return=1), "no held connection is lost meanwhile"),
        (Wrong(failing_at_the_return=100), "new connections are answered meanwhile"),
        (Wrong(holders_at_the_end=("node1", "node2")), "exactly one node holds the VIP"),
        (Wrong(holders_at_the_end=()), "exactly one node holds the VIP"),
        (Wrong(on_the_return={}), "node1 is Ready and holds the same tables"),
        (Wrong(seen="10.244.1.1:4711"), "the pods see the client's own address and port"),
        (Wrong(answering=("web-1", "web-2")), "each pod answers on the VIP"),
        (Wrong(tables=(TABLE, TABLE, {})), "every node holds the same table"),
        (Wrong(tables=({}, {}, {})), "every node holds the same table"),
        (Wrong(ready="False"), "the VirtualService says Ready"),
        (Wrong(agents_left=1), "the agents are gone"),
        (Wrong(leftover={"addresses": frozenset({f"lo {VIP}/32"})}), "the nodes are as they were before"),
        (Wrong(leftover={"settings": {"net/ipv4/ip_forward": "0"}}), "the nodes are as they were before"),
        (Wrong(leftover={"nftables": {"inet lvs-dr": ""}}), "the nodes are as they were before"),
        (Wrong(leftover={"files": frozenset({"/run/lvs-dr/x"})}), "the nodes are as they were before"),
    ],
)
def test_one_thing_that_is_wrong_is_said_and_the_status_is_not_0(
    wrong: Wrong, untrue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said = told(wrong, monkeypatch)
    assert status == 1
    assert any(text.startswith(untrue) for text in said), said


def test_a_machine_that_stood_still_is_no_fault_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(Wrong(silent=(0.0, 1.2), stood=(Stall(0.1, 1.0),)), monkeypatch) == (0, [])


def test_too_few_held_connections_of_living_pods_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # All but a few are of the pod that dies.
    monkeypatch.setattr(
        MadeLoad,
        "_held",
        lambda self, number: Held(
            number, "web-1" if number > HELD // 3 else "web-2", OWN, OWN, 0.0, 9, 0.0, 0.1, "", 0.0
        ),
    )
    status, said = told(Wrong(), monkeypatch)
    assert status == 1
    assert "every established connection whose pod and node are alive lives on" in said
