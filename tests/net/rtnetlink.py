"""Namespaces, links, addresses and routes by the kernel's own interfaces (rtnetlink(7), netdevice(7), setns(2)).

In a guest starting ip(8) costs 36 ms of a processor, and tests make hundreds of hosts and ask for addresses a hundred
times a second. Everything here happens in the network namespace of the calling thread; OSError: the kernel refused it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

NAMES = Path("/run/netns")
"""Where ip-netns(8) keeps the names of namespaces."""
CLONE_NEWNET = 0x40000000
MS_BIND, MNT_DETACH = 1 << 12, 2
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_NEWROUTE = 16, 17, 18, 20, 21, 22, 24
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST_ACK, NLM_F_REQUEST_DUMP, NLM_F_CREATE_EXCL = 0x5, 0x301, 0x600
NLM_F_CREATE_REPLACE = 0x500
IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD = 1, 2, 0x02
IFLA_IFNAME, IFLA_MASTER, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_FD = 3, 10, 16, 18, 28
OPERATES = 6
INFO_KIND, INFO_DATA, VETH_INFO_PEER, BR_MCAST_SNOOPING = 1, 2, 1, 23
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
TABLE_MAIN, PROTOCOL_BOOT, SCOPE_LINK, UNICAST = 254, 3, 253, 1
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFHWADDR, SIOCGIFINDEX = 0x8913, 0x8914, 0x8927, 0x8933
IFF_UP = 1
_REQUEST = "16s24s"
_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: int) -> None:
    """The calling thread is in that namespace (an open file) from now on."""
    _must(_libc.setns(namespace, CLONE_NEWNET))


def can_name() -> bool:
    """ip-netns(8) has prepared its folder so that a name that is taken away is taken away for everybody."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(NAMES) and " shared:" in line for line in mounts)


def add_namespace(name: str) -> None:
    """As ``ip netns add``."""
    path = NAMES / name
    with Path("/proc/thread-self/ns/net").open() as home:
        path.touch(mode=0, exist_ok=False)
        try:
            _must(_libc.unshare(CLONE_NEWNET))
            try:
                _must(_libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", MS_BIND, None))
            finally:
                enter(home.fileno())
        except OSError:
            path.unlink()
            raise


def delete_namespace(name: str) -> None:
    """As ``ip netns delete``; what is not there is not missed."""
    _libc.umount2(os.fsencode(NAMES / name), MNT_DETACH)
    (NAMES / name).unlink(missing_ok=True)


def add_bridge(name: str, *, snooping: bool = True) -> None:
    """``snooping``: it learns where multicast is wanted."""
    data = b"" if snooping else _attribute(BR_MCAST_SNOOPING, b"\0")
    _ask(RTM_NEWLINK, NLM_F_CREATE_EXCL, _link() + _named(name) + _kind("bridge", data))


def add_veth(name: str, peer: str, namespace: str, master: str) -> None:
    """A cable: one end here, up, a port of the bridge ``master``; the other in the namespace of that name, down."""
    with (NAMES / namespace).open() as place:
        other = _link() + _named(peer) + _number(IFLA_NET_NS_FD, place.fileno())
        body = _link(flags=IFF_UP) + _named(name) + _number(IFLA_MASTER, _index(master))
        _ask(RTM_NEWLINK, NLM_F_CREATE_EXCL, body + _kind("veth", _attribute(VETH_INFO_PEER, other)))


def set_master(name: str, master: str) -> None:
    """A port of that bridge from now on."""
    _ask(RTM_NEWLINK, 0, _link(_index(name)) + _number(IFLA_MASTER, _index(master)))


def delete_link(name: str) -> None:
    """With its other end, if it is a cable."""
    _ask(RTM_DELLINK, 0, _link(_index(name)))


def set_up(name: str, up: bool = True) -> None:
    """Switch the interface on or off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        (flags,) = struct.unpack_from("=H", _interface(any_socket, SIOCGIFFLAGS, name), 16)
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(_REQUEST, name.encode(), struct.pack("=H", flags)))


def await_working(*names: str, seconds: float) -> None:
    """Until the kernel has noticed that these interfaces, which are on, have carrier, or for so long. It does so a
    moment later, and loses until then what is sent through them (linkwatch)."""
    end = time.monotonic() + seconds
    while any(_operational_state(name) != OPERATES for name in names) and time.monotonic() < end:
        time.sleep(0.001)


def mac(name: str) -> str:
    """The interface's hardware address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return _interface(any_socket, SIOCGIFHWADDR, name)[18:24].hex(":")


def change_address(address: str, name: str, *, gone: bool = False, replace: bool = False, nodad: bool = False) -> None:
    """Add the address (with or without a prefix length) to the interface, or take it away. ``replace``: it may be
    there."""
    family, packed, length = _parsed(address)
    body = struct.pack("=BBBBI", family, length, IFA_F_NODAD if nodad else 0, 0, _index(name))
    body += _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed)
    how = 0 if gone else NLM_F_CREATE_REPLACE if replace else NLM_F_CREATE_EXCL
    _ask(RTM_DELADDR if gone else RTM_NEWADDR, how, body)


def add_route(target: str, *, via: str) -> None:
    """``target``: a prefix."""
    family, packed, length = _parsed(target)
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, 0, UNICAST, 0)
    body += _attribute(RTA_DST, packed) + _attribute(RTA_GATEWAY, _parsed(via)[1])
    _ask(RTM_NEWROUTE, NLM_F_CREATE_EXCL, body)


def open_socket() -> socket.socket:
    """In the namespace of the calling thread."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


def addresses(link: socket.socket, interface: str) -> list[str]:
    """With prefix lengths, in the kernel's order; empty when there is no such interface."""
    with contextlib.suppress(OSError):
        (index,) = struct.unpack_from("=i", _interface(link, SIOCGIFINDEX, interface), 16)
        return [found for at, found in _dump(link) if at == index]
    return []


def _dump(link: socket.socket) -> Iterator[tuple[int, str]]:
    """Index of the interface and address, of every address."""
    link.send(struct.pack("=IHHII", 20, RTM_GETADDR, NLM_F_REQUEST_DUMP, 0, 0) + bytes(4))
    while True:
        data = link.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise OSError("the kernel lists no addresses")
            family, prefix, _, _, index = struct.unpack_from("=BBBBI", data, 16)
            found = dict(_attributes(data[24:length]))
            packed = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
            if kind == RTM_NEWADDR and packed:
                yield index, f"{socket.inet_ntop(family, packed)}/{prefix}"
            data = data[length + 3 & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[length + 3 & ~3 :]


def _ask(kind: int, flags: int, body: bytes) -> bytes:
    with open_socket() as link:
        link.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST_ACK | flags, 0, 0) + body)
        answer = link.recv(1 << 16)
    (what,) = struct.unpack_from("=H", answer, 4)
    (status,) = struct.unpack_from("=i", answer, 16)
    if what == NLMSG_ERROR and status:
        raise OSError(-status, os.strerror(-status))
    return answer


def _operational_state(name: str) -> int:
    """Of RFC 2863, as linux/if.h numbers it."""
    answer = _ask(RTM_GETLINK, 0, _link(_index(name)))
    length = struct.unpack_from("=I", answer)[0]
    return dict(_attributes(answer[32:length]))[IFLA_OPERSTATE][0]


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _named(name: str) -> bytes:
    return _attribute(IFLA_IFNAME, name.encode() + b"\0")


def _kind(name: str, data: bytes) -> bytes:
    """Of a link that is to be made."""
    return _attribute(IFLA_LINKINFO, _attribute(INFO_KIND, name.encode()) + _attribute(INFO_DATA, data))


def _link(index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _parsed(text: str) -> tuple[int, bytes, int]:
    """Family, packed address, prefix length."""
    address, _, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return family, packed, int(length) if length else 8 * len(packed)


def _index(name: str) -> int:
    return socket.if_nametoindex(name)


def _interface(opened: socket.socket, what: int, name: str) -> bytes:
    if len(name) > 15:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return fcntl.ioctl(opened, what, struct.pack(_REQUEST, name.encode(), b""))


def _must(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
