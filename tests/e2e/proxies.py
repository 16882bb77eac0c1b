"""The core of the e2e tests with kube-proxy in each of its modes: ``python -m tests.e2e.proxies [MODE …]``.

nftables and iptables: schedulers, the main job, clients inside, a crash of the Active node and its return. ipvs, where
kube-proxy deletes what it did not make: what is said, and what survives. ipvs-excluding, where excludeCIDRs tells it to
leave our addresses alone: the whole core, and that nothing had to be put back. A cluster for each, one after another,
some five minutes each. Exit status 1: something failed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = ("kube_proxy_modes.py", "test_main_job.py", "test_inside.py", "test_crash.py")
FILES = {
    "nftables": CORE,
    "iptables": CORE,
    "ipvs": ("kube_proxy_ipvs.py",),
    "ipvs-excluding": (*CORE, "kube_proxy_excluding.py"),
}
LIMIT = 1500.0
"""Seconds for a mode."""


def main() -> int:
    """Run, and print a line for each mode."""
    parser = argparse.ArgumentParser(prog="proxies", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{', '.join(FILES)} (default: all)")
    modes = parser.parse_args().modes or list(FILES)
    strange = set(modes) - FILES.keys()
    if strange:
        parser.error(f"{', '.join(sorted(strange))}: choose of {', '.join(FILES)}")
    told = []
    for mode in modes:
        begin = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
        command += [str(HERE / name) for name in FILES[mode]]
        status = subprocess.run(command, env={**os.environ, "LVS_RIG_PROXY": mode}, timeout=LIMIT).returncode
        told.append((mode, status, time.monotonic() - begin))
    for mode, status, seconds in told:
        print(f"kube-proxy in {mode} mode: {'passed' if status == 0 else 'FAILED'} ({seconds:.0f} s)")
    return int(any(status for _, status, _ in told))


if __name__ == "__main__":
    sys.exit(main())
