"""Messages of nf_tables, and the expressions of its rules (include/uapi/linux/netfilter/nf_tables.h)."""

import struct
from collections.abc import Sequence

from lvsagent.adapters.netlink import NESTED, Message, attribute

SUBSYSTEM = 10 << 8
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, NEWRULE, GETRULE, NEWSET, NEWSETELEM = 0, 1, 2, 3, 6, 7, 9, 12
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
VERDICT, REGISTER = 0, 1
META_MARK, META_IIFTYPE, META_NFPROTO, META_L4PROTO = 3, 8, 15, 16
LINK_HEADER, NETWORK_HEADER, TRANSPORT_HEADER = 0, 1, 2
EQUAL, NOT_EQUAL = 0, 1

Expression = tuple[str, bytes]
"""Name and attributes."""


def message(command: int, body: bytes, *, flags: int = 0, family: int = NFPROTO_INET, resource: int = 0) -> Message:
    """A command of the subsystem, or the begin or end of a batch (``family`` 0, ``resource`` 10)."""
    kind = command if command in (BATCH_BEGIN, BATCH_END) else SUBSYSTEM | command
    return Message(kind, flags, struct.pack("!BBH", family, 0, resource) + body)


BEGIN = message(BATCH_BEGIN, b"", family=0, resource=10)
END = message(BATCH_END, b"", family=0, resource=10)


def text(kind: int, value: str) -> bytes:
    """A string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """32 bits, big-endian."""
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def nest(kind: int, *parts: bytes) -> bytes:
    """Attributes within one."""
    return attribute(kind | NESTED, b"".join(parts))


def chain(
    table: str, name: str, hook: int, priority: int, *, kind: str = "filter", family: int = NFPROTO_INET
) -> Message:
    """A base chain that accepts."""
    body = text(1, table) + text(3, name) + nest(4, number(1, hook), number(2, priority)) + text(7, kind)
    return message(NEWCHAIN, body, flags=NLM_F_CREATE, family=family)


def rule(table: str, name: str, expressions: Sequence[Expression], family: int = NFPROTO_INET) -> Message:
    """At the end of a chain."""
    body = nest(4, *(nest(1, text(1, kind), nest(2, data)) for kind, data in expressions))
    return message(NEWRULE, text(1, table) + text(2, name) + body, flags=NLM_F_CREATE | NLM_F_APPEND, family=family)


# -- expressions -----------------------------------------------------------------------------------------------------


def meta(key: int, register: int = REGISTER) -> Expression:
    """What is known of the packet, into a register."""
    return "meta", number(2, key) + number(1, register)


def set_meta(key: int, register: int = REGISTER) -> Expression:
    """The other way."""
    return "meta", number(2, key) + number(3, register)


def payload(base: int, offset: int, length: int, register: int = REGISTER) -> Expression:
    """Octets of the packet, into a register."""
    return "payload", number(1, register) + number(2, base) + number(3, offset) + number(4, length)


def masked(mask: bytes) -> Expression:
    """The register and a mask."""
    bits = nest(4, attribute(1, mask)) + nest(5, attribute(1, bytes(len(mask))))
    return "bitwise", number(1, REGISTER) + number(2, REGISTER) + number(3, len(mask)) + bits


def compare(data: bytes, operation: int = EQUAL) -> Expression:
    """The rule goes on where the register is (not) this."""
    return "cmp", number(1, REGISTER) + number(2, operation) + nest(3, attribute(1, data))


def load(data: bytes) -> Expression:
    """Octets, into the register."""
    return "immediate", number(1, REGISTER) + nest(2, attribute(1, data))


def verdict(code: int, *more: bytes) -> Expression:
    """NF_ACCEPT 1 ends the chain, no other."""
    return "immediate", number(1, VERDICT) + nest(2, nest(2, number(1, code), *more))
