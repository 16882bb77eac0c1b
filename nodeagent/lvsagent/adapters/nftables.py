"""Firewall marks for IPVS services of many ports, and refusals for those without backends: our own table
``inet lvs-dr``, over nfnetlink.

include/uapi/linux/netfilter/nf_tables.h. One chain of rules, and two that jump to it, for packets that arrive and for
those of this node's own processes, each right before IPVS looks (net/netfilter/ipvs/ip_vs_core.c ip_vs_ops4): nothing
else sees the mark on the way in, and no routing rule can act on it. A step replaces the table in one transaction: there
is no moment without marks. Tables of others are neither read nor written. One thread.
"""

import errno
import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from lvsagent.adapters import nftwire as nft
from lvsagent.adapters.ipvswire import NUMBERS, PROTOCOLS
from lvsagent.adapters.netlink import (
    Attributes,
    Message,
    Netlink,
    attribute,
    error_name,
    list_of,
    parse_attributes,
)
from lvsagent.core.diff import AddMark, AddRefusal, DeleteMark, RuleOp
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.state import Mark, Refusal
from lvsapi.model import IPAddress, Protocol

NETFILTER = 12
TABLE = "lvs-dr"
RULES, REFUSALS = "marks", "refusals"
HOOKS = {"input": (1, 90), "output": (3, -99)}
"""Hook (NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT) and priority: IPVS stands at 99 and at -98."""
JUMP, DROP = -3, 0
TCP_RESET = 1
TCP_FLAGS, FIRST_OF_TCP, ANY_OF_TCP = 13, 0x02, 0x17
"""Where TCP's flags are; SYN; FIN, SYN, RST and ACK."""
SCTP_CHUNK, SCTP_INIT = 12, 1
BITWISE_OPERATION = 6
"""Told by newer kernels only."""
DESTINATION = {4: (nft.NFPROTO_IPV4, 16), 6: (nft.NFPROTO_IPV6, 24)}
"""Protocol family, and where the destination stands in the header."""


class Marks:
    """The table in the network namespace in which this was opened. Opened when first used: few nodes need it."""

    def __init__(self) -> None:
        self._netlink: Netlink | None = None

    def close(self) -> None:
        """May be called twice."""
        if self._netlink is not None:
            self._netlink.close()

    def read(self) -> frozenset[Mark]:
        """The marks that packets get. Raises NetlinkError."""
        return self.rules()[0]

    def rules(self) -> tuple[frozenset[Mark], frozenset[Refusal]]:
        """Marks and refusals: none unless both hooks lead to them. A rule that is not as we write them counts as none.
        Empty on a kernel without nftables. Raises NetlinkError when the kernel does not answer."""
        try:
            answers = self._open().dump(nft.message(nft.GETRULE, nft.text(1, TABLE)))
        except OSError as error:
            if error.errno in WITHOUT:
                return frozenset(), frozenset()
            raise
        marks: set[Mark] = set()
        refusals: set[Refusal] = set()
        leading: dict[str, set[str]] = {RULES: set(), REFUSALS: set()}
        for answer in answers:
            rule = parse_attributes(answer[4:])
            chain = rule.get(2, b"").rstrip(b"\0").decode(errors="replace")
            expressions = rule.get(4, b"")
            if rule.get(1) != TABLE.encode() + b"\0":
                continue
            if chain == RULES:
                mark = decode(expressions)
                marks.update([mark] if mark else [])
            elif chain == REFUSALS:
                refusal = decode_refusal(expressions)
                refusals.update([refusal] if refusal else [])
            elif chain in HOOKS:
                leading.get(_jumps_to(expressions), set()).add(chain)
        return (
            frozenset(marks) if leading[RULES] == HOOKS.keys() else frozenset(),
            frozenset(refusals) if leading[REFUSALS] == HOOKS.keys() else frozenset(),
        )

    def apply(self, ops: Sequence[RuleOp]) -> tuple[OperationFailed, ...]:
        """All or nothing, but for resets: where the kernel cannot send them, IPVS tells clients itself, by ICMP.
        Raises NetlinkError when the kernel does not answer."""
        if not ops:
            return ()
        try:
            read = self.rules()
            marks, refusals = set(read[0]), set(read[1])
            for op in ops:
                if isinstance(op, AddMark | DeleteMark):
                    (marks.add if isinstance(op, AddMark) else marks.discard)(op.mark)
                else:
                    (refusals.add if isinstance(op, AddRefusal) else refusals.discard)(op.refusal)
            code = self._replace(marks, refusals)
            if code and any(not refusal.drop for refusal in refusals):
                code = self._replace(marks, {refusal for refusal in refusals if refusal.drop})
        except OSError as error:
            if error.errno not in (*WITHOUT, errno.EMSGSIZE):
                raise
            code = error.errno or errno.EIO
        resets = [op for op in ops if isinstance(op, AddRefusal) and not op.refusal.drop]
        return tuple(_failure(op, code) for op in ops if op not in resets) if code else ()

    def _replace(self, marks: set[Mark], refusals: set[Refusal]) -> int:
        return self._open().transaction(
            nft.BEGIN,
            table_of(sorted(marks, key=str), sorted(refusals, key=str)),
            nft.END,
        )

    def _open(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink(NETFILTER)
        return self._netlink


WITHOUT = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT, errno.EAFNOSUPPORT)
"""What kernels without nf_tables answer."""


# -- values to octets ------------------------------------------------------------------------------------------------


def table_of(marks: Sequence[Mark], refusals: Sequence[Refusal] = ()) -> list[Message]:
    """The table anew; no table when there is nothing to mark or to refuse."""
    name = nft.text(1, TABLE)
    create = nft.message(nft.NEWTABLE, name, flags=nft.NLM_F_CREATE)
    # Created first, for one that is not there cannot be deleted.
    messages = [create, nft.message(nft.DELTABLE, name)]
    rules = {
        REFUSALS: [_encode_refusal(refusal) for refusal in refusals],
        RULES: [_encode(mark) for mark in marks],
    }
    chains = [chain for chain, found in rules.items() if found]
    if not chains:
        return messages
    messages.append(create)
    for chain in chains:
        messages.append(nft.message(nft.NEWCHAIN, name + nft.text(3, chain), flags=nft.NLM_F_CREATE))
        messages += (nft.rule(TABLE, chain, rule) for rule in rules[chain])
    for chain, (hook, priority) in HOOKS.items():
        messages.append(nft.chain(TABLE, chain, hook, priority))
        messages += (nft.rule(TABLE, chain, [nft.verdict(JUMP, nft.text(2, where))]) for where in chains)
    return messages


def _encode(mark: Mark) -> list[nft.Expression]:
    """nft: ``ip daddr ADDRESS tcp dport FIRST-LAST meta mark set VALUE``."""
    return [
        *_ports_of(mark.address, mark.protocol, mark.first, mark.last),
        nft.load(struct.pack("=I", mark.value)),
        nft.set_meta(nft.META_MARK),
    ]


def _encode_refusal(refusal: Refusal) -> list[nft.Expression]:
    """nft: ``ip daddr ADDRESS tcp dport FIRST-LAST tcp flags & (fin|syn|rst|ack) == syn reject with tcp reset``. Held
    connections go on; UDP has none that could be told from new ones."""
    found = _ports_of(refusal.address, refusal.protocol, refusal.first, refusal.last)
    if refusal.protocol is Protocol.TCP:
        found += [
            nft.payload(nft.TRANSPORT_HEADER, TCP_FLAGS, 1),
            nft.masked(bytes([ANY_OF_TCP])),
            nft.compare(bytes([FIRST_OF_TCP])),
        ]
    elif refusal.protocol is Protocol.SCTP:
        found += [nft.payload(nft.TRANSPORT_HEADER, SCTP_CHUNK, 1), nft.compare(bytes([SCTP_INIT]))]
    return [*found, nft.verdict(DROP) if refusal.drop else ("reject", nft.number(1, TCP_RESET))]


def _ports_of(address: IPAddress, protocol: Protocol | None, first: int, last: int) -> list[nft.Expression]:
    """``protocol`` None: whatever is sent to the address."""
    family, offset = DESTINATION[address.version]
    found = [
        *_meta_is(nft.META_NFPROTO, family),
        nft.payload(nft.NETWORK_HEADER, offset, len(address.packed)),
        nft.compare(address.packed),
    ]
    if protocol is not None:
        ports = nft.number(1, nft.REGISTER) + nft.number(2, nft.EQUAL) + _port(3, first) + _port(4, last)
        found += [
            *_meta_is(nft.META_L4PROTO, NUMBERS[protocol]),
            nft.payload(nft.TRANSPORT_HEADER, 2, 2),
            ("range", ports),
        ]
    return found


def _meta_is(key: int, value: int) -> tuple[nft.Expression, nft.Expression]:
    return nft.meta(key), nft.compare(bytes([value]))


def _port(kind: int, port: int) -> bytes:
    return nft.nest(kind, attribute(1, struct.pack("!H", port)))


# -- octets to values ------------------------------------------------------------------------------------------------


def _expressions(data: bytes) -> list[tuple[str, Attributes]]:
    found = []
    for element in list_of(data):
        parts = parse_attributes(element)
        name = parts.get(1, b"").rstrip(b"\0").decode(errors="replace")
        found.append((name, parse_attributes(parts.get(2, b""))))
    return found


def _jumps_to(expressions: bytes) -> str:
    """The chain of a rule that jumps whatever the packet; empty: it does not."""
    found = _expressions(expressions)
    if [name for name, _ in found] != ["immediate"]:
        return ""
    verdict = parse_attributes(parse_attributes(found[0][1].get(2, b"")).get(2, b""))
    if verdict.get(1) != struct.pack("!i", JUMP):
        return ""
    return verdict.get(2, b"").rstrip(b"\0").decode(errors="replace")


@lru_cache(maxsize=4096)
def decode(expressions: bytes) -> Mark | None:
    """A rule of ours; None: it is none."""
    found = _expressions(expressions)
    try:
        value = struct.unpack("=I", _value(found[-2][1][2]))[0]
        address, protocol, first, last = _guess(found, len(found) > 6)
        mark = Mark(address=address, protocol=protocol, first=first, last=last, value=value)
    except _DAMAGED:
        return None
    return mark if _is(found, _encode(mark)) else None


@lru_cache(maxsize=4096)
def decode_refusal(expressions: bytes) -> Refusal | None:
    """A rule of ours; None: it is none."""
    found = _expressions(expressions)
    try:
        address, protocol, first, last = _guess(found, True)
        assert protocol is not None
        drop = found[-1][0] != "reject"
        refusal = Refusal(address=address, protocol=protocol, first=first, last=last, drop=drop)
    except _DAMAGED:
        return None
    return refusal if _is(found, _encode_refusal(refusal)) else None


_DAMAGED = (struct.error, IndexError, KeyError, ValueError)


def _is(found: list[tuple[str, Attributes]], ours: Sequence[nft.Expression]) -> bool:
    written = [(name, parse_attributes(data)) for name, data in ours]
    return [_flat(one) for one in found] == [_flat(one) for one in written]


def _guess(found: list[tuple[str, Attributes]], ports: bool) -> tuple[IPAddress, Protocol | None, int, int]:
    """What these expressions could be about."""
    address = _value(found[3][1][3])
    protocol, first, last = None, 0, 65535
    if ports:
        protocol = PROTOCOLS[_value(found[5][1][3])[0]]
        first, last = (struct.unpack("!H", _value(found[7][1][kind]))[0] for kind in (3, 4))
    built: IPAddress = IPv4Address(address) if len(address) == 4 else IPv6Address(address)
    return built, protocol, first, last


def _value(nested: bytes) -> bytes:
    return parse_attributes(nested)[1]


def _flat(expression: tuple[str, Attributes]) -> tuple[str, frozenset[tuple[int, bytes]]]:
    """Comparable: neither the order of attributes nor the flag of nested ones counts."""
    name, attributes = expression
    nested = {"cmp": {3}, "range": {3, 4}, "immediate": {2}, "bitwise": {4, 5}}.get(name, set())
    known = {kind: data for kind, data in attributes.items() if (name, kind) != ("bitwise", BITWISE_OPERATION)}
    plain = {kind: _inner(data) if kind in nested else data for kind, data in known.items()}
    return name, frozenset(plain.items())


def _inner(data: bytes) -> bytes:
    """A value, or the code of a verdict."""
    parts = parse_attributes(data)
    return parts.get(1, b"") + parse_attributes(parts.get(2, b"")).get(1, b"")


def _failure(op: RuleOp, code: int) -> OperationFailed:
    reason, remedy = {
        errno.EPERM: (Reason.NO_PERMISSION, "the process needs the capability NET_ADMIN"),
        **dict.fromkeys(WITHOUT, (Reason.NO_NFTABLES, "load nf_tables on the node (modprobe nf_tables)")),
    }.get(code, (Reason.OTHER, "look at nft list table inet lvs-dr"))
    what = op.mark if isinstance(op, AddMark | DeleteMark) else op.refusal
    message = f"{type(op).__name__} {what}: {reason.value} ({error_name(code)}, {os.strerror(code)}): {remedy}"
    return OperationFailed(op=op, reason=reason, errno=code, message=message)
