"""Classic BPF for our sockets (linux/filter.h): the kernel drops what no router here waits for."""

import array
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

MOST_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS."""
FAR: Final = 250
"""Instructions that a conditional jump can skip, and some to spare: the distance is one octet."""

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true, if false, constant."""

NOTHING: Final[Instruction] = (RETURN, 0, 0, 0)
ANYTHING: Final[Instruction] = (RETURN, 0, 0, EVERYTHING)


def any_of(values: Iterable[int]) -> list[Instruction]:
    """Accept when the accumulator is one of the values: one instruction each, and two for FAR of them."""
    wanted = sorted(set(values))
    program: list[Instruction] = []
    for first in range(0, len(wanted), FAR):
        some = wanted[first : first + FAR]
        program += [(JUMP_EQUAL, len(some) - at, 0, value) for at, value in enumerate(some)]
        program += [(JUMP, 0, 0, 1), ANYTHING]
    return [*program, NOTHING]


def attach_some(opened: socket.socket, exact: list[Instruction], coarse: list[Instruction]) -> bool:
    """Replace the socket's filter by the exact one, or by the coarse one where the kernel has no room for that: what
    passes is to be looked at in any case. Never raises. False: it took neither, and the filter is as before."""
    # A new filter is charged to the socket (net.core.optmem_max; 20 KiB before Linux 6.8) while the old one still is:
    # after the coarse one, which is small, there may be room for the exact one.
    if _taken(opened, exact):
        return True
    if not _taken(opened, coarse):
        return False
    _taken(opened, exact)
    return True


def _taken(opened: socket.socket, program: list[Instruction]) -> bool:
    if len(program) > MOST_INSTRUCTIONS:
        return False
    try:
        attach(opened, program)
    except OSError:
        return False
    return True


def attach(opened: socket.socket, program: list[Instruction]) -> None:
    """Replace the socket's filter. Raises OSError."""
    # An array: ctypes would make a type for each length, and a type is a cycle that nobody collects here.
    code = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    where, _ = code.buffer_info()
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), where))
