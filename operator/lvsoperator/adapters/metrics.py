"""/metrics, /healthz and /readyz of the operator. The registry is passed in."""

import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lvsoperator.core.reconcile import Info, Refusal

OUTCOMES = ("success", "partial", "error")
"""partial: some objects could not be written; error: the cluster could not be read."""

Check = Callable[[], str | None]
"""None when all is well, else why not."""


class Metrics:
    """What the operator says about itself and about the VirtualServices."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.passes = Counter("lvs_reconcile", "Passes over all objects.", ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self.passes.labels(outcome)
        self.seconds = Histogram(
            "lvs_reconcile_seconds",
            "Time of one pass, all requests included.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self._infos = _Infos()
        registry.register(self._infos)

    def show(self, infos: tuple[Info, ...], refusals: tuple[Refusal, ...]) -> None:
        """Replace the VirtualServices; those that are gone leave no series behind."""
        self._infos.infos, self._infos.refusals = infos, refusals


class _Infos(Collector):
    def __init__(self) -> None:
        self.infos: tuple[Info, ...] = ()
        self.refusals: tuple[Refusal, ...] = ()

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "lvs_virtualservice_info",
            "1 for every VirtualService that has a virtual router.",
            labels=["namespace", "virtualservice", "vrid", "class"],
        )
        for info in self.infos:
            family.add_metric([info.key.namespace, info.key.name, str(info.virtual_router_id), info.class_name], 1.0)
        yield family
        refused = GaugeMetricFamily(
            "lvs_virtualservice_refused",
            "1 for every VirtualService that is not accepted. What is served and has not changed since is served on.",
            labels=["namespace", "virtualservice", "reason"],
        )
        for refusal in self.refusals:
            refused.add_metric([refusal.key.namespace, refusal.key.name, refusal.reason], 1.0)
        yield refused


class Server(ThreadingHTTPServer):
    """Serves in a thread of its own until ``close``. Port 0 takes a free one: see ``server_port``.

    ``host``: empty for every address of both families: a pod may have one of IPv6 alone.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Check, readiness: Check) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif path in ("/healthz", "/readyz"):
                    trouble = health() if path == "/healthz" else readiness()
                    self._answer(503 if trouble else 200, "text/plain", f"{trouble or 'ok'}\n".encode())
                else:
                    self._answer(404, "text/plain", b"/metrics, /healthz or /readyz\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Scrapes are no news."""

        self._both = not host and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if self._both or ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Without asking the resolver for a name of this pod, as HTTPServer does: it may keep us waiting."""
        if self._both:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port."""
        self.shutdown()
        self.server_close()
        self._thread.join(5)
