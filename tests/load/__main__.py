"""``python -m load``: run it where the client is; plain Python, standard library only."""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from .client import Load, Wish
from .report import distribution, failures, survivors

TICK = 0.5
"""Seconds between two progress lines."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="load", description="New connections at a fixed rate, and held ones.")
    parser.add_argument("--target", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--rate", type=float, default=50.0, help="new connections a second (default 50)")
    parser.add_argument("--timeout", type=float, default=0.5, help="seconds for a new connection (default 0.5)")
    parser.add_argument("--hold", type=int, default=0, help="connections to hold (default 0)")
    parser.add_argument("--period", type=float, default=1.0, help="seconds between requests on a held one (default 1)")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds (default 10)")
    parser.add_argument("--report", type=Path, help="write every observation to this file (JSON)")
    parser.add_argument(
        "--events",
        action="store_true",
        help="JSON lines on standard output: progress twice a second, the report for a line of input and at its end",
    )
    options = parser.parse_args(argv)
    host, _, port = options.target.rpartition(":")
    if not host or not port.isdigit():
        parser.error(f"--target {options.target}: write ADDRESS:PORT, e.g. 192.168.139.123:80")
    options.wish = Wish(
        host=host.strip("[]"),
        port=int(port),
        rate=options.rate,
        timeout=options.timeout,
        hold=options.hold,
        period=options.period,
    )
    return options


def progress(load: Load) -> dict[str, object]:
    """The run so far, small enough to be written twice a second."""
    now = time.monotonic()
    report = load.report()
    recent = [attempt for attempt in report.attempts[-1000:] if attempt.end >= now - 1.0]
    new = failures(recent, 0.0, now)
    return {
        "kind": "progress",
        "at": now,
        "new_last_second": new.of,
        "failed_last_second": new.count,
        "new": len(report.attempts),
        "answered_by": distribution(recent),
        "held": sum(1 for c in report.held if c.answers),
        "alive": sum(1 for c in report.held if c.answers and not c.failure),
        "held_by": {server: found.of for server, found in survivors(report.held).items() if server},
        "alive_by": {server: found.alive for server, found in survivors(report.held).items() if server},
    }


def as_text(state: dict[str, object], started: float) -> str:
    """One live line."""
    at = state["at"]
    assert isinstance(at, float)
    return (
        f"{at - started:6.1f} s  new {state['new_last_second']}/s, failed {state['failed_last_second']}/s"
        f"  held {state['alive']}/{state['held']}"
    )


def _on_input(load: Load) -> None:
    """A line on standard input asks for the report so far; the end of input ends the run."""
    if os.read(0, 4096):
        print(json.dumps({"kind": "report", "report": load.report().to_json()}), flush=True)
    else:
        asyncio.get_running_loop().remove_reader(0)
        load.stop.set()


async def run(options: argparse.Namespace) -> Load:
    """The whole run, with its live lines."""
    load = Load(options.wish)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, load.stop.set)
    if options.events:
        loop.add_reader(0, _on_input, load)
    work = asyncio.create_task(load.run(options.duration))
    while not work.done():
        await asyncio.wait([work], timeout=TICK)
        state = progress(load)
        print(json.dumps(state) if options.events else as_text(state, load.started), flush=True)
    if options.events:
        loop.remove_reader(0)
    await work
    return load


def main() -> int:
    """0 when every new connection was answered and every held one lives."""
    options = arguments()
    report = asyncio.run(run(options)).report()
    if options.report:
        options.report.write_text(json.dumps(report.to_json()))
    if options.events:
        print(json.dumps({"kind": "report", "report": report.to_json()}), flush=True)
    failed = failures(report.attempts, 0.0, report.ended)
    lost = [connection for connection in report.held if connection.failure]
    if not options.events:
        print(f"{failed.of} new connections, {failed.count} failed {dict(failed.reasons)}; by server:")
        print(f"  {distribution(report.attempts)}")
        print(f"{len(report.held)} held connections, {len(lost)} lost")
        for server, found in survivors(report.held).items():
            print(f"  {server or '(never answered)'}: {found.alive}/{found.of} alive, slowest {found.slowest:.3f} s")
    return 1 if failed.count or lost else 0


if __name__ == "__main__":
    sys.exit(main())
