"""``lvs-agent``: the command line."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lvsagent.adapters.kubeconfig import ConfigError
from lvsagent.adapters.procfs import root
from lvsagent.core.claims import PORT
from lvsagent.runtime import logs
from lvsagent.runtime.app import App, Settings

METRICS_ADDRESS = ":9479"
"""Every address, of IPv4 and IPv6."""


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run until SIGTERM. 0: orderly end; 1: a part failed; 2: the command line or the configuration is wrong."""
    settings = parse(argv, environment)
    logs.setup(settings.log_format, logging.INFO)
    try:
        app = App(settings)
    except ConfigError as error:
        print(f"lvs-agent: {error}", file=sys.stderr)
        return 2
    return asyncio.run(app.run())


def parse(argv: Sequence[str] | None, environment: Mapping[str, str]) -> Settings:
    """The settings. Exits with status 2 and a message when they make no sense."""
    parser = argparse.ArgumentParser(
        prog="lvs-agent", description="Programs this node's IPVS tables and tells the election what it may hold."
    )
    parser.add_argument("--node-name", default=environment.get("NODE_NAME", ""), help="name of this node (NODE_NAME)")
    parser.add_argument(
        "--manifests", type=Path, help="folder of YAML files instead of the API; starts the election too"
    )
    parser.add_argument("--kubeconfig", help="how to reach the API server (default: the pod's service account)")
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=Path(environment.get("LVS_RUN_DIR") or "/run/lvs-dr"),
        help="folder of election.sock (LVS_RUN_DIR; default %(default)s)",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(environment.get("LVS_STATE_DIR") or "/var/lib/lvs-dr"),
        help="folder of the last good state (LVS_STATE_DIR; default %(default)s)",
    )
    parser.add_argument(
        "--proc-sys",
        type=Path,
        default=root(environment),
        help="the host's /proc/sys (LVS_PROC_SYS; default %(default)s)",
    )
    parser.add_argument(
        "--keys-dir",
        type=Path,
        default=Path(environment.get("LVS_KEYS_DIR") or "/etc/lvs-dr/keys"),
        help="with --manifests: folder of the election's keys, CLASS.password and CLASS.hmac.ID"
        " (LVS_KEYS_DIR; default %(default)s)",
    )
    parser.add_argument(
        "--claims-port",
        type=int,
        default=environment.get("LVS_CLAIMS_PORT") or PORT,
        help="UDP port on which agents tell each other of connections, the same on every node"
        " (LVS_CLAIMS_PORT; default %(default)s)",
    )
    parser.add_argument(
        "--metrics-address",
        default=METRICS_ADDRESS,
        help='HOST:PORT of /metrics, /healthz and /readyz, "" for none (default %(default)s)',
    )
    parser.add_argument("--no-election", action="store_true", help="program tables only, hold no address")
    parser.add_argument("--cleanup-on-exit", action="store_true", help="take the tables away when asked to end")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    found = parser.parse_args(argv)
    if not found.node_name:
        parser.error("--node-name NAME is missing (or NODE_NAME in the environment)")
    if found.manifests and found.kubeconfig:
        parser.error("--manifests and --kubeconfig exclude each other: objects come from a folder or from the API")
    if not 0 < found.claims_port < 65536:
        parser.error(f"--claims-port {found.claims_port}: must be from 1 to 65535")
    return Settings(
        node=found.node_name,
        manifests=found.manifests,
        kubeconfig=found.kubeconfig,
        run_dir=found.run_dir,
        state_dir=found.state_dir,
        proc_sys=found.proc_sys,
        keys_dir=found.keys_dir,
        claims_port=found.claims_port,
        metrics=_address(parser, found.metrics_address),
        election=not found.no_election,
        cleanup_on_exit=found.cleanup_on_exit,
        log_format=found.log_format,
    )


def _address(parser: argparse.ArgumentParser, text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        parser.error(f"--metrics-address {text!r}: expected HOST:PORT, e.g. {METRICS_ADDRESS}")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
