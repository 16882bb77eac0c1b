"""Addresses in the kernel, when it refuses them, says nothing, or has no room for an answer."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Mapping

import pytest

from lvsagent.election import fence, netlink
from lvsagent.election.fence import AT_ONCE, LIFETIME, OVERDUE, RENEWAL, TOGETHER, Fence
from lvsagent.election.netlink import Address, NetlinkError, Rtnetlink

pytestmark = pytest.mark.unit

VIP, OTHER = bytes((10, 0, 0, 200)), bytes((10, 0, 0, 201))
NOWHERE = 1 << 30
"""Index of no interface."""


def many(number: int) -> tuple[bytes, ...]:
    return tuple(bytes((10, 7, at >> 8, at & 0xFF)) for at in range(number))


# --- the real kernel, which refuses us --------------------------------------------------------------------------------


def test_six_hundred_addresses_have_an_answer_each_whatever_the_receive_buffer_holds() -> None:
    """257 of them in one datagram overflowed the usual buffer: ENOBUFS, which ended the process."""
    link = Rtnetlink()
    refused = link.hold(NOWHERE, many(600), 2, {})
    assert {error.errno for error in refused.values()} <= {errno.ENODEV, errno.EPERM}
    assert refused.keys() == set(many(600))
    link.close()


def test_a_receive_buffer_that_overflows_is_an_error_of_what_was_not_answered_and_of_nothing_later() -> None:
    link = Rtnetlink()
    link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    refused = link.hold(NOWHERE, many(150), 2, {})
    assert refused.keys() == set(many(150))
    assert errno.ENOBUFS in {error.errno for error in refused.values()}
    link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    assert "lo" in {each.name for each in link.links()}
    link.close()


# --- a kernel that answers as it is told ------------------------------------------------------------------------------


class Scripted:
    """A netlink socket whose errors and answers are prepared."""

    def __init__(self, *answers: bytes | OSError, sending: OSError | None = None) -> None:
        self.answers = list(answers)
        self.sending = sending
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        if self.sending is not None:
            raise self.sending
        self.sent.append(data)

    def recv(self, _size: int) -> bytes:
        if not self.answers:
            raise BlockingIOError
        if isinstance(answer := self.answers.pop(0), OSError):
            raise answer
        # in the place of the sequence number: that of the last request
        last = self.sent[-1]
        while (length := int.from_bytes(last[:4], sys.byteorder)) < len(last):
            last = last[length:]
        return answer.replace(b"SEQN", last[8:12])

    def setblocking(self, blocking: bool) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def scripted(socket_: Scripted) -> Rtnetlink:
    link = Rtnetlink()
    link.close()
    link._socket = socket_  # type: ignore[assignment]
    return link


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHH4sI", 16 + len(body), kind, flags, b"SEQN", 0) + body


def link_of(index: int, name: str) -> bytes:
    body = netlink.link_message(index) + netlink.attribute(netlink.IFLA_IFNAME, name.encode() + b"\0")
    return message(netlink.RTM_NEWLINK, body, netlink.NLM_F_DUMP_INTR if name == "changing" else 0)


DONE = message(netlink.NLMSG_DONE, bytes(4))


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM, errno.EPERM])
def test_what_cannot_be_asked_is_refused(code: int) -> None:
    link = scripted(Scripted(sending=OSError(code, os.strerror(code))))
    for refused in (link.hold(1, (VIP, OTHER), 2, {}), link.drop(1, (VIP, OTHER), {})):
        assert {address: error.errno for address, error in refused.items()} == {VIP: code, OTHER: code}
        assert all(error.__traceback__ is None for error in refused.values()), "they may be kept"


def test_a_request_that_was_not_answered_was_taken_when_a_later_one_was_answered() -> None:
    """Only what fails and the last one are answered, the one after the other."""
    script = Scripted(message(netlink.NLMSG_ERROR, bytes(4)))
    assert scripted(script).hold(1, (VIP, OTHER), 2, {}) == {}
    first, second = (struct.unpack_from("=H", script.sent[0], at)[0] for at in (6, 6 + len(script.sent[0]) // 2))
    assert (first & netlink.NLM_F_ACK, second & netlink.NLM_F_ACK) == (0, netlink.NLM_F_ACK)


def test_a_kernel_that_says_nothing_refuses() -> None:
    refused = scripted(Scripted(TimeoutError("timed out"))).hold(1, (VIP,), 2, {})
    assert refused[VIP].errno == errno.ETIMEDOUT


def test_a_list_that_changed_while_it_was_read_is_read_again() -> None:
    """A link or an address of it may be missing: the interface would count as gone."""
    script = Scripted(link_of(2, "changing"), DONE, link_of(2, "eth0"), DONE)
    assert [each.name for each in scripted(script).links()] == ["eth0"]
    restless = Scripted(*[link_of(2, "changing"), DONE] * 20)
    assert [each.name for each in scripted(restless).links()] == ["changing"]
    assert len(restless.sent) == netlink.ATTEMPTS


# --- the fence --------------------------------------------------------------------------------------------------------


class Kernel:
    """Refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.denied: dict[bytes, int] = {}
        self.asked: list[tuple[str, int, tuple[bytes, ...], int]] = []

    def hold(
        self, index: int, addresses: tuple[bytes, ...], seconds: int, _prefixes: Mapping[bytes, int]
    ) -> dict[bytes, NetlinkError]:
        self.asked.append(("hold", index, addresses, seconds))
        return self._refused(addresses)

    def drop(
        self, index: int, addresses: tuple[bytes, ...], _prefixes: Mapping[bytes, int]
    ) -> dict[bytes, NetlinkError]:
        self.asked.append(("drop", index, addresses, 0))
        return self._refused(addresses)

    def _refused(self, addresses: tuple[bytes, ...]) -> dict[bytes, NetlinkError]:
        return {a: NetlinkError(self.denied[a], os.strerror(self.denied[a])) for a in addresses if a in self.denied}

    def held(self) -> list[bytes]:
        """Addresses asked for since the last call."""
        found = [address for what, _, addresses, _ in self.asked if what == "hold" for address in addresses]
        self.asked.clear()
        return found


class Lines(list[str]):
    def __call__(self, sentence: str, **fields: object) -> None:
        self.append(" ".join((sentence, *(f"{name}={value}" for name, value in fields.items()))))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def log() -> Lines:
    return Lines()


@pytest.fixture
def held(kernel: Kernel, log: Lines) -> Fence:
    return Fence(kernel, log)  # type: ignore[arg-type]


def test_what_the_kernel_refuses_is_not_held_and_tried_again_with_every_renewal(held: Fence, kernel: Kernel) -> None:
    kernel.denied = {VIP: errno.ENOMEM}
    assert held.acquire(3, (VIP, OTHER), (), {}, 0.0) == ()
    assert (held.holds(3, VIP), held.holds(3, OTHER)) == (False, True)
    assert held.lacks(3, VIP)
    assert held.refused(3, (VIP, OTHER)) == {VIP: os.strerror(errno.ENOMEM)}
    assert held.refusing
    held.renew(1.0)
    assert held.refused(3, (VIP,)) != {}
    kernel.denied = {}
    assert held.deadline == 1.0 + RENEWAL
    held.renew(1.5)
    assert held.holds(3, VIP)
    assert held.refused(3, (VIP, OTHER)) == {}
    assert not held.refusing


def test_what_cannot_be_renewed_is_not_held_any_more_and_deleted_all_the_same(held: Fence, kernel: Kernel) -> None:
    held.acquire(3, (VIP,), (), {}, 0.0)
    kernel.denied = {VIP: errno.ENOBUFS}
    held.renew(1.0)
    assert not held.holds(3, VIP)
    kernel.denied = {}
    kernel.asked.clear()
    held.release(3, (VIP, OTHER))
    assert kernel.asked == [("drop", 3, (VIP,), 0)]
    assert not held.wants(3, VIP)
    assert not held.lacks(3, VIP)
    assert held.deadline is None


def test_an_address_that_somebody_else_put_there_is_left_alone(held: Fence, kernel: Kernel) -> None:
    there = Address(index=3, address=VIP, prefix_length=32, scope=0, flags=netlink.IFA_F_PERMANENT)
    assert held.acquire(3, (VIP, OTHER), (there,), {}, 0.0) == (VIP,)
    assert kernel.held() == [OTHER]
    assert not held.wants(3, VIP)
    wide = Address(index=3, address=OTHER, prefix_length=24, scope=0, flags=netlink.IFA_F_PERMANENT)
    assert held.acquire(3, (OTHER,), (wide,), {}, 0.0) == (), "another address by its prefix length"


def test_what_cannot_be_deleted_is_said_in_one_line_and_tried_again(held: Fence, kernel: Kernel, log: Lines) -> None:
    held.acquire(3, many(300), (), {}, 0.0)
    kernel.denied = dict.fromkeys(many(300), errno.ENOMEM)
    held.release(3, many(300))
    assert held.releasing
    assert len(log) == 1
    assert "others=299" in log[0]
    kernel.denied = {}
    held.retry()
    assert not held.releasing


def test_hundreds_of_addresses_are_renewed_in_parts_between_which_adverts_leave(held: Fence, kernel: Kernel) -> None:
    addresses = many(2 * AT_ONCE + 50)
    held.acquire(3, addresses[:AT_ONCE], (), {}, 0.0)
    held.acquire(4, addresses[AT_ONCE:], (), {}, 0.0)
    kernel.asked.clear()
    parts: list[list[bytes]] = []
    while held.deadline is not None and held.deadline <= 1.0:
        held.renew(1.0)
        parts.append(kernel.held())
    assert [len(part) for part in parts] == [AT_ONCE, AT_ONCE, 50]
    assert sorted(address for part in parts for address in part) == sorted(addresses)
    assert held.deadline == 1.0 + RENEWAL


def test_what_is_due_a_little_later_is_renewed_with_it(held: Fence, kernel: Kernel) -> None:
    held.acquire(3, (VIP,), (), {}, 10.0)
    held.acquire(3, (OTHER,), (), {}, 10.0 + TOGETHER)
    held.acquire(4, many(1), (), {}, 10.0 + 2 * TOGETHER)
    kernel.asked.clear()
    held.renew(10.0 + RENEWAL)
    assert kernel.held() == [VIP, OTHER]
    assert held.deadline == 10.0 + 2 * TOGETHER + RENEWAL


def test_before_an_advert_what_is_overdue_is_renewed_and_nothing_else(held: Fence, kernel: Kernel) -> None:
    """Of hundreds, those whose turn has not come yet would be renewed with every advert else."""
    held.acquire(3, (VIP, OTHER), (), {}, 10.0)
    held.acquire(3, (OTHER,), (), {}, 10.5)
    kernel.asked.clear()
    held.renew_if_overdue(10.0 + OVERDUE, 3, (VIP, OTHER))
    assert kernel.held() == []
    held.renew_if_overdue(10.1 + OVERDUE, 3, (VIP, OTHER))
    assert kernel.held() == [VIP]
    held.renew_if_overdue(10.2 + OVERDUE, 3, (VIP, OTHER, *many(1)))
    assert kernel.held() == []


def test_what_was_given_up_is_not_renewed(held: Fence, kernel: Kernel) -> None:
    held.acquire(3, many(2 * AT_ONCE), (), {}, 0.0)
    held.renew(1.0)
    kernel.asked.clear()
    held.release(3, many(2 * AT_ONCE))
    kernel.asked.clear()
    held.renew(2.0)
    assert kernel.held() == []
    assert held.deadline is None


def test_the_next_process_finds_what_is_in_place_and_no_more(held: Fence, kernel: Kernel) -> None:
    kernel.denied = {VIP: errno.ENOMEM}
    held.acquire(3, (VIP, OTHER), (), {}, 0.0)
    kernel.asked.clear()
    held.prolong(3, (VIP, OTHER), 7.5)
    assert kernel.asked == [("hold", 3, (OTHER,), 8)]
    assert not held.wants(3, OTHER)
    held.forget(3)
    assert held.deadline is None
    assert LIFETIME < 8


def test_a_link_that_is_gone_takes_all_that_was_known_of_it(held: Fence, kernel: Kernel) -> None:
    kernel.denied = {VIP: errno.ENODEV}
    held.acquire(3, (VIP, OTHER), (), {}, 0.0)
    held.release(3, (VIP,))
    held.forget(3)
    assert (held.wants(3, OTHER), held.lacks(3, VIP), held.releasing) == (False, False, False)
    assert fence.RENEWAL < fence.OVERDUE < fence.LIFETIME
