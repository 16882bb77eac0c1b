"""A look at what may have been changed by others, far cheaper than reading everything: has anything moved since?

IPVS tells nobody when it is changed. Our services alone, compared as octets without their counters, cost a fraction of
a read with destinations (*measured* in a guest kernel with 1,000 services of 10 destinations: ``docs/faults.md``), so
that can be repeated every half second. Those of others do not count: kube-proxy in IPVS mode changes its own all the
time. What a look does not see (a destination) is found by the full read that comes every few seconds. Blocking; owned
by the worker thread.
"""

import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lvsagent.adapters import nftwire as nft
from lvsagent.adapters.addresses import Addresses
from lvsagent.adapters.clients import Clients, Made
from lvsagent.adapters.ipvs import CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_CMD_GETFAMILY, GENERIC, GENL_ID_CTRL
from lvsagent.adapters.ipvswire import CMD_SERVICE, GET_DAEMON, GET_SERVICE, HEADS, Names, encode_key
from lvsagent.adapters.loops import NETFILTER
from lvsagent.adapters.loops import TABLE as GUARD
from lvsagent.adapters.netlink import ATTRIBUTE, NESTED, TYPE_MASK, Message, Netlink, attribute, parse_attributes
from lvsagent.adapters.nftables import WITHOUT, Marks
from lvsagent.adapters.procfs import Originals, Sysctls
from lvsagent.core.clients import ClientPaths
from lvsagent.core.guard import NodeReadings
from lvsagent.core.state import ServiceKey
from lvsagent.core.sysctl import CONF, CONF6, IP6_FORWARD, REQUIRED, effective
from lvsapi.model import IPAddress

SVC_STATS = 10
"""include/uapi/linux/ip_vs.h IPVS_SVC_ATTR_STATS: what follows it are counters."""
CONNTRACK = ("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max")
FEW = 50
"""Services that are asked for one by one: 50 cost what a list of 500 does."""


class Glance:
    """Sockets of the network namespace in which it was opened. Raises OSError."""

    def __init__(self, proc_sys: Path, state_dir: Path) -> None:
        self._sysctls = Sysctls(proc_sys)
        self._clients: Clients | None = None
        self._heard: set[str] = set()
        self._keys: Collection[ServiceKey] = ()
        self._names = Names((), ())
        self._questions: tuple[Message, ...] = ()
        self._originals = Originals(state_dir)
        self._marks = Marks()
        self._netlink = Netlink(GENERIC)
        self._netfilter = Netlink(NETFILTER)
        try:
            self._family = _family(self._netlink)
            self._addresses = Addresses()
        except OSError:
            self._netlink.close()
            self._netfilter.close()
            raise

    def close(self) -> None:
        """May be called twice."""
        self._netlink.close()
        self._netfilter.close()
        self._addresses.close()
        self._marks.close()
        if self._clients is not None:
            self._clients.close()

    def look(self, services: Collection[ServiceKey]) -> int:
        """A number that is the same while these services, firewall marks, sync daemons, addresses on ``lo`` and
        settings are. Raises OSError."""
        daemons = self._netlink.dump(self._message(GET_DAEMON))
        settings = tuple(self._sysctls.read(REQUIRED).values())
        others = (self._marks.rules(), self._guard(), frozenset(daemons), self._addresses.loopback(), settings)
        return hash((without_counters(self._services(services)), others))

    def _services(self, keys: Collection[ServiceKey]) -> Iterable[bytes]:
        """The answers about these. A few are asked for by name, as a list of all grows with what others have."""
        if keys is not self._keys:
            self._keys, self._names = keys, Names(keys, ())
            self._questions = tuple(
                self._message(GET_SERVICE, attribute(CMD_SERVICE | NESTED, encode_key(key)))
                for key in (keys if len(keys) <= FEW else ())
            )
        if len(keys) <= FEW:
            return [answer for answer in self._netlink.requests(self._questions) if isinstance(answer, bytes)]
        return [answer for answer in self._netlink.dump(self._message(GET_SERVICE)) if answer in self._names]

    def _message(self, command: int, body: bytes = b"") -> Message:
        return Message(self._family, 0, struct.pack("=BBH", command, 1, 0) + body)

    def _guard(self) -> bytes:
        """The table that marks what other nodes sent on, as long as its note and its use say."""
        try:
            return self._netfilter.request(nft.message(nft.GETTABLE, nft.text(1, GUARD)))
        except OSError as error:
            if error.errno in WITHOUT:
                return b""
            raise

    def inspect(self, remote: Iterable[IPAddress], inside: Collection[str] = ()) -> NodeReadings:
        """What is not ours to change. ``remote``: pods of other nodes, one of each node. ``inside``: interfaces over
        which answers to clients inside the cluster come. Raises OSError."""
        uplinks = set(self._addresses.default_routes().values())
        ways = {self._addresses.interface_to(address) for address in remote if address.version == 4} - uplinks
        links = {link.index: link.name for link in self._addresses.links()}
        names = {name for index, name in links.items() if index in ways}
        uplinks_inside = set(inside) - names
        filters = self._sysctls.read(f"{CONF}/{name}/rp_filter" for name in ("all", *names, *uplinks_inside))
        entries, limit = (int(value or 0) for value in self._sysctls.read(CONNTRACK).values())
        return NodeReadings(
            reverse_path={name: effective(filters, name, "rp_filter") for name in names},
            inside={name: effective(filters, name, "rp_filter") for name in uplinks_inside},
            forwarding6=self._sysctls.read([IP6_FORWARD])[IP6_FORWARD] not in (None, "0"),
            advertised=self._advertising(links),
            entries=entries,
            limit=limit,
        )

    def _advertising(self, links: Mapping[int, str]) -> frozenset[str]:
        """An interface that is down for a while has neither heard anything nor any routes: it is remembered."""
        self._heard |= {links[index] for index in self._addresses.advertised() if index in links}
        accepting = self._sysctls.read(f"{CONF6}/{name}/accept_ra" for name in self._heard)
        self._heard = {name for name in self._heard if accepting[f"{CONF6}/{name}/accept_ra"] == "1"}
        return frozenset(self._heard)

    def ways(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, int | None]:
        """The interface over which each is reached, by index. Raises OSError."""
        return {address: self._addresses.interface_to(address) for address in addresses}

    def make(self, paths: ClientPaths) -> Made:
        """What clients inside the cluster need. Raises OSError."""
        if self._clients is None:
            self._clients = Clients(self._sysctls, self._originals)
        return self._clients.make(paths)


def without_counters(services: Iterable[bytes]) -> frozenset[bytes]:
    """The answers of a dump, each cut before its counters. They are equally long in all of them."""
    tail: int | None = None
    found = set()
    for service in services:
        if tail is None:
            tail = len(service) - _counters(service)
        found.add(service[: len(service) - tail])
    return frozenset(found)


def _counters(service: bytes) -> int:
    offset = HEADS
    while offset + ATTRIBUTE.size <= len(service):
        length, kind = ATTRIBUTE.unpack_from(service, offset)
        if kind & TYPE_MASK == SVC_STATS or length < ATTRIBUTE.size:
            return offset
        offset += length + (-length % 4)
    return len(service)


def _family(netlink: Netlink) -> int:
    body = struct.pack("=BBH", CTRL_CMD_GETFAMILY, 1, 0) + attribute(CTRL_ATTR_FAMILY_NAME, b"IPVS\0")
    answer = netlink.request(Message(GENL_ID_CTRL, 0, body))
    (number,) = struct.unpack("=H", parse_attributes(answer[4:])[CTRL_ATTR_FAMILY_ID][:2])
    return int(number)
