"""Classic BPF for our sockets (linux/filter.h): the kernel drops what no router here waits for."""

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Final

SO_ATTACH_FILTER: Final = 26
"""Not in the socket module of Python 3.11 (asm-generic/socket.h)."""

LOAD_BYTE: Final = 0x30
LOAD_HALF: Final = 0x28
LOAD_WORD: Final = 0x20
LOAD_BYTE_INDIRECT: Final = 0x50
LOAD_X_HEADER_LENGTH: Final = 0xB1
"""X = four times the low nibble of an octet: the length of an IPv4 header."""
JUMP: Final = 0x05
JUMP_EQUAL: Final = 0x15
RETURN: Final = 0x06
EVERYTHING: Final = 0xFFFF

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true, if false, constant."""

NOTHING: Final[Instruction] = (RETURN, 0, 0, 0)


def any_of(values: Iterable[int]) -> list[Instruction]:
    """Accept when the accumulator is one of the values: two instructions each, so that no jump is far."""
    program: list[Instruction] = []
    for value in sorted(set(values)):
        program += [(JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, EVERYTHING)]
    return [*program, NOTHING]


def attach(opened: socket.socket, program: list[Instruction]) -> None:
    """Replace the socket's filter. Raises OSError."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
