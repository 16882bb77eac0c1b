"""What ``make demo`` shows, step by step, each claim checked. Times are CLOCK_MONOTONIC of this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.claims import Claims
from tests.demo.nodes import NodeState, differences
from tests.demo.witness import Witness
from tests.demo.world import ROOT, World, wait_for
from tests.load.outage import AIM, GAP, STRAY, TIMEOUT, Outage, Stalls, of_the_client, worst
from tests.load.report import Report, distribution, failures, survivors, translated
from tests.load.run import LoadRun

VIP, PORT = "192.168.139.123", 80
HELD = 300
RATE = 50.0
"""New connections a second."""
WATCHED = 60.0
"""Seconds for which new connections are watched at most."""
EXAMPLE = ROOT / "examples" / "virtualservice.yaml"
DEPLOY = ROOT / "deploy"


class CannotGoOn(Exception):
    """A claim was not true without which the rest makes no sense."""


@dataclass(slots=True)
class Crash:
    """The moment, and what was where."""

    node: str
    at: float
    pods: dict[str, str]
    """pod -> node, just before."""


class Story:
    """The steps, in order."""

    def __init__(self, world: World, claims: Claims, *, freeze_api: bool = False) -> None:
        self.world = world
        self.cluster = world.cluster
        self.claims = claims
        self.freeze_api = freeze_api
        self.before: dict[str, NodeState] = {}

    def tell(self) -> None:
        """All of it. Raises CannotGoOn."""
        self.install()
        self.answers()
        self.crash_and_return()
        self.uninstall()

    def install(self) -> None:
        claims, world = self.claims, self.world
        claims.heading("kubectl apply -k deploy/ ; kubectl apply -f examples/virtualservice.yaml")
        self.before = world.states()
        self.cluster.kubectl("apply", "-k", str(DEPLOY))
        # the API server needs a moment before it serves a new kind
        wait_for(lambda: self.cluster.kubectl("apply", "-f", str(EXAMPLE)) or True, 30.0)
        self._watch("agents ready", world.agents_ready, 90.0)
        self._watch("web pods ready", lambda: (len(world.ready_pods("app=web")), 3), 60.0)

    def answers(self) -> None:
        claims, world = self.claims, self.world
        answered = wait_for(self._is_answered, 30.0)
        self._must(f"http://{VIP}/ answers on the LAN", answered)
        ready = wait_for(lambda: self.world.condition("Ready").get("status") == "True", 10.0)
        claims.heading("kubectl get lvsvs")
        claims.say(self.cluster.kubectl("get", "lvsvs"))
        claims.say(self.cluster.kubectl("get", "pods", "-o", "wide"))
        claims.check("the VirtualService says Ready", ready, str(world.condition("Ready").get("message", "")))
        pods = world.ready_pods("app=web")
        with world.load(f"{VIP}:{PORT}", hold=0, duration=3.0) as load:
            report = load.wait(20.0)
        answered_by = distribution(report.attempts)
        for attempt in {a.server: a for a in report.attempts if not a.failure}.values():
            claims.say(f"{attempt.server} on {pods.get(attempt.server)}: sees the client as {attempt.client}")
        claims.check("each pod answers on the VIP", set(answered_by) == set(pods), _counts(answered_by))
        claims.check("no new connection fails", failures(report.attempts, 0, report.ended).count == 0, _failed(report))
        claims.check(
            "the pods see the client's own address and port",
            bool(answered_by) and translated(report) == 0,
            f"{len(report.attempts) - translated(report)} of {len(report.attempts)} as the client's own socket",
        )
        tables = {node: state.tables.get(f"TCP {VIP}:{PORT}", {}) for node, state in self._states().items()}
        first = next(iter(tables.values()))
        claims.check(
            "every node holds the same table, port 80 -> 8080",
            all(table == first for table in tables.values())
            and len(first) == len(pods)
            and all(destination.endswith(":8080") for destination in first),
            ", ".join(sorted(first)),
        )

    def crash_and_return(self) -> None:
        claims, world = self.claims, self.world
        claims.heading(f"50 new connections a second and {HELD} held ones; then the Active node is crashed")
        holders = world.holders(VIP)
        self._must("exactly one node holds the VIP", len(holders) == 1, ", ".join(holders))
        crash = Crash(holders[0], 0.0, world.ready_pods("app=web"))
        with world.load(f"{VIP}:{PORT}", hold=HELD, duration=400.0, rate=RATE, timeout=TIMEOUT) as load:
            running = load.wait_until(lambda told: told["held"] == HELD, 15.0)
            self._must(f"{HELD} connections are established", running, _counts(load.progress["held_by"]))
            time.sleep(1.5)
            if self.freeze_api:
                self.cluster.freeze_api()
                claims.say("the API server is stopped (SIGSTOP)")
            with world.witness(2 * WATCHED) as witness:
                crash.at = time.monotonic()
                world.crash(crash.node)
                claims.say(f"{crash.node} is dead")
                try:
                    self._watch_load(load, crash)
                finally:
                    if self.freeze_api:
                        self.cluster.thaw_api()
                report = load.report()
            outage = Outage(report, crash.at, report.ended, self._places(witness, report))
            self._judge_crash(outage, crash)
            self._return(load, crash)

    def _return(self, load: LoadRun, crash: Crash) -> None:
        claims, world = self.claims, self.world
        claims.heading(f"{crash.node} returns")
        begin = time.monotonic()
        living = {server for server, node in crash.pods.items() if node != crash.node}
        with world.witness(120.0) as witness:
            world.boot(crash.node)
            back = wait_for(lambda: world.agents_ready() == (3, 3) and self._same_tables(), 90.0)
            took = time.monotonic() - begin
            time.sleep(3.0)
            holders = world.holders(VIP)
            until = time.monotonic()
            report = load.stop()
        claims.check(f"{crash.node} is Ready and holds the same tables", back, f"after {took:.0f} s")
        claims.check("exactly one node holds the VIP", len(holders) == 1, ", ".join(holders))
        outage = Outage(report, begin, until, self._places(witness, report), 0.0, "the start")
        held = [one for one in report.held if one.server in living and (not one.failure or one.ended > begin)]
        lost = [one for one in outage.lost if one in held]
        claims.check(
            "no held connection is lost meanwhile",
            bool(held) and not lost,
            f"{len(held) - len(lost)} of {len(held)} live on"
            + "".join(f"; {one.local} of {one.server}: {one.failure}" for one in lost),
        )
        claims.check("new connections are answered meanwhile", outage.strays <= STRAY, str(outage))

    def uninstall(self) -> None:
        claims = self.claims
        claims.heading("kubectl delete -f examples/virtualservice.yaml ; kubectl delete -k deploy/")
        self.cluster.kubectl("delete", "--wait=false", "-f", str(EXAMPLE))
        served = f"TCP {VIP}:{PORT}"
        gone = wait_for(lambda: not any(self._serves(state, served) for state in self._states().values()), 20.0)
        claims.check("the VIP and its tables are gone from every node", gone)
        self.cluster.kubectl("delete", "--wait=false", "-k", str(DEPLOY))
        agents_gone = wait_for(lambda: not self.world.agent_pods(), 60.0)
        claims.check("the agents are gone", agents_gone)
        left = wait_for(self._nothing_left, 10.0) or self._differences()
        left = [] if left is True else left
        claims.check("the nodes are as they were before", not left, "; ".join(left) or _compared(self.before))

    # parts of the steps

    def _places(self, witness: Witness, report: Report) -> Stalls:
        return {**witness.stalls, "the client": of_the_client(report.attempts, RATE)}

    def _judge_crash(self, outage: Outage, crash: Crash) -> None:
        claims, world, report = self.claims, self.world, outage.report
        others = [node for node in self.cluster.nodes if node != crash.node]
        holders = world.holders(VIP, others)
        claims.check("another node is Active now", len(holders) == 1, ", ".join(holders))
        gap = outage.gap
        stood, _ = worst(outage.places, gap.begin, gap.begin + gap.seconds)
        claims.check(
            f"new connections again within {GAP:.0f} s",
            outage.answered_in_time,
            f"gap {gap.seconds:.2f} s, of which the machine stood still for {stood:.2f} s",
        )
        claims.check(
            f"none fails that began {AIM} s after the crash or later, the dead node's pod included",
            not outage.late,
            str(outage),
        )
        alive = of = 0
        slowest = 0.0
        for server, found in survivors(report.held).items():
            node = crash.pods.get(server, "?")
            dead = node == crash.node
            claims.say(
                f"{server} on {node}{' (dead)' if dead else ''}: {found.alive} of {found.of} held connections live on"
                + (f" {dict(found.reasons)}" if found.reasons else "")
            )
            if not dead:
                alive, of, slowest = alive + found.alive, of + found.of, max(slowest, found.slowest)
        claims.check(
            "every established connection whose pod and node are alive lives on",
            of >= HELD // 2 and not [one for one in outage.lost if crash.pods.get(one.server) != crash.node],
            f"{alive} of {of}, every byte checked, slowest answer {slowest:.2f} s",
        )
        claims.check("the pods saw the client's own address throughout", translated(report) == 0)
        claims.say(self.cluster.kubectl("get", "lvsvs"))

    def _watch_load(self, load: LoadRun, crash: Crash) -> None:
        """Live lines until new connections have not failed for 2 s, and long enough for the held ones to tell."""
        quiet_since = time.monotonic()
        thaw_at = crash.at + 10.0
        frozen = self.freeze_api
        while (now := time.monotonic()) < crash.at + WATCHED + (10.0 if self.freeze_api else 0.0):
            told = load.progress
            if told.get("failed_last_second", 0) > 3:
                quiet_since = now
            self.claims.say(
                f"{now - crash.at:5.1f} s after: new {told.get('new_last_second')}/s, failed"
                f" {told.get('failed_last_second')}/s, held {told['alive']}/{told['held']}"
            )
            if frozen and now > thaw_at:
                self.cluster.thaw_api()
                frozen = False
                self.claims.say("the API server goes on (SIGCONT)")
            if not frozen and now - quiet_since > 2.5 and now - crash.at > 12.0:
                return
            time.sleep(1.0)

    def _watch(self, what: str, look: Callable[[], tuple[int, int]], seconds: float) -> None:
        """Live lines while a number grows."""
        begin, last = time.monotonic(), (-1, -1)

        def grown() -> bool:
            nonlocal last
            now = look()
            if now != last:
                last = now
                self.claims.say(f"{what}: {now[0]} of {now[1]}  ({time.monotonic() - begin:.0f} s)")
            return now[0] >= now[1] > 0

        self._must(what, wait_for(grown, seconds), f"{last[0]} of {last[1]}")

    def _same_tables(self) -> bool:
        tables = list(self.world.tables(VIP, PORT).values())
        return bool(tables[0]) and all(table == tables[0] for table in tables)

    def _states(self) -> dict[str, NodeState]:
        return self.world.states()

    def _serves(self, state: NodeState, server: str) -> bool:
        return server in state.tables or any(f" {VIP}/" in address for address in state.addresses)

    def _differences(self) -> list[str]:
        after = self._states()
        return [
            f"{node}: {line}" for node in self.cluster.nodes for line in differences(self.before[node], after[node])
        ]

    def _nothing_left(self) -> bool:
        return not self._differences()

    def _is_answered(self) -> bool:
        return "RemoteAddr" in self.cluster.client_run(["curl", "-s", "-m", "1", f"http://{VIP}/"], check=False)

    def _must(self, text: str, true: bool, figure: str = "") -> None:
        if not self.claims.check(text, true, figure):
            raise CannotGoOn(text)


def _counts(by: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(by.items()))


def _failed(report: Report) -> str:
    found = failures(report.attempts, report.started, report.ended)
    return f"{found.count} of {found.of} new connections failed" + (f" {dict(found.reasons)}" if found.count else "")


def _compared(before: dict[str, NodeState]) -> str:
    state = next(iter(before.values()))
    return (
        f"{len(state.addresses)} addresses, {len(state.routes)} routes, {len(state.tables)} IPVS services,"
        f" {len(state.settings)} kernel settings,"
        f" {len(state.nftables)} foreign nftables tables on each of {len(before)} nodes"
    )
