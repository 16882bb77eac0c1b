"""What ``make demo`` shows, step by step, each claim checked. Times are CLOCK_MONOTONIC of this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.claims import Claims
from tests.demo.nodes import NodeState, differences
from tests.demo.world import ROOT, World, wait_for
from tests.load.report import Report, distribution, failing_until, failures, longest_gap, survivors, translated
from tests.load.run import LoadRun

VIP, PORT = "192.168.139.123", 80
HELD = 300
GAP_LIMIT = 1.0
FAILING_LIMIT = 2.0
"""Seconds after the crash until when new connections may fail."""
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
            f"{len(report.attempts)} of {len(report.attempts)} as the client's own socket",
        )
        tables = {node: state.tables.get(f"TCP {VIP}:{PORT}", {}) for node, state in self._states().items()}
        same = len({tuple(sorted(table.items())) for table in tables.values()}) == 1
        claims.check(
            "every node holds the same table, port 80 -> 8080", same, ", ".join(sorted(next(iter(tables.values()))))
        )

    def crash_and_return(self) -> None:
        claims, world = self.claims, self.world
        claims.heading(f"50 new connections a second and {HELD} held ones; then the Active node is crashed")
        holders = world.holders(VIP)
        self._must("exactly one node holds the VIP", len(holders) == 1, ", ".join(holders))
        crash = Crash(holders[0], 0.0, world.ready_pods("app=web"))
        with world.load(f"{VIP}:{PORT}", hold=HELD, duration=400.0) as load:
            running = load.wait_until(lambda told: told["held"] == HELD, 15.0)
            self._must(f"{HELD} connections are established", running, _counts(load.progress["held_by"]))
            time.sleep(1.5)
            if self.freeze_api:
                self.cluster.freeze_api()
                claims.say("the API server is stopped (SIGSTOP)")
            crash.at = time.monotonic()
            self.cluster.crash(crash.node)
            claims.say(f"{crash.node} is dead")
            try:
                self._watch_load(load, crash)
            finally:
                if self.freeze_api:
                    self.cluster.thaw_api()
            self._judge_crash(load.report(), crash)
            self._return(load, crash)

    def _return(self, load: LoadRun, crash: Crash) -> None:
        claims, world = self.claims, self.world
        claims.heading(f"{crash.node} returns")
        begin = time.monotonic()
        alive = load.progress["alive"]
        self.cluster.boot(crash.node)
        back = wait_for(lambda: world.agents_ready() == (3, 3) and self._same_tables(), 90.0)
        took = time.monotonic() - begin
        time.sleep(2.0)
        holders = world.holders(VIP)
        until = time.monotonic()
        report = load.stop()
        claims.check(f"{crash.node} is Ready and holds the same tables", back, f"after {took:.0f} s")
        claims.check("exactly one node holds the VIP", len(holders) == 1, ", ".join(holders))
        still = sum(1 for connection in report.held if not connection.failure)
        gap, failed = longest_gap(report.attempts, begin, until), failures(report.attempts, begin, until - 1.1)
        settled = failures(report.attempts, until - 2.6, until - 1.1)
        claims.check(
            "new connections are answered", settled.count < settled.of / 10, f"{settled.count} of {settled.of} failed"
        )
        claims.say(
            f"meanwhile: {still} of {alive} held connections live on; {failed.count} of {failed.of} new ones failed,"
            f" longest gap {gap.seconds:.2f} s"
        )

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

    def _judge_crash(self, report: Report, crash: Crash) -> None:
        claims, world = self.claims, self.world
        others = [node for node in self.cluster.nodes if node != crash.node]
        holders = world.holders(VIP, others)
        claims.check("another node is Active now", len(holders) == 1, ", ".join(holders))
        gap = longest_gap(report.attempts, crash.at, crash.at + 10.0).seconds
        claims.check(f"new connections again within {GAP_LIMIT:.0f} s", gap <= GAP_LIMIT, f"gap {gap:.2f} s")
        failed = failures(report.attempts, crash.at - 1.0, report.ended)
        until = (failing_until(report.attempts, crash.at, report.ended - 1.1) or crash.at) - crash.at
        claims.check(
            f"new connections fail no longer than {FAILING_LIMIT:.0f} s, the dead node's pod included",
            until <= FAILING_LIMIT,
            f"{failed.count} of {failed.of} failed, until {until:.2f} s after the crash",
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
            alive == of > 0,
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
        f"{len(state.addresses)} addresses, {len(state.tables)} IPVS services, {len(state.settings)} kernel settings,"
        f" {len(state.nftables)} foreign nftables tables on each of {len(before)} nodes"
    )
