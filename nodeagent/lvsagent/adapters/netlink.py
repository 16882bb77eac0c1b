"""Netlink, batched: many messages in one datagram, errors as values, dumps as attribute maps.

The kernel walks all messages of a datagram, goes on after a failed one, and reports each failure with the sequence
number of its message; only the last message of a datagram asks for an acknowledgement. A message costs about 0.02 ms
this way, 2 ms with a library that waits after each (*measured*). Blocking; for one thread.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_DUMP_INTR = 0x10
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
NESTED = 0x8000
TYPE_MASK = 0x3FFF
DATAGRAM = 60_000
"""Octets of a datagram of a batch at most."""
DATAGRAM_RECEIVED = 1 << 17
"""The kernel fills at most 32 KiB, or an answer as large as one message of ours."""
RECEIVE_BUFFER = 4 << 20
"""Failures of one datagram (36 octets each, truesize about 700) must fit, or the kernel answers ENOBUFS."""
ANSWERS = 100
"""Asked for in one datagram: each is a datagram of its own, which must wait in the buffer."""
SEND_BUFFER = 1 << 20
"""A transaction is one datagram: 256 firewall marks of each family are about 250 kB."""
HEADER = struct.Struct("=IHHII")
ERROR = struct.Struct("=iIHHII")
ATTRIBUTE = struct.Struct("=HH")
TIMEOUT = 10.0
"""Seconds without any answer from the kernel."""

Attributes = dict[int, bytes]


class NetlinkError(OSError):
    """The kernel refused a request; ``errno`` and a sentence that names the request."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request without its header's length and sequence number."""

    type: int
    flags: int
    body: bytes


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four octets."""
    return ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def parse_attributes(data: bytes) -> Attributes:
    """Attributes by type; the last of a type wins. Truncated rests are ignored."""
    found: Attributes = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & TYPE_MASK] = data[offset + 4 : offset + length]
        offset += length + (-length % 4)
    return found


def list_of(data: bytes) -> list[bytes]:
    """The contents of attributes one after another, whatever their types."""
    found: list[bytes] = []
    offset = 0
    while offset + 4 <= len(data):
        length, _ = ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found.append(data[offset + 4 : offset + length])
        offset += length + (-length % 4)
    return found


class Netlink:
    """One netlink socket of a protocol: NETLINK_ROUTE 0, NETLINK_NETFILTER 12 or NETLINK_GENERIC 16."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        for options, size in (
            ((getattr(socket, "SO_RCVBUFFORCE", 33), socket.SO_RCVBUF), RECEIVE_BUFFER),
            ((getattr(socket, "SO_SNDBUFFORCE", 32), socket.SO_SNDBUF), SEND_BUFFER),
        ):
            for option in options:
                try:
                    self._socket.setsockopt(socket.SOL_SOCKET, option, size)
                    break
                except PermissionError:
                    continue  # without CAP_NET_ADMIN the forced size is refused, the capped one is not
        self._socket.settimeout(TIMEOUT)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._buffer = memoryview(bytearray(DATAGRAM_RECEIVED))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        self._socket.close()

    def option(self, level: int, name: int, value: int) -> None:
        """setsockopt(2)."""
        self._socket.setsockopt(level, name, value)

    def batch(self, messages: Sequence[Message]) -> dict[int, int]:
        """Send all; returns the errno of each message that failed, by its index. Raises NetlinkError when the kernel
        does not answer."""
        failed: dict[int, int] = {}
        start = 0
        while start < len(messages):
            end, size = start, 0
            while end < len(messages) and (end == start or size + 16 + len(messages[end].body) <= DATAGRAM):
                size += 16 + len(messages[end].body) + (-len(messages[end].body) % 4)
                end += 1
            failed.update(self._datagram(messages[start:end], start))
            start = end
        return failed

    def _datagram(self, messages: Sequence[Message], start: int) -> dict[int, int]:
        first = self._sequence + 1
        self._sequence += len(messages)
        last = self._sequence
        parts = []
        for number, message in enumerate(messages, first):
            flags = message.flags | NLM_F_REQUEST | (NLM_F_ACK if number == last else 0)
            body = message.body + bytes(-len(message.body) % 4)
            parts.append(HEADER.pack(16 + len(body), message.type, flags, number, 0) + body)
        self._send(b"".join(parts))
        failed: dict[int, int] = {}
        while True:
            for kind, number, _, payload in self._receive():
                if kind != NLMSG_ERROR or not first <= number <= last:
                    continue
                code = -struct.unpack_from("=i", payload)[0]
                if code:
                    failed[start + number - first] = code
                if number == last:
                    return failed

    def transaction(self, begin: Message, messages: Sequence[Message], end: Message) -> int:
        """nfnetlink's all or nothing, in one datagram: the first errno, or 0. Raises NetlinkError when the kernel does
        not answer."""
        first = self._sequence + 1
        self._sequence += len(messages) + 2
        # Kernels before 6.10 do not acknowledge the end: the last message in between speaks for all.
        spoken = self._sequence - 1
        parts = []
        for number, message in enumerate((begin, *messages, end), first):
            flags = message.flags | NLM_F_REQUEST | (NLM_F_ACK if number == spoken else 0)
            body = message.body + bytes(-len(message.body) % 4)
            parts.append(HEADER.pack(16 + len(body), message.type, flags, number, 0) + body)
        self._send(b"".join(parts))
        code = 0
        while True:
            for kind, number, _, payload in self._receive():
                if kind == NLMSG_ERROR and first <= number <= self._sequence:
                    code = code or -struct.unpack_from("=i", payload)[0]
                    # An error at the first message ends the whole: nothing else is said.
                    if number == spoken or (number == first and code):
                        return code

    def request(self, message: Message) -> bytes:
        """The payload of the single answer. Raises NetlinkError."""
        self._sequence += 1
        number = self._sequence
        body = message.body
        flags = message.flags | NLM_F_REQUEST
        self._send(HEADER.pack(16 + len(body), message.type, flags, number, 0) + body)
        while True:
            for kind, answered, _, payload in self._receive():
                if answered != number:
                    continue
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise NetlinkError(code, os.strerror(code))
                return payload

    def requests(self, messages: Sequence[Message]) -> list[bytes | int]:
        """The payload of each one's single answer, or the errno with which it was refused. Raises NetlinkError when the
        kernel does not answer."""
        found: list[bytes | int] = []
        for start in range(0, len(messages), ANSWERS):
            found += self._requests(messages[start : start + ANSWERS])
        return found

    def _requests(self, messages: Sequence[Message]) -> list[bytes | int]:
        first = self._sequence + 1
        self._sequence += len(messages)
        parts = []
        for number, message in enumerate(messages, first):
            body = message.body + bytes(-len(message.body) % 4)
            parts.append(HEADER.pack(16 + len(body), message.type, message.flags | NLM_F_REQUEST, number, 0) + body)
        self._send(b"".join(parts))
        found: dict[int, bytes | int] = {}
        while len(found) < len(messages):
            for kind, number, _, payload in self._receive():
                if first <= number <= self._sequence:
                    refused = kind == NLMSG_ERROR
                    found[number] = -struct.unpack_from("=i", payload)[0] if refused else payload
        return [found[number] for number in range(first, self._sequence + 1)]

    def dump(self, message: Message) -> list[bytes]:
        """The payloads of a dump, again when it was interrupted by a change. Raises NetlinkError."""
        for _ in range(5):
            found, interrupted = self._dump(message)
            if not interrupted:
                return found
        return found

    def _dump(self, message: Message) -> tuple[list[bytes], bool]:
        self._sequence += 1
        number = self._sequence
        flags = NLM_F_REQUEST | NLM_F_DUMP | message.flags
        self._send(HEADER.pack(16 + len(message.body), message.type, flags, number, 0) + message.body)
        found: list[bytes] = []
        interrupted = False
        while True:
            for kind, answered, flags, payload in self._receive():
                if answered != number:
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if code:
                        raise NetlinkError(code, os.strerror(code))
                    return found, interrupted
                found.append(payload)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, f"netlink send: {error.strerror}") from error

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(type, sequence, flags, payload) of each message of one datagram."""
        try:
            data = self._buffer[: self._socket.recv_into(self._buffer)]
        except OSError as error:
            code = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or errno.EIO
            raise NetlinkError(code, f"netlink receive: {os.strerror(code)}") from error
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
            if length < 16:
                break
            yield kind, number, flags, bytes(data[offset + 16 : offset + length])
            offset += length + (-length % 4)


def error_name(code: int) -> str:
    """An errno's symbol in lower case, e.g. ``eexist``."""
    return errno.errorcode.get(code, f"errno_{code}").lower()


def by_type(payloads: Iterable[bytes], header: int) -> Iterator[tuple[bytes, Attributes]]:
    """Each payload as its fixed header and its attributes."""
    for payload in payloads:
        yield payload[:header], parse_attributes(payload[header:])
