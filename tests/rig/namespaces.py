"""One command in namespaces of its own on this machine's kernel: what a guest is, without what a guest costs.

For tests that need a network and processes of their own: they take a quarter of the processor here. Where this kernel
has ``ip_vs``, or a module of it, nearly all do with that.
Network, mounts, processes, IPC and host name are the command's own; ``/run`` and the folder for temporary files too;
the clock, modules and the settings outside of ``net`` are out of its reach; cgroups are not there. When it ends, or
is killed, the kernel ends and removes everything that it started and made. Needs root.
"""

import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from typing import BinaryIO

from . import shell
from .errors import CommandFailed
from .guest import die_with_parent

AHEAD = ("nice", "-n", "-5")
"""Of the guests beside it, which compute while it waits."""
OWN = ("--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
WITHOUT = ("sys_time", "sys_boot", "sys_module", "sys_rawio", "syslog", "wake_alarm", "mknod")
"""Capabilities that reach beyond namespaces."""

INIT = """\
set -e
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run; mkdir /run/tmp /run/netns
mount --bind /proc/sys /proc/sys; mount --bind /proc/sys/net /proc/sys/net; mount -o remount,bind,ro /proc/sys
[ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null /proc/sysrq-trigger
ip link set lo up
set +e
setpriv --bounding-set={without} -- {command} </dev/null
exit $?
"""

FEATURES = {
    "lan": """
        ip netns add probed; ip link add bridge0 type bridge mcast_snooping 0; ip link set bridge0 up
        ip link add name port type veth peer name eth0 netns probed; ip link set dev port master bridge0 up
        nft add table netdev cuts
        for hook in ingress egress; do
          nft "add chain netdev cuts $hook { type filter hook $hook device port priority 0; policy drop; }"
        done
        ip -n probed address add 10.0.0.1/24 dev eth0; ip -n probed -6 address add fd00::1/64 dev eth0 nodad
        ip netns exec probed sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=1
        chrt --rr 1 true""",
    "filters": """
        nft add table bridge f; nft 'add chain bridge f c { type filter hook forward priority 0; }'
        nft add rule bridge f c ip protocol 112 numgen random mod 100 '<' 30 drop
        nft add rule bridge f c iifname a oifname b arp operation reply drop
        nft add table ip f; nft 'add chain ip f c { type filter hook output priority 0; }'
        nft add rule ip f c ip protocol 112 drop; nft add rule ip f c limit rate 5/second drop""",
    "macvlan": """
        ip link add name port type veth peer name eth0; ip link add link eth0 name virtual type macvlan mode bridge
        ip link add link eth0 name other type macvlan mode private""",
    "ipvs": """
        number=0
        for scheduler in rr wrr lc wlc lblc lblcr dh sh mh sed nq fo ovf twos; do
          ipvsadm -A -f $((++number)) -s $scheduler
        done
        ipvsadm -A -t 10.0.0.1:80 -s mh -b mh-fallback,mh-port; ipvsadm -A -t [fd00::1]:80 -s wrr -p 60
        ipvsadm -a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 0; ipvsadm -a -f 1 -r 10.0.0.3 -i --tun-type gre
        test "$(grep -c . /proc/net/ip_vs)" = 21; sysctl -qw net.ipv4.vs.sloppy_tcp=1 net.ipv4.vs.conntrack=1
        nft add table ip f; nft 'add chain ip f c { type filter hook input priority 0; }'
        nft add rule ip f c ct state established meta mark set 1 accept
        ip link add name tunnel type ipip local 10.0.0.1; ip link add name other type gretap local 10.0.0.1""",
    "machine": "false",
    "netem": "tc qdisc add dev lo root netem delay 20ms 20ms distribution normal reorder 25% 50% duplicate 10%",
}
"""What a test may need of a kernel, and what a kernel that has it can do. No kernel that others use is a ``machine``: a
test that needs one changes what is not of the network, or is of all of its namespaces (the limit of conntrack)."""
MODULES = {"ipvs": ("ip_vs", "ip_vs_mh", "ipip", "ip_gre", "fou")}
"""What is loaded first, where it is a module: who is in namespaces may not."""


@functools.cache
def has(feature: str) -> bool:
    """Tried, not assumed. Raises KeyError for a word that is not in ``FEATURES``."""
    script = f"set -e\n{FEATURES[feature]}"
    if os.geteuid() != 0:
        return False
    for module in MODULES.get(feature, ()) if shutil.which("modprobe", path=shell.SEARCH_PATH) else ():
        shell.run(["modprobe", "-q", module], check=False)
    try:
        return run(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20.0) == 0
    except CommandFailed:
        return False


def have(features: Collection[str]) -> bool:
    """All of them."""
    return all(has(feature) for feature in features)


def arguments(command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` so."""
    without = ",".join(f"-{name}" for name in WITHOUT)
    return [*AHEAD, "unshare", *OWN, "bash", "-c", INIT.format(without=without, command=shlex.join(command))]


def run(
    command: Sequence[str],
    *,
    stdout: BinaryIO | int | None = None,
    stderr: BinaryIO | int | None = None,
    timeout: float | None = None,
) -> int:
    """The command's exit status. Raises CommandFailed after ``timeout`` seconds. Nothing stays, also after a kill."""
    process = subprocess.Popen(
        arguments(command),
        stdin=subprocess.DEVNULL,
        stdout=sys.stdout.buffer if stdout is None else stdout,
        stderr=sys.stderr.buffer if stderr is None else stderr,
        env=shell.environment({"TMPDIR": "/run/tmp"}),
        preexec_fn=die_with_parent,
    )
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{shlex.join(command)}: no end within {timeout} s") from None
    finally:
        process.send_signal(signal.SIGKILL)  # its child is process 1 of the namespaces: the kernel ends the rest
        process.wait()
