"""Deaths and returns of nodes under load: what was seen of them, and what explains a failure that should not be."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.demo.nodes import endpoint
from tests.demo.witness import Witness
from tests.demo.world import World, wait_for
from tests.load.outage import TIMEOUT, Outage, Stalls, of_the_client
from tests.load.report import Held, Report

RATE = 50.0
"""New connections a second."""
TOLD = 10
"""Connections that failed too late are explained, at most."""
RETURNING = 100
"""Connections held while a node returns."""


def places(witness: Witness, report: Report) -> Stalls:
    """When this machine, the nodes that ran all the time, and the client stood still."""
    return {**witness.stalls, "the client": of_the_client(report.attempts, RATE)}


@dataclass(frozen=True, slots=True)
class Death:
    """The crash of a node while 50 new connections come every second."""

    node: str
    outage: Outage
    explained: tuple[str, ...]
    """What is known of the connections that failed too late, and of the held ones that should not have been lost."""

    def __str__(self) -> str:
        return "\n".join((f"{self.node} dies: {self.outage}", *self.explained))


@dataclass(frozen=True, slots=True)
class Return:
    """The start of a node that had crashed, while 50 new connections come every second and others are held."""

    node: str
    back: bool
    """It takes part as before."""
    seconds: float
    """Until then."""
    outage: Outage
    """New connections since its start."""

    @property
    def lost(self) -> tuple[Held, ...]:
        """Of the held connections, without an excuse; all of them are those of pods that lived."""
        return self.outage.lost

    def __str__(self) -> str:
        ended = sum(1 for one in self.outage.report.held if one.failure)
        return (
            f"{self.node} serves again {self.seconds:.0f} s after its start: {self.outage}; of"
            f" {len(self.outage.report.held)} held connections {ended} are lost, {len(self.lost)} without an excuse"
            + "".join(f"; {one.local} of {one.server}: {one.failure}" for one in self.lost)
        )


@dataclass(frozen=True, slots=True)
class Crash(Death):
    """The crash of the Active node under load, with the API server stopped at that moment, and its return."""

    pods: dict[str, str]
    """pod -> node, just before."""
    lost: tuple[Held, ...]
    """Held connections of pods that live, lost without an excuse."""
    holders: list[str]
    """Of the VIP, ten seconds later."""
    alerts: dict[str, list[dict[str, str]]]
    """Labels of the alerts that fired, by name."""
    returned: Return


def explain(world: World, outage: Outage, lost: Sequence[Held] = ()) -> tuple[str, ...]:
    """Of each connection that failed too late, and of the held ones that should live: when, why, and where the tables
    of the nodes that run send it now."""
    if not outage.late and not lost:
        return ()
    pods = {pod["status"].get("podIP", ""): pod for pod in world.api.items("pods", "default")}
    tables = world.each(lambda node: world.cluster.on_node(node, ["cat", "/proc/net/ip_vs_conn"]))
    ahead = time.time() - time.monotonic()

    def clock(at: float) -> str:
        return f"  {time.strftime('%H:%M:%S', time.gmtime(at + ahead))}.{int((at + ahead) % 1 * 1000):03d} "

    def entries(client: str) -> str:
        found = ""
        for node, text in tables.items():
            for words in map(str.split, text.splitlines()):
                if words[0] == "TCP" and endpoint(f"{words[1]}:{words[2]}") == client:
                    backend = endpoint(f"{words[5]}:{words[6]}")
                    pod = pods.get(backend.rpartition(":")[0])
                    where = f"{pod['metadata']['name']} on {pod['spec']['nodeName']}" if pod else "no pod any more"
                    found += f"; {node} has it {words[7]} to {backend} ({where})"
        return found

    told = [f"{clock(late.attempt.start)}{late}{entries(late.attempt.local)}" for late in outage.late[:TOLD]]
    for one in lost[:TOLD]:
        failed = f"held, of {one.server}: {one.failure} {one.ended - outage.at:+.2f} s, answered until"
        line = f"{clock(one.ended)}{one.local}, {failed} {one.last_answer - outage.at:+.2f} s"
        told.append(f"{line}, opened {one.opened - outage.at:+.2f} s{entries(one.local)}")
    return tuple(told)


def bring_back(world: World, node: str, target: str, serving: Callable[[], bool]) -> Return:
    """Boot it, and look at the new connections of all, and at held ones."""
    with (
        world.load(target, hold=RETURNING, duration=300.0, rate=RATE, timeout=TIMEOUT) as load,
        world.witness(300.0) as witness,
    ):
        assert load.wait_until(lambda told: told["held"] == RETURNING, 30.0), load.progress
        begin = time.monotonic()
        world.boot(node)
        back = wait_for(serving, 120.0)
        seconds = time.monotonic() - begin
        time.sleep(3.0)
        until = time.monotonic()
        report = load.stop()
    return Return(node, back, seconds, Outage(report, begin, until, places(witness, report), 0.0, "the start"))
