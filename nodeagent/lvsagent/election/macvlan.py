"""The interface with a virtual router's MAC: keepalived's ``use_vmac`` with ``vmac_xmit_base`` (linux/if_link.h)."""

import contextlib
import socket
import struct
from typing import Final

from lvsagent.election.netlink import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_LINK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_NEWLINK,
    Rtnetlink,
    attribute,
    link_message,
)

IFLA_LINKINFO, IFLA_AF_SPEC = 18, 26
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_MACVLAN_MODE, MACVLAN_MODE_PRIVATE = 1, 1
IFLA_INET_CONF, IFLA_INET6_ADDR_GEN_MODE = 1, 8
IN6_ADDR_GEN_MODE_NONE: Final = 1
RP_FILTER, ARP_IGNORE, ACCEPT_LOCAL = 8, 19, 23
"""linux/ip.h: IPV4_DEVCONF_*."""


def make(netlink: Rtnetlink, name: str, parent: int, mac: bytes) -> None:
    """A macvlan on the interface of that index, down. Raises OSError, and then there is none.

    It answers ARP for its own addresses only, takes packets whatever way back the routes say, and gives itself no
    IPv6 address.
    """
    info = attribute(IFLA_INFO_KIND, b"macvlan\0")
    info += attribute(IFLA_INFO_DATA, attribute(IFLA_MACVLAN_MODE, struct.pack("=I", MACVLAN_MODE_PRIVATE)))
    wanted = attribute(IFLA_IFNAME, name.encode() + b"\0") + attribute(IFLA_ADDRESS, mac)
    wanted += attribute(IFLA_LINK, struct.pack("=I", parent)) + attribute(IFLA_LINKINFO, info)
    netlink.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_message() + wanted)
    settings = b"".join(
        attribute(number, struct.pack("=I", value))
        for number, value in ((RP_FILTER, 0), (ARP_IGNORE, 1), (ACCEPT_LOCAL, 1))
    )
    four = attribute(socket.AF_INET, attribute(IFLA_INET_CONF, settings))
    six = attribute(socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes((IN6_ADDR_GEN_MODE_NONE,))))
    by_name = attribute(IFLA_IFNAME, name.encode() + b"\0")
    try:
        netlink.request(RTM_NEWLINK, 0, link_message() + by_name + attribute(IFLA_AF_SPEC, four))
    except OSError:  # half made it would be taken for whole the next time
        with contextlib.suppress(OSError):
            netlink.request(RTM_DELLINK, 0, link_message() + by_name)
        raise
    with contextlib.suppress(OSError):  # a node without IPv6
        netlink.request(RTM_NEWLINK, 0, link_message() + by_name + attribute(IFLA_AF_SPEC, six))


def switch(netlink: Rtnetlink, index: int, *, on: bool) -> None:
    """Bring it up, or down. Raises OSError."""
    netlink.request(RTM_NEWLINK, 0, link_message(index, IFF_UP if on else 0, IFF_UP))


def remove(netlink: Rtnetlink, index: int) -> None:
    """Delete it, and its addresses. Raises OSError."""
    netlink.request(RTM_DELLINK, 0, link_message(index))
