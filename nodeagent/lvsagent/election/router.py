"""One virtual router of the wish: what was asked for, its state machine, its counters."""

import functools
import ipaddress
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from lvsagent import ipc
from lvsagent.election.findings import Findings
from lvsagent.election.keys import Credentials
from lvsagent.election.lack import Lack
from lvsagent.vrrp import arp, events, ip, machine, packet
from lvsagent.vrrp.probe import Probing

INTERVAL_RANGE: Final = range(10, 10 * packet.MAXIMUM_INTERVAL + 1)
"""Milliseconds that fit into an advert."""
REMOVALS: Final = 5
"""Times that somebody deletes our addresses within REMOVALS_WITHIN seconds before another node may serve them."""
REMOVALS_WITHIN: Final = 10.0
INSECURE: Final = (
    "a VRRPv2 password crosses the wire in clear text: whoever is on the LAN can take the addresses; use HMAC"
)


_remembered = functools.lru_cache(maxsize=512)
"""What is made of the texts of a wish, and asked for with every advert, claim or look: there are up to 255 routers of
up to 64 addresses on an interface, and to parse an address takes some microseconds."""


class _Address(NamedTuple):
    """A virtual address of the wish."""

    packed: bytes
    length: int
    """Of its prefix."""
    version: int


@_remembered
def _parsed(texts: tuple[str, ...]) -> tuple[_Address | None, ...]:
    """None for what is none."""
    found: list[_Address | None] = []
    for text in texts:
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            found.append(None)
        else:
            found.append(_Address(interface.ip.packed, interface.network.prefixlen, interface.version))
    return tuple(found)


def refusal(config: ipc.RouterConfig) -> str | None:
    """Why this router cannot be run: field, value, remedy. None: it can."""
    if config.family not in (4, 6):
        return f"family {config.family}: must be 4 or 6"
    if not 1 <= config.virtual_router_id <= 255:
        return f"virtual_router_id {config.virtual_router_id}: must be 1-255"
    if not 1 <= config.priority <= 255:
        return f"priority {config.priority}: must be 1-255"
    if config.advertisement_interval_ms not in INTERVAL_RANGE:
        return f"advertisement_interval_ms {config.advertisement_interval_ms}: must be 10-40950"
    most = packet.MAXIMUM_ADDRESSES - (config.family == 6)  # of IPv6, one more is listed: link_local()
    if not 1 <= len(config.addresses) <= most:
        return f"addresses: {len(config.addresses)} of them; must be 1-{most}, use more routers"
    if "lo" in (config.interface, config.vip_interface):
        return "interface lo: addresses there belong to the agent; name an interface of the LAN"
    if config.unicast_peers == ():
        return "unicast_peers: none; name the addresses of the other directors or use multicast"
    for field_name, others in (("unicast_peers", config.unicast_peers or ()), ("sources", config.sources)):
        for text in others:
            if packed(text, config.family) is None:
                return f"{field_name}: {text!r} is no IPv{config.family} address"
    return _unusable(config.addresses, config.family)


def _unusable(texts: tuple[str, ...], family: int) -> str | None:
    """Why these are no virtual addresses; None: they are."""
    for text, address in zip(texts, _parsed(texts), strict=True):
        if address is None or address.version != family or "%" in text:
            return f"addresses: {text!r} is no IPv{family} address"
        if address.length == 0:
            return f"addresses: {text!r} must have a prefix length of 1-{8 * len(address.packed)}"
    return None


def packed(text: str, family: int) -> bytes | None:
    """The address as bytes; None: it is none of that family."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.packed if address.version == family and "%" not in text else None


@_remembered
def _all_packed(texts: tuple[str, ...], family: int) -> tuple[bytes, ...]:
    return tuple(found for text in texts if (found := packed(text, family)) is not None)


@_remembered
def _set_of(texts: tuple[str, ...], family: int) -> frozenset[bytes]:
    return frozenset(_all_packed(texts, family))


class _Accepted:
    """The routers of a wish so far, by what no two of them may have in common."""

    def __init__(self) -> None:
        self._identities: dict[tuple[str, int, int], str] = {}
        self._carriers: dict[str, str] = {}
        """Of virtual MACs."""
        self._addresses: dict[bytes, str] = {}

    def add(self, config: ipc.RouterConfig) -> None:
        self._identities[_identity(config)] = config.name
        if config.virtual_mac:
            self._carriers[carrier(config)] = config.name
        self._addresses.update(dict.fromkeys(prefixes(config), config.name))

    def conflict(self, config: ipc.RouterConfig) -> str | None:
        """Why this router cannot run beside those; None: it can."""
        if (other := self._identities.get(_identity(config))) is not None:
            return f"virtual_router_id {config.virtual_router_id}: taken by {other} on {config.interface}"
        if config.virtual_mac and (other := self._carriers.get(carrier(config))) is not None:
            return f"virtual_mac: {carrier(config)} is made for {other} already; use another virtual_router_id"
        shared = sorted(address for address in prefixes(config) if address in self._addresses)
        if shared:
            other = self._addresses[shared[0]]
            names = ", ".join(str(ipaddress.ip_address(a)) for a in shared if self._addresses[a] == other)
            return f"addresses: {names} already served by {other}"
        return None


def _identity(config: ipc.RouterConfig) -> tuple[str, int, int]:
    """What no two routers of a node have in common: the virtual routers of both families are independent."""
    return config.interface, config.family, config.virtual_router_id


def virtual_mac(config: ipc.RouterConfig) -> bytes:
    """00-00-5E-00-01-<VRID> for IPv4, 00-00-5E-00-02-<VRID> for IPv6."""
    return bytes((0, 0, 0x5E, 0, 1 if config.family == 4 else 2, config.virtual_router_id))


def carrier(config: ipc.RouterConfig) -> str:
    """The interface that has the addresses: ``vrrp<family>.<VRID>`` on ``vip_interface`` when it has a virtual MAC."""
    return f"vrrp{config.family}.{config.virtual_router_id}" if config.virtual_mac else config.vip_interface


def virtual_addresses(config: ipc.RouterConfig) -> tuple[bytes, ...]:
    """As adverts list them. Of an IPv6 router the first is link-local (RFC 9568 section 5.2.9, erratum 8300)."""
    named = tuple(address.packed for address in _parsed(config.addresses) if address is not None)
    if config.family == 4:
        return named
    first = [address for address in named if ip.is_link_local(address)]
    others = [address for address in named if not ip.is_link_local(address)]
    return (*(first or [link_local(config.virtual_router_id)]), *others)


def link_local(virtual_router_id: int) -> bytes:
    """fe80::5e00:2:0:<VRID>, after the virtual MAC 00-00-5E-00-02-<VRID>: for those that name no link-local one."""
    return bytes.fromhex("fe800000000000005e0000020000") + virtual_router_id.to_bytes(2)


def parameters(config: ipc.RouterConfig, source: bytes) -> events.Parameters:
    """For the state machine; the interval is rounded to what an advert can say (10 ms)."""
    return events.Parameters(
        virtual_router_id=config.virtual_router_id,
        priority=config.priority,
        interval=max(1, round(config.advertisement_interval_ms / 10)) / 100,
        addresses=virtual_addresses(config),
        source=source,
        preempt=config.preempt,
        version=config.version,
        send_interval=config.send_interval_ms / 1000 or None,
        preempt_delay=config.preempt_delay_ms / 1000,
        initially_active=config.initially_active,
        standby=config.standby,
        grouped=bool(config.sync_group),
        announcing=arp.Announcing(
            repeat=config.announce_repeat,
            delay=config.announce_delay_ms / 1000,
            refresh=config.announce_refresh_ms / 1000,
            on_lower_priority=config.announce_on_lower_priority,
        ),
    )


def prefixes(config: ipc.RouterConfig) -> Mapping[bytes, int]:
    """Address -> prefix length; what is no address is left out (the router is refused then)."""
    return _prefixes(config.addresses)


@_remembered
def _prefixes(texts: tuple[str, ...]) -> Mapping[bytes, int]:
    return {address.packed: address.length for address in _parsed(texts) if address is not None}


@_remembered
def _written(texts: tuple[str, ...]) -> Mapping[bytes, str]:
    """Address -> as it is told of, with its prefix length."""
    return {address: f"{ipaddress.ip_address(address)}/{length}" for address, length in _prefixes(texts).items()}


def _no_transitions() -> dict[str, int]:
    return {
        f"{previous},{state},{cause}": 0
        for cause, pairs in events.TRANSITIONS.items()
        for previous, state in sorted(pairs)
    }


@dataclass(slots=True, kw_only=True)
class Router:
    """A router of the wish, on this node."""

    config: ipc.RouterConfig
    refused: str | None
    """Why it is not run at all."""
    machine: machine.VirtualRouter
    credentials: Credentials
    problem: str | None = None
    """Why it does not run now; as last logged."""
    index: int = 0
    """Of ``carrier``, while running."""
    mac: bytes = b""
    """Where the addresses are, while running; empty with a virtual MAC."""
    adopted: tuple[bytes, ...] = ()
    """Leftovers of an earlier process, still on the interface."""
    carrier_lost: float | None = None
    removals: deque[float] = field(default_factory=lambda: deque(maxlen=REMOVALS))
    """When somebody deleted addresses of ours."""
    heard: float | None = None
    """When the last advert that counts came in."""
    arrived: float | None = None
    """When its socket last had anything to read."""
    unheeded: tuple[float, packet.DropReason] | None = None
    """When an advert of a director was refused last, and why."""
    send_failed: bool = False
    directors_asked: float | None = None
    servers_asked: float | None = None
    """When hosts were last asked for their MACs, to know them by."""
    claimed: float | None = None
    """When somebody else last claimed an address that is asked for or held."""
    probing: Probing = field(default_factory=Probing)
    """Addresses that may belong to a foreign host."""
    findings: Findings = field(default_factory=Findings)
    transitions: dict[str, int] = field(default_factory=_no_transitions)
    adverts_sent: int = 0
    adverts_received: int = 0
    announcements_sent: int = 0
    address_errors: int = 0
    left_alone: frozenset[bytes] = frozenset()
    """Addresses that somebody else put on the interface."""
    lack: Lack = field(default_factory=Lack)
    preempted: bool = False
    """It became Active although another one served."""

    @classmethod
    def of(cls, config: ipc.RouterConfig, refused: str | None, credentials: Credentials) -> "Router":
        wanted = config if refused is None else replace(config, family=4, addresses=())
        nowhere = bytes(4 if wanted.family == 4 else 16)
        started = machine.VirtualRouter(parameters(wanted, nowhere))
        return cls(config=config, refused=refused, machine=started, credentials=credentials)

    @property
    def place(self) -> tuple[str, int]:
        """Where adverts are sent and heard: interface and family."""
        return self.config.interface, self.config.family

    @property
    def vip_place(self) -> tuple[str, int]:
        """Where the addresses are: interface and family."""
        return self.config.vip_interface, self.config.family

    @property
    def virtual_mac(self) -> bytes | None:
        """RFC 9568 section 7.3; None: the addresses are at the interface's own MAC."""
        return virtual_mac(self.config) if self.config.virtual_mac else None

    @property
    def carrier(self) -> str:
        """The interface that has the addresses."""
        return carrier(self.config)

    @property
    def peers(self) -> tuple[bytes, ...]:
        """Where adverts go; empty: to the group."""
        return _all_packed(self.config.unicast_peers or (), self.config.family)

    @property
    def link_local(self) -> bool:
        """IPv6 adverts come from a link-local address, unless they go to peers that have another."""
        return all(ip.is_link_local(peer) for peer in self.peers)

    @property
    def directors(self) -> frozenset[bytes]:
        """The only senders of adverts that count; empty: not known."""
        peers = _set_of(self.config.unicast_peers or (), self.config.family)
        return peers or _set_of(self.config.sources, self.config.family)

    @property
    def neighbor_directors(self) -> frozenset[bytes]:
        """Those directors that can be asked for their MAC where the addresses are."""
        return self.directors if self.config.interface == self.config.vip_interface else frozenset()

    @property
    def real_servers(self) -> frozenset[bytes]:
        """Hosts that have the addresses on ``lo`` and must be silent about them."""
        return _set_of(self.config.real_servers, self.config.family)

    @property
    def expectation(self) -> packet.Expectation:
        """What the codec checks adverts against."""
        return self.credentials.expectation(self.directors or None)

    @property
    def active(self) -> bool:
        return self.machine.state is events.State.ACTIVE

    def removed(self, now: float) -> bool:
        """Somebody deleted addresses of ours. True: again and again."""
        self.removals.append(now)
        if len(self.removals) < REMOVALS or now - self.removals[0] > REMOVALS_WITHIN:
            return False
        self.removals.clear()
        text = (
            f"a program on this node deletes addresses of {self.config.vip_interface} again and again: keep it away"
            " from the interface (NetworkManager, systemd-networkd, scripts)"
        )
        self.findings.note(ipc.Finding.ADDRESS_REMOVED, text, now)
        return True

    def is_another(self, config: ipc.RouterConfig) -> bool:
        """The parts that cannot change in place differ."""
        mine = self.config
        return (mine.virtual_router_id, mine.family, mine.interface, mine.vip_interface, mine.virtual_mac) != (
            config.virtual_router_id,
            config.family,
            config.interface,
            config.vip_interface,
            config.virtual_mac,
        ) or any(self.prefixes.get(address, length) != length for address, length in prefixes(config).items())

    @property
    def prefixes(self) -> Mapping[bytes, int]:
        """Prefix length of each address of the wish."""
        return prefixes(self.config)

    def prefix_length(self, address: bytes) -> int:
        """Of any address of this router."""
        return self.prefixes.get(address, 8 * len(address))

    def active_address(self) -> str:
        address = self.machine.active_address
        return str(ipaddress.ip_address(address)) if address is not None else ""

    def statistics(self, holds: Callable[[int, bytes], bool], now: float) -> ipc.RouterStatistics:
        """The counters, as the agent gets them. ``holds``: is this address held on the interface of this index?"""
        if self.config.authentication is ipc.Authentication.PASSWORD:
            self.findings.note(ipc.Finding.PASSWORD_INSECURE, INSECURE, now)
        if self.credentials.problem:
            self.findings.note(ipc.Finding.KEY_MISSING, self.credentials.problem, now)
        held = tuple(text for address, text in _written(self.config.addresses).items() if holds(self.index, address))
        return ipc.RouterStatistics(
            router=self.config.name,
            state=self.machine.state,
            virtual_router_id=self.config.virtual_router_id,
            family=self.config.family,
            interface=self.config.interface,
            priority=self.config.priority,
            effective_priority=self.machine.parameters.effective_priority,
            problem=self.refused or self.problem or "",
            active_address=self.active_address(),
            addresses_held=held,
            transitions=dict(self.transitions),
            adverts_sent=self.adverts_sent,
            adverts_received=self.adverts_received,
            announcements_sent=self.announcements_sent,
            address_errors=self.address_errors,
            intervals_clamped=self.machine.clamped_intervals,
            findings=self.findings.current(now),
        )


def by_name(configs: tuple[ipc.RouterConfig, ...]) -> dict[str, tuple[ipc.RouterConfig, str | None]]:
    """Each router of a wish with the reason for which it is refused, if any. Of equal names the last counts."""
    accepted = _Accepted()
    result: dict[str, tuple[ipc.RouterConfig, str | None]] = {}
    for config in configs:
        reason = refusal(config) or accepted.conflict(config)
        if reason is None:
            accepted.add(config)
        result[config.name] = (config, reason)
    return result
