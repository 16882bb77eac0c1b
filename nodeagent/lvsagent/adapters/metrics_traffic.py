"""What IPVS counted for virtual services, and, at a path of its own because they may be very many, for backends."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lvsagent.core.targets import place_of
from lvsagent.core.traffic import Counters, Now
from lvsagent.runtime.view import View
from lvsapi.model import VirtualServer

LABELS = ["namespace", "virtualservice", "address", "port", "protocol"]
COUNTED = {
    "connections": "Connections that this node gave to a backend",
    "incoming_packets": "Packets of clients that this node sent to a backend",
    "outgoing_packets": "Packets of backends that this node translated on their way back (Masquerade only)",
    "incoming_bytes": "Octets of clients that this node sent to a backend",
    "outgoing_bytes": "Octets of backends that this node translated on their way back (Masquerade only)",
}
"""In the order of ``Counters``."""


def traffic_metrics(view: View) -> Iterator[Metric]:
    """Of each virtual service that the kernel has been read with."""
    families = _families("lvs_virtualservice", LABELS, "")
    for server in view.resolved.servers:
        now = view.traffic.services.get((server.address, server.protocol, server.port))
        if now is not None:
            _add(families, _about(server), now.counters)
    yield from families


class BackendsCollector(Collector):
    """Of each backend; ``collect`` is called on the loop's thread."""

    def __init__(self, view: View) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are checked by the tests, not at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        families = _families("lvs_backend", [*LABELS, "backend"], ", by backend")
        present = GaugeMetricFamily(
            "lvs_backend_current_connections",
            "Connections in this node's table: active ones open or are established, inactive ones close.",
            labels=[*LABELS, "backend", "state"],
        )
        owners = {(s.address, s.protocol, s.port): s for s in self._view.resolved.servers}
        for (place, (address, port)), now in self._view.traffic.backends.items():
            server = owners.get(place)
            if server is not None:
                about = [*_about(server), place_of(address, port)]
                _add(families, about, now.counters)
                _present(present, about, now)
        yield from (*families, present)


def _about(server: VirtualServer) -> list[str]:
    where = [str(server.address), server.ports, str(server.protocol or "all")]
    return [server.owner.namespace, server.owner.name, *where]


def _families(prefix: str, labels: list[str], more: str) -> list[CounterMetricFamily]:
    return [CounterMetricFamily(f"{prefix}_{name}", f"{text}{more}.", labels=labels) for name, text in COUNTED.items()]


def _add(families: list[CounterMetricFamily], about: list[str], counters: Counters) -> None:
    for family, value in zip(families, counters, strict=True):
        family.add_metric(about, value)


def _present(family: GaugeMetricFamily, about: list[str], now: Now) -> None:
    family.add_metric([*about, "active"], now.active)
    family.add_metric([*about, "inactive"], now.inactive)
