"""What endpoints that change all the time cost the agent: ``python -m tests.bench.churn`` (a minute).

The whole agent in a process of its own, with an API server that tells it of one changed EndpointSlice of 20 after
another, and a kernel in memory in the place of netlink: in a guest a system call costs so much that it would be all
that is measured. Processor time is the kernel's own account of the process. As root all of it runs in a network
namespace, with the election of the node beside: how late its adverts are is seen from another host of that LAN.
"""

import argparse
import asyncio
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from lvsagent import cli
from lvsagent.runtime import app
from tests.bench.capture import Capture
from tests.bench.trace import lateness
from tests.fakes.api import FakeApi, fake_api
from tests.fakes.kernel import FakeKernel
from tests.gen import raw_endpoint_slice, raw_node, raw_service, raw_virtual_service
from tests.net.lan import Lan
from tests.net.test_agent_api_net import NODES, SERVICES, SLICES, STATUS, VIP, VIRTUAL_SERVICES

VRID: Final = 200
"""STATUS says it."""

LIMIT: Final = 0.10
"""Of a core, at RATE events a second."""
RATE: Final = 300
KEPT: Final = ("10.0.0.11", "10.0.0.212")
"""They stay; the others come and go."""
SLICE_COUNT: Final = 20
PER_SLICE: Final = 10
SETTLE: Final = 6.0
SETTLED: Final = 1.0
"""Seconds from the last event until the tables are right."""
LATE_MS: Final = 5.0
"""99.9 % of the adverts, beside RATE events a second."""
INTERVAL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """At one rate of events."""

    share: float
    """Of a core, the agent's."""
    late_ms: list[float]
    """Of each advert, in order of size; empty: no election was beside."""
    settled: float
    """Seconds from the last event until the tables were as they should be; infinite: never."""

    @property
    def late(self) -> float:
        """99.9 % are not later, in ms."""
        return self.late_ms[int(0.999 * (len(self.late_ms) - 1))] if self.late_ms else 0.0


def main() -> int:
    """Exit status 1: more than the limit."""
    parser = argparse.ArgumentParser(prog="churn", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each rate (default %(default)s)")
    parser.add_argument("--agent", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.agent is not None:
        return agent(options.agent)
    if os.geteuid() != 0:
        found = asyncio.run(measure(options.seconds, None))
    else:
        with Lan() as lan:
            lan.add_host("d1", "10.0.0.1/24")
            lan.add_host("client", "10.0.0.9/24")
            capture = Capture(lan, "client")
            with lan.inside("d1"):
                found = asyncio.run(measure(options.seconds, capture))
    for rate, one in found.items():
        late = f"; adverts late by {one.late_ms[len(one.late_ms) // 2]:.2f} ms (median), {one.late:.2f} (p99.9), " \
               f"{one.late_ms[-1]:.2f} (worst of {len(one.late_ms)})" if one.late_ms else ""  # fmt: skip
        print(f"{rate} events/s: {one.share:.1%} of a core, right {one.settled:.2f} s after the last{late}")
    slow = found[RATE].settled > SETTLED
    return int(found[RATE].share > LIMIT or found[RATE].late > LATE_MS or slow)


def agent(argv: list[str]) -> int:
    """The agent, on a kernel in memory; says its processor time and its destinations when asked by SIGUSR1."""
    kernel = FakeKernel(node="d1")
    vars(app).update(Kernel=lambda **_: kernel, Glance=_nothing)

    def tell(*_: Any) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        there = {str(one.address) for service in kernel.state.services.values() for one in service.destinations}
        print(used.ru_utime + used.ru_stime, *sorted(there), flush=True)

    signal.signal(signal.SIGUSR1, tell)
    return cli.main(argv)


def _nothing(*_: Any) -> None:
    raise OSError("no kernel to look at")


async def measure(seconds: float, capture: Capture | None) -> dict[int, Found]:
    """By rate."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with fake_api() as api:
            running = [_start(api, folder)]
            if capture is not None:
                running.append(_start_election(folder))
            process = running[0]
            try:
                await asyncio.sleep(SETTLE)
                for rate in (0, RATE):
                    if capture is not None:
                        capture.restart()
                    (before, _), begin = await _ask(process), time.monotonic()
                    wanted = await _events(api, rate, seconds)
                    (after, there), end = await _ask(process), time.monotonic()
                    share = (after - before) / (end - begin)
                    while there != wanted and time.monotonic() < end + 10 * SETTLED:
                        await asyncio.sleep(0.05)
                        _, there = await _ask(process)
                    settled = time.monotonic() - end if there == wanted else math.inf
                    adverts = [] if capture is None else capture.drain().of("10.0.0.1", VRID)
                    if capture is not None and len(adverts) < seconds / INTERVAL / 2:
                        raise RuntimeError(f"the election was not Active: {len(adverts)} adverts in {seconds} s")
                    late = sorted(1000 * each for each in lateness(adverts, INTERVAL))
                    found[rate] = Found(share, late, settled)
            finally:
                for each in running:
                    each.kill()
                    each.wait()
    return found


async def _ask(process: "subprocess.Popen[str]") -> tuple[float, set[str]]:
    """Seconds of a processor that the agent used, and its destinations."""
    assert process.stdout is not None
    process.send_signal(signal.SIGUSR1)
    used, *there = (await asyncio.to_thread(process.stdout.readline)).split()
    return float(used), set(there)


def _start_election(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "lvsagent.election"]
    for option in ("run-dir", "state-dir"):
        command += [f"--{option}", str(folder / option)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def _start(api: FakeApi, folder: Path) -> "subprocess.Popen[str]":
    api.put(NODES, raw_node("d1", "10.0.0.1"))
    api.put(SERVICES, raw_service("web"))
    api.put(VIRTUAL_SERVICES, raw_virtual_service("web", addresses=[VIP], status=STATUS))
    api.put(SLICES, raw_endpoint_slice(KEPT, node="elsewhere"))
    config = {
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "tests.bench.churn", "--agent", "--node-name", "d1", "--metrics-address", ""]
    for option in ("run-dir", "state-dir", "kubeconfig"):
        command += [f"--{option}", str(folder / option)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


async def _events(api: FakeApi, rate: int, seconds: float) -> set[str]:
    """Addresses that are there in the end."""
    chance, start, told = random.Random(46), time.monotonic(), 0
    slices: list[set[str]] = [set() for _ in range(SLICE_COUNT)]
    while (now := time.monotonic()) < start + seconds:
        while told < (now - start) * rate:
            number = chance.randrange(SLICE_COUNT)
            slices[number] ^= {f"10.0.1.{number * PER_SLICE + chance.randrange(PER_SLICE)}"}
            api.put(SLICES, raw_endpoint_slice(sorted(slices[number]), node="elsewhere", name=f"web-{number:05}"))
            told += 1
        await asyncio.sleep(0.003)
    return set(KEPT).union(*slices)


if __name__ == "__main__":
    sys.exit(main())
