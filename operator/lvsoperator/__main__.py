"""``lvs-operator``: environment -> settings -> logs -> kopf. The only place where adapters are made."""

import json
import logging
import os
import random
import signal
import sys
import threading
from typing import Any, cast

import kopf
from prometheus_client import CollectorRegistry

from lvsapi import names
from lvsoperator.adapters.kube import Kube, KubeError, Permanent, connect
from lvsoperator.adapters.metrics import Metrics, Server
from lvsoperator.handlers import operator_settings, registry
from lvsoperator.loop import Loop, backoff
from lvsoperator.settings import Settings, SettingsError, from_env

log = logging.getLogger("lvsoperator")

SECONDS_BETWEEN_LOOKS = 5.0
"""For the CustomResourceDefinitions, at the start."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, error."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure_logs(settings: Settings) -> None:
    """To standard error, as text or JSON."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("kopf", "urllib3", "kubernetes", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def await_kinds(kube: Kube, stopped: threading.Event) -> bool:
    """Wait until there is something to watch: kopf looks once, and does without what it does not find then.
    False: stopped before."""
    failures, said = 0, ""
    while not stopped.is_set():
        try:
            if kube.serves_our_kinds():
                return True
            trouble = f"the API server has no {names.PLURAL}, {names.CLASS_PLURAL}: kubectl apply -k crds/"
        except KubeError as error:
            trouble = str(error)
        if trouble != said:
            said = trouble
            log.warning("waiting: %s", trouble)
        failures += 1
        stopped.wait(min(backoff(failures, random.random()), SECONDS_BETWEEN_LOOKS))
    return False


def run(settings: Settings) -> int:
    """Until SIGTERM, or until kopf gives up (no API server for a minute): the Deployment then starts it again."""
    kube = Kube(connect(), settings)
    collectors = CollectorRegistry()
    loop = Loop(kube, settings, Metrics(collectors))
    server = Server(settings.listen, settings.port, collectors, loop.health, loop.readiness)
    log.info("serving /metrics, /healthz, /readyz on %s:%d", settings.listen or "*", server.server_port)
    threads = [
        threading.Thread(target=loop.run, name="reconcile", daemon=True),
        threading.Thread(target=loop.follow, args=(kube.follow_agents,), name="agents", daemon=True),
    ]
    for thread in threads:
        thread.start()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # until kopf takes them over
        signal.signal(number, lambda *_: stopped.set())
    try:
        if not await_kinds(kube, stopped):
            return 0
        kopf.run(
            registry=registry(loop.wake),
            settings=operator_settings(),
            identity=cast(Any, "lvs-operator"),  # else kopf asks for the user's name, and an arbitrary UID has none
            standalone=True,
            clusterwide=True,
        )
    except Exception as error:
        # kopf ends by design after a minute without an answer. Nothing waits for the operator; the kubelet restarts it.
        log.critical("kopf gave up watching: %s: %s", type(error).__name__, error)
        return 1
    finally:
        loop.stop()
        threads[0].join(10)
        server.close()
    return 0


def main() -> int:
    """Entry point. Exit status 2: the environment or the credentials cannot be used."""
    try:
        settings = from_env(os.environ)
        configure_logs(settings)
        status = run(settings)
    except (SettingsError, Permanent) as error:
        print(f"lvs-operator: {error}", file=sys.stderr)
        return 2
    # Everything is closed, but a thread may still wait in a watch: an interpreter that is taken down under it aborts
    # now and then (seen as SIGABRT).
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
