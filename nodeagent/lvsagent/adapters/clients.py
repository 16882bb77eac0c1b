"""Writes what ``core.clients`` wants: routes of table ``local``, our own tables ``lvs-dr-clients``, ``accept_local``.

include/uapi/linux/rtnetlink.h, netfilter/nf_tables.h. Only routes of our protocol number and our own nftables table are
ever touched; settings are remembered as those of ``lvs-node-init`` are. Blocking; owned by the worker thread.
"""

import errno
import os
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from lvsagent.adapters import nftwire as nft
from lvsagent.adapters.netlink import Message, Netlink, attribute, by_type, parse_attributes
from lvsagent.adapters.procfs import Originals, Sysctls, boot_id, prepare
from lvsagent.core.clients import ClientPaths
from lvsagent.core.sysctl import CONF, IP6_FORWARD, satisfied
from lvsapi.model import IPNetwork

ROUTE, NETFILTER = 0, 12
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_PREFSRC = 1, 4, 7
RTMSG = struct.Struct("=BBBBBBBBI")
TABLE_LOCAL, SCOPE_HOST, RTN_LOCAL = 255, 254, 2
PROTOCOL = 112
"""Of our routes, as VRRP's among IP's; nobody else's in iproute2's rt_protos."""
SOL_NETLINK, STRICT_CHECK = 270, 12
LO = 1
TABLE, CHAIN, SET = "lvs-dr-clients", "postrouting", "addresses"
POSTROUTING, BEFORE_OTHERS = 4, 99
"""Source NAT of others stands at 100; whoever is first decides for a connection."""
ORIGINAL = 0


class Family(NamedTuple):
    """What differs between the tables ``ip`` and ``ip6``."""

    version: int
    number: int
    """NFPROTO_*."""
    source: int
    """Where addresses stand in the header, and their octets."""
    destination: int
    width: int
    kind: int
    """nft's own number of the type of address, which it shows sets by."""
    original: int
    """Key of the original destination in conntrack."""


IP = Family(4, 2, 12, 16, 4, 7, 20)
IP6 = Family(6, 10, 8, 24, 16, 8, 22)
ELEMENTS = 1000
"""Of a message."""
NOTE = "clients of virtual addresses inside the cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of it."""

    changes: int = 0
    """0: all was as wanted."""
    errors: tuple[str, ...] = ()


class Clients:
    """In the network namespace in which it was opened. Raises OSError."""

    def __init__(self, sysctls: Sysctls, originals: Originals) -> None:
        self._sysctls = sysctls
        self._originals = originals
        self._netlink = Netlink(ROUTE)
        self._netlink.option(SOL_NETLINK, STRICT_CHECK, 1)
        self._netfilter: Netlink | None = None
        self._written = 0

    def close(self) -> None:
        """May be called twice."""
        self._netlink.close()
        if self._netfilter is not None:
            self._netfilter.close()

    def make(self, paths: ClientPaths) -> Made:
        """Write what is missing, take away what is too much. Raises NetlinkError when the kernel does not answer."""
        errors: list[str] = []
        changes = self._routes(paths, errors) + sum(self._rules(paths, family, errors) for family in (IP, IP6))
        wanted = {f"{CONF}/{name}/accept_local": "1" for name in paths.interfaces}
        if paths.forwards6:
            wanted[IP6_FORWARD] = "1"
        there = self._sysctls.read(wanted)
        missing = {k: v for k, v in wanted.items() if there[k] is not None and not satisfied(k, there[k], v)}
        if missing:
            try:
                failures = prepare(self._sysctls, self._originals, boot_id(), missing)
            except OSError as error:
                errors.append(f"the originals of {', '.join(missing)} cannot be recorded: {error}")
            else:
                errors += (failure.message for failure in failures)
                changes += len(missing)
        return Made(changes=changes, errors=tuple(errors))

    def _routes(self, paths: ClientPaths, errors: list[str]) -> int:
        there = frozenset(self._standing())
        messages = [Message(RTM_DELROUTE, 0, _route(*each)) for each in sorted(there - paths.sources)]
        # Without NLM_F_APPEND it comes before the kernel's own, whose source is the address itself.
        messages += (Message(RTM_NEWROUTE, nft.NLM_F_CREATE, _route(*each)) for each in sorted(paths.sources - there))
        refused = self._netlink.batch(messages)
        for code in sorted(set(refused.values())):
            errors.append(
                f"a route of table local to {NOTE} is refused: {os.strerror(code)};"
                " processes of this node do not reach the virtual addresses"
            )
        return len(messages) - len(refused)

    def _standing(self) -> Iterator[tuple[IPv4Address, IPv4Address]]:
        query = RTMSG.pack(socket.AF_INET, 0, 0, 0, TABLE_LOCAL, PROTOCOL, 0, 0, 0)
        for header, attributes in by_type(self._netlink.dump(Message(RTM_GETROUTE, 0, query)), RTMSG.size):
            _, length, _, _, table, protocol, _, kind, _ = RTMSG.unpack(header)
            ours = (length, table, protocol, kind) == (32, TABLE_LOCAL, PROTOCOL, RTN_LOCAL)
            if ours and len(attributes.get(RTA_PREFSRC, b"")) == 4:
                yield IPv4Address(attributes[RTA_DST]), IPv4Address(attributes[RTA_PREFSRC])

    def _rules(self, paths: ClientPaths, family: Family, errors: list[str]) -> int:
        wanted = paths.pods and bool(paths.addresses(family.version))
        body = ruleset(paths, family) if wanted else []
        digest = zlib.crc32(b"".join(message.body for message in body))
        try:
            if self._netfilter is None:
                self._netfilter = Netlink(NETFILTER)
            there = self._table(family)
            if there == comment(digest) if wanted else there is None:
                return 0
            code = self._netfilter.transaction(
                nft.BEGIN,
                [*remove(family), *(create(family, digest, body) if wanted else ())],
                nft.END,
            )
        except OSError as error:
            code = error.errno or errno.EIO
        if code and wanted:
            errors.append(
                f"nftables refuses our table {'ip' if family is IP else 'ip6'} {TABLE}: {os.strerror(code)}: pods of"
                " this node may not reach virtual addresses; load nf_tables and nft_masq on the node"
            )
        return 0 if code else 1

    def _table(self, family: Family) -> bytes | None:
        """What is noted at our table; None: there is none."""
        assert self._netfilter is not None
        try:
            answer = self._netfilter.request(nft.message(nft.GETTABLE, nft.text(1, TABLE), family=family.number))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return parse_attributes(answer[4:]).get(6, b"")


def _route(address: IPv4Address, source: IPv4Address) -> bytes:
    header = RTMSG.pack(socket.AF_INET, 32, 0, 0, TABLE_LOCAL, PROTOCOL, SCOPE_HOST, RTN_LOCAL, 0)
    attributes = attribute(RTA_DST, address.packed) + attribute(RTA_OIF, struct.pack("=I", LO))
    return header + attributes + attribute(RTA_PREFSRC, source.packed)


# -- nftables --------------------------------------------------------------------------------------------------------


def remove(family: Family) -> list[Message]:
    """Created first, for one that is not there cannot be deleted."""
    name = nft.text(1, TABLE)
    return [
        nft.message(nft.NEWTABLE, name, flags=nft.NLM_F_CREATE, family=family.number),
        nft.message(nft.DELTABLE, name, family=family.number),
    ]


def create(family: Family, digest: int, body: Sequence[Message]) -> list[Message]:
    """The table, with a note by which it is known again, and what is in it."""
    noted = nft.text(1, TABLE) + attribute(6, comment(digest))
    table = nft.message(nft.NEWTABLE, noted, flags=nft.NLM_F_CREATE, family=family.number)
    return [table, *body]


def comment(digest: int, note: str = NOTE) -> bytes:
    """libnftnl's form of a comment: type 0, length, text."""
    text = f"lvs-dr: {note} ({digest:08x})".encode() + b"\0"
    return bytes([0, len(text)]) + text


def ruleset(paths: ClientPaths, family: Family) -> list[Message]:
    """nft: ``ct original ip daddr @addresses ip saddr NET ip daddr NET masquerade`` for each neighbourhood, for IPv6
    ``ip6 saddr @addresses ip6 daddr @addresses snat to OWN``, then ``ip daddr @addresses snat to ip saddr``."""
    name = nft.text(1, TABLE)
    create = {"flags": nft.NLM_F_CREATE, "family": family.number}
    size = nft.number(5, family.width)
    kind = name + nft.text(2, SET) + nft.number(3, 0) + nft.number(4, family.kind) + size + nft.number(10, 1)
    messages = [
        nft.chain(TABLE, CHAIN, POSTROUTING, BEFORE_OTHERS, kind="nat", family=family.number),
        nft.message(nft.NEWSET, kind, **create),
    ]
    addresses = paths.addresses(family.version)
    for start in range(0, len(addresses), ELEMENTS):
        found = (nft.nest(1, nft.nest(1, attribute(1, a.packed))) for a in addresses[start : start + ELEMENTS])
        elements = name + nft.text(2, SET) + nft.number(4, 1) + nft.nest(3, *found)
        messages.append(nft.message(nft.NEWSETELEM, elements, **create))
    networks = sorted(n for n in paths.neighbours if n.version == family.version)
    rules = [_masquerade(family, network) for network in networks]
    if family is IP6:
        rules.append(_own_source(min(own for _, own in paths.sources6)))
    rules.append(_keep_source(family))
    return [*messages, *(nft.rule(TABLE, CHAIN, expressions, family.number) for expressions in rules)]


def _masquerade(family: Family, network: IPNetwork) -> list[nft.Expression]:
    original = nft.number(1, nft.REGISTER) + nft.number(2, family.original) + attribute(3, bytes([ORIGINAL]))
    within = [*_within(family, family.source, network), *_within(family, family.destination, network)]
    return [("ct", original), _lookup(), *within, ("masq", b"")]


def _own_source(own: IPv6Address) -> list[nft.Expression]:
    """Of a process that would speak as the virtual address itself."""
    both = [_payload(IP6, IP6.source), _lookup(), _payload(IP6, IP6.destination), _lookup()]
    return [*both, nft.load(own.packed), _source_nat(IP6)]


def _keep_source(family: Family) -> list[nft.Expression]:
    """A source NAT that changes nothing: no later one has a say."""
    return [_payload(family, family.destination), _lookup(), _payload(family, family.source), _source_nat(family)]


def _source_nat(family: Family) -> nft.Expression:
    return "nat", nft.number(1, 0) + nft.number(2, family.number) + nft.number(3, nft.REGISTER)


def _lookup() -> nft.Expression:
    return "lookup", nft.text(1, SET) + nft.number(2, nft.REGISTER) + nft.number(4, 1)


def _within(family: Family, offset: int, network: IPNetwork) -> list[nft.Expression]:
    same = nft.compare(network.network_address.packed)
    return [_payload(family, offset), nft.masked(network.netmask.packed), same]


def _payload(family: Family, offset: int) -> nft.Expression:
    return nft.payload(nft.NETWORK_HEADER, offset, family.width)
