"""Ways to break what the election has the kernel do, a clause each. Only tests in the rig's kernel see most of them."""

from collections.abc import Mapping
from typing import Final

from tests.clauses.model import Mutation

AGENT: Final = "nodeagent/lvsagent"
ENGINE: Final = f"{AGENT}/election/engine.py"
SOCKETS: Final = f"{AGENT}/election/sockets.py"
NETLINK: Final = f"{AGENT}/election/netlink.py"
ROUTER: Final = f"{AGENT}/election/router.py"
SYSCTL: Final = f"{AGENT}/core/sysctl.py"

KEEPS: Final = Mutation(
    "who gives way keeps the addresses",
    ENGINE,
    "self._fence.release(router.index, addresses)",
    "pass",
    net=True,
)
NOT_PUT_BACK: Final = Mutation(
    "an address that somebody deleted is not put back",
    ENGINE,
    "self._put_back(router, addresses, now)",
    "pass",
    net=True,
)


def never_added(size: int) -> Mutation:
    """Addresses of that many octets."""
    return Mutation(
        f"addresses of {size} octets are never put on the interface",
        NETLINK,
        "        for address in addresses:\n            sequence = next(self._sequence) & 0xFFFFFFFF\n",
        f"        for address in addresses:\n            if len(address) == {size}:\n                continue\n"
        "            sequence = next(self._sequence) & 0xFFFFFFFF\n",
        net=True,
    )


PHYSICAL: Final = Mutation(
    "the addresses stay at the physical MAC",
    ROUTER,
    "if config.virtual_mac else config.vip_interface",
    "if config.family == 5 else config.vip_interface",
    net=True,
)

KERNEL: Final[Mapping[str, tuple[Mutation, ...]]] = {
    "C1": (
        Mutation(
            "multicast leaves with TTL 64",
            SOCKETS,
            "socket.IP_MULTICAST_TTL, packet.HOP_LIMIT)",
            "socket.IP_MULTICAST_TTL, 64)",
            net=True,
        ),
    ),
    "C3": (
        Mutation(
            "multicast leaves with hop limit 64",
            SOCKETS,
            "socket.IPV6_MULTICAST_HOPS, packet.HOP_LIMIT)",
            "socket.IPV6_MULTICAST_HOPS, 64)",
            net=True,
        ),
    ),
    "C19": (
        KEEPS,
        Mutation(
            "nodes answer ARP for addresses on lo",
            SYSCTL,
            '    f"{CONF}/all/arp_ignore": "1",\n',
            '    f"{CONF}/all/arp_ignore": "0",\n',
            net=True,
        ),
        Mutation(
            "nothing watches whether nodes would answer",
            SYSCTL,
            "if not satisfied(key, values.get(key), value)]",
            "if False]",
        ),
    ),
    "C20": (KEEPS,),
    "C21": (
        Mutation(
            "router advertisements are sent for neighbour advertisements",
            f"{AGENT}/vrrp/ndp.py",
            "\nADVERTISEMENT: Final = 136",
            "\nADVERTISEMENT: Final = 134",
            net=True,
        ),
    ),
    "C22": (
        Mutation(
            "every router has an interface with the virtual MAC, whatever its state",
            SOCKETS,
            "        self.interface = interface\n",
            "        self.interface = interface\n"
            '        add = f"ip link add link {interface} name vrrp51 address 00:00:5e:00:01:33"\n'
            '        __import__("os").system(f"{add} type macvlan mode private; ip link set vrrp51 up")\n',
            net=True,
        ),
        Mutation(
            "the interface with the virtual MAC stays up when the router gives way",
            f"{AGENT}/election/wire.py",
            "macvlan.switch(self._netlink, index, on=on)",
            "macvlan.switch(self._netlink, index, on=True)",
            net=True,
        ),
    ),
    "C29": (NOT_PUT_BACK, never_added(4), PHYSICAL),
    "C30": (NOT_PUT_BACK, never_added(16)),
    "C31": (never_added(16),),
    "C33": (
        Mutation(
            "the virtual MAC is another one",
            ROUTER,
            "return bytes((0, 0, 0x5E, 0, ",
            "return bytes((2, 0, 0x5E, 0, ",
            net=True,
        ),
    ),
    "C49": (
        Mutation(
            "the kernel may make addresses of the virtual MAC",
            f"{AGENT}/election/macvlan.py",
            "IN6_ADDR_GEN_MODE_NONE: Final = 1",
            "IN6_ADDR_GEN_MODE_NONE: Final = 0",
            net=True,
        ),
    ),
    "C50": (PHYSICAL,),
    "C51": (
        Mutation(
            "also what a foreign host has is announced",
            ENGINE,
            "self._transmitter.announce(router, free, now)",
            "self._transmitter.announce(router, addresses, now)",
            net=True,
        ),
    ),
    "C57": (
        Mutation(
            "nodes are told to drop unsolicited neighbour advertisements",
            SYSCTL,
            "REAL_SERVER: Mapping[str, str] = {\n",
            'REAL_SERVER: Mapping[str, str] = {\n    "net/ipv6/conf/eth0/drop_unsolicited_na": "1",\n',
            net=True,
        ),
    ),
    "C60": (
        Mutation("changes of state are not logged", ENGINE, 'self._log("state", ', 'str.format("state", ', net=True),
        Mutation(
            "to be late is no failure",
            f"{AGENT}/vrrp/machine.py",
            "        if cause in FAILURES:\n",
            "        if cause in FAILURES - {Cause.LATE_TIMER}:\n",
        ),
    ),
}
