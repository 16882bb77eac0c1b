"""The kernel's filters for what is heard: exact as long as it takes them, coarse beyond. It judges them itself here."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from lvsagent.election import bpf
from lvsagent.election.frames import ArpSocket, NdSocket, NeighborSocket
from lvsagent.election.sockets import AdvertSocket
from lvsagent.vrrp import arp, ndp

pytestmark = pytest.mark.unit

VIP, MAC = bytes((10, 0, 0, 200)), bytes.fromhex("020000000001")
VIP6 = bytes.fromhex("fd000000000000000000000000000200")
FIRST_WORD = (bpf.LOAD_WORD, 0, 0, 0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


def passes(pair: tuple[socket.socket, socket.socket], value: int) -> bool:
    one, other = pair
    other.send(value.to_bytes(4) + bytes(60))
    try:
        return bool(one.recv(100))
    except BlockingIOError:
        return False


@pytest.mark.parametrize("size", [0, 1, bpf.FAR - 1, bpf.FAR, bpf.FAR + 1, 2 * bpf.FAR, 1000])
def test_any_of_lets_those_values_pass_and_no_others(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    values = [0xC0A80000 + 2 * number for number in range(size)]
    bpf.attach(pair[0], [FIRST_WORD, *bpf.any_of(values)])
    looked_at = {*values[:2], *values[-2:], *values[bpf.FAR - 2 : bpf.FAR + 2]}
    assert all(passes(pair, value) for value in looked_at)
    assert not any(passes(pair, value + 1) for value in (*looked_at, 0, 0xFFFFFFFE))


def test_an_instruction_for_each_value_is_nearly_all_that_a_filter_needs() -> None:
    """So that a thousand servers and 255 routers of 10 addresses find room."""
    assert len(bpf.any_of(range(3550))) + 10 <= bpf.MOST_INSTRUCTIONS


def test_the_kernel_lets_what_it_cannot_sort_out_pass(pair: tuple[socket.socket, socket.socket]) -> None:
    """More instructions than a filter may have."""
    exact = [FIRST_WORD, *bpf.any_of(range(5000))]
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        bpf.attach(pair[0], exact)
    bpf.attach(pair[0], [bpf.NOTHING])
    assert bpf.attach_some(pair[0], exact, [bpf.ANYTHING])
    assert passes(pair, 1 << 30)


class Room:
    """A kernel with room for so many instructions at a socket, the old filter's included."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.attached: list[bpf.Instruction] = [bpf.NOTHING]

    def attach(self, _opened: object, program: list[bpf.Instruction]) -> None:
        if len(self.attached) + len(program) > self.room:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self.attached = program


@pytest.mark.parametrize(
    ("before", "room", "taken", "in_force"),
    [
        (1, 1000, True, "exact"),
        (80, 150, True, "exact"),
        (80, 90, True, "coarse"),
        (1, 2, True, "coarse"),
        (1, 1, False, "before"),
    ],
)
def test_where_there_is_no_room_for_two_filters_the_small_one_makes_it(
    monkeypatch: pytest.MonkeyPatch, before: int, room: int, taken: bool, in_force: str
) -> None:
    """net.core.optmem_max, 20 KiB before Linux 6.8, pays for the old filter as long as it is there."""
    kernel = Room(room)
    monkeypatch.setattr(bpf, "attach", kernel.attach)
    kernel.attached = [bpf.NOTHING] * before
    exact, coarse = bpf.any_of(range(100)), [bpf.ANYTHING]
    programs = {"exact": exact, "coarse": coarse, "before": kernel.attached}
    assert bpf.attach_some(None, exact, coarse) is taken  # type: ignore[arg-type]
    assert kernel.attached is programs[in_force]


class Frames:
    """A packet socket with these frames."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)

    def recv(self, _size: int) -> bytes:
        if not self.frames:
            raise BlockingIOError
        return self.frames.pop(0)


@pytest.mark.parametrize("exact", [True, False])
def test_what_passes_a_coarse_filter_is_sorted_out_afterwards(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    kernel = Room(100_000 if exact else 16)
    monkeypatch.setattr(bpf, "attach", kernel.attach)
    other, other6 = bytes((10, 0, 0, 9)), VIP6[:15] + b"\x09"
    four, six = ArpSocket.__new__(ArpSocket), NdSocket.__new__(NdSocket)
    four._socket = Frames(*(arp.announcement(a, MAC) for a in (other, VIP)))  # type: ignore[assignment]
    six._socket = Frames(*(ndp.announcement(a, MAC, forwards=False) for a in (other6, VIP6)))  # type: ignore[assignment]
    cases: tuple[tuple[NeighborSocket, bytes], ...] = ((four, VIP), (six, VIP6))
    for opened, mine in cases:
        opened._wanted, opened._deaf = frozenset(), False
        kernel.attached = [bpf.NOTHING]
        addresses = [mine, *(bytes(len(mine) - 1) + bytes((number,)) for number in range(30))]
        assert opened.listen_for(addresses)
        assert (len(kernel.attached) > 30) is exact
        assert [claim.address for claim in opened.claims()] == [mine]


def test_a_filter_that_no_kernel_memory_was_left_for_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Room(1)
    monkeypatch.setattr(bpf, "attach", kernel.attach)
    neighbors = ArpSocket.__new__(ArpSocket)
    neighbors._socket = Frames()  # type: ignore[assignment]
    neighbors._wanted, neighbors._deaf = frozenset(), False
    adverts = AdvertSocket.__new__(AdvertSocket)
    adverts.family, adverts._accepted = 4, frozenset()
    adverts._socket = Frames()  # type: ignore[assignment]
    assert not neighbors.listen_for([VIP])
    assert not neighbors.listen_for([VIP])
    assert not adverts.listen_for([51])
    kernel.room = 1000
    assert neighbors.listen_for([VIP])
    assert adverts.listen_for([51])
    kernel.room = 1
    assert neighbors.listen_for([VIP]), "it is in force"
    assert adverts.listen_for([51])
