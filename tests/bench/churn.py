"""What endpoints that change all the time cost the agent: ``python -m tests.bench.churn`` (a minute, no root).

The whole agent in a process of its own, with an API server that tells it of one changed EndpointSlice of 20 after
another, and a kernel in memory in the place of netlink: in a guest a system call costs so much that it would be all
that is measured. Processor time is the kernel's own account of the process.
"""

import argparse
import asyncio
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import yaml

from lvsagent import cli
from lvsagent.runtime import app
from tests.fakes.api import FakeApi, fake_api
from tests.fakes.kernel import FakeKernel
from tests.gen import raw_endpoint_slice, raw_node, raw_service, raw_virtual_service
from tests.net.test_agent_api_net import NODES, SERVICES, SLICES, STATUS, VIP, VIRTUAL_SERVICES

LIMIT: Final = 0.10
"""Of a core, at RATE events a second."""
RATE: Final = 300
SLICE_COUNT: Final = 20
PER_SLICE: Final = 10
SETTLE: Final = 6.0


def main() -> int:
    """Exit status 1: more than the limit."""
    parser = argparse.ArgumentParser(prog="churn", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each rate (default %(default)s)")
    parser.add_argument("--agent", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.agent is not None:
        return agent(options.agent)
    shares = asyncio.run(measure(options.seconds))
    for rate, share in shares.items():
        print(f"{rate} events/s: {share:.1%} of a core")
    return int(shares[RATE] > LIMIT)


def agent(argv: list[str]) -> int:
    """The agent, on a kernel in memory; says its processor time when asked by SIGUSR1."""
    vars(app).update(Kernel=lambda **_: FakeKernel(node="d1"), Glance=_nothing)

    def tell(*_: Any) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(used.ru_utime + used.ru_stime, flush=True)

    signal.signal(signal.SIGUSR1, tell)
    return cli.main(argv)


def _nothing(*_: Any) -> None:
    raise OSError("no kernel to look at")


async def measure(seconds: float) -> dict[int, float]:
    """Share of a core by rate."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with fake_api() as api:
            process = _start(api, folder)
            assert process.stdout is not None
            try:
                await asyncio.sleep(SETTLE)
                for rate in (0, RATE):
                    process.send_signal(signal.SIGUSR1)
                    before, begin = float(await asyncio.to_thread(process.stdout.readline)), time.monotonic()
                    await _events(api, rate, seconds)
                    process.send_signal(signal.SIGUSR1)
                    after = float(await asyncio.to_thread(process.stdout.readline))
                    found[rate] = (after - before) / (time.monotonic() - begin)
            finally:
                process.kill()
                process.wait()
    return found


def _start(api: FakeApi, folder: Path) -> "subprocess.Popen[str]":
    api.put(NODES, raw_node("d1", "10.0.0.1"))
    api.put(SERVICES, raw_service("web"))
    api.put(VIRTUAL_SERVICES, raw_virtual_service("web", addresses=[VIP], status=STATUS))
    api.put(SLICES, raw_endpoint_slice(("10.0.0.11", "10.0.0.212"), node="elsewhere"))
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


async def _events(api: FakeApi, rate: int, seconds: float) -> None:
    chance, start, told = random.Random(46), time.monotonic(), 0
    slices: list[set[str]] = [set() for _ in range(SLICE_COUNT)]
    while (now := time.monotonic()) < start + seconds:
        while told < (now - start) * rate:
            number = chance.randrange(SLICE_COUNT)
            slices[number] ^= {f"10.0.1.{number * PER_SLICE + chance.randrange(PER_SLICE)}"}
            api.put(SLICES, raw_endpoint_slice(sorted(slices[number]), node="elsewhere", name=f"web-{number:05}"))
            told += 1
        await asyncio.sleep(0.003)


if __name__ == "__main__":
    sys.exit(main())
