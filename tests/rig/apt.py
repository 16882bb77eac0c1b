"""The Debian packages that the rig and the tests use, installed when missing. One list, here."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from . import record, shell
from .errors import CommandFailed, RigError
from .progress import Progress

KERNEL = ("flex", "bison", "bc", "xz-utils", "make", "gcc", "libc6-dev", "libelf-dev", "kmod", "curl")
NETWORK = ("iproute2", "iptables", "nftables", "ipvsadm", "ethtool", "conntrack", "tcpdump", "procps", "util-linux")
NODES = ("ipset", "containerd", "runc", "containernetworking-plugins", "openssl", "e2fsprogs")
IMAGES = ("buildah", "debootstrap")
ENGINE = ("docker.io",)
"""For kind in a guest; never started as a service here, and not among what everybody needs."""
PEERS = ("keepalived", "frr", "prometheus", "nginx-light", "dnsmasq-base")
"""Real neighbours that tests speak to. Never started as services here."""

EVERYTHING = (*KERNEL, *NETWORK, *NODES, *IMAGES, *PEERS)


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those that dpkg does not know as installed."""
    if not shutil.which("dpkg-query"):
        raise RigError(
            "this machine has no dpkg: the rig builds its guests on Debian and its relatives. "
            "Elsewhere use a machine with Docker and the ip_vs module: the rig then takes kind."
        )
    text = shell.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"])
    there = {line.split()[0] for line in text.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in there]


def install(packages: tuple[str, ...] = EVERYTHING) -> None:
    """Install what is missing; says so. As root or through sudo. Services are not started."""
    wanted = missing(packages)
    if not wanted:
        return
    progress, started = Progress("packages"), time.monotonic()
    progress.say(f"installing {' '.join(wanted)}")
    with tempfile.TemporaryDirectory(prefix="lvs-apt-") as folder:
        log = Path(folder) / "log"
        if not any(Path("/var/lib/apt/lists").glob("*Packages*")):
            _apt(["update", "-qq"], log)
        try:
            _apt(["install", "-qq", "-y", "--no-install-recommends", *wanted], log)
        except CommandFailed:  # lists of last month name versions that are gone
            _apt(["update", "-qq"], log)
            _apt(["install", "-qq", "-y", "--no-install-recommends", *wanted], log)
    progress.done("installed")
    record.note("built", "packages", started)


def _apt(arguments: list[str], log: Path) -> None:
    """apt-get with a policy that keeps invoke-rc.d from starting services."""
    policy = Path("/usr/sbin/policy-rc.d")
    words = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments]
    if os.geteuid() != 0:
        words = ["sudo", *words]
    ours = os.geteuid() == 0 and not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        with log.open("ab") as out:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=shell.environment())
    except FileNotFoundError:
        raise RigError(
            f"packages are missing and {words[0]} is not there: run as root, or install {arguments}"
        ) from None
    finally:
        if ours:
            policy.unlink(missing_ok=True)
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(words)}: status {done.returncode}", log.read_text(errors="replace"))
