"""Who else programs IPVS on this node, by the traces it leaves. Blocking; asked only after something was disturbed."""

import http.client
from collections.abc import Collection
from pathlib import Path

from lvsagent.core.guard import Culprit

KUBE_PROXY_PORT = 10249
"""kube-proxy's metricsBindAddress, on 127.0.0.1 unless it is told otherwise."""
KUBE_PROXY_INTERFACE = "kube-ipvs0"
KUBE_ROUTER_INTERFACE = "kube-dummy-if"
VRRP = 112
ANSWER_SECONDS = 0.5
KEEPALIVED = "take the virtual_server blocks of these addresses out of its configuration"
EXCLUDE = (
    "put the virtual addresses into ipvs.excludeCIDRs of kube-proxy's configuration and restart kube-proxy,"
    " or let it run in nftables mode"
)


def culprit(
    interfaces: Collection[str],
    port: int = KUBE_PROXY_PORT,
    processes: Path = Path("/proc"),
    sockets: Collection[int] = (),
    network: Path = Path("/proc/thread-self/net"),
) -> Culprit | None:
    """The likeliest one; None when nobody is known. Never raises. ``sockets``: inodes of those of our election; empty:
    not known."""
    mode = proxy_mode(port)
    if mode == "ipvs":
        return Culprit(name="kube-proxy, which runs in IPVS mode here", remedy=EXCLUDE, certain=True)
    if KUBE_ROUTER_INTERFACE in interfaces:
        return Culprit(
            name=f"kube-router (its interface {KUBE_ROUTER_INTERFACE} is here)",
            remedy="run it without its service proxy (--run-service-proxy=false), or exclude the virtual addresses"
            " (--excluded-cidrs)",
        )
    if not mode and KUBE_PROXY_INTERFACE in interfaces:
        return Culprit(name=f"kube-proxy in IPVS mode (its interface {KUBE_PROXY_INTERFACE} is here)", remedy=EXCLUDE)
    if "keepalived" in running(processes):
        return Culprit(
            name="keepalived, which runs on this node",
            remedy=KEEPALIVED,
        )
    if sockets and speakers(network) - set(sockets):
        return Culprit(
            name="keepalived, for a VRRP daemon that is not ours runs on this node (a raw socket of IP protocol 112)",
            remedy=KEEPALIVED,
        )
    return None


def speakers(network: Path) -> frozenset[int]:
    """Inodes of the raw sockets of VRRP in this network namespace, whosever they are and wherever their processes can
    be seen: a pod shares the host's network, not its processes."""
    found = set()
    for name in ("raw", "raw6"):
        try:
            lines = (network / name).read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        # Where others have a port, a raw socket has its protocol.
        found |= {int(words[9]) for words in map(str.split, lines) if int(words[1].rpartition(":")[2], 16) == VRRP}
    return frozenset(found)


def proxy_mode(port: int) -> str:
    """What kube-proxy on this host says of its mode; empty when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/proxyMode")
        answer = connection.getresponse()
        return answer.read(64).decode("ascii", "replace").strip() if answer.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def running(processes: Path) -> frozenset[str]:
    """Names of the processes that can be seen: in a container without the host's, only its own."""
    found = set()
    for path in processes.glob("[0-9]*/comm"):
        try:
            found.add(path.read_text().strip())
        except OSError:
            continue  # it ended
    return frozenset(found)
