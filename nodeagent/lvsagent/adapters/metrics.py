"""The agent's state as Prometheus metrics, made anew at each scrape: what is gone leaves no series behind."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from lvsagent.adapters.metrics_checks import of_checks
from lvsagent.adapters.metrics_health import health_metrics
from lvsagent.adapters.metrics_traffic import traffic_metrics
from lvsagent.core.agent import ACTIVE, address_of
from lvsagent.core.claims import UNREACHABLE, Malformed
from lvsagent.core.diff import Op
from lvsagent.core.failure import Reason
from lvsagent.core.guard import NodeFinding, Thing
from lvsagent.core.report import findings_of
from lvsagent.core.tablehash import Hashes
from lvsagent.ipc import Finding, RouterStatistics
from lvsagent.liveness.beat import DropReason as BeatDropReason
from lvsagent.runtime.view import View
from lvsagent.vrrp.events import TRANSITIONS, State
from lvsagent.vrrp.packet import DropReason

STATES = tuple(str(state) for state in State)
FINDINGS = tuple(str(finding) for finding in Finding)


class AgentCollector(Collector):
    """Registers itself by ``register``; ``collect`` is called on the loop's thread."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._wanted, self._actual = Hashes(), Hashes()

    def register(self, registry: CollectorRegistry) -> None:
        """Add to the registry."""
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are checked by the tests, not at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield from self._about()
        yield from self._vrrp()
        yield from self._nodes()
        yield from self._served()
        yield from health_metrics(self._view)
        yield from traffic_metrics(self._view)
        yield from self._programming()
        yield from self._exchange()
        yield from self._guarded()
        yield from self._api()
        yield from of_checks(self._view.checks)

    def _about(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("lvs_build_info", "Version of the agent.", labels=["version"])
        build.add_metric([self._view.version], 1)
        yield build
        yield _gauge("lvs_election_connected", "The election process answers.", self._view.election_connected)
        yield _gauge("lvs_kernel_supported", "The kernel has IPVS and we may use it.", self._view.kernel_supported)
        yield _gauge("lvs_tables_in_place", "The last pass ended with the tables as wanted.", self._view.in_place)

    def _vrrp(self) -> Iterator[Metric]:
        labels = ["router", "vrid", "family", "interface"]
        state = GaugeMetricFamily(
            "lvs_vrrp_state", "1 for the state of RFC 9568 that the router is in.", labels=[*labels, "state"]
        )
        changes = CounterMetricFamily(
            "lvs_vrrp_transitions", "Changes of state, by cause.", labels=["router", "from", "to", "cause"]
        )
        sent = CounterMetricFamily("lvs_vrrp_adverts_sent", "Adverts sent.", labels=["router"])
        received = CounterMetricFamily("lvs_vrrp_adverts_received", "Adverts accepted.", labels=["router"])
        announced = CounterMetricFamily(
            "lvs_vrrp_announcements_sent",
            "Gratuitous ARP and unsolicited neighbour advertisements sent.",
            labels=["router"],
        )
        for router in self._routers():
            about = [router.router, str(router.virtual_router_id), str(router.family), router.interface]
            for name in STATES:
                state.add_metric([*about, name], float(router.state == name))
            for one, other, cause in _transitions():
                count = router.transitions.get(f"{one},{other},{cause}", 0)
                changes.add_metric([router.router, one, other, cause], count)
            sent.add_metric([router.router], router.adverts_sent)
            received.add_metric([router.router], router.adverts_received)
            announced.add_metric([router.router], router.announcements_sent)
        yield from (state, changes, sent, received, announced)
        yield from self._routers_more()
        dropped = CounterMetricFamily("lvs_vrrp_adverts_dropped", "Adverts not acted on.", labels=["reason"])
        statistics = self._view.claims.statistics
        counts = statistics.dropped if statistics else {}
        for reason in sorted({str(reason) for reason in DropReason} | set(counts)):
            dropped.add_metric([reason], counts.get(reason, 0))
        yield dropped
        yield _gauge(
            "lvs_election_realtime", "The election has real-time priority.", bool(statistics and statistics.realtime)
        )
        yield _gauge(
            "lvs_election_memory_locked",
            "The election's memory cannot be paged out.",
            bool(statistics and statistics.memory_locked),
        )
        late = CounterMetricFamily("lvs_election_late_timers", "Timers that fired late.")
        late.add_metric([], statistics.late_timers if statistics else 0)
        yield late

    def _routers_more(self) -> Iterator[Metric]:
        priority = GaugeMetricFamily(
            "lvs_vrrp_priority", "Priority after tracking; 1 while the node stands by.", labels=["router"]
        )
        refused = GaugeMetricFamily("lvs_vrrp_refused", "The election does not run the router.", labels=["router"])
        clamped = CounterMetricFamily(
            "lvs_vrrp_intervals_clamped", "Adverts with an interval too long to be believed.", labels=["router"]
        )
        found = GaugeMetricFamily(
            "lvs_vrrp_finding",
            "1 for what the router noticed and somebody should look into.",
            labels=["router", "finding"],
        )
        resolved = {router.name: router for router in self._view.resolved.routers}
        for router in self._routers():
            name = router.router
            priority.add_metric([name], router.effective_priority)
            refused.add_metric([name], float(bool(router.problem)))
            clamped.add_metric([name], router.intervals_clamped)
            noticed = findings_of(resolved[name], router) if name in resolved else router.findings
            for finding in FINDINGS:
                found.add_metric([name, finding], float(finding in noticed))
        yield from (priority, refused, clamped, found)

    def _nodes(self) -> Iterator[Metric]:
        claims = self._view.claims
        suspected = GaugeMetricFamily(
            "lvs_node_suspected",
            "1 for a node that gets no new connections: it is silent, or its tables are not in place.",
            labels=["peer"],
        )
        mute = GaugeMetricFamily(
            "lvs_node_mute", "1 for a node whose kernel answers while its election is not heard.", labels=["peer"]
        )
        statistics = claims.statistics
        for peer in claims.about.nodes:
            if peer.name != self._view.node:
                silent = peer.name in claims.liveness.silent or peer.name in claims.liveness.unready
                suspected.add_metric([peer.name], float(silent))
                mute.add_metric([peer.name], float(statistics is not None and peer.name in statistics.nodes_mute))
        yield from (suspected, mute)
        sent = CounterMetricFamily("lvs_node_beats_sent", "Heartbeats sent to other nodes.")
        sent.add_metric([], statistics.beats_sent if statistics else 0)
        errors = CounterMetricFamily("lvs_node_beat_errors", "Heartbeats that could not be sent.")
        errors.add_metric([], statistics.beat_errors if statistics else 0)
        received = CounterMetricFamily("lvs_node_beats_received", "Heartbeats of other nodes that count.")
        received.add_metric([], statistics.beats_received if statistics else 0)
        dropped = CounterMetricFamily("lvs_node_beats_dropped", "Heartbeats that do not count.", labels=["reason"])
        for reason in BeatDropReason:
            dropped.add_metric([reason], statistics.beats_dropped.get(reason, 0) if statistics else 0)
        yield from (sent, errors, received, dropped)

    def _routers(self) -> Iterable[RouterStatistics]:
        return [router for _, router in sorted(self._view.claims.routers.items())]

    def _served(self) -> Iterator[Metric]:
        names = ["namespace", "virtualservice"]
        holds = GaugeMetricFamily("lvs_vip_held", "This node holds the address.", labels=[*names, "address"])
        active = GaugeMetricFamily("lvs_virtualservice_active", "This node is Active for it.", labels=names)
        backends = GaugeMetricFamily(
            "lvs_backends", "Backends by state.", labels=[*names, "address", "port", "protocol", "state"]
        )
        held = {
            address_of(address)
            for router in self._routers()
            if router.state == ACTIVE
            for address in router.addresses_held
        }
        owners: dict[tuple[str, str], bool] = {}
        seen = set()
        resolved = self._view.effective or self._view.resolved
        active_here = {a for r in resolved.routers if r.name in self._view.claims.active for a in r.addresses}
        for server in resolved.servers:
            owner = [server.owner.namespace, server.owner.name]
            address = str(server.address)
            owners[owner[0], owner[1]] = owners.get((owner[0], owner[1]), False) or server.address in active_here
            if (*owner, address) not in seen:
                seen.add((*owner, address))
                holds.add_metric([*owner, address], float(server.address in held))
            draining = sum(backend.weight == 0 for backend in server.backends)
            about = [*owner, address, server.ports, str(server.protocol or "all")]
            backends.add_metric([*about, "ready"], len(server.backends) - draining)
            backends.add_metric([*about, "draining"], draining)
        for (namespace, name), here in sorted(owners.items()):
            active.add_metric([namespace, name], float(here))
        yield from (holds, active, backends)

    def _programming(self) -> Iterator[Metric]:
        errors = CounterMetricFamily(
            "lvs_programming_errors", "Operations that the kernel refused.", labels=["operation", "reason"]
        )
        counts = Counter(self._view.errors)
        for operation in OPERATIONS:
            counts.setdefault((operation, str(Reason.OTHER)), 0)
        for (operation, reason), count in sorted(counts.items()):
            errors.add_metric([operation, reason], count)
        yield errors
        operations = CounterMetricFamily("lvs_kernel_operations", "Operations carried out.", labels=["operation"])
        for operation in OPERATIONS:
            operations.add_metric([operation], self._view.operations[operation])
        yield operations
        yield HistogramMetricFamily(
            "lvs_programming_seconds",
            "Time to write a step to the kernel and read it back.",
            buckets=self._view.programming.cumulative(),
            sum_value=self._view.programming.total,
        )
        failed = CounterMetricFamily("lvs_state_write_errors", "State files that could not be written.")
        failed.add_metric([], self._view.state_errors)
        yield failed

    def _exchange(self) -> Iterator[Metric]:
        count = self._view.exchanged
        told = CounterMetricFamily(
            "lvs_connections_told",
            "Connections of this node's pods told to other nodes, whose tables would send them elsewhere.",
        )
        told.add_metric([], count["told"])
        heard = CounterMetricFamily("lvs_connections_heard", "Connections that other nodes told of.")
        heard.add_metric([], count["heard"])
        written = CounterMetricFamily(
            "lvs_connections_written", "Connections of other nodes' pods that were written to the kernel."
        )
        written.add_metric([], count["written"])
        forgotten = CounterMetricFamily(
            "lvs_connections_forgotten",
            "Entries of connections that are over, against the tables, that the kernel was made to forget.",
        )
        forgotten.add_metric([], count["forgotten"])
        dropped = CounterMetricFamily(
            "lvs_connection_messages_dropped",
            "Datagrams about connections that were not believed, or could not be sent (unreachable).",
            labels=["reason"],
        )
        for reason in sorted({UNREACHABLE, *map(str, BeatDropReason), *map(str, Malformed)}):
            dropped.add_metric([reason], self._view.exchange_dropped[reason])
        errors = CounterMetricFamily(
            "lvs_connection_exchange_errors", "Times when connections could not be read, told or written."
        )
        errors.add_metric([], self._view.exchange_errors)
        differ = GaugeMetricFamily(
            "lvs_tables_differ",
            "1 for each Active node whose tables place connections otherwise than this node's.",
            labels=["peer"],
        )
        for node in sorted(self._view.differing):
            differ.add_metric([node], 1)
        cut = CounterMetricFamily(
            "lvs_connections_left_out",
            "Connections that are not told or forgotten because there are too many; 1 for all beyond a million.",
        )
        cut.add_metric([], count["left_out"])
        yield from (told, heard, written, forgotten, dropped, errors, differ, cut)

    def _guarded(self) -> Iterator[Metric]:
        repairs = CounterMetricFamily(
            "lvs_repairs",
            "Things of ours that somebody else removed or changed and that were put back.",
            labels=["what"],
        )
        for thing in Thing:
            repairs.add_metric([thing], self._view.repairs[thing])
        found = GaugeMetricFamily(
            "lvs_node_finding", "1 for what somebody should look into on this node.", labels=["finding"]
        )
        for finding in NodeFinding:
            found.add_metric([finding], float(finding in self._view.node_findings))
        hashes = GaugeMetricFamily(
            "lvs_table_hash",
            "A number for the object's tables with everything, as wanted and as read from the kernel (actual); and of"
            " the latter what all nodes have alike (shared).",
            labels=["namespace", "virtualservice", "table"],
        )
        plan, actual = self._view.plan, self._view.actual
        if plan is not None:
            for owner, number in sorted(self._wanted.of(self._view.resolved, plan.state).items()):
                hashes.add_metric([owner.namespace, owner.name, "wanted"], number.whole)
        if actual is not None:
            for owner, number in sorted(self._actual.of(self._view.resolved, actual).items()):
                hashes.add_metric([owner.namespace, owner.name, "actual"], number.whole)
                hashes.add_metric([owner.namespace, owner.name, "shared"], number.alike)
        readings = self._view.node_readings
        entries = GaugeMetricFamily("lvs_conntrack_entries", "Connections that conntrack holds.")
        entries.add_metric([], readings.entries)
        limit = GaugeMetricFamily("lvs_conntrack_limit", "Connections that conntrack can hold.")
        limit.add_metric([], readings.limit)
        connections = GaugeMetricFamily(
            "lvs_ipvs_connections",
            "Connections of our IPVS services: active ones open or are established, inactive ones close.",
            labels=["state"],
        )
        backends = self._view.traffic.backends.values()
        connections.add_metric(["active"], sum(now.active for now in backends))
        connections.add_metric(["inactive"], sum(now.inactive for now in backends))
        yield from (repairs, found, hashes, entries, limit, connections)

    def _api(self) -> Iterator[Metric]:
        connected = GaugeMetricFamily("lvs_kube_connected", "The watch is open.", labels=["resource"])
        synced = GaugeMetricFamily(
            "lvs_kube_last_sync_timestamp_seconds", "When the last list or event came.", labels=["resource"]
        )
        relists = CounterMetricFamily("lvs_kube_relists", "Complete lists.", labels=["resource"])
        errors = CounterMetricFamily("lvs_kube_errors", "Requests that failed.", labels=["resource", "reason"])
        held = GaugeMetricFamily(
            "lvs_kube_held_objects",
            "Objects that the API does not have any more and that are kept all the same.",
            labels=["resource", "reason"],
        )
        for (kept, why), number in sorted(self._view.held.items()):
            held.add_metric([kept, why], number)
        for resource, health in self._view.health.items():
            connected.add_metric([resource], float(health.connected))
            synced.add_metric([resource], max(health.last_list, health.last_event))
            relists.add_metric([resource], health.relists)
            for reason, count in sorted(health.errors.items()):
                errors.add_metric([resource, reason], count)
        yield from (connected, synced, relists, errors, held)


def operation(kind: type) -> str:
    """The label of an operation: its name in snake_case."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_")


OPERATIONS = tuple(sorted(operation(kind) for kind in Op.__args__))


def _transitions() -> list[tuple[str, str, str]]:
    return sorted((str(one), str(other), str(cause)) for cause, pairs in TRANSITIONS.items() for one, other in pairs)


def _gauge(name: str, text: str, value: bool) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))
