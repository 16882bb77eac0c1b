"""Marks packets that other nodes sent on, and those in the middle of a connection while somebody is suspected: our own
table ``inet lvs-dr-loops``, as ``core.loops`` and ``core.doubt`` want it.

Packets of other nodes are known by their source on the link, found in the kernel's neighbour table. Only our
own table is ever touched. Blocking; owned by the worker thread.
"""

import errno
import os
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count

from lvsagent.adapters import nftwire as nft
from lvsagent.adapters.clients import comment
from lvsagent.adapters.ipvswire import NUMBERS
from lvsagent.adapters.netlink import Message, Netlink, attribute, by_type, parse_attributes
from lvsagent.core.loops import OUR_MARKS, LoopGuard, Standing
from lvsagent.core.senders import Neighbour, Ways, ways_of
from lvsagent.core.state import Mark, ServiceKey
from lvsapi.model import IPAddress, Protocol

ROUTE, NETFILTER = 0, 12
RTM_GETROUTE, RTM_NEWNEIGH, RTM_GETNEIGH = 26, 28, 30
NTF_USE, NLM_F_CREATE = 0x01, 0x400
NDMSG = struct.Struct("=BBHiHBB")
RTMSG = struct.Struct("=BBBBBBBBI")
NDA_DST, NDA_LLADDR, RTA_GATEWAY = 1, 2, 5
NUD_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""Reachable, stale, delayed, probed, permanent: not failed, not incomplete."""
TABLE, PEERS = "lvs-dr-loops", "peers"
NOTE = "packets that other nodes sent on"
MAPS = {4: "services4", 6: "services6"}
DOUBTED = {4: "doubted4", 6: "doubted6"}
EVERY = {4: "every4", 6: "every6"}
RANGES, EVERY_RANGE = {4: "ranges4", 6: "ranges6"}, {4: "everyrange4", 6: "everyrange6"}
INPUT, DOUBT, OUTPUT = (1, 91), (1, 92), (3, -301)
"""Hook and priority: right before IPVS (99); and first of all when it sends a packet on, where the mark is cleared."""
ACCEPT = 1
ETHERNET, MAC_SOURCE, MAC = 1, 6, 6
"""ARPHRD_ETHER; where the source stands in the frame; its length."""
TCP_FLAGS, SYN, SYN_ACK = 13, 0x02, 0x12
FIRST_REGISTER, LAST_REGISTER = 8, 23
"""Of four octets each."""
MAP, INVERTED = 0x8, 0x1
TYPE_ETHERNET, TYPE_MARK, TYPE_PROTOCOL, TYPE_PORT = 9, 19, 12, 13
TYPE_ADDRESS = {4: 7, 6: 8}
"""nft's own numbers, which it shows sets by."""
FAMILIES = ((4, nft.NFPROTO_IPV4, 16), (6, nft.NFPROTO_IPV6, 24))
"""Version, number, and where the destination stands in the header."""
ELEMENTS = 500
"""Of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """What came of it."""

    changes: int = 0
    """0: all was as wanted."""
    errors: tuple[str, ...] = ()
    there: Standing = field(default_factory=dict)
    """Services of ours, as read back where they were touched."""
    idle: frozenset[ServiceKey] = frozenset()
    """Those of them that have no connections."""
    ways: Ways = field(default_factory=Ways)
    """To the other nodes."""


class Loops:
    """The table, and the neighbours, of the network namespace in which it was opened. Raises OSError."""

    def __init__(self) -> None:
        self._route = Netlink(ROUTE)
        self._netfilter = Netlink(NETFILTER)
        self._known: dict[IPAddress, bytes] = {}
        """Neighbours of which the kernel may have forgotten meanwhile."""

    def close(self) -> None:
        """May be called twice."""
        self._route.close()
        self._netfilter.close()

    def ways(self, peers: frozenset[IPAddress], interfaces: Iterable[int]) -> Ways:
        """To the other nodes. ``interfaces``: see there."""
        gateways = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            query = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for header, attributes in by_type(self._route.dump(Message(RTM_GETROUTE, 0, query)), RTMSG.size):
                if RTMSG.unpack(header)[1] == 0 and RTA_GATEWAY in attributes:
                    gateways.add(ip_address(attributes[RTA_GATEWAY]))
        self._known.update((one.address, one.mac) for one in self._table() if one.address in peers | gateways)
        found = [Neighbour(address=address, mac=mac) for address, mac in self._known.items()]
        return ways_of(found, peers, gateways, interfaces)

    def ask(self, address: IPAddress, index: int) -> None:
        """Let the kernel ask a neighbour for its hardware address, as if there were something to send."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = NDMSG.pack(family, 0, 0, index, 0, NTF_USE, 0) + attribute(NDA_DST, address.packed)
        self._route.batch([Message(RTM_NEWNEIGH, NLM_F_CREATE, body)])

    def _table(self) -> Iterator[Neighbour]:
        query = NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0)
        for header, attributes in by_type(self._route.dump(Message(RTM_GETNEIGH, 0, query)), NDMSG.size):
            family, _, _, _, state, _, _ = NDMSG.unpack(header)
            mac, address = attributes.get(NDA_LLADDR, b""), attributes.get(NDA_DST, b"")
            if state & NUD_KNOWN and len(mac) == MAC and family in (socket.AF_INET, socket.AF_INET6):
                yield Neighbour(address=ip_address(address), mac=mac)

    def mark(self, wish: LoopGuard, senders: frozenset[bytes]) -> tuple[int, tuple[str, ...]]:
        """Write the table where it is not as wanted. Returns how much was written, and what was refused. Raises
        NetlinkError when the kernel does not answer."""
        wanted = wish.marks or wish.every or wish.doubted
        body = ruleset(wish.marks, senders, wish.doubted, wish.every) if wanted else []
        digest = zlib.crc32(b"".join(message.body for message in body))
        try:
            there = self._note()
            if there == (comment(digest, NOTE) if body else None):
                return 0, ()
            code = self._netfilter.transaction(nft.BEGIN, [*remove(), *(create(digest, body) if body else ())], nft.END)
        except OSError as error:
            code = error.errno or errno.EIO
        if not code:
            return 1, ()
        if not body:
            return 0, ()
        text = f"nftables refuses our table inet {TABLE}: {os.strerror(code)}: while tables of nodes differ, new"
        text += " connections may go to and fro between them, and a wrong suspicion may cost held ones"
        return 0, (f"{text}; load nf_tables on the node",)

    def _note(self) -> bytes | None:
        """What is noted at our table; None: there is none."""
        try:
            answer = self._netfilter.request(nft.message(nft.GETTABLE, nft.text(1, TABLE)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return parse_attributes(answer[4:]).get(6, b"")


def busy(text: str) -> frozenset[int]:
    """Firewall marks of services that have connections, of whichever family: /proc/net/ip_vs does not say."""
    found, mark = set(), 0
    for words in map(str.split, text.splitlines()):
        if words[:1] != ["->"]:
            mark = int(words[1], 16) if words[:1] == ["FWM"] else 0
        elif mark and words[4:6] != ["0", "0"]:
            found.add(mark)
    return frozenset(found)


# -- nftables --------------------------------------------------------------------------------------------------------


def remove() -> list[Message]:
    """Created first, for one that is not there cannot be deleted."""
    named = nft.text(1, TABLE)
    return [nft.message(nft.NEWTABLE, named, flags=nft.NLM_F_CREATE), nft.message(nft.DELTABLE, named)]


def create(digest: int, body: list[Message]) -> list[Message]:
    """The table, with a note by which it is known again, and what is in it."""
    named = nft.text(1, TABLE) + attribute(6, comment(digest, NOTE))
    return [nft.message(nft.NEWTABLE, named, flags=nft.NLM_F_CREATE), *body]


def ruleset(
    marks: frozenset[Mark],
    macs: frozenset[bytes],
    doubted: frozenset[Mark] = frozenset(),
    every: frozenset[Mark] = frozenset(),
) -> list[Message]:
    """nft, in words::

    chain input { iiftype != ether accept; ether saddr != @peers accept
                  meta mark set ip daddr . meta l4proto . th dport map @every4 (and 6)
                  meta mark set meta mark map @everyrange4 (and 6)
                  meta l4proto tcp tcp flags & (syn | ack) != syn accept
                  meta mark set ip daddr . meta l4proto . th dport map @services4 (and 6)
                  meta mark set meta mark map @ranges4 (and 6) }
    chain doubt { meta l4proto != tcp accept; tcp flags & (syn | ack) == syn accept
                  meta mark set ip daddr . meta l4proto . th dport map @doubted4 (and 6) }
    chain output { meta mark & 0xfffe0000 == 0x4c560000 meta mark set 0 }
    """
    mine = struct.pack("=I", OUR_MARKS[0]), struct.pack("=I", 0xFFFFFFFF ^ (len(OUR_MARKS) - 1))
    tcp = bytes([NUMBERS[Protocol.TCP]])
    clear = [nft.meta(nft.META_MARK), nft.masked(mine[1]), nft.compare(mine[0])]
    messages = [nft.chain(TABLE, "output", *OUTPUT)]
    messages.append(nft.rule(TABLE, "output", [*clear, nft.load(bytes(4)), nft.set_meta(nft.META_MARK)]))
    if marks or every:
        strangers = [
            nft.payload(nft.LINK_HEADER, MAC_SOURCE, MAC),
            ("lookup", nft.text(1, PEERS) + nft.number(2, nft.REGISTER) + nft.number(4, 1) + nft.number(5, INVERTED)),
        ]
        messages += [
            nft.chain(TABLE, "input", *INPUT),
            *_set(PEERS, 1, TYPE_ETHERNET, MAC, {mac: b"" for mac in sorted(macs)}),
            _accept("input", nft.meta(nft.META_IIFTYPE), nft.compare(struct.pack("=H", ETHERNET), nft.NOT_EQUAL)),
            _accept("input", *strangers),
        ]
        messages += _both("input", (EVERY, 6), (EVERY_RANGE, 8), every)
        if marks:
            messages.append(_accept("input", nft.meta(nft.META_L4PROTO), nft.compare(tcp), *_opening(nft.NOT_EQUAL)))
            messages += _both("input", (MAPS, 2), (RANGES, 10), marks)
    if doubted:
        messages += [
            nft.chain(TABLE, "doubt", *DOUBT),
            _accept("doubt", nft.meta(nft.META_L4PROTO), nft.compare(tcp, nft.NOT_EQUAL)),
            _accept("doubt", *_opening(nft.EQUAL)),
            *_mapped("doubt", DOUBTED, 4, doubted),
        ]
    return messages


def _accept(chain: str, *conditions: nft.Expression) -> Message:
    return nft.rule(TABLE, chain, [*conditions, nft.verdict(ACCEPT)])


def _opening(operator: int) -> list[nft.Expression]:
    """Whether a TCP packet opens a connection."""
    flags = nft.payload(nft.TRANSPORT_HEADER, TCP_FLAGS, 1)
    return [flags, nft.masked(bytes([SYN_ACK])), nft.compare(bytes([SYN]), operator)]


def _both(
    chain: str, plain: tuple[Mapping[int, str], int], ranges: tuple[Mapping[int, str], int], marks: frozenset[Mark]
) -> Iterator[Message]:
    """Single ports by address and port, ranges by the mark that they have already: each in maps with these names, and
    numbers from this on."""
    single = frozenset(mark for mark in marks if not mark.instead)
    if single:
        yield from _mapped(chain, *plain, single)
    if marks - single:
        yield from _exchanged(chain, *ranges, marks - single)


def _exchanged(chain: str, names: Mapping[int, str], place: int, marks: frozenset[Mark]) -> Iterator[Message]:
    """One mark in place of another: a map for each family, and the rule that looks there."""
    for (version, protocol, _), number in zip(FAMILIES, count(place), strict=False):
        ours = {struct.pack("=I", m.instead): struct.pack("=I", m.value) for m in marks if m.address.version == version}
        yield from _set(names[version], number, TYPE_MARK, 4, dict(sorted(ours.items())), TYPE_MARK)
        lookup = nft.text(1, names[version]) + nft.number(2, FIRST_REGISTER)
        lookup += nft.number(3, LAST_REGISTER) + nft.number(4, number)
        conditions = [nft.meta(nft.META_NFPROTO), nft.compare(bytes([protocol]))]
        conditions += [nft.meta(nft.META_MARK, FIRST_REGISTER), ("lookup", lookup)]
        yield nft.rule(TABLE, chain, [*conditions, nft.set_meta(nft.META_MARK, LAST_REGISTER)])


def _mapped(chain: str, names: Mapping[int, str], place: int, marks: frozenset[Mark]) -> Iterator[Message]:
    """A map for each family, and the rule that looks there. ``place``: a number for the first map."""
    for (version, protocol, offset), number in zip(FAMILIES, count(place), strict=False):
        length = 4 if version == 4 else 16
        kind = (TYPE_ADDRESS[version] << 12) | (TYPE_PROTOCOL << 6) | TYPE_PORT
        found = {_key(mark): struct.pack("=I", mark.value) for mark in marks if mark.address.version == version}
        yield from _set(names[version], number, kind, length + 8, dict(sorted(found.items())), TYPE_MARK)
        after = FIRST_REGISTER + length // 4
        lookup = nft.text(1, names[version]) + nft.number(2, FIRST_REGISTER)
        lookup += nft.number(3, LAST_REGISTER) + nft.number(4, number)
        conditions = [
            nft.meta(nft.META_NFPROTO),
            nft.compare(bytes([protocol])),
            nft.payload(nft.NETWORK_HEADER, offset, length, FIRST_REGISTER),
            nft.meta(nft.META_L4PROTO, after),
            nft.payload(nft.TRANSPORT_HEADER, 2, 2, after + 1),
            ("lookup", lookup),
            nft.set_meta(nft.META_MARK, LAST_REGISTER),
        ]
        yield nft.rule(TABLE, chain, conditions)


def _key(mark: Mark) -> bytes:
    """As the registers hold it: each part padded to four octets."""
    assert mark.protocol is not None
    return mark.address.packed + struct.pack("!B3xH2x", NUMBERS[mark.protocol], mark.first)


def _set(
    name: str, number: int, kind: int, length: int, elements: Mapping[bytes, bytes], data: int = 0
) -> Iterator[Message]:
    """A set, or a map when it has ``data`` (nft's number of its type)."""
    body = nft.text(1, TABLE) + nft.text(2, name) + nft.number(3, MAP if data else 0) + nft.number(4, kind)
    body += nft.number(5, length) + (nft.number(6, data) + nft.number(7, 4) if data else b"") + nft.number(10, number)
    yield nft.message(nft.NEWSET, body, flags=nft.NLM_F_CREATE)
    listed = [
        nft.nest(1, nft.nest(1, attribute(1, key)), *([nft.nest(2, attribute(1, value))] if data else []))
        for key, value in elements.items()
    ]
    for start in range(0, len(listed), ELEMENTS):
        head = nft.text(1, TABLE) + nft.text(2, name) + nft.number(4, number)
        found = nft.nest(3, *listed[start : start + ELEMENTS])
        yield nft.message(nft.NEWSETELEM, head + found, flags=nft.NLM_F_CREATE)
