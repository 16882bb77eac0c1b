"""Metrics about backends that are asked for their health."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from lvsagent.core.targets import asked, name_of, place_of
from lvsagent.runtime.view import View

OBJECT = ["namespace", "virtualservice"]


def health_metrics(view: View) -> Iterator[Metric]:
    """No series for objects that ask nothing, nor for backends that have not answered yet."""
    up = GaugeMetricFamily(
        "lvs_backend_up",
        "1 while the checks of a backend hold, 0 while one fails.",
        labels=[*OBJECT, "address", "port", "protocol", "backend"],
    )
    quorum = GaugeMetricFamily(
        "lvs_quorum", "1 while enough backends live.", labels=[*OBJECT, "address", "port", "protocol"]
    )
    for server, backend in asked(view.resolved.servers):
        standing = view.watch.standings.get(name_of(server, backend))
        if standing is not None and standing.known:
            about = [str(server.address), server.ports, str(server.protocol or "all")]
            place = place_of(backend.address, backend.port)
            up.add_metric([server.owner.namespace, server.owner.name, *about, place], float(standing.up))
    for server in view.resolved.servers:
        enough = view.watch.quorums.get((server.owner, server.address, server.protocol, server.port))
        if enough is not None:
            about = [str(server.address), server.ports, str(server.protocol or "all")]
            quorum.add_metric([server.owner.namespace, server.owner.name, *about], float(enough))
    yield from (up, quorum)
