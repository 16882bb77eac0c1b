"""1,000 services of 10 destinations from nothing: ``python -m tests.bench.programming`` (guest kernel, under a minute).

Ours (the difference computed and applied, ``mh``) beside ``ipvsadm --restore`` with the same table, in turn. Also what
a pass costs that changes nothing, and what it takes to set a node's destinations of 100 services to weight 0 with the
tables that give it the benefit of the doubt written before (``core.doubt``).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from lvsagent.adapters.kernel import Kernel
from lvsagent.core.diff import Owned, diff
from lvsagent.core.doubt import Doubt, benefit
from lvsagent.core.loops import LoopGuard
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Service, ServiceKey
from lvsapi.model import Protocol
from tests.net.lan import Lan

SERVICES: Final = 1000
DESTINATIONS: Final = 10
DOUBTED: Final = 100
FLAGS: Final = 0x18
"""mh-fallback, mh-port."""
LIMIT: Final = 0.5
"""Seconds, median: from nothing."""


def table(number: int) -> Service:
    """A service of ours."""
    key = ServiceKey(ip_address(f"10.77.{number // 250}.{number % 250 + 1}"), Protocol.TCP, 80)
    destinations = (
        Destination(ip_address(f"10.244.{place + 1}.2"), 8080, ForwardMethod.MASQUERADE, 1)
        for place in range(DESTINATIONS)
    )
    return Service(key=key, scheduler="mh", flags=FLAGS, destinations=tuple(destinations))


def main() -> int:
    """Exit status 1: slower than the limit."""
    parser = argparse.ArgumentParser(prog="programming", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="of each side (default %(default)s)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return measure(options.runs)
    command = [sys.executable, "-m", "tests.rig", "guest", "--", sys.executable, "-m", "tests.bench.programming"]
    return subprocess.run([*command, "--inside", f"--runs={options.runs}"], check=False).returncode


def measure(runs: int) -> int:
    """In the guest."""
    with Lan() as lan:
        lan.add_host("n1", "10.0.0.21/24")
        with lan.inside("n1"), Kernel(node="n1", proc_sys=Path("/proc/sys")) as kernel:
            services = {one.key: one for one in map(table, range(SERVICES))}
            want = replace(kernel.read(), services=services)
            text = restorable(want)
            figures: dict[str, list[float]] = {
                name: [] for name in ("ours", "ipvsadm --restore", "read", "unchanged", f"doubt ({DOUBTED})")
            }
            for _ in range(runs):
                subprocess.run(["ipvsadm", "-C"], check=True)
                with timed(figures["ipvsadm --restore"]):
                    subprocess.run(["ipvsadm", "--restore"], input=text, text=True, check=True)
                subprocess.run(["ipvsadm", "-C"], check=True)
                empty = kernel.read()
                with timed(figures["ours"]):
                    failures = kernel.apply(diff(want, empty, Owned()).ops)
                assert failures == (), failures[0].message
                with timed(figures["read"]):
                    now = kernel.read()
                with timed(figures["unchanged"]):
                    left = diff(want, now, Owned()).ops
                assert left == (), left[:5]
                suspect(kernel, want, now, figures[f"doubt ({DOUBTED})"])
    for name, seconds in figures.items():
        print(f"{name:20} median {statistics.median(seconds):.3f} s, best {min(seconds):.3f}, worst {max(seconds):.3f}")
    print(f"load average {os.getloadavg()[0]:.1f}, {runs} runs")
    return int(statistics.median(figures["ours"]) > LIMIT)


def suspect(kernel: Kernel, want: KernelState, now: KernelState, into: list[float]) -> None:
    """Weight 0 for one destination of each of some services, the whole tables beside them first."""
    some = dict(list(want.services.items())[:DOUBTED])
    without = {
        key: replace(one, destinations=(replace(one.destinations[0], weight=0), *one.destinations[1:]))
        for key, one in some.items()
    }
    with timed(into):
        services, marks = benefit(Doubt(whole=some), want.services, {}, ())
        held = kernel.guard_loops(LoopGuard(services=services, doubted=marks), {})
        failures = kernel.apply(diff(replace(want, services={**want.services, **without}), now, Owned()).ops)
    assert held.errors == ()
    assert failures == ()
    kernel.guard_loops(LoopGuard(), held.there)


def restorable(want: KernelState) -> str:
    """As ``ipvsadm --save -n`` writes it."""
    lines = []
    for key, one in want.services.items():
        lines.append(f"-A -t {key.address}:{key.port} -s mh -b mh-fallback,mh-port")
        lines += (f"-a -t {key.address}:{key.port} -r {d.address}:{d.port} -m -w 1" for d in one.destinations)
    return "\n".join(lines) + "\n"


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Seconds."""
    begin = time.monotonic()
    yield
    into.append(time.monotonic() - begin)


if __name__ == "__main__":
    sys.exit(main())
