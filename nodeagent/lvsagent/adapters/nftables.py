"""Firewall marks for IPVS services of many ports: our own table ``inet lvs-dr``, over nfnetlink.

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

from lvsagent.adapters.ipvswire import NUMBERS, PROTOCOLS
from lvsagent.adapters.netlink import (
    NESTED,
    Attributes,
    Message,
    Netlink,
    attribute,
    error_name,
    list_of,
    parse_attributes,
)
from lvsagent.core.diff import AddMark, MarkOp
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.state import Mark
from lvsapi.model import IPAddress

NETFILTER = 12
TABLE = "lvs-dr"
RULES = "marks"
HOOKS = {"input": (1, 90), "output": (3, -99)}
"""Hook (NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT) and priority: IPVS stands at 99 and at -98."""
SUBSYSTEM = 10 << 8
NEWTABLE, DELTABLE, NEWCHAIN, NEWRULE, GETRULE = 0, 2, 3, 6, 7
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
BATCH_BEGIN, BATCH_END = 0x10, 0x11
REGISTER, VERDICT = 1, 0
JUMP = -3
META_MARK, META_NFPROTO, META_L4PROTO = 3, 15, 16
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
EQUAL = 0
DESTINATION = {4: (NFPROTO_IPV4, 16), 6: (NFPROTO_IPV6, 24)}
"""Protocol family, and where the destination stands in the header."""

_Expression = tuple[str, bytes]
"""Name and attributes."""


class Marks:
    """The table in the network namespace in which this was opened. Opened when first used: few nodes need it."""

    def __init__(self) -> None:
        self._netlink: Netlink | None = None

    def close(self) -> None:
        """May be called twice."""
        if self._netlink is not None:
            self._netlink.close()

    def read(self) -> frozenset[Mark]:
        """The marks that packets get: none unless both hooks lead to the rules. A rule that is not as we write them
        counts as none. Empty on a kernel without nftables. Raises NetlinkError when the kernel does not answer."""
        try:
            answers = self._open().dump(_message(GETRULE, _text(1, TABLE)))
        except OSError as error:
            if error.errno in _WITHOUT:
                return frozenset()
            raise
        marks: set[Mark] = set()
        leading: set[str] = set()
        for answer in answers:
            rule = parse_attributes(answer[4:])
            chain = rule.get(2, b"").rstrip(b"\0").decode(errors="replace")
            expressions = rule.get(4, b"")
            if rule.get(1) != TABLE.encode() + b"\0":
                continue
            if chain == RULES:
                mark = decode(expressions)
                marks.update([mark] if mark else [])
            elif chain in HOOKS and _is_jump(expressions):
                leading.add(chain)
        return frozenset(marks) if leading == HOOKS.keys() else frozenset()

    def apply(self, ops: Sequence[MarkOp]) -> tuple[OperationFailed, ...]:
        """All or nothing. Raises NetlinkError when the kernel does not answer."""
        if not ops:
            return ()
        try:
            marks = set(self.read())
            for op in ops:
                (marks.add if isinstance(op, AddMark) else marks.discard)(op.mark)
            code = self._open().transaction(
                _message(BATCH_BEGIN, b"", family=0, resource=10),
                table_of(sorted(marks, key=str)),
                _message(BATCH_END, b"", family=0, resource=10),
            )
        except OSError as error:
            if error.errno not in (*_WITHOUT, errno.EMSGSIZE):
                raise
            code = error.errno or errno.EIO
        return tuple(_failure(op, code) for op in ops) if code else ()

    def _open(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink(NETFILTER)
        return self._netlink


_WITHOUT = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT, errno.EAFNOSUPPORT)
"""What kernels without nf_tables answer."""


def _message(command: int, body: bytes, *, flags: int = 0, family: int = NFPROTO_INET, resource: int = 0) -> Message:
    kind = command if command in (BATCH_BEGIN, BATCH_END) else SUBSYSTEM | command
    return Message(kind, flags, struct.pack("!BBH", family, 0, resource) + body)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def _nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


# -- values to octets ------------------------------------------------------------------------------------------------


def table_of(marks: Sequence[Mark]) -> list[Message]:
    """The table anew; no table when there is nothing to mark."""
    # Created first, for one that is not there cannot be deleted.
    messages = [_message(NEWTABLE, _text(1, TABLE), flags=NLM_F_CREATE), _message(DELTABLE, _text(1, TABLE))]
    if not marks:
        return messages
    messages.append(_message(NEWTABLE, _text(1, TABLE), flags=NLM_F_CREATE))
    messages.append(_message(NEWCHAIN, _text(1, TABLE) + _text(3, RULES), flags=NLM_F_CREATE))
    messages += (_rule(RULES, _encode(mark)) for mark in marks)
    for chain, (hook, priority) in HOOKS.items():
        body = _text(1, TABLE) + _text(3, chain) + _nest(4, _number(1, hook), _number(2, priority)) + _text(7, "filter")
        messages += [_message(NEWCHAIN, body, flags=NLM_F_CREATE), _rule(chain, [_jump()])]
    return messages


def _rule(chain: str, expressions: Sequence[_Expression]) -> Message:
    body = _nest(4, *(_nest(1, _text(1, name), _nest(2, data)) for name, data in expressions))
    return _message(NEWRULE, _text(1, TABLE) + _text(2, chain) + body, flags=NLM_F_CREATE | NLM_F_APPEND)


def _jump() -> _Expression:
    return "immediate", _number(1, VERDICT) + _nest(2, _nest(2, _number(1, JUMP), _text(2, RULES)))


def _encode(mark: Mark) -> list[_Expression]:
    """nft: ``ip daddr ADDRESS tcp dport FIRST-LAST meta mark set VALUE``."""
    family, offset = DESTINATION[mark.address.version]
    found = [
        *_meta_is(META_NFPROTO, family),
        _payload(NETWORK_HEADER, offset, len(mark.address.packed)),
        _compare(mark.address.packed),
    ]
    if mark.protocol is not None:
        found += [
            *_meta_is(META_L4PROTO, NUMBERS[mark.protocol]),
            _payload(TRANSPORT_HEADER, 2, 2),
            ("range", _number(1, REGISTER) + _number(2, EQUAL) + _data(3, mark.first) + _data(4, mark.last)),
        ]
    value = _nest(2, attribute(1, struct.pack("=I", mark.value)))
    return [*found, ("immediate", _number(1, REGISTER) + value), ("meta", _number(2, META_MARK) + _number(3, REGISTER))]


def _meta_is(key: int, value: int) -> tuple[_Expression, _Expression]:
    return ("meta", _number(2, key) + _number(1, REGISTER)), _compare(bytes([value]))


def _payload(base: int, offset: int, length: int) -> _Expression:
    return "payload", _number(1, REGISTER) + _number(2, base) + _number(3, offset) + _number(4, length)


def _compare(data: bytes) -> _Expression:
    return "cmp", _number(1, REGISTER) + _number(2, EQUAL) + _nest(3, attribute(1, data))


def _data(kind: int, port: int) -> bytes:
    return _nest(kind, attribute(1, struct.pack("!H", port)))


# -- octets to values ------------------------------------------------------------------------------------------------


def _expressions(data: bytes) -> list[tuple[str, Attributes]]:
    found = []
    for element in list_of(data):
        parts = parse_attributes(element)
        name = parts.get(1, b"").rstrip(b"\0").decode(errors="replace")
        found.append((name, parse_attributes(parts.get(2, b""))))
    return found


def _is_jump(expressions: bytes) -> bool:
    """To our rules, with nothing before it."""
    found = _expressions(expressions)
    if [name for name, _ in found] != ["immediate"]:
        return False
    verdict = parse_attributes(parse_attributes(found[0][1].get(2, b"")).get(2, b""))
    return verdict.get(1) == struct.pack("!i", JUMP) and verdict.get(2) == RULES.encode() + b"\0"


@lru_cache(maxsize=4096)
def decode(expressions: bytes) -> Mark | None:
    """A rule of ours; None: it is none."""
    found = _expressions(expressions)
    try:
        mark = _guess(found)
    except (struct.error, IndexError, KeyError, ValueError):
        return None
    ours = [(name, parse_attributes(data)) for name, data in _encode(mark)]
    return mark if [_flat(one) for one in found] == [_flat(one) for one in ours] else None


def _guess(found: list[tuple[str, Attributes]]) -> Mark:
    """The only mark that these expressions could be of."""
    address = _value(found[3][1][3])
    value = struct.unpack("=I", _value(found[-2][1][2]))[0]
    protocol, first, last = None, 0, 65535
    if len(found) > 6:
        protocol = PROTOCOLS[_value(found[5][1][3])[0]]
        first, last = (struct.unpack("!H", _value(found[7][1][kind]))[0] for kind in (3, 4))
    built: IPAddress = IPv4Address(address) if len(address) == 4 else IPv6Address(address)
    return Mark(address=built, protocol=protocol, first=first, last=last, value=value)


def _value(nested: bytes) -> bytes:
    return parse_attributes(nested)[1]


def _flat(expression: tuple[str, Attributes]) -> tuple[str, frozenset[tuple[int, bytes]]]:
    """Comparable: neither the order of attributes nor the flag of nested ones counts."""
    name, attributes = expression
    nested = {"cmp": {3}, "range": {3, 4}, "immediate": {2}}.get(name, set())
    plain = {kind: parse_attributes(data).get(1, b"") if kind in nested else data for kind, data in attributes.items()}
    return name, frozenset(plain.items())


def _failure(op: MarkOp, code: int) -> OperationFailed:
    reason, remedy = {
        errno.EPERM: (Reason.NO_PERMISSION, "the process needs the capability NET_ADMIN"),
        **dict.fromkeys(_WITHOUT, (Reason.NO_NFTABLES, "load nf_tables on the node (modprobe nf_tables)")),
    }.get(code, (Reason.OTHER, "look at nft list table inet lvs-dr"))
    message = f"{type(op).__name__} {op.mark}: {reason.value} ({error_name(code)}, {os.strerror(code)}): {remedy}"
    return OperationFailed(op=op, reason=reason, errno=code, message=message)
