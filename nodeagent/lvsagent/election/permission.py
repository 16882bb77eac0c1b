"""May this process do what an election does? Without that it must not run a router: an Active that cannot put the
address on its interface would keep it from all others."""

import errno
import socket

from lvsagent.election.netlink import Rtnetlink
from lvsagent.vrrp import packet

REMEDY = "grant it (securityContext.capabilities.add of the container, AmbientCapabilities= of the unit) and start anew"


def lacking(netlink: Rtnetlink) -> str:
    """Why no router can run, with the remedy; empty: nothing is missing. Tried, not read from /proc: in a user
    namespace a process has every capability, and none over the node's network."""
    missing = [name for name, there in (("CAP_NET_RAW", _raw()), ("CAP_NET_ADMIN", _admin(netlink))) if not there]
    return f"lvs-election lacks {' and '.join(missing)}: {REMEDY}" if missing else ""


def _raw() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, packet.PROTOCOL).close()
    except PermissionError:
        return False
    return True


def _admin(netlink: Rtnetlink) -> bool:
    """The kernel looks for the permission first, and then finds no interface of that index."""
    refused = netlink.drop(0, (bytes(4),), {})
    return all(error.errno not in (errno.EPERM, errno.EACCES) for error in refused.values())
