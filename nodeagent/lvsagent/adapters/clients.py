"""Writes what ``core.clients`` wants: routes of table ``local``, our own table ``ip lvs-dr-clients``, ``accept_local``.

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
from ipaddress import IPv4Address, IPv4Network

from lvsagent.adapters.netlink import NESTED, Message, Netlink, attribute, by_type, parse_attributes
from lvsagent.adapters.procfs import Originals, Sysctls, boot_id, prepare
from lvsagent.core.clients import ClientPaths
from lvsagent.core.sysctl import CONF

ROUTE, NETFILTER = 0, 12
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_PREFSRC = 1, 4, 7
RTMSG = struct.Struct("=BBBBBBBBI")
TABLE_LOCAL, SCOPE_HOST, RTN_LOCAL = 255, 254, 2
PROTOCOL = 112
"""Of our routes, as VRRP's among IP's; nobody else's in iproute2's rt_protos."""
SOL_NETLINK, STRICT_CHECK = 270, 12
LO = 1
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
TABLE, CHAIN, SET = "lvs-dr-clients", "postrouting", "addresses"
POSTROUTING, BEFORE_OTHERS = 4, 99
"""Source NAT of others stands at 100; whoever is first decides for a connection."""
SUBSYSTEM = 10 << 8
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM = 0, 1, 2, 3, 6, 9, 12
BATCH_BEGIN, BATCH_END = 0x10, 0x11
IPV4, REGISTER, NETWORK_HEADER, SOURCE, DESTINATION = 2, 1, 1, 12, 16
TYPE_IPV4_ADDRESS = 7
"""nft's own number, which it shows sets by."""
CT_DESTINATION_IP, ORIGINAL = 20, 0
ELEMENTS = 1000
"""Of a message."""
NOTE = "clients of virtual addresses inside the cluster"

_Expression = tuple[str, bytes]


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
        changes = self._routes(paths, errors) + self._rules(paths, errors)
        wanted = {f"{CONF}/{name}/accept_local": "1" for name in paths.interfaces}
        there = self._sysctls.read(wanted)
        missing = {key: value for key, value in wanted.items() if there[key] not in (None, value)}
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
        messages += (Message(RTM_NEWROUTE, NLM_F_CREATE, _route(*each)) for each in sorted(paths.sources - there))
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

    def _rules(self, paths: ClientPaths, errors: list[str]) -> int:
        body = ruleset(paths)
        digest = zlib.crc32(b"".join(message.body for message in body)) if paths.pods else 0
        try:
            if self._netfilter is None:
                self._netfilter = Netlink(NETFILTER)
            there = self._table()
            if there is None if not paths.pods else there == comment(digest):
                return 0
            code = self._netfilter.transaction(
                _message(BATCH_BEGIN, b"", resource=10),
                [*remove(), *(create(digest, body) if paths.pods else ())],
                _message(BATCH_END, b"", resource=10),
            )
        except OSError as error:
            code = error.errno or errno.EIO
        if code and paths.pods:
            errors.append(
                f"nftables refuses our table ip {TABLE}: {os.strerror(code)}: pods of this node may not reach virtual"
                " addresses; load nf_tables and nft_masq on the node"
            )
        return 0 if code else 1

    def _table(self) -> bytes | None:
        """What is noted at our table; None: there is none."""
        assert self._netfilter is not None
        try:
            answer = self._netfilter.request(_message(GETTABLE, _text(1, TABLE)))
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


def remove() -> list[Message]:
    """Created first, for one that is not there cannot be deleted."""
    return [_message(NEWTABLE, _text(1, TABLE), flags=NLM_F_CREATE), _message(DELTABLE, _text(1, TABLE))]


def create(digest: int, body: Sequence[Message]) -> list[Message]:
    """The table, with a note by which it is known again, and what is in it."""
    table = _message(NEWTABLE, _text(1, TABLE) + attribute(6, comment(digest)), flags=NLM_F_CREATE)
    return [table, *body]


def comment(digest: int, note: str = NOTE) -> bytes:
    """libnftnl's form of a comment: type 0, length, text."""
    text = f"lvs-dr: {note} ({digest:08x})".encode() + b"\0"
    return bytes([0, len(text)]) + text


def ruleset(paths: ClientPaths) -> list[Message]:
    """nft: ``ct original ip daddr @addresses ip saddr NET ip daddr NET masquerade`` for each neighbourhood, then
    ``ip daddr @addresses snat to ip saddr``."""
    name = _text(1, TABLE)
    chain = name + _text(3, CHAIN) + _nest(4, _number(1, POSTROUTING), _number(2, BEFORE_OTHERS)) + _text(7, "nat")
    kind = name + _text(2, SET) + _number(3, 0) + _number(4, TYPE_IPV4_ADDRESS) + _number(5, 4) + _number(10, 1)
    messages = [_message(NEWCHAIN, chain, flags=NLM_F_CREATE), _message(NEWSET, kind, flags=NLM_F_CREATE)]
    for start in range(0, len(paths.addresses), ELEMENTS):
        found = (_nest(1, _nest(1, attribute(1, a.packed))) for a in paths.addresses[start : start + ELEMENTS])
        elements = name + _text(2, SET) + _number(4, 1) + _nest(3, *found)
        messages.append(_message(NEWSETELEM, elements, flags=NLM_F_CREATE))
    rules = [_masquerade(network) for network in sorted(paths.neighbours)]
    for expressions in (*rules, _keep_source()):
        listed = _nest(4, *(_nest(1, _text(1, kind), _nest(2, data)) for kind, data in expressions))
        rule = name + _text(2, CHAIN) + listed
        messages.append(_message(NEWRULE, rule, flags=NLM_F_CREATE | NLM_F_APPEND))
    return messages


def _masquerade(network: IPv4Network) -> list[_Expression]:
    original = _number(1, REGISTER) + _number(2, CT_DESTINATION_IP) + attribute(3, bytes([ORIGINAL]))
    return [("ct", original), _lookup(), *_within(SOURCE, network), *_within(DESTINATION, network), ("masq", b"")]


def _keep_source() -> list[_Expression]:
    """A source NAT that changes nothing: no later one has a say."""
    nat = _number(1, 0) + _number(2, IPV4) + _number(3, REGISTER)
    return [_payload(DESTINATION), _lookup(), _payload(SOURCE), ("nat", nat)]


def _lookup() -> _Expression:
    return "lookup", _text(1, SET) + _number(2, REGISTER) + _number(4, 1)


def _within(offset: int, network: IPv4Network) -> list[_Expression]:
    mask = _nest(4, attribute(1, network.netmask.packed)) + _nest(5, attribute(1, bytes(4)))
    masked = _number(1, REGISTER) + _number(2, REGISTER) + _number(3, 4) + mask
    same = _number(1, REGISTER) + _number(2, 0) + _nest(3, attribute(1, network.network_address.packed))
    return [_payload(offset), ("bitwise", masked), ("cmp", same)]


def _payload(offset: int) -> _Expression:
    return "payload", _number(1, REGISTER) + _number(2, NETWORK_HEADER) + _number(3, offset) + _number(4, 4)


def _message(command: int, body: bytes, *, flags: int = 0, resource: int = 0) -> Message:
    batch = command in (BATCH_BEGIN, BATCH_END)
    kind = command if batch else SUBSYSTEM | command
    return Message(kind, flags, struct.pack("!BBH", 0 if batch else IPV4, 0, resource) + body)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def _nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))
